package orchestrator

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// done tells whether the rollout is complete.
func (s *set) done() bool {
	state := s.status.GetState()
	return state == pb.UpdateState_UPDATE_STATE_COMPLETED || state == pb.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED
}

// complete ends a rollout that replaced everything. A rollback goes on telling
// what it was for.
func (s *set) complete() {
	s.setStatus(func(u *pb.UpdateStatus) {
		back := u.State == pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED
		u.State, u.CompletedAt = pb.UpdateState_UPDATE_STATE_COMPLETED, timestamppb.New(s.now)
		what, why, _ := strings.Cut(u.Message, " in progress")
		if back {
			u.State = pb.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED
		}
		if !back || !strings.HasPrefix(why, ": ") {
			why = ""
		}
		if s.concerned == 0 && why == "" {
			why = ": no task had to be replaced"
		}
		u.Message = what + " completed" + why
		if n := len(u.FailedTasks); n > 0 {
			u.Message += fmt.Sprintf("; tasks of %d of %d slots failed", n, s.concerned)
		}
	})
}

// fail ends a rollout that cannot go on as its failure action says. An update
// is rolled back at most once: a rollback that fails is paused.
func (s *set) fail(why string) {
	state, message := pb.UpdateState_UPDATE_STATE_PAUSED, "update paused: "+why
	switch {
	case s.status.State == pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED:
		state, message = pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED, "rollback paused: "+why
	case s.rollout().GetFailureAction() != pb.UpdateConfig_FAILURE_ACTION_ROLLBACK:
	case store.Previous(s.service, true) == nil:
		message = "update paused, there is no version to go back to: " + why
	default:
		to := store.Previous(s.service, true).Number
		// If the store refuses the rollback, the pause stays, and says so.
		message = fmt.Sprintf("update paused, for version %d cannot be had any more: %s", to, why)
		s.plan.Rollback = &pb.RollbackService{Id: s.service.Id, IfSpecVersion: s.service.SpecVersion, To: to, Reason: why}
	}
	s.setStatus(func(u *pb.UpdateStatus) { u.State, u.Message = state, message })
}

// failure tells which task failed and why.
func failure(t *pb.Task) string {
	st := t.GetStatus()
	why := cmp.Or(st.GetError(), st.GetMessage(), "ended early")
	if code := st.GetContainer().GetExitCode(); code != 0 && st.GetError() == "" {
		why = fmt.Sprintf("exit code %d", code)
	}
	return fmt.Sprintf("task %s failed: %s", nameOf(t), why)
}

func nameOf(t *pb.Task) string {
	where := fmt.Sprint(t.Slot)
	if t.Slot == 0 {
		where = t.NodeId
	}
	return fmt.Sprintf("%s.%s.%s", t.ServiceName, where, t.Id)
}

// holdup is the first slot that keeps the rollout from its end; there is one.
func (s *set) holdup() *slot {
	among := s.inAir
	if len(among) == 0 {
		among = s.stale
	}
	return slices.MinFunc(slices.Collect(maps.Values(among)), func(a, b *slot) int { return comparePlaces(a.place, b.place) })
}

// obstacle tells what a slot is waiting for.
func (s *set) obstacle(sl *slot) string {
	t := sl.trial.task
	if t == nil {
		t = sl.last()
	}
	for _, other := range sl.tasks {
		if other != t && other.DesiredState > pb.TaskState_TASK_STATE_RUNNING && !s.over(other) {
			return fmt.Sprintf("task %s does not stop", nameOf(other))
		}
	}
	if endedItself(t) {
		return failure(t)
	}
	state := strings.ToLower(strings.TrimPrefix(t.GetStatus().GetState().String(), "TASK_STATE_"))
	text := fmt.Sprintf("task %s is %s", nameOf(t), state)
	if why := cmp.Or(t.GetStatus().GetError(), t.GetStatus().GetMessage()); why != "" {
		text += ": " + why
	}
	return text
}
