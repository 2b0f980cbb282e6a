package network

import (
	"maps"
	"net/netip"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/network/mesh"
	pb "github.com/minid/minid/proto/minid/v1"
)

// State is all that the plan depends on: what the managers say, and the tasks
// that are here. It notes what changed since Take, so that a change costs what
// it touches and not what there is.
type State struct {
	// Self is the node's id.
	Self string

	networks  map[string]*segment
	peers     map[string]*pb.NetworkPeer
	published map[string]*pb.PublishedService
	backends  map[string]map[string]uint32 // service → node → serving tasks
	tasks     map[string]*pb.AssignedTask
	keys      []*pb.NetworkKey
	// ingress is the mesh's network among them, nil before it was sent.
	ingress *pb.AssignedNetwork
	locals  map[string]*Local
	// withdrawn are tasks of this node that no new connection may go to, until
	// the managers forget them, whatever they say before, or Readmit.
	withdrawn map[string]bool
	// onNode counts the endpoints of each node, known or not.
	onNode map[string]int
	dirty  Dirty
}

// segment is one network with what is on it. Parts may be there before the
// network itself: items come in any order.
type segment struct {
	assigned  *pb.AssignedNetwork
	services  map[string]*pb.NetworkService
	endpoints map[string]*pb.NetworkEndpoint
	members   map[string]map[string]bool // service → tasks
	locals    map[string]bool            // tasks that are plugged in here
	// holders counts the tasks that have an address: a new one may have it before
	// the old one is forgotten.
	holders map[string]int
}

// Local is a task of this node that has its namespace.
type Local struct {
	*pb.TaskNetwork
	// Netns is the path of the task's namespace, Address its own on the
	// node-local bridge.
	Netns   string
	Address netip.Addr
	// Withdrawn before minid was restarted: see State.
	Withdrawn bool
	// Running says that its process runs, by the word of this node or the
	// managers'. This node knows first, so that what the others send here, once
	// they hear of it, finds the task.
	Running bool
}

// Dirty is what changed.
type Dirty struct {
	// Resync: more changed than can be told piece by piece.
	Resync bool
	// Peers: which nodes there are.
	Peers bool
	// Encryption: peers' or shared keys.
	Encryption bool
	// Endpoints and Services that have to be looked at again, by network.
	Endpoints, Services map[string]map[string]bool
	// Published are services whose ports have to be looked at again.
	Published map[string]bool

	// What was there and must go, by network or as ports.
	goneVIPs    map[string]map[netip.Addr]bool
	goneTasks   map[string]map[netip.Addr]bool
	unpublished map[mesh.Published]bool
}

// Any tells whether there is anything to do.
func (d Dirty) Any() bool {
	return d.Resync || d.Peers || d.Encryption || len(d.Endpoints)+len(d.Services)+len(d.Published)+len(d.goneVIPs)+len(d.goneTasks)+len(d.unpublished) > 0
}

// NewState is an empty state of the node with this id.
func NewState(self string) *State {
	return &State{
		Self:      self,
		networks:  map[string]*segment{},
		peers:     map[string]*pb.NetworkPeer{},
		published: map[string]*pb.PublishedService{},
		backends:  map[string]map[string]uint32{},
		tasks:     map[string]*pb.AssignedTask{},
		locals:    map[string]*Local{},
		withdrawn: map[string]bool{},
		onNode:    map[string]int{},
	}
}

// Take returns what changed since the last Take.
func (s *State) Take() Dirty {
	d := s.dirty
	s.dirty = Dirty{}
	return d
}

// Replace puts a full set in the place of all that the managers said before.
func (s *State) Replace(items []*pb.Assignment) {
	locals, withdrawn, before := s.locals, s.withdrawn, s.networks
	*s = *NewState(s.Self)
	s.locals, s.withdrawn = locals, withdrawn
	for id, l := range locals {
		for _, a := range l.GetAddresses() {
			s.segment(a.GetNetworkId()).locals[id] = true
		}
	}
	for _, item := range items {
		s.Put(item)
	}
	maps.DeleteFunc(s.withdrawn, func(id string, _ bool) bool { return s.tasks[id] == nil && s.locals[id] == nil })
	s.dirty = Dirty{Resync: true}
	for network, seg := range before {
		for id, old := range seg.endpoints {
			if s.networks[network] == nil || s.networks[network].endpoints[id] == nil {
				s.goneTask(network, old)
			}
		}
	}
}

