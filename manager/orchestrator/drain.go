package orchestrator

import (
	"maps"
	"slices"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// A task of a replicated service whose node drains is moved: it runs on until
// its replacement elsewhere runs (start-first) or is READY and the service can
// spare it (stop-first). When the drain's deadline has passed, it has to leave
// at once, replacement or not. Tasks that are spread anew (rebalance.go) move
// in the same way.

// moves is what the working set knows of slots that move.
type moves struct {
	// serving counts the slots that have a task which serves.
	serving int
	// ready are the slots whose replacement is READY and waits for its
	// predecessor's end.
	ready map[place]*slot
}

func (s *set) replicated() bool { return s.service.GetSpec().GetReplicated() != nil }

// mayMove tells whether a task may stay on its draining node until it is
// replaced. What does not run yet is no loss.
func (s *set) mayMove(t *pb.Task, n *pb.Node) bool {
	return s.moving(t) && store.DrainEnd(n).After(s.now)
}

// moving tells whether a live task runs on a node that drains. Nobody asks
// about tasks that have to leave at once.
func (s *set) moving(t *pb.Task) bool {
	return t.GetStatus().GetState() == pb.TaskState_TASK_STATE_RUNNING && s.replicated() &&
		store.Draining(s.nodes.Node(t.NodeId))
}

// stand works out what a slot does for its service and, while it moves, has it
// looked at when that has to end.
func (s *set) stand(sl *slot) {
	sl.serving = slices.ContainsFunc(sl.live, store.Serves)
	sl.moving = slices.ContainsFunc(sl.live, s.moving)
	if sl.moving {
		for _, t := range sl.live {
			if end := store.DrainEnd(s.nodes.Node(t.NodeId)); end.After(s.now) {
				s.wakeAt(sl, end)
			}
		}
	}
	if at := s.spotOf(sl); at != sl.spot {
		sl.spot, s.balance.stale = at, true
	}
}

// retire takes a slot out of the count of those that serve: this plan stops it.
func (s *set) retire(sl *slot) {
	if sl.serving {
		sl.serving = false
		s.serving--
	}
}

// moveOut makes the replacement of a slot's only live task if its node drains.
// One that failed is followed by another under the restart policy.
func (s *set) moveOut(sl *slot, t *pb.Task) {
	if sl.busy || !s.moving(t) || s.nodes.Node(t.NodeId).GetStatus().GetState() != pb.NodeState_NODE_STATE_READY {
		return
	}
	if sl.stale && sl.trial.task != nil && s.active() {
		return // the update replaces it
	}
	last, version := t, s.versionAfter(t)
	for _, other := range sl.tasks {
		if other.SpecVersion == version && compareAge(other, t) > 0 {
			last = other
		}
	}
	if !endedItself(last) {
		last = t
	}
	s.succeed(sl, last, t.Id)
}

// moveOf finds the live task of a slot that moves and the one that takes its
// place, nil if there is no such pair.
func (s *set) moveOf(sl *slot) (from, to *pb.Task) {
	for _, from := range sl.live {
		for _, to := range sl.live {
			if to != from && (s.relieves(from, to) || s.evens(from, to)) {
				return from, to
			}
		}
	}
	return nil, nil
}

// relieves tells whether a task was made to replace another on a draining node.
func (s *set) relieves(from, to *pb.Task) bool {
	return s.moving(from) && !s.moving(to) && to.SpecVersion == s.versionAfter(from)
}

// moveOver lets one task of a slot take another's place on a different node.
func (s *set) moveOver(sl *slot, from, to *pb.Task) {
	for _, t := range sl.live {
		if t != from && t != to {
			s.shut(t)
		}
	}
	switch state := to.GetStatus().GetState(); {
	case state == pb.TaskState_TASK_STATE_RUNNING:
		s.moved(from)
	case to.DesiredState == pb.TaskState_TASK_STATE_RUNNING || !s.delayPassed(sl, to):
	case s.startFirst():
		s.desire(to, pb.TaskState_TASK_STATE_RUNNING)
	case state == pb.TaskState_TASK_STATE_READY && !sl.serving:
		s.moved(from)
	case state == pb.TaskState_TASK_STATE_READY:
		s.ready[sl.place] = sl
	}
}

// relieve stops tasks whose replacements are READY, as many as the service can
// spare: whatever the reason, no more slots may be out than its update
// settings allow.
func (s *set) relieve() {
	least := store.LeastServing(s.service)
	if len(s.ready) == 0 || s.serving <= least {
		return
	}
	for _, p := range slices.SortedFunc(maps.Keys(s.ready), comparePlaces) {
		sl := s.ready[p]
		from, _ := s.moveOf(sl)
		if sl.busy || from == nil || s.serving <= least {
			continue
		}
		s.moved(from)
		s.retire(sl)
		delete(s.ready, p)
	}
}

// moved stops a task whose place is taken.
func (s *set) moved(from *pb.Task) {
	s.shut(from)
	if !s.moving(from) {
		s.setBalance(func(r *pb.Rebalance) { r.Moved++ })
	}
}
