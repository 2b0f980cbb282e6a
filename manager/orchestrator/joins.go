package orchestrator

import (
	"cmp"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// joins is what the loop knows of nodes for the sake of rebalancings.
type joins struct {
	// balancing are the services that are rebalanced: every node counts for them.
	balancing map[string]*tracked
	last      Join
	// fresh: a node that joined not long ago has changed, and may be of use now.
	fresh bool
}

// noteJoin takes note of a node, if it is new.
func (j *joins) noteJoin(n *pb.Node) {
	if n.GetJoinedAt() == nil {
		return
	}
	at := n.JoinedAt.AsTime()
	if at.After(j.last.At) {
		j.last = Join{Node: cmp.Or(n.GetDescription().GetHostname(), n.Id), At: at}
	}
	j.fresh = j.fresh || time.Since(at) < joinWindow
}

// noteSpread marks the services that a changed node may matter to, wherever
// their tasks are.
func (o *Orchestrator) noteSpread(n *pb.Node) {
	o.noteJoin(n)
	for id, t := range o.balancing {
		o.track(id)
		if s := t.runs(); s != nil {
			s.balance.stale = true
		}
	}
}

// welcome marks all services if there is a new node and the cluster wants them
// to be spread over it.
func (o *Orchestrator) welcome(view store.View) {
	c := view.Cluster().GetSpec()
	o.fresh = o.fresh && c.GetRebalanceOnJoin() && c.GetPlacementStrategy() != pb.PlacementStrategy_PLACEMENT_STRATEGY_BINPACK
	if o.fresh {
		for id := range o.services {
			o.track(id)
		}
	}
}

// tellJoin tells a working set of the last join, and keeps its place among the
// services that are rebalanced.
func (o *Orchestrator) tellJoin(t *tracked, service *pb.Service) {
	if store.Rebalancing(service) {
		o.balancing[t.id] = t
	} else {
		delete(o.balancing, t.id)
	}
	if s := t.runs(); s != nil && o.fresh {
		s.balance.join = o.last
	}
}

// runs is the working set of a service that runs for good, nil for a job's and
// before there is one.
func (t *tracked) runs() *set {
	s, _ := t.set.(*set)
	return s
}
