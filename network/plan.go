package network

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/minid/minid/network/bridge"
	"github.com/minid/minid/network/dns"
	"github.com/minid/minid/network/mesh"
	"github.com/minid/minid/network/overlay"
	"github.com/minid/minid/network/vip"
	"github.com/minid/minid/network/wireguard"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// What VXLAN (RFC 7348) and WireGuard add to a packet over IPv4, in bytes,
	// and what more over IPv6.
	vxlanOverhead     = 50
	wireguardOverhead = 60
	ipv6Overhead      = 20
	// WireGuard fills what it encrypts up to a multiple of this, in bytes.
	wireguardBlock = 16
	// defaultMTU is assumed where a node does not know its own.
	defaultMTU = 1500
	// DefaultDataPathPort is VXLAN's registered one, as in Swarm.
	DefaultDataPathPort = 4789
)

// parseAddrs reads addresses; what is none is left out, for the managers have
// checked them.
func parseAddrs(list []string) []netip.Addr {
	out := make([]netip.Addr, 0, len(list))
	for _, text := range list {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, a)
		}
	}
	return out
}

func parsePrefixes(list []string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range list {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// splitID divides ids of the form TASK@NETWORK.
func splitID(id string) (first, second string) {
	first, second, _ = strings.Cut(id, "@")
	return first, second
}

// protocolOf is the IP protocol of a port; TCP unless it says otherwise.
func protocolOf(p *pb.PortConfig) bridge.Protocol {
	switch p.GetProtocol() {
	case pb.PortConfig_PROTOCOL_UDP:
		return bridge.UDP
	case pb.PortConfig_PROTOCOL_SCTP:
		return bridge.SCTP
	}
	return bridge.TCP
}

// meshSubnet is where the nodes' mesh addresses come from.
func (s *State) meshSubnet() (netip.Prefix, bool) {
	pools := s.ingress.GetAllocation().GetPools()
	if len(pools) == 0 {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(pools[0].GetSubnet())
	return p, err == nil
}

// meshAddr is a node's own address in the mesh's subnet.
func (s *State) meshAddr(p *pb.NetworkPeer) (netip.Addr, bool) {
	subnet, ok := s.meshSubnet()
	if !ok || p.GetMeshNumber() == 0 {
		return netip.Addr{}, false
	}
	return mesh.NodeAddr(subnet, p.GetMeshNumber(), p.GetMeshNumber()), true
}

// dataPath is where a node takes the VXLAN packets of a network: at its
// data-path address, or behind WireGuard.
func (s *State) dataPath(p *pb.NetworkPeer, encrypted bool) (netip.Addr, bool) {
	if encrypted {
		return s.meshAddr(p)
	}
	addr, err := netip.ParseAddr(p.GetDataPathAddr())
	return addr, err == nil
}

// pathMTU is the largest packet that all nodes take, as one over IPv4.
func (s *State) pathMTU() int {
	mtu := uint32(0)
	for _, p := range s.peers {
		if m := p.GetDataPathMtu(); m > 0 && (mtu == 0 || m < mtu) {
			mtu = m
		}
	}
	if mtu == 0 {
		mtu = defaultMTU
	}
	if own, ok := s.dataPath(s.peers[s.Self], false); ok && own.Is6() {
		mtu -= ipv6Overhead
	}
	return int(mtu)
}

// secureMTU is the largest packet that WireGuard takes to all nodes. It needs no
// filling, which would make it larger than the path takes.
func (s *State) secureMTU() int {
	mtu := s.pathMTU() - wireguardOverhead
	return mtu - mtu%wireguardBlock
}

func dataPathPort(n *pb.AssignedNetwork) uint16 {
	if p := n.GetDataPathPort(); p != 0 {
		return uint16(p)
	}
	return DefaultDataPathPort
}

// overlayOf is what the overlay has to know of a network itself. It is not
// ready while the node has no address for it.
func (s *State) overlayOf(n *pb.AssignedNetwork) (overlay.Network, bool) {
	out := overlay.Network{ID: n.GetId(), MTU: int(n.GetSpec().GetMtu()), Encrypted: n.GetSpec().GetEncrypted(), Port: dataPathPort(n)}
	if out.MTU == 0 {
		out.MTU = s.pathMTU() - vxlanOverhead
		if out.Encrypted {
			out.MTU = s.secureMTU() - vxlanOverhead
		}
	}
	if n.GetSpec().GetDriver() == pb.NetworkSpec_DRIVER_BRIDGE {
		return out, true
	}
	out.VNI = n.GetAllocation().GetVni()
	var ok bool
	out.VTEP, ok = s.dataPath(s.peers[s.Self], out.Encrypted)
	return out, ok && out.VNI != 0
}

// remote is how to reach a task of another node.
func (s *State) remote(ep *pb.NetworkEndpoint, encrypted bool) (overlay.Remote, bool) {
	if ep == nil || ep.GetNodeId() == s.Self {
		return overlay.Remote{}, false
	}
	vtep, ok := s.dataPath(s.peers[ep.GetNodeId()], encrypted)
	return overlay.Remote{Addresses: parseAddrs(ep.GetAddresses()), VTEP: vtep}, ok
}

func (s *State) remotes(seg *segment) map[string]overlay.Remote {
	out := make(map[string]overlay.Remote, len(seg.endpoints))
	for id, ep := range seg.endpoints {
		if r, ok := s.remote(ep, seg.assigned.GetSpec().GetEncrypted()); ok {
			out[id] = r
		}
	}
	return out
}

// links are a task's interfaces on the networks that are ready.
func (s *State) links(l *Local) []overlay.Link {
	var out []overlay.Link
	for i, a := range l.GetAddresses() {
		if s.segment(a.GetNetworkId()).assigned == nil {
			continue
		}
		out = append(out, overlay.Link{
			Task: l.GetTaskId(), Network: a.GetNetworkId(), Netns: l.Netns,
			Index: i + 1, Addresses: parsePrefixes(a.GetAddresses()),
		})
	}
	return out
}

// vxlanPeers are the addresses that VXLAN may come from.
func (s *State) vxlanPeers() []netip.Addr {
	var out []netip.Addr
	for id, p := range s.peers {
		if addr, ok := s.dataPath(p, false); ok && id != s.Self {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// Overlay is the whole of what the overlays should be.
func (s *State) Overlay() overlay.Wanted {
	w := overlay.Wanted{Networks: map[string]overlay.Network{}, Remotes: map[string]map[string]overlay.Remote{}, Peers: s.vxlanPeers()}
	if s.ingress != nil {
		w.Port = dataPathPort(s.ingress)
	}
	for id, seg := range s.networks {
		if len(seg.locals) == 0 || seg.assigned == nil {
			continue
		}
		if n, ok := s.overlayOf(seg.assigned); ok {
			w.Networks[id] = n
			w.Remotes[id] = s.remotes(seg)
		}
	}
	for _, l := range s.locals {
		for _, link := range s.links(l) {
			if _, ready := w.Networks[link.Network]; ready {
				w.Links = append(w.Links, link)
			}
		}
	}
	return w
}

// serving tells whether new connections may go to a task of a network. To one on
// a node that cannot be reached they would wait in vain.
func (s *State) serving(seg *segment, ep *pb.NetworkEndpoint) bool {
	if !ep.GetServing() || s.withdrawn[ep.GetTaskId()] {
		return false
	}
	if ep.GetNodeId() == s.Self {
		return true
	}
	_, ok := s.dataPath(s.peers[ep.GetNodeId()], seg.assigned.GetSpec().GetEncrypted())
	return ok
}

// balance adds what a service's virtual addresses lead to.
func (s *State) balance(seg *segment, service string, out vip.Wanted) {
	vips := parseAddrs(seg.services[service].GetVips())
	for _, v := range vips {
		out[v] = []netip.Addr{}
	}
	for id := range seg.members[service] {
		ep := seg.endpoints[id]
		if !s.serving(seg, ep) {
			continue
		}
		for _, addr := range parseAddrs(ep.GetAddresses()) {
			for _, v := range vips {
				if v.Is4() == addr.Is4() {
					out[v] = append(out[v], addr)
				}
			}
		}
	}
	for _, v := range vips {
		slices.SortFunc(out[v], netip.Addr.Compare)
		out[v] = slices.Compact(out[v]) // an address may have a new task before the old one is forgotten
	}
}

// VIPs is the whole of what a task's virtual addresses lead to.
func (s *State) VIPs(l *Local) vip.Wanted {
	out := vip.Wanted{}
	for _, a := range l.GetAddresses() {
		seg := s.segment(a.GetNetworkId())
		for service := range seg.services {
			s.balance(seg, service, out)
		}
	}
	return out
}

// zone is what a service's names lead to.
func (s *State) zone(seg *segment, service string) (dns.Service, bool) {
	v := seg.services[service]
	if v == nil {
		return dns.Service{}, false
	}
	out := dns.Service{ID: service, Name: v.GetName(), Aliases: v.GetAliases(), VIPs: parseAddrs(v.GetVips())}
	for _, p := range v.GetPorts() {
		proto := protocolOf(p).String()
		out.Ports = append(out.Ports, dns.Port{Protocol: proto, Number: uint16(p.GetTarget())})
	}
	for id := range seg.members[service] {
		ep := seg.endpoints[id]
		out.Tasks = append(out.Tasks, dns.Endpoint{
			ID: id, Slot: ep.GetSlot(), Node: s.peers[ep.GetNodeId()].GetName(),
			Addresses: parseAddrs(ep.GetAddresses()), Serving: s.serving(seg, ep),
		})
	}
	slices.SortFunc(out.Tasks, func(a, b dns.Endpoint) int { return strings.Compare(a.ID, b.ID) })
	return out, true
}

// Zones is the whole of what names lead to, by network and service.
func (s *State) Zones() map[string]map[string]dns.Service {
	out := map[string]map[string]dns.Service{}
	for id, seg := range s.networks {
		if len(seg.locals) == 0 {
			continue
		}
		out[id] = map[string]dns.Service{}
		for service := range seg.services {
			out[id][service], _ = s.zone(seg, service)
		}
	}
	return out
}

// nameTask is what the name server has to know of a task.
func (s *State) nameTask(l *Local) dns.Task {
	t := dns.Task{ID: l.GetTaskId(), Netns: l.Netns, Options: l.GetDns().GetOptions(), Internal: s.internal(l)}
	for _, a := range l.GetAddresses() {
		t.Networks = append(t.Networks, a.GetNetworkId())
		t.Domains = append(t.Domains, s.segment(a.GetNetworkId()).assigned.GetSpec().GetName())
	}
	for _, addr := range parseAddrs(l.GetDns().GetServers()) {
		t.Servers = append(t.Servers, netip.AddrPortFrom(addr, 53))
	}
	return t
}

// internal tells whether all networks of a task are internal. One that is not
// known opens no way out.
func (s *State) internal(l *Local) bool {
	for _, a := range l.GetAddresses() {
		if n := s.segment(a.GetNetworkId()).assigned; n != nil && !n.GetSpec().GetInternal() {
			return false
		}
	}
	return len(l.GetAddresses()) > 0
}

func publishedKey(p *pb.PortConfig) mesh.Published {
	return mesh.Published{Protocol: protocolOf(p), Port: uint16(p.GetPublished())}
}

// publish adds where the ports of a service lead to.
func (s *State) publish(service string, out map[mesh.Published]mesh.Service) {
	v := s.published[service]
	if v == nil {
		return
	}
	var local []netip.Addr
	for id, l := range s.locals {
		if l.GetServiceId() == service && l.Running && !s.withdrawn[id] {
			local = append(local, l.Address)
		}
	}
	slices.SortFunc(local, netip.Addr.Compare)
	nodes := map[uint32]uint32{}
	for node, n := range s.backends[service] {
		if number := s.peers[node].GetMeshNumber(); node != s.Self && number != 0 && n > 0 {
			nodes[number] = n
		}
	}
	for _, p := range v.GetPorts() {
		host, _ := netip.ParseAddr(p.GetHostIp())
		out[publishedKey(p)] = mesh.Service{
			HostIP: host, Target: uint16(p.GetTarget()),
			PreferLocal: p.GetPolicy() == pb.PortConfig_POLICY_LOCAL,
			Masquerade:  p.GetSource() == pb.PortConfig_SOURCE_MASQUERADE,
			Local:       local, Nodes: nodes,
		}
	}
}

// meshPeers are the other nodes of the mesh, by number.
func (s *State) meshPeers() map[uint32]netip.Addr {
	out := map[uint32]netip.Addr{}
	for id, p := range s.peers {
		if addr, ok := s.dataPath(p, false); ok && p.GetMeshNumber() != 0 && id != s.Self {
			out[p.GetMeshNumber()] = addr
		}
	}
	return out
}

// Mesh is the whole of the routing mesh on this node; there is none before the
// managers sent its network and this node's number.
func (s *State) Mesh(pool netip.Prefix) (mesh.Wanted, bool) {
	n, self := s.ingress, s.peers[s.Self]
	subnet, ok := s.meshSubnet()
	vtep, known := s.dataPath(self, false)
	if !ok || !known || self.GetMeshNumber() == 0 {
		return mesh.Wanted{}, false
	}
	w := mesh.Wanted{
		Number: self.GetMeshNumber(), Subnet: subnet, VNI: n.GetAllocation().GetVni(), Port: dataPathPort(n),
		MTU: int(n.GetSpec().GetMtu()), VTEP: vtep, Peers: s.meshPeers(), Pool: pool,
		Services: map[mesh.Published]mesh.Service{},
	}
	if w.MTU == 0 {
		w.MTU = s.pathMTU() - vxlanOverhead
	}
	for service := range s.published {
		s.publish(service, w.Services)
	}
	return w, true
}

// WireGuard is the node's encrypted ways to the others; nil while no task here
// is on an encrypted network, or something is missing: then nothing flows.
func (s *State) WireGuard() *wireguard.Wanted {
	port, used := s.encrypted()
	self := s.peers[s.Self]
	address, ok := s.meshAddr(self)
	if !used || !ok || len(s.keys) == 0 {
		return nil
	}
	w := &wireguard.Wanted{Port: port, Address: address, MTU: s.secureMTU()}
	shared := s.keys[len(s.keys)-1].GetKey()
	for _, id := range slices.Sorted(maps.Keys(s.peers)) {
		p := s.peers[id]
		behind, okBehind := s.meshAddr(p)
		outside, okOutside := s.dataPath(p, false)
		if id == s.Self || !okBehind || !okOutside || len(p.GetWireguardKey()) != 32 || len(shared) != 32 {
			continue
		}
		w.Peers = append(w.Peers, wireguard.Peer{
			PublicKey: [32]byte(p.GetWireguardKey()), PresharedKey: [32]byte(shared),
			Endpoint: netip.AddrPortFrom(outside, port), Address: behind,
		})
	}
	return w
}

// encrypted tells whether WireGuard is needed, and its UDP port: the next one
// after VXLAN's.
func (s *State) encrypted() (port uint16, used bool) {
	for _, seg := range s.networks {
		if len(seg.locals) > 0 && seg.assigned.GetSpec().GetEncrypted() {
			return dataPathPort(seg.assigned) + 1, true
		}
	}
	return 0, false
}
