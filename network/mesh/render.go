package mesh

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
)

// Render writes the wanted state as text: links, routes and neighbours as
// comments, then the tables as nft lists them.
func (w Wanted) Render() string {
	return w.renderLinks() + imageOf(w).text(w.base())
}

func (w Wanted) renderLinks() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# link %s: vxlan id %d local %s dstport %d mtu %d mac %s address %s/32\n",
		LinkName, w.VNI, w.VTEP, w.Port, w.MTU, nodeMAC(w.Number), w.own())
	for _, number := range w.sortedPeers() {
		if number != w.Number {
			fmt.Fprintf(&b, "# node %d: %s is %s behind %s\n", number, NodeAddr(w.Subnet, number, w.Number), nodeMAC(number), w.Peers[number])
		}
	}
	for _, route := range w.routeTexts(nodeMAC(0).String()) {
		b.WriteString(route)
	}
	b.WriteString(ruleText(markNumber(markOf(0)), markNumber(markMask), routeTable))
	return b.String()
}

// routeTexts are the wanted routes, in the order of wantedRoutes; the gateway
// has the hardware address.
func (w Wanted) routeTexts(gateway string) []string {
	return []string{
		fmt.Sprintf("# route %s dev %s src %s proto %d\n", w.Subnet.Masked(), LinkName, w.own(), routeProtocol),
		fmt.Sprintf("# route local %s dev lo table local proto %d\n", w.base().arriving(), routeProtocol),
		fmt.Sprintf("# route default via %s (%s) dev %s onlink table %d proto %d\n", w.gateway(), gateway, LinkName, routeTable, routeProtocol),
	}
}

func ruleText(mark, mask uint32, table int) string {
	return fmt.Sprintf("# rule %d: fwmark 0x%x/0x%x lookup %d\n", rulePriority, mark, mask, table)
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
