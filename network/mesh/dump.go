package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/netns"
	"github.com/minid/minid/network/nft"
)

// Compare writes the mesh as Set(w) would leave it, and as it is. What is out of
// use for less than a second is in both.
func (m *Mesh) Compare(w Wanted) (wanted, actual string, err error) {
	if err := w.check(); err != nil {
		return "", "", err
	}
	img := imageOf(w)
	for k := range m.image.worn {
		if _, used := img.elements[k]; used {
			continue
		}
		v := m.image.elements[k]
		img.elements[k] = v
		if _, used := img.groups[v.group]; k.kind.leads() && !used {
			img.groups[v.group] = use{}
		}
	}
	for g, u := range m.image.groups {
		if _, used := img.groups[g]; !used && u.ports == 0 {
			img.groups[g] = use{}
		}
	}
	links, err := dumpLinks(w)
	if err != nil {
		return "", "", err
	}
	tables, err := dumpTables(m.base(w))
	return w.renderLinks() + img.text(m.base(w)), links + tables, err
}

func (m *image) text(b base) string {
	var out strings.Builder
	m.render(&out, b)
	return out.String()
}

// dumpLinks is renderLinks of what the kernel has.
func dumpLinks(w Wanted) (string, error) {
	link, err := netlink.LinkByName(LinkName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return dumpRoutes(0, w, nil)
	}
	if err != nil {
		return "", fmt.Errorf("find %s: %w", LinkName, err)
	}
	var b strings.Builder
	if err := dumpLink(&b, link); err != nil {
		return "", err
	}
	neighbours, err := dumpNeighbours(&b, link.Attrs().Index, w)
	if err != nil {
		return "", err
	}
	routes, err := dumpRoutes(link.Attrs().Index, w, neighbours)
	return b.String() + routes, err
}

func dumpLink(b *strings.Builder, link netlink.Link) error {
	addrs, err := netns.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", LinkName, err)
	}
	a := link.Attrs()
	fmt.Fprintf(b, "# link %s: %s", LinkName, link.Type())
	if v, ok := link.(*netlink.Vxlan); ok {
		src, _ := netip.AddrFromSlice(v.SrcAddr)
		fmt.Fprintf(b, " id %d local %s dstport %d", v.VxlanId, src.Unmap(), v.Port)
	}
	fmt.Fprintf(b, " mtu %d mac %s address", a.MTU, a.HardwareAddr)
	for _, addr := range addrs {
		fmt.Fprintf(b, " %s", addr.IPNet)
	}
	if a.Flags&net.FlagUp == 0 {
		b.WriteString(" (down)")
	}
	b.WriteByte('\n')
	return nil
}

// dumpNeighbours writes the other nodes, and returns all neighbours.
func dumpNeighbours(b *strings.Builder, link int, w Wanted) (map[string]string, error) {
	forwarding, err := netlink.NeighList(link, unix.AF_BRIDGE)
	if err != nil {
		return nil, fmt.Errorf("list forwarding of %s: %w", LinkName, err)
	}
	behind := make(map[string][]string)
	for _, n := range forwarding {
		hw := n.HardwareAddr.String()
		behind[hw] = append(behind[hw], n.IP.String())
	}
	list, err := netlink.NeighList(link, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list neighbours on %s: %w", LinkName, err)
	}
	list = slices.DeleteFunc(list, func(n netlink.Neigh) bool { return n.State != netlink.NUD_PERMANENT || len(n.HardwareAddr) != 6 })
	slices.SortFunc(list, func(a, b netlink.Neigh) int { return slices.Compare(a.HardwareAddr, b.HardwareAddr) })
	neighbours := make(map[string]string, len(list))
	for _, n := range list {
		hw := n.HardwareAddr.String()
		neighbours[n.IP.String()] = hw
		if n.IP.String() != w.gateway().String() {
			fmt.Fprintf(b, "# node %d: %s is %s behind %s\n", int(n.HardwareAddr[4])<<8|int(n.HardwareAddr[5]), n.IP, hw, strings.Join(behind[hw], " and "))
		}
		delete(behind, hw)
	}
	for hw, to := range behind {
		fmt.Fprintf(b, "# nobody is %s behind %s\n", hw, strings.Join(to, " and "))
	}
	return neighbours, nil
}

