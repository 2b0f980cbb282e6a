package store

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// The commands about tasks are batches. Their writers looked at a state that
// may have moved on, so an item that does not apply any more is skipped, and
// the writer, who watches, finds out by itself. Only malformed batches are refused.

func (tx *txn) createTasks(c *pb.CreateTasks) error {
	for _, t := range c.GetTasks() {
		if t.GetId() == "" {
			return fault.New(fault.Invalid, "create tasks: one has no id")
		}
	}
	for _, t := range c.GetTasks() {
		if !tx.creatable(t) {
			continue
		}
		n := tx.interned(copyTask(t))
		n.Meta, n.Addresses, n.Life = tx.created(), nil, nil
		n.Status = tx.firstStatus(n)
		tx.live(nil, n, "")
		tx.putTask(nil, n)
	}
	return nil
}

// firstStatus is a new task's: one that has to get addresses is NEW, whatever
// its maker says, and others are PENDING if it says nothing.
func (tx *txn) firstStatus(t *pb.Task) *pb.TaskStatus {
	networks := len(TaskSpec(tx.services.Get(t.ServiceId), t.SpecVersion).GetNetworks()) > 0
	switch {
	case networks && (t.Status == nil || t.Status.State != pb.TaskState_TASK_STATE_NEW):
		return &pb.TaskStatus{State: pb.TaskState_TASK_STATE_NEW, At: tx.at, Message: "waiting for its addresses"}
	case t.Status == nil || !networks && t.Status.State == pb.TaskState_TASK_STATE_NEW:
		return &pb.TaskStatus{State: pb.TaskState_TASK_STATE_PENDING, At: tx.at}
	}
	return t.Status
}

func (tx *txn) creatable(t *pb.Task) bool {
	s := tx.services.Get(t.ServiceId)
	return s != nil && !s.Removing &&
		tx.tasks.Get(t.Id) == nil && takesTask(s, t) &&
		TaskSpec(s, t.SpecVersion) != nil &&
		(t.NodeId == "" || tx.nodes.Get(t.NodeId) != nil)
}

// interned makes a task, which nobody else holds yet, share the strings of
// its service and node: a million tasks do not carry a million copies.
func (tx *txn) interned(t *pb.Task) *pb.Task {
	if s := tx.services.Get(t.ServiceId); s != nil {
		t.ServiceId = s.Id
		if t.ServiceName == s.GetSpec().GetName() {
			t.ServiceName = s.Spec.Name
		}
	}
	if n := tx.nodes.Get(t.NodeId); n != nil {
		t.NodeId = n.Id
	}
	return t
}

// changeTask stores a changed copy of a task.
func (tx *txn) changeTask(old *pb.Task, change func(*pb.Task)) {
	tx.changeTaskFor(old, "", change)
}

// changeTaskFor is changeTask where the reason to stop a task is known.
func (tx *txn) changeTaskFor(old *pb.Task, stopped string, change func(*pb.Task)) {
	n := copyTask(old)
	n.Meta = tx.updated(old.Meta)
	change(n)
	tx.live(old, n, stopped)
	tx.putTask(old, n)
}

// copyTask is shallow written out, for the object that changes most.
func copyTask(t *pb.Task) *pb.Task {
	n := &pb.Task{
		Id: t.Id, Meta: t.Meta,
		ServiceId: t.ServiceId, ServiceName: t.ServiceName, SpecVersion: t.SpecVersion, Slot: t.Slot, NodeId: t.NodeId,
		DesiredState: t.DesiredState, Status: t.Status,
		Replaces: t.Replaces, StartAfter: t.StartAfter, RestartCount: t.RestartCount,
		Streak:    t.Streak,
		Addresses: t.Addresses, RunningAt: t.RunningAt, JobRun: t.JobRun, Life: t.Life,
	}
	keepUnknown(t, n)
	return n
}

// endTask gives a task an end that no agent will report.
func (tx *txn) endTask(old *pb.Task, end pb.TaskState, why string) {
	tx.changeTask(old, func(n *pb.Task) { n.Status = tx.ended(old.Status, end, why) })
}

// ended is a status moved on to an end; what is known of the container stays.
func (tx *txn) ended(old *pb.TaskStatus, end pb.TaskState, why string) *pb.TaskStatus {
	return &pb.TaskStatus{State: end, At: tx.at, Message: why, Container: old.GetContainer(), Ports: old.GetPorts()}
}

// wantable are the states that a task can be wanted in.
var wantable = [...]pb.TaskState{
	pb.TaskState_TASK_STATE_READY,
	pb.TaskState_TASK_STATE_RUNNING,
	pb.TaskState_TASK_STATE_SHUTDOWN,
	pb.TaskState_TASK_STATE_REMOVE,
}

