package controlapi

import (
	"fmt"
	"maps"
	"slices"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// roundGrace is how long after its time a sample may come; a node without one by
// then is not waited for until it has one.
const roundGrace = 2 * time.Second

// usageRound gathers one sample of every node. It is complete when all that are
// waited for have told something: the pace is that of the nodes' own clocks, so
// that no sample is sent twice and none is missed for being a little late.
type usageRound struct {
	every    time.Duration
	deadline time.Time
	nodes    map[string]*usageNode
	// awaited counts the nodes that are; fresh those with a sample.
	awaited, fresh int
}

// usageNode is a node's part in a round.
type usageNode struct {
	awaited bool
	// sample is the newest of this round.
	sample *pb.NodeUsage
	// failure is what the node told after its last sample.
	failure string
}

// newUsageRound begins the first round: nodes take their first sample at once.
func newUsageRound(every time.Duration, now time.Time) *usageRound {
	return &usageRound{every: every, deadline: now.Add(roundGrace), nodes: map[string]*usageNode{}}
}

// expect makes a node part of the rounds, as one that is waited for.
func (r *usageRound) expect(node string) {
	r.nodes[node] = &usageNode{awaited: true}
	r.awaited++
}

// drop makes a node no part of the rounds.
func (r *usageRound) drop(node string) {
	r.hear(node)
	if r.nodes[node].sample != nil {
		r.fresh--
	}
	delete(r.nodes, node)
}

// hear notes that a node is not waited for.
func (r *usageRound) hear(node string) {
	if n := r.nodes[node]; n.awaited {
		n.awaited = false
		r.awaited--
	}
}

// take notes what a node told. The newest sample counts, also before a failure.
func (r *usageRound) take(m measurement) {
	r.hear(m.node)
	n := r.nodes[m.node]
	if m.err != nil {
		n.failure = m.err.Error()
		return
	}
	if n.sample == nil {
		r.fresh++
	}
	n.sample, n.failure = m.sample, ""
}

// complete tells whether nobody is waited for. A round of nothing but failures
// goes on to its deadline.
func (r *usageRound) complete() bool { return r.awaited == 0 && r.fresh > 0 }

// finish returns what the round brought, by node, and begins the next. Nodes that
// failed are not waited for in it.
func (r *usageRound) finish(now time.Time) []*pb.NodeUsage {
	results := make([]*pb.NodeUsage, 0, len(r.nodes))
	*r = usageRound{every: r.every, deadline: now.Add(r.every + roundGrace), nodes: r.nodes}
	for _, id := range slices.Sorted(maps.Keys(r.nodes)) {
		n := r.nodes[id]
		if n.awaited {
			n.failure = fmt.Sprintf("it gave no sample within %v", r.every+roundGrace)
		}
		result := n.sample
		if result == nil {
			result = &pb.NodeUsage{NodeId: id, Error: n.failure}
		}
		results = append(results, result)
		n.sample, n.awaited = nil, n.failure == ""
		if n.awaited {
			r.awaited++
		}
	}
	return results
}
