package usage

import (
	"cmp"
	"slices"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Board has what all nodes told last. The zero Board is ready.
type Board struct {
	nodes map[string]*node
	round map[string]bool
	// Rounds counts those that are complete.
	Rounds int
}

// node is what is known of one.
type node struct {
	name string
	row  Row
	// tasks of the last sample.
	tasks []Row
	// last is the newest sample.
	last *pb.NodeUsage
	// trouble is why there is no newer one.
	trouble string
}

// Total is what all nodes that answer have and use.
type Total struct {
	Nodes, Tasks int
	Rate         Rate
	// CPUs and MemoryBytes are what they have.
	CPUs                    float64
	MemoryUsed, MemoryBytes uint64
}

// Take takes one result of a round and tells whether the round is complete.
// Nodes that it did not have are forgotten then.
func (b *Board) Take(s *pb.NodeUsage) (complete bool) {
	if b.nodes == nil {
		b.nodes, b.round = map[string]*node{}, map[string]bool{}
	}
	n := b.nodes[s.NodeId]
	if n == nil {
		n = &node{}
		b.nodes[s.NodeId] = n
	}
	n.name, n.trouble = cmp.Or(s.NodeName, s.NodeId), s.Error
	if s.Error == "" {
		n.take(s)
	}
	b.round[s.NodeId] = true
	if !s.Last {
		return false
	}
	for id := range b.nodes {
		if !b.round[id] {
			delete(b.nodes, id)
		}
	}
	clear(b.round)
	b.Rounds++
	return true
}

// take rates a sample against the one before, which may be some rounds ago.
func (n *node) take(s *pb.NodeUsage) {
	at, passed := s.GetAt().AsTime(), s.GetAt().AsTime().Sub(n.last.GetAt().AsTime())
	total := s.GetTotal()
	if total == nil {
		total = &pb.Usage{}
	}
	n.row = Row{NodeID: s.NodeId, NodeName: n.name, At: at, Usage: total, Tasks: len(s.Tasks)}
	n.row.Rate, n.row.Rated = Between(n.last.GetTotal(), total, passed)
	before := map[string]*pb.Usage{}
	for _, t := range n.last.GetTasks() {
		before[t.TaskId] = t.Usage
	}
	n.tasks = make([]Row, 0, len(s.Tasks))
	for _, t := range s.Tasks {
		row := Row{NodeID: s.NodeId, NodeName: n.name, TaskID: t.TaskId, Service: t.ServiceName, Slot: t.Slot,
			At: at, Usage: t.Usage, NodeMemory: total.MemoryLimitBytes}
		if row.Usage == nil {
			row.Usage = &pb.Usage{}
		}
		row.Rate, row.Rated = Between(before[t.TaskId], row.Usage, passed)
		n.tasks = append(n.tasks, row)
	}
	n.last = s
}

// Nodes are the nodes that answer.
func (b *Board) Nodes() []Row {
	var rows []Row
	for _, n := range b.nodes {
		if n.trouble == "" {
			rows = append(rows, n.row)
		}
	}
	return rows
}

// Tasks are those of the nodes that answer.
func (b *Board) Tasks() []Row {
	var rows []Row
	for _, n := range b.nodes {
		if n.trouble == "" {
			rows = append(rows, n.tasks...)
		}
	}
	return rows
}

// Troubles are the nodes that do not answer, by name.
func (b *Board) Troubles() []Row {
	var all []Row
	for id, n := range b.nodes {
		if n.trouble != "" {
			all = append(all, Row{NodeID: id, NodeName: n.name, Usage: &pb.Usage{}, Trouble: n.trouble})
		}
	}
	slices.SortFunc(all, byName)
	return all
}

// Total sums up the nodes that answer.
func (b *Board) Total() Total {
	var t Total
	for _, row := range b.Nodes() {
		t.Nodes++
		t.Tasks += row.Tasks
		t.Rate = t.Rate.plus(row.Rate)
		t.CPUs += row.CPULimit()
		t.MemoryUsed += row.Usage.MemoryBytes
		t.MemoryBytes += row.Usage.MemoryLimitBytes
	}
	return t
}
