package orchestrator

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/internal/restarts"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Defaults as in Swarm.
const (
	defaultRestartDelay = 5 * time.Second
	defaultMonitor      = 5 * time.Second
)

// restartDelay is the time between a task's end and its successor's start,
// when so many restarts came right before. It is constant as in Swarm, or
// doubles with each of them where the policy has a longest delay.
func restartDelay(p *pb.RestartPolicy, before uint64) time.Duration {
	delay := durationOr(p.GetDelay(), defaultRestartDelay)
	if p.GetMaxDelay() == nil {
		return delay
	}
	longest := p.GetMaxDelay().AsDuration()
	for ; before > 0 && 0 < delay && delay < longest; before-- {
		delay *= 2
	}
	return min(delay, longest)
}

// streakAfter is the streak of the successor of a task: one restart more if it
// ended by itself soon, the same if it was lost soon, none after a long life.
func (g *ground) streakAfter(t *pb.Task, policy *pb.RestartPolicy) *pb.RestartStreak {
	ended := endedItself(t)
	until := g.now
	if ended {
		until = endOf(t)
	}
	long := t.RunningAt != nil && until.Sub(t.RunningAt.AsTime()) >= restarts.LongLife(policy)
	switch {
	case long && !ended:
		return nil
	case !ended:
		return t.Streak
	case long || t.Streak == nil:
		return &pb.RestartStreak{Restarts: 1, Since: timestamppb.New(until)}
	}
	return &pb.RestartStreak{Restarts: t.Streak.Restarts + 1, Since: t.Streak.Since}
}

func durationOr(d *durationpb.Duration, unset time.Duration) time.Duration {
	if d == nil {
		return unset
	}
	return d.AsDuration()
}

// restarts tells whether the restart policy allows a successor for a task
// that ended by itself, and which restart of its slot and version that is.
// The answer depends on the tasks alone: it is the same at any later time.
func (s *set) restarts(sl *slot, last *pb.Task) (count uint64, again bool) {
	policy := s.spec.GetRestart()
	switch policy.GetCondition() {
	case pb.RestartPolicy_CONDITION_NONE:
		return 0, false
	case pb.RestartPolicy_CONDITION_ON_FAILURE:
		if last.GetStatus().GetState() == pb.TaskState_TASK_STATE_COMPLETE {
			return 0, false
		}
	}
	count = last.RestartCount
	if window := policy.GetWindow().AsDuration(); window > 0 {
		count = recentRestarts(sl.tasks, last, window)
	}
	limit := policy.GetMaxAttempts()
	return count + 1, limit == 0 || count < limit
}

// recentRestarts counts the restarts of a version in the window before last
// ended. The reaper keeps enough history for it.
func recentRestarts(tasks []*pb.Task, last *pb.Task, window time.Duration) (n uint64) {
	since := last.GetStatus().GetAt().AsTime().Add(-window)
	for _, t := range tasks {
		if t.SpecVersion == last.SpecVersion && t.RestartCount > 0 && t.GetMeta().GetCreatedAt().AsTime().After(since) {
			n++
		}
	}
	return n
}
