package orchestrator

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
)

// handOverPatience is how long a replacement may wait for what its
// predecessor holds before that is stopped without it being READY.
const handOverPatience = 3 * time.Second

// tend gives one slot what it needs.
func (s *set) tend(sl *slot) {
	if sl.busy {
		return
	}
	if s.global() && s.nodes.Node(sl.node) == nil {
		s.remove(sl)
		return
	}
	s.shut(sl.leaving...)
	for _, t := range sl.tasks {
		if t.GetStatus().GetState() > pb.TaskState_TASK_STATE_RUNNING {
			s.shut(t)
		}
	}
	switch len(sl.live) {
	case 0:
		s.refill(sl)
	case 1:
		s.advance(sl, sl.live[0])
		s.retryUpdate(sl)
		s.moveOut(sl, sl.live[0])
	default:
		s.handOver(sl)
	}
}

// refill finds a successor for a slot without a live task.
func (s *set) refill(sl *slot) {
	if !sl.occupied && !s.global() || !s.mayCreate(sl) {
		return
	}
	last := sl.last()
	if last == nil {
		s.createAt(sl.place, s.first(sl))
		return
	}
	s.succeed(sl, last, last.Id)
}

// first is the first task of a slot; what may be left there from before a
// scale-in has to end before it starts.
func (s *set) first(sl *slot) *pb.Task {
	return &pb.Task{SpecVersion: s.service.SpecVersion, DesiredState: s.startState(sl)}
}

func (s *set) startState(sl *slot) pb.TaskState {
	if s.vacant(sl, nil) {
		return pb.TaskState_TASK_STATE_RUNNING
	}
	return pb.TaskState_TASK_STATE_READY
}

// mayCreate tells whether a slot may get a new task: for a global service
// only where its node is up, active and fit.
func (s *set) mayCreate(sl *slot) bool {
	if !s.global() {
		return true
	}
	n := s.nodes.Node(sl.node)
	return n.GetStatus().GetState() == pb.NodeState_NODE_STATE_READY &&
		n.GetSpec().GetAvailability() == pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE &&
		s.fitsNow(n)
}

// succeed makes the successor of a task that is over or told to stop. What
// ended by itself goes by the restart policy; what was lost or sent away, not.
func (s *set) succeed(sl *slot, last *pb.Task, replaces string) {
	next := &pb.Task{
		SpecVersion:  s.versionAfter(last),
		DesiredState: s.startState(sl),
		Replaces:     replaces,
		RestartCount: last.RestartCount,
		Streak:       s.streakAfter(last, s.spec.GetRestart()),
	}
	after := last.StartAfter.AsTime()
	if endedItself(last) {
		count, again := s.restarts(sl, last)
		if !again {
			return
		}
		if last.StartAfter != nil && after.After(s.now) {
			// It failed before its turn came: the pace is the same.
			s.wakeAt(sl, after)
			return
		}
		next.RestartCount = count
		after = s.now.Add(restartDelay(s.spec.GetRestart(), next.Streak.Restarts-1))
	}
	if next.SpecVersion != last.SpecVersion {
		next.RestartCount, next.Streak = 0, nil
	}
	if after.After(s.now) || len(sl.live) > 0 {
		next.DesiredState = pb.TaskState_TASK_STATE_READY
	}
	if after.After(s.now) {
		next.StartAfter = timestamppb.New(after)
	}
	s.createAt(sl.place, next)
}

// versionAfter is the version of a task's successor: the present one, but
// while an update goes on or is paused, a slot that it has not come to keeps
// the version that it has. So a bad version spreads no faster than asked.
func (s *set) versionAfter(t *pb.Task) uint64 {
	if (s.active() || s.paused()) && !s.upToDate(t) && s.specOf(t.SpecVersion) != nil {
		return t.SpecVersion
	}
	return s.service.SpecVersion
}

// advance lets a slot's only live task start when its time has come.
func (s *set) advance(sl *slot, t *pb.Task) {
	if t.DesiredState == pb.TaskState_TASK_STATE_READY && s.vacant(sl, t) && s.delayPassed(sl, t) {
		s.desire(t, pb.TaskState_TASK_STATE_RUNNING)
	}
}

func (s *set) delayPassed(sl *slot, t *pb.Task) bool {
	if t.StartAfter == nil || !t.StartAfter.AsTime().After(s.now) {
		return true
	}
	s.wakeAt(sl, t.StartAfter.AsTime())
	return false
}

// retryUpdate tries once more where an update's task failed before the old
// one was stopped, under the restart policy.
func (s *set) retryUpdate(sl *slot) {
	if !sl.stale || sl.trial.task == nil || !s.active() || !s.mayCreate(sl) {
		return
	}
	s.succeed(sl, s.newestPresent(sl), sl.live[0].Id)
}

// handOver deals with several live tasks in a slot: one takes over from
// another, and whatever else there is came from a race and goes.
func (s *set) handOver(sl *slot) {
	if from, to := s.moveOf(sl); from != nil {
		s.moveOver(sl, from, to)
		return
	}
	head, old := sl.live[0], s.predecessor(sl)
	for _, t := range sl.live[1:] {
		if t != old {
			s.shut(t)
		}
	}
	started := head.GetStatus().GetState() == pb.TaskState_TASK_STATE_RUNNING
	switch {
	case s.upToDate(old) || started:
		s.shut(old)
	case !s.upToDate(head) || s.paused():
		// A version that nobody wants any more, or not now: it starts nothing.
		s.cancel(head, old)
	case head.DesiredState == pb.TaskState_TASK_STATE_RUNNING || !s.delayPassed(sl, head):
	case s.startFirst():
		s.desire(head, pb.TaskState_TASK_STATE_RUNNING)
	case head.GetStatus().GetState() == pb.TaskState_TASK_STATE_READY || s.blocked(sl, head):
		s.shut(old)
		s.retire(sl)
	}
}

// predecessor is the live task that a slot's best one takes over from: of the
// others the furthest, and of these one that is out of date.
func (s *set) predecessor(sl *slot) *pb.Task {
	return slices.MaxFunc(sl.live[1:], func(a, b *pb.Task) int {
		return cmp.Or(
			cmp.Compare(a.GetStatus().GetState(), b.GetStatus().GetState()),
			compareBools(!s.upToDate(a), !s.upToDate(b)),
		)
	})
}

// cancel keeps the task of two that is further on; neither runs that the
// other would wait for.
func (s *set) cancel(head, old *pb.Task) {
	if old.GetStatus().GetState() < head.GetStatus().GetState() {
		head, old = old, head
	}
	s.shut(head)
}

// blocked tells whether a replacement cannot be placed for want of something
// that its predecessor may hold: then waiting for it to be READY is in vain.
func (s *set) blocked(sl *slot, t *pb.Task) bool {
	if t.GetStatus().GetState() != pb.TaskState_TASK_STATE_PENDING {
		return false
	}
	for _, r := range t.Status.Refused {
		if !heldByOthers[r.Filter] {
			continue
		}
		if at := t.Status.At.AsTime().Add(handOverPatience); at.After(s.now) {
			s.wakeAt(sl, at)
			return false
		}
		return true
	}
	return false
}
