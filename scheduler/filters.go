package scheduler

import (
	pb "github.com/minid/minid/proto/minid/v1"
)

// query is what the filters are asked: tasks of one service, their needs.
type query struct {
	set     *Set
	need    *Requirements
	service *service
}

// filter refuses nodes that cannot run a task. fits is called often and must
// not allocate; why is asked only of nodes that it refused.
type filter struct {
	name string
	fits func(q *query, n *node) bool
	why  func(q *query, n *node) refusal
}

// reason is why nodes are refused: what one such node does, and what many do.
type reason struct{ one, many string }

// refusal is a reason with, for lack of resources, how much is missing.
type refusal struct {
	reason
	short resources
}

// filters are asked in this order; the first that refuses a node is the one
// that users read about. A new kind of requirement is a new row. The table is
// never changed.
var filters = [...]filter{
	{name: "ready", fits: ready, why: whyReady},
	{name: "availability", fits: available, why: whyAvailable},
	{name: "resources", fits: enough, why: whyEnough},
	{name: "generic-resources", fits: enoughGeneric, why: whyEnoughGeneric},
	{name: "constraints", fits: constrained, why: whyConstrained},
	{name: "platform", fits: runsImage, why: whyRunsImage},
	{name: "networks", fits: reached, why: whyReached},
	{name: "ports", fits: portsFree, why: whyPortsFree},
	{name: "max-replicas", fits: belowMax, why: whyBelowMax},
}

// lasting tells whether a node's attributes satisfy requirements, whatever
// its state and load.
func lasting(n *node, need *Requirements) bool {
	q := &query{need: need}
	return constrained(q, n) && runsImage(q, n) && reached(q, n)
}

// fits tells whether a usable node of the right class has room.
func (q *query) fits(n *node) bool {
	return enough(q, n) && enoughGeneric(q, n) && portsFree(q, n) && belowMax(q, n)
}

func ready(_ *query, n *node) bool { return n.state == pb.NodeState_NODE_STATE_READY }

func whyReady(_ *query, n *node) refusal {
	if n.state == pb.NodeState_NODE_STATE_DOWN {
		return refusal{reason: reason{"is down", "are down"}}
	}
	return refusal{reason: reason{"has not been heard of yet", "have not been heard of yet"}}
}

func available(_ *query, n *node) bool {
	return n.availability == pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE
}

func whyAvailable(_ *query, n *node) refusal {
	if n.availability == pb.NodeAvailability_NODE_AVAILABILITY_DRAIN {
		return refusal{reason: reason{"is draining", "are draining"}}
	}
	return refusal{reason: reason{"is paused", "are paused"}}
}

// enough also lets pass a task without reservations on a node that is
// overbooked.
func enough(q *query, n *node) bool {
	return q.short(n.pos) == resources{}
}

// short is what the node at a position lacks of the reservations.
func (q *query) short(pos int) resources {
	var short resources
	need, free := q.need.need, q.set.free[pos]
	if need.cpu > 0 {
		short.cpu = max(0, need.cpu-free.cpu)
	}
	if need.mem > 0 {
		short.mem = max(0, need.mem-free.mem)
	}
	return short
}

func whyEnough(q *query, n *node) refusal {
	short := q.short(n.pos)
	// The words follow from the numbers, which are summed up over nodes first.
	kind := "memory"
	switch {
	case short.cpu > 0 && short.mem > 0:
		kind = "both"
	case short.cpu > 0:
		kind = "cpu"
	}
	return refusal{reason: reason{one: kind}, short: short}
}

func constrained(q *query, n *node) bool {
	for i := range q.need.constraints {
		if !q.need.constraints[i].matches(n) {
			return false
		}
	}
	return true
}

func whyConstrained(q *query, n *node) refusal {
	for i := range q.need.constraints {
		if c := &q.need.constraints[i]; !c.matches(n) {
			return refusal{reason: c.why}
		}
	}
	return refusal{}
}

func runsImage(q *query, n *node) bool {
	if len(q.need.platforms) == 0 {
		return true
	}
	for _, p := range q.need.platforms {
		if (p.os == "" || p.os == n.os) && (p.arch == "" || p.arch == n.arch) {
			return true
		}
	}
	return false
}

func whyRunsImage(_ *query, n *node) refusal {
	what := n.os + "/" + n.arch + ", for which the image is not built"
	return refusal{reason: reason{"runs " + what, "run " + what}}
}

func reached(q *query, n *node) bool {
	return (!q.need.overlay || n.dataPath) && (!q.need.encrypted || n.key)
}

func whyReached(_ *query, n *node) refusal {
	what := "no data path address for its networks' traffic"
	if n.dataPath {
		what = "no WireGuard key for encrypted networks"
	}
	return refusal{reason: reason{"has " + what, "have " + what}}
}

func portsFree(q *query, n *node) bool {
	for _, p := range q.need.ports {
		if n.ports[p] > 0 {
			return false
		}
	}
	return true
}

func whyPortsFree(q *query, n *node) refusal {
	for _, p := range q.need.ports {
		if n.ports[p] > 0 {
			what := "host port " + p.String() + " in use"
			return refusal{reason: reason{"has " + what, "have " + what}}
		}
	}
	return refusal{}
}

func belowMax(q *query, n *node) bool {
	return q.need.maxPerNode == 0 || q.service.nodes[n] < q.need.maxPerNode
}

func whyBelowMax(q *query, _ *node) refusal {
	what := "at the limit of " + plural(q.need.maxPerNode, "replica") + " per node"
	return refusal{reason: reason{"is " + what, "are " + what}}
}
