package orchestrator

import (
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// trial is how the rollout stands in one slot.
type trial struct {
	// task is the one that the rollout made, nil while it has not been here:
	// the first of its version that was not lost. Later ones are restarts of it.
	task    *pb.Task
	verdict verdict
	// holds: it takes one place of the parallelism, from the task's creation
	// until it runs alone or has failed, and for the delay after that.
	holds bool
	// settled is when it gave, or will give, its place back; zero while that is
	// not known.
	settled time.Time
}

// verdict is what became of a rollout's task within its monitor period.
type verdict int

const (
	undecided verdict = iota
	good
	failed
)

func (t *trial) pending() bool { return t.task != nil && t.verdict == undecided }

// inAir tells whether the task neither runs alone nor has failed yet.
func (t *trial) inAir() bool { return t.task != nil && t.settled.IsZero() }

// concerned tells whether a slot is one of those that the rollout replaces.
func (sl *slot) concerned() bool { return sl.stale || sl.task != nil }

// try works out how the rollout stands in a slot, and sees to it being looked
// at when time alone changes that.
func (s *set) try(sl *slot) trial {
	t := trial{task: s.findTrial(sl)}
	if t.task == nil {
		return t
	}
	config := s.rollout()
	t.verdict = s.judge(sl, t.task, durationOr(config.GetMonitor(), defaultMonitor))
	since := s.settledSince(sl, &t)
	if since.IsZero() {
		t.holds = true
		return t
	}
	t.settled = since.Add(config.GetDelay().AsDuration())
	if t.holds = t.settled.After(s.now); t.holds {
		s.wakeAt(sl, t.settled)
	}
	return t
}

// findTrial returns the rollout's task of a slot.
func (s *set) findTrial(sl *slot) *pb.Task {
	status := s.service.GetUpdateStatus()
	if !rolls(status) || status.ToVersion != s.service.SpecVersion {
		return nil
	}
	for _, t := range sl.tasks {
		inLine := live(t) || endedItself(t) && t.DesiredState < pb.TaskState_TASK_STATE_REMOVE
		made := t.SpecVersion == s.service.SpecVersion && t.Replaces != "" && t.RestartCount == 0 &&
			!t.GetMeta().GetCreatedAt().AsTime().Before(status.StartedAt.AsTime())
		if made && inLine {
			return t
		}
	}
	return nil
}

// judge tells whether a trial's task ended before it ran for the monitor period.
func (s *set) judge(sl *slot, t *pb.Task, monitor time.Duration) verdict {
	switch {
	case endedItself(t):
		if t.RunningAt == nil || endOf(t).Sub(t.RunningAt.AsTime()) <= monitor {
			return failed
		}
		return good
	case t.GetStatus().GetState() < pb.TaskState_TASK_STATE_RUNNING || len(sl.live) != 1 && !s.moving(t):
		return undecided
	}
	if at := t.RunningAt.AsTime().Add(monitor); at.After(s.now) {
		s.wakeAt(sl, at)
		return undecided
	}
	return good
}

// settledSince is when a trial's task came to run alone in its slot, or failed.
func (s *set) settledSince(sl *slot, t *trial) time.Time {
	running := t.task.GetStatus().GetState() == pb.TaskState_TASK_STATE_RUNNING
	switch {
	case t.verdict == failed:
		return endOf(t.task)
	case endedItself(t.task), running && len(sl.live) == 1 && s.vacant(sl, t.task), running && s.moving(t.task):
		return t.task.RunningAt.AsTime()
	}
	return time.Time{}
}

// endOf is when a task ended, by its node's clock as far as the leader's allows it.
func endOf(t *pb.Task) time.Time {
	at, heard := t.GetStatus().GetAt().AsTime(), t.GetMeta().GetUpdatedAt().AsTime()
	earliest := t.GetMeta().GetCreatedAt().AsTime()
	if t.RunningAt != nil {
		earliest = t.RunningAt.AsTime()
	}
	switch {
	case at.Before(earliest):
		return earliest
	case at.After(heard):
		return heard
	}
	return at
}
