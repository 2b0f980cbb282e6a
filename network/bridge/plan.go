// Package bridge gives every task of a node a network of its own: a namespace
// with an address on a node-local bridge, the way out by address translation,
// and host ports that lead in. Tasks do not see each other there: no frame
// passes from one to another, and only what was translated to a task is let in.
//
// What the kernel should look like is a value, Wanted; Kernel.Set makes it so.
// Everything that this package makes in the kernel is named mn… or is in the
// nftables table minid_local, and whatever has such a name is its own to delete.
package bridge

import (
	"cmp"
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
	// LinkName of the bridge.
	LinkName = "mnlocal0"
	// TableName of the nftables table, family ip.
	TableName  = "minid_local"
	linkPrefix = "mn"
	mapName    = "ports"
	setName    = "internal"
)

// Wanted is the node-local network as it should be.
type Wanted struct {
	// Pool of addresses; the bridge has its first one.
	Pool netip.Prefix
	// Tasks in the network, in any order.
	Tasks []Endpoint
}

// Endpoint is one task in the network.
type Endpoint struct {
	ID string
	// Netns is the path of the task's network namespace.
	Netns   string
	Address netip.Addr
	// Ports that lead to the task now.
	Ports []Port
	// Internal tasks have no way out.
	Internal bool
}

// Port leads from a port of the host to one of a task.
type Port struct {
	Protocol Protocol `json:"protocol"`
	Host     uint16   `json:"host"`
	Target   uint16   `json:"target"`
}

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols that have ports.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprint(uint8(p))
}

// Gateway is the bridge's address.
func (w Wanted) Gateway() netip.Prefix {
	return netip.PrefixFrom(w.Pool.Masked().Addr().Next(), w.Pool.Bits())
}

// hostLink is the name of the host's end of a task's cable: a hash, as ids are
// longer than the 15 bytes that a link's name may have.
func hostLink(id string) string {
	sum := sha256.Sum256([]byte(id))
	return linkPrefix + hex.EncodeToString(sum[:4])
}

// mac derives a task's hardware address from its address, so that a reused
// address never meets a stale neighbour entry.
func mac(addr netip.Addr) net.HardwareAddr {
	a := addr.As4()
	return net.HardwareAddr{0x02, 0x42, a[0], a[1], a[2], a[3]}
}

// hostPort is what a published port is known by.
type hostPort struct {
	Protocol Protocol
	Port     uint16
}

// backend is where a published port leads.
type backend struct {
	Address netip.Addr
	Port    uint16
}

// published collects the ports of all tasks. A port that two tasks want goes to
// the first by id: Publish refuses that, so it is only met in broken state.
func (w Wanted) published() map[hostPort]backend {
	out := make(map[hostPort]backend)
	for _, t := range w.sorted() {
		for _, p := range t.Ports {
			key := hostPort{p.Protocol, p.Host}
			if _, taken := out[key]; !taken {
				out[key] = backend{t.Address, p.Target}
			}
		}
	}
	return out
}

// inside collects the addresses of the internal tasks.
func (w Wanted) inside() map[netip.Addr]bool {
	out := make(map[netip.Addr]bool)
	for _, t := range w.Tasks {
		if t.Internal {
			out[t.Address] = true
		}
	}
	return out
}

func (w Wanted) sorted() []Endpoint {
	return slices.SortedFunc(slices.Values(w.Tasks), func(a, b Endpoint) int { return strings.Compare(a.ID, b.ID) })
}

// Render writes the wanted state as text: links as comments, then the table as
// nft lists it.
func (w Wanted) Render() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# bridge %s %s\n", LinkName, w.Gateway())
	for _, t := range w.sorted() {
		fmt.Fprintf(&b, "# task %s: %s -> eth0 %s %s in %s\n", t.ID, hostLink(t.ID), t.Address, mac(t.Address), t.Netns)
	}
	fmt.Fprintf(&b, "table ip %s {\n\tmap %s {\n\t\ttype inet_proto . inet_service : ipv4_addr . inet_service\n", TableName, mapName)
	renderElements(&b, w.elements())
	fmt.Fprintf(&b, "\n\tset %s {\n\t\ttype ipv4_addr\n", setName)
	var inside []string
	for _, addr := range slices.SortedFunc(maps.Keys(w.inside()), netip.Addr.Compare) {
		inside = append(inside, addr.String())
	}
	renderElements(&b, inside)
	for _, c := range w.chains() {
		if c.frames {
			fmt.Fprintf(&b, "}\ntable bridge %s {", TableName)
		}
		fmt.Fprintf(&b, "\n\tchain %s {\n\t\ttype %s hook %s priority %s; policy accept;\n", c.name, c.kind, c.hook, c.priority)
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", r.text)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// renderElements writes the elements of a set or map, and ends it.
func renderElements(b *strings.Builder, lines []string) {
	if len(lines) > 0 {
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(lines, ",\n\t\t\t     "))
	}
	b.WriteString("\t}\n")
}

func (w Wanted) elements() []string { return elementLines(w.published()) }

func elementLines(published map[hostPort]backend) []string {
	keys := make([]hostPort, 0, len(published))
	for k := range published {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b hostPort) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	lines := make([]string, len(keys))
	for i, k := range keys {
		lines[i] = fmt.Sprintf("%s . %d : %s . %d", k.Protocol, k.Port, published[k].Address, published[k].Port)
	}
	return lines
}
