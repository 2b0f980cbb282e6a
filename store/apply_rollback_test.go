package store_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

func rollback(id string, to uint64) *pb.Command {
	return &pb.Command{Kind: &pb.Command_RollbackService{RollbackService: &pb.RollbackService{Id: id, To: to}}}
}

// versions lists a service's history: number, image, replicas, and what it goes back to.
func versions(s *pb.Service) (all []string) {
	for _, v := range s.History {
		text := fmt.Sprintf("%d %s x%d", v.Number, v.Spec.Task.Container.Image, v.Spec.GetReplicated().GetReplicas())
		if v.RollbackTo > 0 {
			text += fmt.Sprintf(" <%d", v.RollbackTo)
		}
		all = append(all, text)
	}
	return all
}

func scaledSpec(image string, replicas uint64) *pb.ServiceSpec {
	s := webSpec("web", image)
	s.GetReplicated().Replicas = replicas
	return s
}

func TestRollback(t *testing.T) {
	m := newMachine(t).must(createService("web", scaledSpec("v1", 1)))
	m.refused(fault.NotFound, rollback("none", 0))
	m.refused(fault.State, rollback("web", 0))
	m.must(updateService("web", 0, scaledSpec("v2", 1)), updateService("web", 0, scaledSpec("v2", 5)))
	m.refused(fault.NotFound, rollback("web", 9))
	m.refused(fault.State, rollback("web", 3))
	m.refused(fault.Stale, &pb.Command{Kind: &pb.Command_RollbackService{RollbackService: &pb.RollbackService{Id: "web", IfVersion: 1}}})
	m.refused(fault.Stale, &pb.Command{Kind: &pb.Command_RollbackService{RollbackService: &pb.RollbackService{Id: "web", IfSpecVersion: 1}}})

	m.must(&pb.Command{Kind: &pb.Command_RollbackService{RollbackService: &pb.RollbackService{Id: "web", To: 1, Reason: "it failed", IfSpecVersion: 2}}}) // a scale came between
	s := m.View().Service("web")
	equal(t, "spec", s.Spec, scaledSpec("v1", 1))
	equal(t, "status", s.UpdateStatus, &pb.UpdateStatus{
		State: pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED, StartedAt: at(m.index), ToVersion: 3,
		Message: "rollback to version 1 in progress: it failed",
	})
	if s.SpecVersion != 3 || !store.RollingBack(s) || s.Meta.Version != m.index {
		t.Errorf("version %d, rolling back %v, meta %v", s.SpecVersion, store.RollingBack(s), s.Meta)
	}
	m.must(rollback("web", 0)) // there and back again
	s = m.View().Service("web")
	if want := []string{"1 v1 x1", "2 v2 x1", "3 v2 x5", "4 v1 x1 <1", "5 v2 x5 <3"}; !slices.Equal(versions(s), want) {
		t.Errorf("history %q", versions(s))
	}
	if v := store.Previous(s, true); v.GetNumber() != 4 {
		t.Errorf("the previous version is %v", v)
	}
	m.must(removeService("web"))
	m.refused(fault.State, rollback("web", 1))
}

func TestRollbackNeedsWhatTheVersionRefersTo(t *testing.T) {
	m := newMachine(t).must(createSecret("s1", "key"), createService("web", withSecret(webSpec("web", "v1"), "s1")))
	m.must(updateService("web", 0, webSpec("web", "v2")))
	m.must(&pb.Command{Kind: &pb.Command_RemoveSecret{RemoveSecret: &pb.RemoveSecret{Id: "s1"}}})
	m.refused(fault.NotFound, rollback("web", 1))
}

func TestTenSpecsAreKept(t *testing.T) {
	m := newMachine(t).must(createService("web", scaledSpec("v1", 1)))
	for n := range uint64(11) {
		m.must(updateService("web", 0, scaledSpec("v1", n+2)))
	}
	m.must(updateService("web", 0, scaledSpec("v1", 12))) // no change, no version
	history := m.View().Service("web").History
	if len(history) != 10 || history[0].Number != 3 || history[9].Number != 12 {
		t.Errorf("history %q", versions(m.View().Service("web")))
	}
}