// Put takes one item.
func (s *State) Put(item *pb.Assignment) {
	switch k := item.GetKind().(type) {
	case *pb.Assignment_Task:
		s.putTask(k.Task)
	case *pb.Assignment_Network:
		s.putNetwork(k.Network)
	case *pb.Assignment_Service:
		s.putService(k.Service)
	case *pb.Assignment_Endpoint:
		s.putEndpoint(k.Endpoint)
	case *pb.Assignment_Peer:
		s.putPeer(k.Peer)
	case *pb.Assignment_Published:
		s.unpublish(k.Published.GetServiceId())
		s.published[k.Published.GetServiceId()] = k.Published
		s.publishedChanged(k.Published.GetServiceId())
	case *pb.Assignment_Backend:
		s.putBackend(k.Backend)
	case *pb.Assignment_Keys:
		s.keys = k.Keys.GetKeys()
		s.dirty.Encryption = true
	}
}

// Remove forgets what a key names.
func (s *State) Remove(key *pb.AssignmentKey) {
	first, second := splitID(key.GetId())
	switch key.GetKind() {
	case pb.ItemKind_ITEM_KIND_TASK:
		s.removeTask(first)
	case pb.ItemKind_ITEM_KIND_NETWORK:
		s.removeNetwork(first)
	case pb.ItemKind_ITEM_KIND_SERVICE:
		s.removeService(first, second)
	case pb.ItemKind_ITEM_KIND_ENDPOINT:
		s.removeEndpoint(first, second)
	case pb.ItemKind_ITEM_KIND_PEER:
		s.removePeer(first)
	case pb.ItemKind_ITEM_KIND_PUBLISHED:
		s.unpublish(first)
		delete(s.published, first)
	case pb.ItemKind_ITEM_KIND_BACKEND:
		delete(s.backends[first], second)
		s.publishedChanged(first)
	case pb.ItemKind_ITEM_KIND_KEYS:
		s.keys = nil
		s.dirty.Encryption = true
	}
}

func (s *State) segment(id string) *segment {
	seg := s.networks[id]
	if seg == nil {
		seg = &segment{
			services:  map[string]*pb.NetworkService{},
			endpoints: map[string]*pb.NetworkEndpoint{},
			members:   map[string]map[string]bool{},
			locals:    map[string]bool{},
			holders:   map[string]int{},
		}
		s.networks[id] = seg
	}
	return seg
}

// tidy drops a segment that nothing is left of.
func (s *State) tidy(id string) {
	seg := s.networks[id]
	if seg != nil && seg.assigned == nil && len(seg.services)+len(seg.endpoints)+len(seg.locals) == 0 {
		delete(s.networks, id)
	}
}

func (s *State) putNetwork(n *pb.AssignedNetwork) {
	seg := s.segment(n.GetId())
	s.dirty.Resync = s.dirty.Resync || !proto.Equal(seg.assigned, n)
	seg.assigned = n
	if n.GetSpec().GetIngress() {
		s.ingress = n
	}
}

func (s *State) removeNetwork(id string) {
	s.segment(id).assigned = nil
	if s.ingress.GetId() == id {
		s.ingress = nil
	}
	s.tidy(id)
	s.dirty.Resync = true
}

func (s *State) putTask(t *pb.AssignedTask) {
	old := s.tasks[t.GetId()]
	s.tasks[t.GetId()] = t
	if old.GetServing() != t.GetServing() {
		s.servingChanged(t)
	}
	if t.GetServing() {
		s.Serve(t.GetId())
	}
}

func (s *State) removeTask(id string) {
	t := s.tasks[id]
	if t == nil {
		return
	}
	s.servingChanged(t)
	delete(s.tasks, id)
	delete(s.withdrawn, id)
}

