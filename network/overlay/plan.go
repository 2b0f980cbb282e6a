// Package overlay joins the tasks of many nodes into networks: on each node and
// for each network a namespace with a bridge, a cable to every task of the node
// that is on the network, and a VXLAN device to the other nodes. Nothing is
// learned or flooded: where each task is comes from the managers, and questions
// for neighbours (ARP, ND) are answered on the node.
//
// What the kernel should look like is a value, Wanted; Overlay.Set makes it so,
// and the other methods change it piece by piece. Everything that this package
// makes in the host's namespace is named mn… or is in the nftables table
// minid_overlay; the networks' namespaces lie in RUN_DIR/overlay.
package overlay

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
)

const (
	// BridgeName of every network's bridge, in the network's own namespace.
	BridgeName = "mnbr0"
	// SecureLink is the device that VXLAN of encrypted networks has to go through.
	SecureLink = "mnwg0"
	// DefaultMTU is an Ethernet's less what VXLAN adds over IPv4, in bytes.
	DefaultMTU = 1450
	linkPrefix = "mn"
)

// Network is one network as this node takes part in it.
type Network struct {
	ID string
	// VNI of the VXLAN, 24 bits; 0: the network ends at this node.
	VNI uint32
	// MTU of the tasks' links, in bytes; 0: DefaultMTU.
	MTU int
	// VTEP is this node's own end of the VXLAN, which its packets come from.
	VTEP netip.Addr
	// Port is the UDP port of the VXLAN on all nodes.
	Port uint16
	// Encrypted lets the network's VXLAN out and in by SecureLink only.
	Encrypted bool
}

// Link is a task's cable to a network.
type Link struct {
	Task, Network string
	// Netns is the path of the task's network namespace.
	Netns string
	// Index names the interface there: ethINDEX.
	Index int
	// Addresses with the length of their network's prefix, the IPv4 one first.
	Addresses []netip.Prefix
}

// Remote is a task on another node.
type Remote struct {
	// Addresses of the task, the IPv4 one first.
	Addresses []netip.Addr
	// VTEP is the end of the VXLAN at the task's node.
	VTEP netip.Addr
}

// Wanted is the overlay networks of a node as they should be.
type Wanted struct {
	// Networks by id.
	Networks map[string]Network
	// Links in any order; those to networks that are not wanted are left out.
	Links []Link
	// Remotes by network and task.
	Remotes map[string]map[string]Remote
	// Peers are the data-path addresses that VXLAN is accepted from.
	Peers []netip.Addr
	// Port is the UDP port of the cluster's VXLAN, which other networks than these
	// use too; 0: not known.
	Port uint16
}

func (n Network) mtu() int {
	if n.MTU == 0 {
		return DefaultMTU
	}
	return n.MTU
}

// vxlanName is the VXLAN device's; the VNI makes it tell what it is.
func (n Network) vxlanName() string { return fmt.Sprint(linkPrefix, "vx", n.VNI) }

// linkName is the name of the network's end of a task's cable: a hash, as ids
// are longer than the 15 bytes that a link's name may have.
func linkName(task string) string {
	sum := sha256.Sum256([]byte(task))
	return linkPrefix + hex.EncodeToString(sum[:4])
}

func (l Link) name() string { return fmt.Sprint("eth", l.Index) }

// mac is the hardware address of the link's end in the task.
func (l Link) mac() mac {
	if len(l.Addresses) == 0 {
		return mac{}
	}
	return macOf(l.Addresses[0].Addr())
}

// mac is a hardware address that can be a map's key.
type mac [6]byte

func (m mac) String() string { return net.HardwareAddr(m[:]).String() }

// macOf derives a task's hardware address from its first address, so that all
// nodes know it without being told. It is as unique as an IPv4 address; of an
// IPv6 one it takes the end.
func macOf(addr netip.Addr) mac {
	a := addr.AsSlice()
	return mac(append([]byte{0x02, 0x42}, a[len(a)-4:]...))
}

// Render writes the wanted state as text: namespaces, links and neighbours as
// comments, then the table as nft lists it.
func (w Wanted) Render() string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(w.Networks)) {
		w.renderNetwork(&b, w.Networks[id])
	}
	w.table().render(&b)
	return b.String()
}

func (w Wanted) renderNetwork(b *strings.Builder, n Network) {
	fmt.Fprintf(b, "# network %s: bridge %s mtu %d", n.ID, BridgeName, n.mtu())
	if n.VNI != 0 {
		fmt.Fprintf(b, ", vxlan %s id %d from %s port %d", n.vxlanName(), n.VNI, n.VTEP, n.Port)
	}
	b.WriteByte('\n')
	s := newSegment(n, w.Remotes[n.ID])
	for _, l := range w.Links {
		if l.Network == n.ID {
			s.addLink(l)
		}
	}
	for _, task := range slices.Sorted(maps.Keys(s.links)) {
		l := s.links[task]
		fmt.Fprintf(b, "#   task %s: %s -> %s %s", task, linkName(task), l.name(), l.mac())
		for _, a := range l.Addresses {
			fmt.Fprintf(b, " %s", a)
		}
		fmt.Fprintf(b, " in %s\n", l.Netns)
	}
	wanted := s.forwards()
	for _, addr := range slices.SortedFunc(maps.Keys(wanted), netip.Addr.Compare) {
		fmt.Fprintf(b, "#   %s\n", wanted[addr].text(addr))
	}
}
