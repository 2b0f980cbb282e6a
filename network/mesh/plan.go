// Package mesh makes the published ports of the cluster's services answer on
// every node, and lets the tasks see their clients' own addresses.
//
// A connection to a published port is led, on the node where it enters, to a
// task there or to a node that has some, by its destination alone: the source
// stays. The destination for another node is an address of the mesh's own
// subnet that names both, the task's node and the entry node (NodeAddr). It
// travels over one VXLAN link of all nodes. The task's node notes the entry node
// in the connection's mark, leads it on to a task, and sends the answers, which
// go to an address anywhere, back to the entry node by that mark: one routing
// rule, one routing table and one rewritten hardware address, whatever the
// number of nodes.
//
// What the kernel should look like is a value, Wanted; Set makes it so. All of
// it is named mnmesh0, is in the nftables tables minid_mesh (families ip and
// netdev), or has the routing protocol number 109, and is this package's to
// delete. IPv4 only.
package mesh

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/network/bridge"
)

const (
	// LinkName of the VXLAN link between the nodes.
	LinkName = "mnmesh0"
	// TableName of the nftables tables.
	TableName = "minid_mesh"

	// routeProtocol marks this package's routes and rules.
	routeProtocol = 109
	// rulePriority comes before the host's own tables (32766), but for the local one.
	rulePriority = 1090
	// routeTable holds the way back to the entry nodes.
	routeTable = 28014
)

// Published names a published port: one owner in the cluster.
type Published struct {
	Protocol bridge.Protocol
	Port     uint16
}

func (p Published) String() string { return fmt.Sprintf("%d/%s", p.Port, p.Protocol) }

func (p Published) compare(q Published) int {
	return cmp.Or(cmp.Compare(p.Protocol, q.Protocol), cmp.Compare(p.Port, q.Port))
}

// Service is where a published port leads.
type Service struct {
	// HostIP is the only address that the port answers on; zero: all of the node's.
	HostIP netip.Addr
	// Target is the port of the tasks.
	Target uint16
	// PreferLocal leads to this node's tasks alone while there are some.
	PreferLocal bool
	// Masquerade hides the client behind the entry node.
	Masquerade bool
	// Local are the addresses of this node's serving tasks on the node-local bridge.
	Local []netip.Addr
	// Nodes are the numbers of other nodes, with their serving tasks.
	Nodes map[uint32]uint32
}

// Wanted is the routing mesh of one node as it should be.
type Wanted struct {
	// Number of this node, from 1.
	Number uint32
	// Subnet of the mesh's addresses: half of its free bits name a node, half of
	// them an entry node.
	Subnet netip.Prefix
	VNI    uint32
	// Port is VXLAN's UDP port.
	Port uint16
	// MTU of the link, in bytes.
	MTU int
	// VTEP is this node's end of the VXLAN; Peers are the others' by number.
	VTEP  netip.Addr
	Peers map[uint32]netip.Addr
	// Pool of the tasks' addresses on the node-local bridge.
	Pool     netip.Prefix
	Services map[Published]Service
}