// A rollback that changes no task leaves a rollout alone that goes on or is paused.
func TestRollbackOfASettingDisturbsNoRollout(t *testing.T) {
	m := newMachine(t).must(createService("web", scaledSpec("v1", 1)), updateService("web", 0, scaledSpec("v2", 1)))
	m.must(updateService("web", 0, scaledSpec("v2", 3)))
	for _, c := range []struct{ before, after pb.UpdateState }{
		{pb.UpdateState_UPDATE_STATE_UNSPECIFIED, pb.UpdateState_UPDATE_STATE_UNSPECIFIED},
		{pb.UpdateState_UPDATE_STATE_UPDATING, pb.UpdateState_UPDATE_STATE_UPDATING},
		{pb.UpdateState_UPDATE_STATE_PAUSED, pb.UpdateState_UPDATE_STATE_PAUSED},
		{pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED, pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED},
		{pb.UpdateState_UPDATE_STATE_COMPLETED, pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED},
	} {
		m.must(updateStatus("web", &pb.UpdateStatus{State: c.before, ToVersion: 2}), rollback("web", 0))
		if got := m.View().Service("web").UpdateStatus.GetState(); got != c.after {
			t.Errorf("%v became %v", c.before, got)
		}
	}
}

func TestPausedRolloutsAreResumed(t *testing.T) {
	m := newMachine(t).must(createService("web", scaledSpec("v1", 1)), updateService("web", 0, scaledSpec("v2", 1)))
	settings := func(parallelism, replicas uint64) *pb.Command {
		s := scaledSpec("v2", replicas)
		s.Update = &pb.UpdateConfig{Parallelism: parallelism}
		return updateService("web", 0, s)
	}
	state := func(want pb.UpdateState) {
		t.Helper()
		if got := m.View().Service("web").UpdateStatus; got.GetState() != want || len(got.GetFailedTasks()) > 0 && want == pb.UpdateState_UPDATE_STATE_UPDATING {
			t.Errorf("it is %v, not %v", got, want)
		}
	}
	m.must(updateStatus("web", &pb.UpdateStatus{State: pb.UpdateState_UPDATE_STATE_PAUSED, ToVersion: 2, FailedTasks: []string{"t"}}))
	m.must(settings(0, 2))
	state(pb.UpdateState_UPDATE_STATE_PAUSED)
	m.must(settings(2, 2))
	state(pb.UpdateState_UPDATE_STATE_UPDATING)
	m.must(updateStatus("web", &pb.UpdateStatus{State: pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED, ToVersion: 2}))
	m.must(settings(2, 2)) // nothing changes: it is meant
	state(pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED)
}

func TestRolloutSettings(t *testing.T) {
	s := &pb.Service{Spec: webSpec("web", "v1"), SpecVersion: 2, UpdateStatus: &pb.UpdateStatus{ToVersion: 2}}
	s.Spec.Update = &pb.UpdateConfig{Parallelism: 7, Order: pb.UpdateConfig_ORDER_START_FIRST}
	if store.Rollout(s).Parallelism != 7 || !store.StartsFirst(s) {
		t.Error("an update goes by the settings for updates")
	}
	s.UpdateStatus.State = pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED
	if store.Rollout(s).Parallelism != 1 || store.StartsFirst(s) {
		t.Error("a rollback has no defaults")
	}
	s.Spec.Rollback = s.Spec.Update
	s.Spec.Task.Ports = []*pb.PortConfig{{Target: 80, Mode: pb.PortConfig_MODE_HOST}, {Target: 80, Published: 80, Mode: pb.PortConfig_MODE_INGRESS}}
	if !store.StartsFirst(s) {
		t.Error("these ports hinder nobody")
	}
	s.Spec.Task.Ports[0].Published = 80
	if store.StartsFirst(s) {
		t.Error("two tasks share a port")
	}
}

func TestRunningAtIsTheFirstReport(t *testing.T) {
	m := newMachine(t).must(readyWorker("n1")...).must(createService("web", webSpec("web", "v1")))
	m.must(createTasks(task("t1", "web", 1)), assign("n1", "t1"), reportState("n1", "t1", pb.TaskState_TASK_STATE_STARTING))
	if m.View().Task("t1").RunningAt != nil {
		t.Error("it does not run yet")
	}
	m.must(reportState("n1", "t1", pb.TaskState_TASK_STATE_RUNNING))
	first := m.index
	m.must(reportState("n1", "t1", pb.TaskState_TASK_STATE_FAILED))
	equal(t, "running since", m.View().Task("t1").RunningAt, at(first))
}
