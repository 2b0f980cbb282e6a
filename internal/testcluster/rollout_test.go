package testcluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/agent/faketask"
	pb "github.com/minid/minid/proto/minid/v1"
)

// rollout starts an update of a service whose tasks are on workers only, so
// that managers may die without losing any.
func (l *lifeRig) rollout(image string, replicas uint64, action pb.UpdateConfig_FailureAction) {
	l.t.Helper()
	spec := &pb.ServiceSpec{
		Name: "web",
		Task: &pb.TaskSpec{
			Container: &pb.ContainerSpec{Image: steady},
			Placement: &pb.Placement{Constraints: []string{"node.role==worker"}},
			Restart:   &pb.RestartPolicy{Delay: durationpb.New(time.Hour)},
		},
		Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: replicas}},
		Update: &pb.UpdateConfig{Parallelism: 1, Delay: durationpb.New(8 * time.Second), Monitor: durationpb.New(9 * time.Second),
			FailureAction: action, MaxFailureRatio: 0.5},
		Rollback: &pb.UpdateConfig{Parallelism: 1, Delay: durationpb.New(2 * time.Second)},
	}
	l.do("create service", func(ctx context.Context, api pb.ControlClient) error {
		_, err := api.CreateService(ctx, &pb.CreateServiceRequest{Spec: spec})
		return err
	})
	l.awaitRunning(int(replicas))
	spec.Task.Container.Image, spec.Task.Container.Env = image, []string{"V=2"}
	l.do("update service", func(ctx context.Context, api pb.ControlClient) error {
		_, err := api.UpdateService(ctx, &pb.UpdateServiceRequest{Ref: "web", Spec: spec})
		return err
	})
}

func (l *lifeRig) service() (s *pb.Service) {
	l.t.Helper()
	l.do("get service", func(ctx context.Context, api pb.ControlClient) (err error) {
		s, err = api.GetService(ctx, &pb.GetRequest{Ref: "web"})
		return err
	})
	return s
}

// slotsOf are the slots that had a task of a version.
func (l *lifeRig) slotsOf(version uint64) map[uint64]int {
	l.t.Helper()
	slots := map[uint64]int{}
	l.do("list tasks", func(ctx context.Context, api pb.ControlClient) error {
		clear(slots)
		res, err := api.ListTasks(ctx, &pb.ListTasksRequest{})
		for _, t := range res.GetTasks() {
			if t.SpecVersion == version {
				slots[t.Slot]++
			}
		}
		return err
	})
	return slots
}

func (l *lifeRig) awaitState(want pb.UpdateState) *pb.Service {
	l.t.Helper()
	var s *pb.Service
	l.await(5*time.Minute, func() string {
		if s = l.service(); s.UpdateStatus.GetState() != want {
			return fmt.Sprintf("the update is %v", s.UpdateStatus)
		}
		return ""
	})
	return s
}

// killLeader ends the leader and waits until another one leads.
func (l *lifeRig) killLeader() {
	l.t.Helper()
	l.leader().Kill()
	l.leader()
}

// The next leader goes on with a rollout where the last one stopped: each slot
// is replaced once.
func TestLeaderDiesInARollout(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Behave = faketask.ByImage(behaviours)
		l.Form(context.Background(), 3, 2)
		l.rollout(slow, 6, pb.UpdateConfig_FAILURE_ACTION_PAUSE)
		l.await(time.Minute, func() string {
			if n := len(l.slotsOf(2)); n < 3 {
				return fmt.Sprintf("%d slots are replaced", n)
			}
			return ""
		})
		l.killLeader()
		l.awaitState(pb.UpdateState_UPDATE_STATE_COMPLETED)
		if starts := l.starts(); starts != 12 {
			t.Errorf("6 tasks and their successors were started %d times", starts)
		}
	})
}

// Failures that the last leader saw count for the next one; what follows from
// them is the same, also when that one dies while the service goes back.
func TestLeaderDiesWhileAnUpdateFails(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Behave = faketask.ByImage(behaviours)
		l.Form(context.Background(), 5, 2)
		l.rollout(crash, 6, pb.UpdateConfig_FAILURE_ACTION_ROLLBACK)
		l.await(time.Minute, func() string {
			if n := len(l.service().UpdateStatus.GetFailedTasks()); n < 2 {
				return fmt.Sprintf("%d tasks failed", n)
			}
			return ""
		})
		l.killLeader()
		l.awaitState(pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED)
		l.killLeader()
		s := l.awaitState(pb.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED)
		if s.Spec.Task.Container.Image == crash || len(s.History) != 3 || s.History[2].RollbackTo != 1 {
			t.Errorf("it is at %s by %v", s.Spec.Task.Container.Image, s.History)
		}
		if slots := l.slotsOf(2); len(slots) != 4 {
			t.Errorf("of 6 slots, %v failed; half of them may", slots)
		}
		l.awaitRunning(6)
	})
}
