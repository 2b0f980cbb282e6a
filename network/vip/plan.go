// Package vip spreads the connections that a task opens to a service's virtual
// address (VIP) over the service's tasks, inside the task's own namespace.
//
// A VIP stands for all ports and protocols, so the address alone decides: the
// map services leads a VIP to a chain that draws a number below its count of
// backends, and the map slots leads VIP and number to a backend. A packet's way
// does not depend on the number of services. Only the destination is rewritten,
// so a backend sees the caller's address, and a caller may be its own backend.
// What goes to a VIP and was not translated is refused at once.
//
// What the table should hold is a value, Wanted. The table is minid's own
// wherever it is found: one that an earlier minid left is taken over.
package vip

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// TableName of the nftables table, family inet.
const TableName = "minid_vip"

// Wanted says where each VIP leads: to backends of its own family. A VIP without
// any refuses at once.
type Wanted map[netip.Addr][]netip.Addr

// normal checks w and gives it one form: backends sorted, each once.
func (w Wanted) normal() (Wanted, error) {
	out := make(Wanted, len(w))
	for vip, backends := range w {
		if !vip.IsValid() || vip.Is4In6() {
			return nil, fmt.Errorf("balance %s: not an address of IPv4 or IPv6", vip)
		}
		for _, b := range backends {
			if b.Is4() != vip.Is4() || b.Is4In6() || !b.IsValid() {
				return nil, fmt.Errorf("balance %s: backend %s is of another family", vip, b)
			}
		}
		if !increasing(backends) {
			backends = slices.Compact(slices.SortedFunc(slices.Values(backends), netip.Addr.Compare))
		}
		out[vip] = backends
	}
	return out, nil
}

func increasing(list []netip.Addr) bool {
	for i := 1; i < len(list); i++ {
		if list[i-1].Compare(list[i]) >= 0 {
			return false
		}
	}
	return true
}

func (w Wanted) sorted() []netip.Addr {
	return slices.SortedFunc(maps.Keys(w), netip.Addr.Compare)
}

// Render writes the table as nft lists it, with its slots in the order that a
// table made anew has.
func (w Wanted) Render() string {
	img, _ := newImage().set(w, never)
	return img.render()
}

// render writes the image's table.
func (m *image) render() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", TableName)
	for _, s := range sets {
		fmt.Fprintf(&b, "\t%s %s {\n\t\ttype %s\n", s.sort(), s.name(), s.types())
		if lines := m.lines(s); len(lines) > 0 {
			fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(lines, ",\n\t\t\t     "))
		}
		b.WriteString("\t}\n\n")
	}
	chains := frame()
	for _, g := range m.sortedGroups() {
		chains = append(chains, g.chain())
	}
	for i, c := range chains {
		if i > 0 {
			b.WriteByte('\n')
		}
		c.render(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

// lines are the elements of one set as text.
func (m *image) lines(s set) (out []string) {
	for _, vip := range slices.SortedFunc(maps.Keys(m.services), netip.Addr.Compare) {
		for _, e := range m.services[vip].elements(vip) {
			if e.set == s {
				out = append(out, e.String())
			}
		}
	}
	return out
}
