package orchestrator

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// ground is what working sets of all kinds stand on: the service and the nodes
// as they were told of them last, and the plan that they make.
type ground struct {
	fits  Fits
	newID func() string

	service *pb.Service
	nodes   Nodes
	spec    *pb.TaskSpec // the present one
	fitting map[fitsOn]fitAnswer

	// Of the reconcile that runs.
	now  time.Time
	plan Plan
}

func newGround(fits Fits, newID func() string) ground {
	if fits == nil {
		fits = stillFits
	}
	return ground{fits: fits, newID: newID, fitting: map[fitsOn]fitAnswer{}}
}

// specOf returns the spec of a version, nil if it is forgotten.
func (g *ground) specOf(version uint64) *pb.TaskSpec {
	if version == g.service.SpecVersion {
		return g.spec
	}
	return store.TaskSpec(g.service, version)
}

// fitsVersion tells whether a node fits the spec of a version; that of one
// that is forgotten it does.
func (g *ground) fitsVersion(n *pb.Node, version uint64) bool {
	key := fitsOn{n.GetId(), version}
	if known, ok := g.fitting[key]; ok && known.node == n {
		return known.ok
	}
	spec := g.specOf(version)
	ok := spec == nil || g.fits(n, spec)
	g.fitting[key] = fitAnswer{n, ok}
	return ok
}

// over tells whether a task has ended, as far as anybody can know.
func (g *ground) over(t *pb.Task) bool {
	state := t.GetStatus().GetState()
	if state > pb.TaskState_TASK_STATE_RUNNING {
		return true
	}
	return t.NodeId != "" && beyondReach(g.nodes.Node(t.NodeId))
}

// nodeOf is the node that has a say in where a task goes on, or that it is lost;
// nil for a task without one, and for a node that has not been heard of since
// the election, which keeps its tasks.
func (g *ground) nodeOf(t *pb.Task) (n *pb.Node, lost bool) {
	if t.NodeId == "" {
		return nil, false
	}
	n = g.nodes.Node(t.NodeId)
	switch {
	case beyondReach(n):
		return nil, true
	case n.GetStatus().GetState() != pb.NodeState_NODE_STATE_READY:
		return nil, false
	}
	return n, false
}

// desire plans a task's desired state, which only goes forward.
func (g *ground) desire(t *pb.Task, state pb.TaskState) {
	if t.DesiredState < state {
		g.plan.Desired = append(g.plan.Desired, &pb.TaskDesired{Id: t.Id, State: state})
	}
}

func (g *ground) shut(tasks ...*pb.Task) {
	for _, t := range tasks {
		g.desire(t, pb.TaskState_TASK_STATE_SHUTDOWN)
	}
}

// createAt plans a task for a place; t holds what is special about it.
func (g *ground) createAt(p place, t *pb.Task) {
	t.Id = g.newID()
	t.ServiceId, t.ServiceName = g.service.Id, g.service.GetSpec().GetName()
	t.Slot, t.NodeId = p.slot, p.node
	t.Status = &pb.TaskStatus{State: pb.TaskState_TASK_STATE_PENDING, At: timestamppb.New(g.now), Message: "waiting to be placed"}
	if len(g.specOf(t.SpecVersion).GetNetworks()) > 0 {
		t.Status = &pb.TaskStatus{State: pb.TaskState_TASK_STATE_NEW, At: timestamppb.New(g.now), Message: "waiting for its addresses"}
	}
	g.plan.Create = append(g.plan.Create, t)
}