// NodeAddr is the address by which node entry sends to node to: the subnet's
// first half of free bits is the one, the second the other.
func NodeAddr(subnet netip.Prefix, to, entry uint32) netip.Addr {
	b := subnet.Masked().Addr().As4()
	n := binary.BigEndian.Uint32(b[:]) | to<<halfBits(subnet) | entry
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

func halfBits(subnet netip.Prefix) int { return (32 - subnet.Bits()) / 2 }

// nodePrefix is all addresses that lead to a node, whatever the entry.
func nodePrefix(subnet netip.Prefix, to uint32) netip.Prefix {
	return netip.PrefixFrom(NodeAddr(subnet, to, 0), 32-halfBits(subnet))
}

// own is the node's own address on the link.
func (w Wanted) own() netip.Addr { return NodeAddr(w.Subnet, w.Number, w.Number) }

// A mark is the last four bytes of the hardware address of the node that it
// stands for: magic, zero, and the node's number. Its bytes lie as in a packet,
// whatever the machine's order, so no rule has to turn them.
const magic = 'm'

func markOf(number uint32) [4]byte { return [4]byte{magic, 0, byte(number >> 8), byte(number)} }

// hidden marks the connections, at their entry, whose source is to be replaced.
func hidden() [4]byte { return [4]byte{magic, 1, 0, 0} }

// nodeMAC is a node's hardware address on the link; that of number 0 belongs to
// nobody: it is where answers go until the mark is written over it.
func nodeMAC(number uint32) net.HardwareAddr {
	m := markOf(number)
	return net.HardwareAddr{0x02, 'n', m[0], m[1], m[2], m[3]}
}

// gateway is the next hop of all answers, which has that address.
func (w Wanted) gateway() netip.Addr { return NodeAddr(w.Subnet, 0, 1) }

// base is what of a Wanted the links, routes and rules depend on.
type base struct {
	number uint32
	subnet netip.Prefix
	vni    uint32
	port   uint16
	mtu    int
	vtep   netip.Addr
	pool   netip.Prefix
	// patient: the kernel cannot forget unanswered connections early.
	patient bool
}

func (w Wanted) base() base {
	return base{number: w.Number, subnet: w.Subnet, vni: w.VNI, port: w.Port, mtu: w.MTU, vtep: w.VTEP, pool: w.Pool}
}

// check refuses what no mesh can be made of.
func (w Wanted) check() error {
	free := 32 - w.Subnet.Bits()
	switch {
	case !w.Subnet.IsValid() || !w.Subnet.Addr().Is4() || free%2 != 0 || free < 8:
		return fault.New(fault.Invalid, "make routing mesh: subnet %s is no IPv4 subnet of an even length up to 24", w.Subnet)
	case w.Number == 0 || w.Number > 1<<(free/2)-2:
		return fault.New(fault.Invalid, "make routing mesh: node number %d is not from 1 to %d, which is what subnet %s has room for", w.Number, 1<<(free/2)-2, w.Subnet)
	case w.VNI == 0 || w.VNI >= 1<<24 || w.Port == 0:
		return fault.New(fault.Invalid, "make routing mesh: VNI %d, UDP port %d: both must be given", w.VNI, w.Port)
	case !w.VTEP.Is4():
		return fault.New(fault.Invalid, "make routing mesh: data-path address %s is not an IPv4 address", w.VTEP)
	case !w.Pool.IsValid() || !w.Pool.Addr().Is4():
		return fault.New(fault.Invalid, "make routing mesh: pool %s of the tasks is not of IPv4", w.Pool)
	case w.MTU < 576: // what every IPv4 host must take
		return fault.New(fault.Invalid, "make routing mesh: MTU %d is below 576", w.MTU)
	}
	return nil
}

// checkServices says which services cannot be had as they are asked for; the
// others work.
func (w Wanted) checkServices() error {
	var errs []error
	for _, p := range w.sorted() {
		if host := w.Services[p].HostIP; host.IsValid() && !host.Unmap().Is4() {
			errs = append(errs, fault.New(fault.Invalid, "publish port %s on %s: the routing mesh answers on IPv4 addresses", p, host))
		}
	}
	return errors.Join(errs...)
}

func (w Wanted) sorted() []Published {
	return slices.SortedFunc(maps.Keys(w.Services), Published.compare)
}

func (w Wanted) sortedPeers() []uint32 { return slices.Sorted(maps.Keys(w.Peers)) }

// target is an address and port that a connection is led to.
type target struct {
	addr netip.Addr
	port uint16
}

// tasks are the targets here; one for each.
func (s Service) tasks() []target {
	local := slices.SortedFunc(slices.Values(s.Local), netip.Addr.Compare)
	out := make([]target, 0, len(local))
	for _, addr := range slices.Compact(local) {
		out = append(out, target{addr, s.Target})
	}
	return out
}

// everywhere are the targets anywhere: each task of this node and, as often as
// it has tasks, each other node that can be reached.
func (w Wanted) everywhere(p Published, s Service) []target {
	out := s.tasks()
	for _, number := range slices.Sorted(maps.Keys(s.Nodes)) {
		if _, known := w.Peers[number]; !known || number == w.Number {
			continue
		}
		to := target{NodeAddr(w.Subnet, number, w.Number), p.Port}
		for range s.Nodes[number] {
			out = append(out, to)
		}
	}
	return out
}
