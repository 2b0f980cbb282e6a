// Package scheduler decides which node runs which task, and says why.
//
// It is pure: a Set is told of nodes and tasks and keeps an account of what is
// free where; Place chooses nodes for a group of equal tasks and accounts for
// its choice; Explain tells, node by node, what stands in the way.
//
// Of the nodes that pass every filter (filters.go) a task gets the one that
// comes first by, in this order: not flapping for this service version, fewest
// tasks of the service in its bucket of each spread preference, fewest tasks of
// the service, fewest tasks, and a position on a ring that starts elsewhere for
// each service. The rules are Docker Swarm's. With the strategy binpack (pack.go)
// nodes are filled instead: the fullest that fits comes first.
//
// No task costs a look at every node. Nodes have a position each; one bitset
// per number of tasks, and one per class of constraints, turn "the emptiest
// node that satisfies them" into a few word operations. A group looks at a node
// again only after giving it a task.
//
// A Set is not safe for concurrent use.
package scheduler

import (
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// maxClasses bounds the remembered classes of constraints: 12 KiB each at
// 100,000 nodes.
const maxClasses = 1024

// Set is the nodes of a cluster and what their tasks take of them.
type Set struct {
	nodes map[string]*node
	known int
	// slots holds the nodes by position, nil where one was removed.
	slots []*node
	// free is what is left on each position, apart from the nodes so that a walk
	// over full nodes stays in few cache lines.
	free     []resources
	vacant   []int
	tasks    map[string]holding
	services map[string]*service
	// pack fills nodes one after the other instead of spreading tasks over them.
	pack bool
	// levels[k] is the usable nodes that have k tasks.
	levels  []level
	classes map[string]*class
	// partitions are remembered by the preferences that they divide by.
	partitions map[string]*partition
	// eased counts the changes that may have made room somewhere.
	eased uint64
	// changes counts those that may alter an explanation.
	changes uint64
	// unfit holds the keys of requirements for which there was no node. It is
	// emptied when eased grows.
	unfit map[string]struct{}
}

type level struct {
	members bitset
	count   int
}

// class is the nodes that satisfy certain constraints and platforms.
type class struct {
	need    *Requirements
	members bitset
}

// service is what the set knows of one service: its tasks per node and its
// recent failures.
type service struct {
	nodes    map[*node]int
	version  uint64
	failures map[string][]time.Time
}

// holding is what a task takes of its node.
type holding struct {
	node    *node
	service *service
	need    *Requirements
	// wanted tasks count for the spread; one that is told to stop only still
	// holds its resources.
	wanted bool
}

// NewSet returns a set without nodes.
func NewSet() *Set {
	return &Set{
		nodes:      map[string]*node{},
		tasks:      map[string]holding{},
		services:   map[string]*service{},
		classes:    map[string]*class{},
		partitions: map[string]*partition{},
		unfit:      map[string]struct{}{},
	}
}

// SetStrategy says which of the nodes that fit is best from now on. Tasks that
// have a node stay there.
func (s *Set) SetStrategy(strategy pb.PlacementStrategy) {
	s.pack = strategy == pb.PlacementStrategy_PLACEMENT_STRATEGY_BINPACK
}

// Eased counts the changes that may have made room for a task that did not
// fit before. As long as it stays the same, placing again is in vain.
func (s *Set) Eased() uint64 { return s.eased }

// Changes counts whatever may change an explanation: nodes, and tasks that
// came, went or were placed.
func (s *Set) Changes() uint64 { return s.changes }

func (s *Set) ease() {
	s.changes++
	s.eased++
	clear(s.unfit)
}

// PutTask accounts for a task as it is now: ASSIGNED to RUNNING it holds its
// reservations and ports, and counts for the spread as long as it is wanted;
// otherwise it holds nothing. Repeating it changes nothing.
func (s *Set) PutTask(t *pb.Task, need *Requirements) {
	state := t.GetStatus().GetState()
	if t.GetNodeId() == "" || state < pb.TaskState_TASK_STATE_ASSIGNED || state > pb.TaskState_TASK_STATE_RUNNING {
		s.RemoveTask(t.GetId())
		return
	}
	h := holding{
		node:    s.nodeAt(t.GetNodeId()),
		service: s.service(t.GetServiceId()),
		need:    need,
		wanted:  t.GetDesiredState() <= pb.TaskState_TASK_STATE_RUNNING,
	}
	old, held := s.tasks[t.GetId()]
	if held && old == h {
		return
	}
	if held {
		s.release(old)
		s.ease()
	}
	s.hold(h)
	s.changes++
	s.tasks[t.GetId()] = h
	if held {
		s.forgetGhost(old.node)
	}
}

// RemoveTask gives back what a task holds; one that holds nothing is ignored.
func (s *Set) RemoveTask(id string) {
	h, ok := s.tasks[id]
	if !ok {
		return
	}
	delete(s.tasks, id)
	s.release(h)
	s.ease()
	s.forgetGhost(h.node)
}

// ForgetService drops the failures of a service that no longer exists.
func (s *Set) ForgetService(id string) {
	if v := s.services[id]; v != nil {
		v.failures = nil
		if len(v.nodes) == 0 {
			delete(s.services, id)
		}
	}
}

func (s *Set) service(id string) *service {
	v := s.services[id]
	if v == nil {
		v = &service{nodes: map[*node]int{}}
		s.services[id] = v
	}
	return v
}

func (s *Set) hold(h holding) {
	n := h.node
	s.free[n.pos].cpu -= h.need.need.cpu
	s.free[n.pos].mem -= h.need.need.mem
	for _, p := range h.need.ports {
		if n.ports == nil {
			n.ports = map[hostPort]int{}
		}
		n.ports[p]++
	}
	n.takeGeneric(h.need.generic, 1)
	n.held++
	if h.wanted {
		n.tasks++
		h.service.nodes[n]++
		s.index(n)
	}
}

func (s *Set) release(h holding) {
	n := h.node
	s.free[n.pos].cpu += h.need.need.cpu
	s.free[n.pos].mem += h.need.need.mem
	for _, p := range h.need.ports {
		if n.ports[p]--; n.ports[p] == 0 {
			delete(n.ports, p)
		}
	}
	n.takeGeneric(h.need.generic, -1)
	n.held--
	if h.wanted {
		n.tasks--
		if h.service.nodes[n]--; h.service.nodes[n] == 0 {
			delete(h.service.nodes, n)
		}
		s.index(n)
	}
}

// index moves a node to the level of its number of tasks, out of all levels
// when it is not usable.
func (s *Set) index(n *node) {
	want := -1
	if n.usable() {
		want = n.tasks
	}
	if want == n.level {
		return
	}
	if n.level >= 0 {
		s.levels[n.level].members.drop(n.pos)
		s.levels[n.level].count--
	}
	n.level = want
	if want < 0 {
		return
	}
	for len(s.levels) <= want {
		s.levels = append(s.levels, level{})
	}
	s.levels[want].members.put(n.pos)
	s.levels[want].count++
}

// candidates returns the nodes whose lasting attributes satisfy requirements.
func (s *Set) candidates(need *Requirements) bitset {
	c := s.classes[need.class]
	if c == nil {
		if len(s.classes) >= maxClasses {
			clear(s.classes)
		}
		c = &class{need: need}
		for _, n := range s.nodes {
			if n.known && lasting(n, need) {
				c.members.put(n.pos)
			}
		}
		s.classes[need.class] = c
	}
	return c.members
}
