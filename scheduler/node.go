package scheduler

import (
	"maps"
	"net/netip"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
)

// node is what the filters need of a node, and the account of its tasks.
type node struct {
	id  string
	pos int
	// known is false for a node that only tasks speak of: not seen yet, or
	// removed before its tasks were.
	known bool
	attributes
	state        pb.NodeState
	availability pb.NodeAvailability
	total        resources
	generic      map[string]int64

	held  int // tasks that hold resources
	tasks int // of these, the ones that are wanted
	ports map[hostPort]int
	// taken is how much of each generic resource they hold.
	taken map[string]int64
	level int // in Set.levels, -1 for none
}

// attributes are what constraints, platforms, networks and preferences look at.
type attributes struct {
	name     string
	role     pb.NodeRole
	addr     netip.Addr
	os, arch string
	labels   map[string]string
	engine   map[string]string
	// dataPath and key tell whether other nodes can send it the traffic of
	// networks, in clear and encrypted.
	dataPath, key bool
}

func (a attributes) equal(b attributes) bool {
	return a.name == b.name && a.role == b.role && a.addr == b.addr && a.os == b.os && a.arch == b.arch &&
		a.dataPath == b.dataPath && a.key == b.key &&
		maps.Equal(a.labels, b.labels) && maps.Equal(a.engine, b.engine)
}

func (n *node) usable() bool {
	return n.known && n.state == pb.NodeState_NODE_STATE_READY && n.availability == pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE
}

func (n *node) draining() bool {
	return n.availability == pb.NodeAvailability_NODE_AVAILABILITY_DRAIN
}

func attributesOf(p *pb.Node) attributes {
	return attributes{
		name:   p.GetDescription().GetHostname(),
		role:   p.GetRole(),
		addr:   parseAddr(p.GetStatus().GetAddr()),
		os:     strings.ToLower(p.GetDescription().GetPlatform().GetOs()),
		arch:   normalArch(p.GetDescription().GetPlatform().GetArchitecture()),
		labels: p.GetSpec().GetLabels(),
		engine: p.GetDescription().GetEngineLabels(),

		dataPath: p.GetDescription().GetDataPathAddr() != "",
		key:      len(p.GetDescription().GetWireguardKey()) > 0,
	}
}

func parseAddr(text string) netip.Addr {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr().Unmap()
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}

func totalOf(p *pb.Node) resources {
	r := p.GetDescription().GetResources()
	return resources{cpu: r.GetNanoCpus(), mem: r.GetMemoryBytes()}
}

// PutNode adds a node or takes over its changes. The node's label maps are
// kept, so it must not be changed afterwards.
func (s *Set) PutNode(p *pb.Node) {
	n := s.nodeAt(p.GetId())
	a, total, generic := attributesOf(p), totalOf(p), genericOf(p)
	state, availability := p.GetStatus().GetState(), p.GetSpec().GetAvailability()
	fresh, changed := !n.known, !n.attributes.equal(a)
	if !fresh && !changed && n.total == total && maps.Equal(n.generic, generic) && n.state == state && n.availability == availability {
		return
	}
	if fresh {
		s.known++
	}
	s.free[n.pos].cpu += total.cpu - n.total.cpu
	s.free[n.pos].mem += total.mem - n.total.mem
	n.known, n.attributes, n.total, n.generic = true, a, total, generic
	n.state, n.availability = state, availability
	if fresh || changed {
		s.classify(n)
	}
	s.index(n)
	s.ease()
}

// RemoveNode forgets a node. What its tasks hold stays on the books until they
// are removed too, in case the node comes back.
func (s *Set) RemoveNode(id string) {
	n := s.nodes[id]
	if n == nil || !n.known {
		return
	}
	s.known--
	s.changes++
	s.free[n.pos].cpu -= n.total.cpu
	s.free[n.pos].mem -= n.total.mem
	n.known, n.total, n.generic = false, resources{}, nil
	s.classify(n)
	s.index(n)
	s.forgetGhost(n)
}

// nodeAt finds a node, making an unknown one for a name it meets first.
func (s *Set) nodeAt(id string) *node {
	if n := s.nodes[id]; n != nil {
		return n
	}
	n := &node{id: id, level: -1}
	if last := len(s.vacant) - 1; last >= 0 {
		n.pos, s.vacant = s.vacant[last], s.vacant[:last]
		s.slots[n.pos], s.free[n.pos] = n, resources{}
	} else {
		n.pos = len(s.slots)
		s.slots, s.free = append(s.slots, n), append(s.free, resources{})
	}
	s.nodes[id] = n
	return n
}

func (s *Set) forgetGhost(n *node) {
	if n.known || n.held > 0 {
		return
	}
	delete(s.nodes, n.id)
	s.slots[n.pos] = nil
	s.vacant = append(s.vacant, n.pos)
}

// classify puts a node into the classes whose constraints it satisfies, and
// into its parts.
func (s *Set) classify(n *node) {
	for _, p := range s.partitions {
		if n.known {
			p.put(n)
		} else {
			p.drop(n)
		}
	}
	for _, c := range s.classes {
		if n.known && lasting(n, c.need) {
			c.members.put(n.pos)
		} else {
			c.members.drop(n.pos)
		}
	}
}
