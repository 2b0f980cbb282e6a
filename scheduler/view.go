package scheduler

import (
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// FromView returns a set with all nodes and tasks of a snapshot, and the
// failures that its task history still shows.
func FromView(v store.View) *Set {
	s := NewSet()
	s.SetStrategy(v.Cluster().GetSpec().GetPlacementStrategy())
	for n := range v.Nodes() {
		s.PutNode(n)
	}
	needs := map[versionKey]*Requirements{}
	for t := range v.Tasks() {
		key := versionKey{t.GetServiceId(), t.GetSpecVersion()}
		need := needs[key]
		if need == nil {
			need = requirementsOf(v, t)
			needs[key] = need
		}
		s.PutTask(t, need)
		if Failed(t) {
			s.AddFailure(t.GetServiceId(), t.GetSpecVersion(), t.GetNodeId(), t.GetStatus().GetAt().AsTime())
		}
	}
	return s
}

type versionKey struct {
	service string
	version uint64
}

func requirementsOf(v store.View, t *pb.Task) *Requirements {
	if service := v.Service(t.GetServiceId()); service != nil {
		return CompileIn(v, store.TaskSpec(service, t.GetSpecVersion()))
	}
	return Compile(nil)
}

// CompileIn reads a task spec whose networks are those of a snapshot.
func CompileIn(v store.View, spec *pb.TaskSpec) *Requirements {
	var networks []*pb.Network
	for _, a := range spec.GetNetworks() {
		if n := v.Network(a.GetNetworkId()); n != nil {
			networks = append(networks, n)
		}
	}
	return Compile(spec, networks...)
}

// Failed tells whether a task's end speaks against its node.
func Failed(t *pb.Task) bool {
	state := t.GetStatus().GetState()
	return t.GetNodeId() != "" && (state == pb.TaskState_TASK_STATE_FAILED || state == pb.TaskState_TASK_STATE_REJECTED)
}

// StopFirst tells whether a service's tasks start only after those that they
// replace have ended.
func StopFirst(s *pb.Service) bool {
	return !store.StartsFirst(s)
}

// ExplainTask tells, node by node, why a task is where it is or nowhere. The
// task's own share is left out of the account, so that its node is judged as
// it was when the task came.
func ExplainTask(v store.View, t *pb.Task, now time.Time) *pb.Explanation {
	s := FromView(v)
	s.RemoveTask(t.GetId())
	g := Group{
		Service: t.GetServiceId(),
		Name:    t.GetServiceName(),
		Version: t.GetSpecVersion(),
		Need:    requirementsOf(v, t),
	}
	w := Waiting{ID: t.GetId(), Replaces: t.GetReplaces()}
	if service := v.Service(t.GetServiceId()); service != nil {
		g.StopFirst = StopFirst(service)
		if store.PerNode(service.GetSpec()) {
			w.Node = t.GetNodeId()
		}
	}
	why := s.Explain(g, w)
	e := &pb.Explanation{Task: t, Summary: why.Summary(), Nodes: s.Verdicts(g, w, now)}
	if t.GetStatus().GetState() < pb.TaskState_TASK_STATE_ASSIGNED {
		e.Hint = why.Hint
		if what, reasons := why.Told(w); why.Fit == 0 && reasons != "" {
			e.Summary = what + ": " + reasons
		}
	}
	for _, verdict := range e.Nodes {
		verdict.Chosen = t.GetNodeId() != "" && verdict.NodeId == t.GetNodeId()
	}
	return e
}
