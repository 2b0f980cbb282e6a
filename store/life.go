package store

import (
	"github.com/minid/minid/internal/why"
	pb "github.com/minid/minid/proto/minid/v1"
)

// The life line of a task: one step per state that it reached or was wanted in,
// until its end. States only go forward, so there are never more than 16. Every
// step makes new lists, for old views go on reading the old ones.

// live brings a task's life line to its present state. stopped is why it is not
// wanted any more, if that is what changed.
func (tx *txn) live(old, n *pb.Task, stopped string) {
	from, to := old.GetStatus().GetState(), n.GetStatus().GetState()
	if from > pb.TaskState_TASK_STATE_RUNNING {
		return
	}
	if old != nil && old.DesiredState != n.DesiredState {
		n.Life = step(n.Life, why.Step{State: n.DesiredState, Desired: true, AtMS: tx.millis(), Reason: stopped})
	}
	reason := why.Task(n)
	switch {
	case to == pb.TaskState_TASK_STATE_SHUTDOWN && reason == why.Stopped(n):
		reason = "" // the step before says it
	case old != nil && from == to:
		n.Life = withReason(n.Life, to, reason)
		return
	}
	n.Life = step(n.Life, why.Step{State: to, AtMS: tx.reached(n), Reason: reason})
}

// millis is the entry's time.
func (tx *txn) millis() int64 { return tx.at.AsTime().UnixMilli() }

// reached is when a task reached its state: by its node's clock, as long as
// that puts it between the step before and now.
func (tx *txn) reached(t *pb.Task) int64 {
	now := tx.millis()
	if t.Status.GetAt() == nil {
		return now
	}
	at := min(t.Status.At.AsTime().UnixMilli(), now)
	if ms := t.Life.GetAtMs(); len(ms) > 0 {
		at = max(at, min(ms[len(ms)-1], now))
	}
	return at
}

// usual is the number of steps of most lives.
const usual = 6

// lifeCell is a usual life line with its lists: one object for the garbage
// collector in place of four, for each of a million tasks.
type lifeCell struct {
	line    pb.LifeLine
	states  [usual]pb.TaskState
	desired [usual]bool
	atMs    [usual]int64
}

// newLife has room for so many steps.
func newLife(steps int) *pb.LifeLine {
	if steps > usual {
		return &pb.LifeLine{States: make([]pb.TaskState, steps), Desired: make([]bool, steps), AtMs: make([]int64, steps)}
	}
	c := new(lifeCell)
	c.line.States, c.line.Desired, c.line.AtMs = c.states[:steps:steps], c.desired[:steps:steps], c.atMs[:steps:steps]
	return &c.line
}

// step is a life line with one step more.
func step(l *pb.LifeLine, s why.Step) *pb.LifeLine {
	last := min(len(l.GetStates()), len(l.GetDesired()), len(l.GetAtMs()))
	n := newLife(last + 1)
	copy(n.States, l.GetStates())
	copy(n.Desired, l.GetDesired())
	copy(n.AtMs, l.GetAtMs())
	n.States[last], n.Desired[last], n.AtMs[last] = s.State, s.Desired, s.AtMS
	n.Reasons = l.GetReasons()
	if s.Reason != "" {
		n.Reasons = reasonAt(n.Reasons, last, s.Reason)
	}
	keepUnknown(l, n)
	return n
}

// withReason replaces the reason of the last step that a task reached.
func withReason(l *pb.LifeLine, state pb.TaskState, reason string) *pb.LifeLine {
	last := min(len(l.GetStates()), len(l.GetDesired())) - 1
	for last >= 0 && l.Desired[last] {
		last--
	}
	if last < 0 || l.States[last] != state || reasonOf(l, last) == reason {
		return l
	}
	n := &pb.LifeLine{States: l.States, Desired: l.Desired, AtMs: l.AtMs, Reasons: reasonAt(l.Reasons, last, reason)}
	keepUnknown(l, n)
	return n
}

func reasonOf(l *pb.LifeLine, place int) string {
	if place >= len(l.Reasons) {
		return ""
	}
	return l.Reasons[place]
}

// reasonAt is a copy of reasons with another at a place. Steps behind the last
// reason have none.
func reasonAt(reasons []string, place int, reason string) []string {
	n := make([]string, max(len(reasons), place+1))
	copy(n, reasons)
	n[place] = reason
	return n
}

// whyStopped is why a task that is wanted to stop is not wanted any more, as
// far as the objects tell: what is certain first, then what is likely.
func (tx *txn) whyStopped(t *pb.Task, to pb.TaskState) string {
	if to < pb.TaskState_TASK_STATE_SHUTDOWN || t.GetStatus().GetState() > pb.TaskState_TASK_STATE_RUNNING {
		return ""
	}
	s, node := tx.services.Get(t.ServiceId), tx.nodes.Get(t.NodeId)
	switch {
	case s == nil || s.Removing:
		return "its service is removed"
	case t.NodeId != "" && node == nil:
		return "its node was removed from the cluster"
	case node.GetStatus().GetState() == pb.NodeState_NODE_STATE_DOWN:
		return "its node is down"
	case node.GetSpec().GetAvailability() == pb.NodeAvailability_NODE_AVAILABILITY_DRAIN:
		return "its node is draining"
	case to == pb.TaskState_TASK_STATE_REMOVE && s.GetSpec().GetReplicated() != nil:
		return "scaled in"
	case t.SpecVersion != s.SpecVersion && RollingBack(s):
		return "rolled back"
	case t.SpecVersion != s.SpecVersion:
		return "updated"
	case s.GetRebalance() != nil && s.Rebalance.CompletedAt == nil:
		return "moved to another node"
	case tx.successor(t) != nil:
		return "replaced by task " + tx.successor(t).Id
	}
	return ""
}

// successor is the task that was made to take a task's place, nil if there is none.
func (tx *txn) successor(t *pb.Task) *pb.Task {
	tasks := View{&tx.tables}.TasksBySlot(t.ServiceId, t.Slot)
	if t.Slot == 0 { // global: a slot is a node
		tasks = View{&tx.tables}.TasksByNode(t.NodeId)
	}
	for other := range tasks {
		if other.Replaces == t.Id {
			return other
		}
	}
	return nil
}