// setDesired also ends those tasks that are not wanted any more before they
// were placed: no agent will.
func (tx *txn) setDesired(c *pb.SetDesired) error {
	for _, d := range c.GetTasks() {
		if !slices.Contains(wantable[:], d.GetState()) {
			return fault.New(fault.Invalid, "set desired state of task %s: a task cannot be wanted %v", d.GetId(), d.GetState())
		}
	}
	for _, d := range c.GetTasks() {
		old := tx.tasks.Get(d.Id)
		if old == nil || d.State <= old.DesiredState {
			continue
		}
		tx.changeTaskFor(old, tx.whyStopped(old, d.State), func(n *pb.Task) {
			n.DesiredState = d.State
			unplaced := old.GetStatus().GetState() < pb.TaskState_TASK_STATE_ASSIGNED
			if unplaced && d.State >= pb.TaskState_TASK_STATE_SHUTDOWN {
				n.Status = tx.ended(old.Status, pb.TaskState_TASK_STATE_SHUTDOWN, "not wanted any more before it had a node")
			}
		})
	}
	return nil
}

func (tx *txn) assignTasks(c *pb.AssignTasks) error {
	for _, a := range c.GetTasks() {
		if a.GetId() == "" || a.NodeId == "" {
			return fault.New(fault.Invalid, "assign tasks: task %q or node %q has no id", a.GetId(), a.GetNodeId())
		}
	}
	for _, a := range c.GetTasks() {
		old, node := tx.tasks.Get(a.Id), tx.nodes.Get(a.NodeId)
		if !assignable(old, node) {
			continue
		}
		tx.changeTask(old, func(n *pb.Task) {
			n.NodeId = node.Id
			n.Status = &pb.TaskStatus{State: pb.TaskState_TASK_STATE_ASSIGNED, At: tx.at, Message: "given to its node"}
		})
	}
	return nil
}

func assignable(t *pb.Task, n *pb.Node) bool {
	return t != nil && n != nil &&
		t.GetStatus().GetState() == pb.TaskState_TASK_STATE_PENDING &&
		t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING &&
		(t.NodeId == "" || t.NodeId == n.Id) &&
		n.GetStatus().GetState() == pb.NodeState_NODE_STATE_READY &&
		n.GetSpec().GetAvailability() == pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE
}

// explainTasks says why tasks wait; state and time of the status stay.
func (tx *txn) explainTasks(c *pb.ExplainTasks) error {
	for _, r := range c.GetTasks() {
		old := tx.tasks.Get(r.GetId())
		if old.GetStatus().GetState() != pb.TaskState_TASK_STATE_PENDING {
			continue
		}
		status := shallow(old.Status)
		status.Message = r.GetStatus().GetMessage()
		status.Error = r.GetStatus().GetError()
		status.Refused = r.GetStatus().GetRefused()
		if !proto.Equal(status, old.Status) {
			tx.changeTask(old, func(n *pb.Task) { n.Status = status })
		}
	}
	return nil
}

func (tx *txn) reportStatuses(c *pb.ReportStatuses) error {
	if c.GetNodeId() == "" {
		return fault.New(fault.Invalid, "report statuses: the node's id is missing")
	}
	lost := tx.nodes.Get(c.NodeId).GetStatus().GetState() == pb.NodeState_NODE_STATE_DOWN
	for _, r := range c.Reports {
		old := tx.tasks.Get(r.GetId())
		if old == nil || old.NodeId != c.NodeId || !follows(old.GetStatus(), r.GetStatus()) {
			continue
		}
		if r.Status.State == pb.TaskState_TASK_STATE_ORPHANED && !lost {
			continue // the node came back while it was given up
		}
		tx.changeTask(old, func(n *pb.Task) {
			n.Status = shareContainer(r.Status, old)
			if n.RunningAt == nil && n.Status.State == pb.TaskState_TASK_STATE_RUNNING {
				n.RunningAt = tx.at
			}
		})
	}
	return nil
}

// follows says whether an agent may report status next after old: a task goes
// forward from ASSIGNED, ends once, and saying the same twice is no news.
func follows(old, next *pb.TaskStatus) bool {
	from, to := old.GetState(), next.GetState()
	switch {
	case from < pb.TaskState_TASK_STATE_ASSIGNED || to < from:
		return false
	case to == pb.TaskState_TASK_STATE_REMOVE || pb.TaskState_name[int32(to)] == "":
		return false
	case from > pb.TaskState_TASK_STATE_RUNNING && to != from:
		return false
	}
	return to != from || !proto.Equal(old, next)
}

// shareContainer lets a status use the task's id as its container's, for they
// are the same by design, and a container already known, to save memory.
func shareContainer(next *pb.TaskStatus, old *pb.Task) *pb.TaskStatus {
	switch c := next.GetContainer(); {
	case c == nil:
		return next
	case proto.Equal(c, old.GetStatus().GetContainer()):
		next = shallow(next)
		next.Container = old.Status.Container
	case c.ContainerId == old.Id:
		next = shallow(next)
		next.Container = shallow(c)
		next.Container.ContainerId = old.Id
	}
	return next
}

// deleteTasks never forgets a task that may still be running and is wanted.
func (tx *txn) deleteTasks(c *pb.DeleteTasks) error {
	for _, id := range c.GetIds() {
		t := tx.tasks.Get(id)
		if t == nil {
			continue
		}
		live := t.GetStatus().GetState() <= pb.TaskState_TASK_STATE_RUNNING && t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING
		if !live {
			tx.deleteTask(t)
		}
	}
	return nil
}