// servingChanged has everything looked at that may lead to a task.
func (s *State) servingChanged(t *pb.AssignedTask) {
	if t == nil {
		return
	}
	s.publishedChanged(t.GetServiceId())
	for _, a := range t.GetAddresses() {
		s.serviceChanged(a.GetNetworkId(), t.GetServiceId())
	}
}

func (s *State) putService(v *pb.NetworkService) {
	seg := s.segment(v.GetNetworkId())
	s.goneVIPs(v.GetNetworkId(), seg.services[v.GetServiceId()])
	seg.services[v.GetServiceId()] = v
	s.serviceChanged(v.GetNetworkId(), v.GetServiceId())
}

func (s *State) removeService(service, network string) {
	seg := s.segment(network)
	s.goneVIPs(network, seg.services[service])
	delete(seg.services, service)
	s.serviceChanged(network, service)
	s.tidy(network)
}

func (s *State) goneVIPs(network string, v *pb.NetworkService) {
	for _, addr := range parseAddrs(v.GetVips()) {
		mark(&s.dirty.goneVIPs, network, addr)
	}
}

func (s *State) putEndpoint(ep *pb.NetworkEndpoint) {
	seg, id := s.segment(ep.GetNetworkId()), ep.GetTaskId()
	old := seg.endpoints[id]
	s.countOnNode(old, -1)
	s.countOnNode(ep, 1)
	seg.hold(old, -1)
	seg.hold(ep, 1)
	seg.endpoints[id] = ep
	if seg.members[ep.GetServiceId()] == nil {
		seg.members[ep.GetServiceId()] = map[string]bool{}
	}
	seg.members[ep.GetServiceId()][id] = true
	if old == nil || old.GetNodeId() != ep.GetNodeId() {
		mark(&s.dirty.Endpoints, ep.GetNetworkId(), id)
	}
	s.serviceChanged(ep.GetNetworkId(), ep.GetServiceId())
}

func (s *State) removeEndpoint(task, network string) {
	seg := s.segment(network)
	old := seg.endpoints[task]
	if old == nil {
		return
	}
	s.countOnNode(old, -1)
	seg.hold(old, -1)
	delete(seg.endpoints, task)
	delete(seg.members[old.GetServiceId()], task)
	if len(seg.members[old.GetServiceId()]) == 0 {
		delete(seg.members, old.GetServiceId())
	}
	mark(&s.dirty.Endpoints, network, task)
	s.goneTask(network, old)
	s.serviceChanged(network, old.GetServiceId())
	s.tidy(network)
}

func (s *State) goneTask(network string, old *pb.NetworkEndpoint) {
	for _, addr := range parseAddrs(old.GetAddresses()) {
		mark(&s.dirty.goneTasks, network, addr)
	}
}

func (seg *segment) hold(ep *pb.NetworkEndpoint, by int) {
	for _, addr := range ep.GetAddresses() {
		seg.holders[addr] += by
		if seg.holders[addr] == 0 {
			delete(seg.holders, addr)
		}
	}
}

func (s *State) countOnNode(ep *pb.NetworkEndpoint, by int) {
	if ep == nil {
		return
	}
	s.onNode[ep.GetNodeId()] += by
	if s.onNode[ep.GetNodeId()] == 0 {
		delete(s.onNode, ep.GetNodeId())
	}
}

// putPeer asks for everything to be looked at only where endpoints depend on
// what is new about the node.
func (s *State) putPeer(p *pb.NetworkPeer) {
	old := s.peers[p.GetNodeId()]
	if proto.Equal(old, p) {
		return
	}
	mtu := s.pathMTU()
	s.peers[p.GetNodeId()] = p
	s.peerChanged(p.GetNodeId())
	s.dirty.Resync = s.dirty.Resync || s.pathMTU() != mtu
}

func (s *State) removePeer(node string) {
	mtu := s.pathMTU()
	delete(s.peers, node)
	s.peerChanged(node)
	s.dirty.Resync = s.dirty.Resync || s.pathMTU() != mtu
}

func (s *State) peerChanged(node string) {
	s.dirty.Peers, s.dirty.Encryption = true, true
	if node == s.Self || s.onNode[node] > 0 {
		s.dirty.Resync = true
	}
	for service, nodes := range s.backends {
		if nodes[node] > 0 {
			s.publishedChanged(service)
		}
	}
}

