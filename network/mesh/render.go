package mesh

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
)

// Render writes the wanted state as text: links, routes and neighbours as
// comments, then the tables as nft lists them.
func (w Wanted) Render() string {
	var b strings.Builder
	base := w.base()
	fmt.Fprintf(&b, "# link %s: vxlan id %d local %s dstport %d mtu %d mac %s address %s/32\n",
		LinkName, w.VNI, w.VTEP, w.Port, w.MTU, nodeMAC(w.Number), w.own())
	for _, number := range w.sortedPeers() {
		if number != w.Number {
			fmt.Fprintf(&b, "# node %d: %s is %s behind %s\n", number, NodeAddr(w.Subnet, number, w.Number), nodeMAC(number), w.Peers[number])
		}
	}
	fmt.Fprintf(&b, "# route %s dev %s src %s proto %d\n", w.Subnet.Masked(), LinkName, w.own(), routeProtocol)
	fmt.Fprintf(&b, "# route local %s dev lo table local proto %d\n", base.arriving(), routeProtocol)
	fmt.Fprintf(&b, "# route default via %s (%s) dev %s onlink table %d proto %d\n", w.gateway(), nodeMAC(0), LinkName, routeTable, routeProtocol)
	fmt.Fprintf(&b, "# rule %d: fwmark 0x%x/0x%x lookup %d\n", rulePriority, markNumber(markOf(0)), markNumber(markMask), routeTable)
	imageOf(w).render(&b, base)
	return b.String()
}

// render writes the tables.
func (m *image) render(b *strings.Builder, base base) {
	fmt.Fprintf(b, "table ip %s {\n", TableName)
	for _, k := range kinds {
		fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s\n", k.sort(), k, k.types())
		var lines []string
		for _, e := range m.sorted(k) {
			lines = append(lines, text(e, m.elements[e]))
		}
		if len(lines) > 0 {
			fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(lines, ",\n\t\t\t     "))
		}
		b.WriteString("\t}\n\n")
	}
	for _, g := range m.sortedGroups() {
		g.chain().render(b)
		b.WriteByte('\n')
	}
	var last chain
	for i, c := range base.frame() {
		if c.family == nftables.TableFamilyNetdev {
			last = c
			continue
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		c.render(b)
	}
	fmt.Fprintf(b, "}\ntable netdev %s {\n", TableName)
	last.render(b)
	b.WriteString("}\n")
}