// dumpRoutes writes this package's routes and rules.
func dumpRoutes(link int, w Wanted, neighbours map[string]string) (string, error) {
	list, err := ownRoutes()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	texts := w.routeTexts(neighbours[w.gateway().String()])
	for i, want := range wantedRoutes(link, w) {
		if at := slices.IndexFunc(list, func(have netlink.Route) bool { return sameRoute(have, want) }); at >= 0 {
			b.WriteString(texts[i])
			list = slices.Delete(list, at, at+1)
		}
	}
	for _, r := range list {
		fmt.Fprintf(&b, "# another route: %s\n", r)
	}
	rules, err := ownRules()
	for _, r := range rules {
		if r.Protocol != routeProtocol {
			continue
		}
		mask := uint32(0)
		if r.Mask != nil {
			mask = *r.Mask
		}
		b.WriteString(ruleText(r.Mark, mask, r.Table))
	}
	return b.String(), err
}

// dumpTables writes both tables.
func dumpTables(b base) (string, error) {
	c, err := nft.Connect("")
	if err != nil {
		return "", err
	}
	defer c.CloseLasting()
	chains, err := nft.Chains(c, table(nftables.TableFamilyIPv4))
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyNetdev} {
		text, err := nft.Dump(c, b.layout(family, chains))
		if err != nil {
			return "", err
		}
		out.WriteString(text)
	}
	return out.String(), nil
}

// layout of the table of a family; chains are those that the one of IPv4 has.
func (b base) layout(family nftables.TableFamily, chains []*nftables.Chain) nft.Layout {
	l := nft.Layout{Table: table(family), Title: "netdev " + TableName}
	if family == nftables.TableFamilyIPv4 {
		l.Title = "ip " + TableName
		for _, k := range kinds {
			l.Sets = append(l.Sets, nft.SetLayout{
				Set: k.kernel(), Types: k.types(), Lines: func(list []nftables.SetElement) []string { return lines(k, list) },
			})
		}
		m := newImage()
		for _, k := range chains {
			if g, ok := parseGroup(k.Name); ok {
				m.groups[g] = use{}
			}
		}
		for _, g := range m.sortedGroups() {
			l.Chains = append(l.Chains, g.chain().layout())
		}
	}
	for _, c := range b.frame() {
		if c.family == family {
			l.Chains = append(l.Chains, c.layout())
		}
	}
	return l
}

// lines writes the elements of a set as the kernel lists them.
func lines(of kind, list []nftables.SetElement) []string {
	m := newImage()
	var out, strange []string
	for _, e := range list {
		if k, v, ok := parse(of, e); ok {
			m.elements[k] = v
		} else {
			strange = append(strange, fmt.Sprintf("0x%x : 0x%x", e.Key, e.Val))
		}
	}
	for _, k := range m.sorted(of) {
		out = append(out, text(k, m.elements[k]))
	}
	slices.Sort(strange)
	return append(out, strange...)
}

func (c chain) layout() nft.ChainLayout {
	out := nft.ChainLayout{Name: c.name, Same: c.same}
	if c.kind != "" {
		out.Head = fmt.Sprintf("type %s hook %s priority %s; policy accept;", c.kind, c.hook, c.priority)
	}
	for _, r := range c.rules {
		out.Rules = append(out.Rules, nft.RuleLayout{Text: r.text, Same: func(have []expr.Any) bool {
			return nft.Same(c.family, asListed(r.exprs), have)
		}})
	}
	return out
}

// DumpRest writes what there is where no mesh should be.
func (m *Mesh) DumpRest() (string, error) {
	var b strings.Builder
	if link, err := netlink.LinkByName(LinkName); err == nil {
		if err := dumpLink(&b, link); err != nil {
			return "", err
		}
	}
	routes, err := ownRoutes()
	if err != nil {
		return "", err
	}
	for _, r := range routes {
		fmt.Fprintf(&b, "# another route: %s\n", r)
	}
	rules, err := ownRules()
	if err != nil {
		return "", err
	}
	for _, r := range rules {
		if r.Protocol == routeProtocol {
			fmt.Fprintf(&b, "# another rule: %s\n", r)
		}
	}
	c, err := nft.Connect("")
	if err != nil {
		return "", err
	}
	defer c.CloseLasting()
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyNetdev} {
		text, err := nft.Dump(c, nft.Layout{Table: table(family), Title: TableName})
		if err != nil {
			return "", err
		}
		b.WriteString(text)
	}
	return b.String(), nil
}