func (s *State) putBackend(b *pb.PublishedBackend) {
	if s.backends[b.GetServiceId()] == nil {
		s.backends[b.GetServiceId()] = map[string]uint32{}
	}
	s.backends[b.GetServiceId()][b.GetNodeId()] = b.GetServing()
	s.publishedChanged(b.GetServiceId())
}

// unpublish notes the ports that a service has as such that must go; those that
// it still has are put again.
func (s *State) unpublish(service string) {
	for _, p := range s.published[service].GetPorts() {
		if s.dirty.unpublished == nil {
			s.dirty.unpublished = map[mesh.Published]bool{}
		}
		s.dirty.unpublished[publishedKey(p)] = true
	}
}

// publishedChanged notes a service only if its ports are published: those of
// others lead nowhere.
func (s *State) publishedChanged(service string) {
	if s.published[service] == nil {
		return
	}
	if s.dirty.Published == nil {
		s.dirty.Published = map[string]bool{}
	}
	s.dirty.Published[service] = true
}

func (s *State) serviceChanged(network, service string) { mark(&s.dirty.Services, network, service) }

// Attach takes in a task of this node.
func (s *State) Attach(l *Local) {
	s.locals[l.GetTaskId()] = l
	if s.tasks[l.GetTaskId()].GetServing() {
		s.Serve(l.GetTaskId())
	}
	if l.Withdrawn {
		s.withdrawn[l.GetTaskId()] = true
	}
	for _, a := range l.GetAddresses() {
		s.segment(a.GetNetworkId()).locals[l.GetTaskId()] = true
		s.serviceChanged(a.GetNetworkId(), l.GetServiceId())
	}
	s.publishedChanged(l.GetServiceId())
}

// Serve notes that a task of this node runs.
func (s *State) Serve(id string) {
	l := s.locals[id]
	if l == nil || l.Running {
		return
	}
	changed := *l
	changed.Running = true
	s.locals[id] = &changed
	s.publishedChanged(l.GetServiceId())
}

// Readmit ends a Withdraw: a task that is healthy again.
func (s *State) Readmit(id string) {
	l := s.locals[id]
	if l == nil || !s.withdrawn[id] {
		return
	}
	changed := *l
	changed.Withdrawn = false
	s.locals[id] = &changed
	delete(s.withdrawn, id)
	for _, a := range l.GetAddresses() {
		s.serviceChanged(a.GetNetworkId(), l.GetServiceId())
	}
	s.publishedChanged(l.GetServiceId())
}

// Withdraw keeps new connections from a task of this node.
func (s *State) Withdraw(id string) {
	l := s.locals[id]
	if l == nil || s.withdrawn[id] {
		return
	}
	s.withdrawn[id] = true
	for _, a := range l.GetAddresses() {
		s.serviceChanged(a.GetNetworkId(), l.GetServiceId())
	}
	s.publishedChanged(l.GetServiceId())
}

// Detach lets go of a task of this node.
func (s *State) Detach(id string) {
	l := s.locals[id]
	if l == nil {
		return
	}
	delete(s.locals, id)
	for _, a := range l.GetAddresses() {
		delete(s.segment(a.GetNetworkId()).locals, id)
		s.serviceChanged(a.GetNetworkId(), l.GetServiceId())
		s.tidy(a.GetNetworkId())
	}
	s.publishedChanged(l.GetServiceId())
}

// Local returns a task of this node, nil if it is not here.
func (s *State) Local(id string) *Local { return s.locals[id] }

// Locals returns the tasks that are here, by id.
func (s *State) Locals() map[string]*Local { return maps.Clone(s.locals) }

// Used tells whether a task of this node is on a network.
func (s *State) Used(network string) bool {
	seg := s.networks[network]
	return seg != nil && len(seg.locals) > 0
}

// mark adds to a set within a map of sets, making both as needed.
func mark[V comparable](sets *map[string]map[V]bool, key string, value V) {
	if *sets == nil {
		*sets = map[string]map[V]bool{}
	}
	if (*sets)[key] == nil {
		(*sets)[key] = map[V]bool{}
	}
	(*sets)[key][value] = true
}
