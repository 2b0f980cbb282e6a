package controlapi

import (
	"cmp"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/internal/why"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// account says of tasks what they cannot say themselves, for one answer: that
// their node is down, or why they are still on one that drains.
type account struct {
	view store.View
	// serving counts the slots that serve, of services that were asked about.
	serving map[string]int
}

func newAccount(view store.View) account { return account{view, map[string]int{}} }

// of is a task with the reason, where there is one, in its status's error.
func (a account) of(t *pb.Task) *pb.Task {
	reason := a.reason(t)
	if reason == "" {
		return t
	}
	t = proto.CloneOf(t)
	t.Status.Error = reason
	return t
}

func (a account) reason(t *pb.Task) string {
	n := a.view.Node(t.NodeId)
	state := t.GetStatus().GetState()
	switch {
	case n == nil || state > pb.TaskState_TASK_STATE_RUNNING:
		return ""
	case n.GetStatus().GetState() == pb.NodeState_NODE_STATE_DOWN:
		return withReason("its node is down", n.GetStatus().GetMessage())
	case store.Draining(n) && state == pb.TaskState_TASK_STATE_RUNNING && t.DesiredState == state:
		return a.staying(t)
	}
	return ""
}

func withReason(what, reason string) string {
	if reason == "" {
		return what
	}
	return what + ": " + reason
}

// staying tells why a task is still on a node that drains.
func (a account) staying(t *pb.Task) string {
	service := a.view.Service(t.ServiceId)
	next := a.replacement(t)
	state := next.GetStatus().GetState()
	switch {
	case next == nil:
		return "stays: its replacement is about to be made"
	case state > pb.TaskState_TASK_STATE_RUNNING:
		return withReason("stays: its replacement failed", cmp.Or(why.Task(next), "it ended at once"))
	case state < pb.TaskState_TASK_STATE_ASSIGNED && why.Waits(next):
		return "stays: its replacement waits: " + why.Task(next)
	case state < pb.TaskState_TASK_STATE_ASSIGNED:
		return "moves: its replacement is being placed"
	case state == pb.TaskState_TASK_STATE_READY && next.DesiredState == state && !store.StartsFirst(service):
		return fmt.Sprintf("stays: its replacement is ready, but of %d replicas %d run, and %d have to",
			service.GetSpec().GetReplicated().GetReplicas(), a.serves(service.GetId()), store.LeastServing(service))
	}
	where := cmp.Or(a.view.Node(next.NodeId).GetDescription().GetHostname(), next.NodeId)
	return withReason(fmt.Sprintf("moves: its replacement is %s on %s", why.State(state), where), why.Task(next))
}

// replacement is the newest task made to take a task's place that goes on, else
// the newest that ended by itself.
func (a account) replacement(t *pb.Task) *pb.Task {
	var best *pb.Task
	rank := func(o *pb.Task) int {
		switch {
		case o == nil:
			return 0
		case o.DesiredState <= pb.TaskState_TASK_STATE_RUNNING && o.Status.GetState() <= pb.TaskState_TASK_STATE_RUNNING:
			return 3
		case o.Status.GetState() == pb.TaskState_TASK_STATE_FAILED, o.Status.GetState() == pb.TaskState_TASK_STATE_REJECTED:
			return 2
		}
		return 0
	}
	for o := range a.view.TasksBySlot(t.ServiceId, t.Slot) {
		if o.Replaces != t.Id || rank(o) == 0 || rank(o) < rank(best) {
			continue
		}
		if rank(o) > rank(best) || o.GetMeta().GetCreatedAt().AsTime().After(best.GetMeta().GetCreatedAt().AsTime()) {
			best = o
		}
	}
	return best
}

// serves counts the slots of a service that serve.
func (a account) serves(service string) int {
	if n, known := a.serving[service]; known {
		return n
	}
	slots := map[uint64]bool{}
	for t := range a.view.TasksByService(service) {
		if store.Serves(t) {
			slots[t.Slot] = true
		}
	}
	a.serving[service] = len(slots)
	return len(slots)
}
