package orchestrator

import (
	"cmp"
	"slices"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// slot holds one slot's tasks and what follows from them.
type slot struct {
	place
	tasks []*pb.Task // oldest first

	// Set by look.
	live     []*pb.Task // best first; without those that leave
	leaving  []*pb.Task // live ones that their node may not keep
	occupied bool       // counts as a replica
	stale    bool       // has work for the rolling update
	serving  bool       // has a task that serves
	moving   bool       // has one on a node that drains
	spot     spot       // while the service is rebalanced
	trial

	wake time.Time // when to look again
	busy bool      // this reconcile has decided already
}

// look works out what is true of a slot, and counts it.
func (s *set) look(sl *slot) {
	s.discount(sl)
	sl.live, sl.leaving = sl.live[:0], sl.leaving[:0]
	sl.occupied, sl.wake = false, time.Time{}
	for _, t := range sl.tasks {
		if t.DesiredState < pb.TaskState_TASK_STATE_REMOVE {
			sl.occupied = true
		}
		switch {
		case !live(t):
		case s.mustLeave(t):
			sl.leaving = append(sl.leaving, t)
		default:
			sl.live = append(sl.live, t)
		}
	}
	slices.SortFunc(sl.live, s.compareWorth)
	s.stand(sl)
	sl.trial = s.try(sl)
	sl.stale = s.isStale(sl)
	s.count(sl)
}

func (s *set) discount(sl *slot) {
	if sl.occupied {
		s.present--
	}
	s.retire(sl)
	delete(s.ready, sl.place)
	if sl.concerned() {
		s.concerned--
	}
	if sl.holds {
		s.held--
	}
	if sl.pending() {
		s.pending--
	}
	delete(s.stale, sl.place)
	delete(s.untouched, sl.place)
	delete(s.trials, sl.place)
	delete(s.inAir, sl.place)
	delete(s.failed, sl.place)
}

func (s *set) count(sl *slot) {
	if sl.occupied {
		s.present++
	}
	if sl.serving {
		s.serving++
	}
	if sl.stale {
		s.stale[sl.place] = sl
	}
	if sl.stale && sl.task == nil {
		s.untouched[sl.place] = sl
	}
	if sl.inAir() {
		s.inAir[sl.place] = sl
	}
	if sl.concerned() {
		s.concerned++
	}
	if sl.holds {
		s.held++
	}
	if sl.pending() {
		s.pending++
	}
	if sl.task != nil {
		s.trials[sl.place] = sl
	}
	if sl.verdict == failed {
		s.failed[sl.place] = sl
	}
}

// live tells whether a task is wanted to run and may.
func live(t *pb.Task) bool {
	return t.GetStatus().GetState() <= pb.TaskState_TASK_STATE_RUNNING &&
		t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING
}

// endedItself tells whether a task ended for reasons of its own.
func endedItself(t *pb.Task) bool {
	switch t.GetStatus().GetState() {
	case pb.TaskState_TASK_STATE_COMPLETE, pb.TaskState_TASK_STATE_FAILED, pb.TaskState_TASK_STATE_REJECTED:
		return true
	}
	return false
}

func beyondReach(n *pb.Node) bool {
	return n == nil || n.GetStatus().GetState() == pb.NodeState_NODE_STATE_DOWN
}

// vacant tells whether nothing in a slot can run any more, but for one task.
func (s *set) vacant(sl *slot, but *pb.Task) bool {
	for _, t := range sl.tasks {
		if t != but && !s.over(t) {
			return false
		}
	}
	return true
}

// mustLeave tells whether a live task's node is lost, unfit, or drained and the
// task has nothing to wait for there.
func (s *set) mustLeave(t *pb.Task) bool {
	n, lost := s.nodeOf(t)
	return lost || n != nil && (store.Draining(n) && !s.mayMove(t, n) || !s.mayStay(t, n))
}

// mayStay judges a task of the present version by its spec, and an old one by
// the spec it was made from: if it clashes with the new one only, the update
// replaces it in its own time. A global service has nothing to replace it with
// on a node that does not fit.
func (s *set) mayStay(t *pb.Task, n *pb.Node) bool {
	if s.global() || s.alike[t.SpecVersion] && s.fitsNow(n) {
		return s.fitsNow(n)
	}
	return s.fitsVersion(n, t.SpecVersion)
}

// upToDate tells whether the present version wants no other task than this.
// One that differs in placement only is as good as new where it is, but not
// while it has no node: placement would go by what it was made from.
func (s *set) upToDate(t *pb.Task) bool {
	if t.SpecVersion == s.service.SpecVersion {
		return true
	}
	if !s.alike[t.SpecVersion] {
		return false
	}
	if !live(t) {
		return true
	}
	n := s.nodes.Node(t.NodeId)
	return n != nil && s.fitsNow(n)
}

// compareWorth sorts live tasks: the one to keep first.
func (s *set) compareWorth(a, b *pb.Task) int {
	return cmp.Or(
		-compareBools(s.upToDate(a), s.upToDate(b)),
		compareBools(s.moving(a), s.moving(b)),
		-cmp.Compare(a.GetStatus().GetState(), b.GetStatus().GetState()),
		-cmp.Compare(a.SpecVersion, b.SpecVersion),
		compareAge(a, b),
	)
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// last is the task whose end decides what comes next: the newest that nobody
// has dealt with, else the newest.
func (sl *slot) last() *pb.Task {
	var newest *pb.Task
	for _, t := range slices.Backward(sl.tasks) {
		switch {
		case t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING:
			return t
		case newest == nil && t.DesiredState < pb.TaskState_TASK_STATE_REMOVE:
			newest = t
		}
	}
	return newest
}

// runningTask is the best live task that does its work already.
func (sl *slot) runningTask() *pb.Task {
	for _, t := range sl.live {
		if t.GetStatus().GetState() == pb.TaskState_TASK_STATE_RUNNING {
			return t
		}
	}
	return nil
}
