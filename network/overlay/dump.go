package overlay

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/netns"
	"github.com/minid/minid/network/nft"
)

// Dump writes all networks as the kernel has them, in the form of Render.
func (o *Overlay) Dump() (string, error) {
	entries, err := os.ReadDir(overlayDir(o.cfg.RunDir))
	if err != nil {
		return "", fmt.Errorf("read overlay networks: %w", err)
	}
	var b strings.Builder
	for _, e := range entries {
		if err := o.dumpNetwork(&b, e.Name()); err != nil {
			return "", fmt.Errorf("read network %s: %w", e.Name(), err)
		}
	}
	c, err := nft.Connect("")
	if err != nil {
		return "", err
	}
	defer c.CloseLasting()
	table, err := nft.Dump(c, layout())
	return b.String() + table, err
}

// dumpNetwork looks at a network's namespace with a socket of its own: that of
// its segment may be in another one that was there before.
func (o *Overlay) dumpNetwork(b *strings.Builder, id string) error {
	path := o.Path(id)
	if !netns.Exists(path) {
		return nil
	}
	h, err := netns.Handle(path)
	if err != nil {
		return err
	}
	defer h.Close()
	own, err := openBatch(path)
	if err != nil {
		return err
	}
	defer own.close()
	s := &segment{path: path, handle: h, batch: own}
	if known := o.segments[id]; known != nil {
		s.links = known.links
	}
	links, err := s.linksByName()
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "# network %s:", id)
	if bridge := links[BridgeName]; bridge != nil {
		s.bridge = bridge.Attrs().Index
		fmt.Fprintf(b, " bridge %s mtu %d%s", BridgeName, bridge.Attrs().MTU, downText(bridge))
	}
	for _, name := range sortedKeys(links) {
		if v, ok := links[name].(*rtnl.Vxlan); ok {
			s.vxlan = v.Index
			src, _ := netip.AddrFromSlice(v.SrcAddr)
			fmt.Fprintf(b, ", vxlan %s id %d from %s port %d%s", name, v.VxlanId, src.Unmap(), v.Port, downText(v))
		}
	}
	b.WriteByte('\n')
	s.dumpLinks(b, links)
	return s.dumpForwards(b)
}

func downText(l rtnl.Link) string {
	if l.Attrs().Flags&net.FlagUp == 0 {
		return " (down)"
	}
	return ""
}

// dumpLinks writes the tasks' cables, and those that are nobody's.
func (s *segment) dumpLinks(b *strings.Builder, links map[string]rtnl.Link) {
	for _, task := range sortedKeys(s.links) {
		l := s.links[task]
		cable := links[linkName(task)]
		if cable == nil {
			continue
		}
		delete(links, linkName(task))
		fmt.Fprintf(b, "#   task %s: %s%s -> %s in %s\n", task, linkName(task), downText(cable), l.found(), l.Netns)
	}
	for _, name := range sortedKeys(links) {
		if isCable(links[name]) {
			fmt.Fprintf(b, "#   nobody's: %s\n", name)
		}
	}
}

// found is what there is in the task: name, hardware address and addresses.
func (l Link) found() string {
	text := l.name()
	err := netns.Do(l.Netns, func() error {
		link, err := rtnl.LinkByName(l.name())
		if err != nil {
			return err
		}
		addrs, err := rtnl.AddrList(link, rtnl.FAMILY_ALL)
		text += " " + link.Attrs().HardwareAddr.String() + downText(link)
		var rest []string
		for _, a := range addrs {
			if !a.IP.IsLinkLocalUnicast() {
				rest = append(rest, a.IPNet.String())
			}
		}
		for _, p := range l.Addresses { // in their order, as far as they are there
			if i := slices.Index(rest, p.String()); i >= 0 {
				text += " " + p.String()
				rest = slices.Delete(rest, i, i+1)
			}
		}
		text += strings.Join(append([]string{""}, rest...), " ")
		return err
	})
	if err != nil {
		text += " (" + err.Error() + ")"
	}
	return text
}

func (s *segment) dumpForwards(b *strings.Builder) error {
	d, err := s.dump()
	if err != nil {
		return err
	}
	have, strange := d.forwards(s.vxlan)
	addrs := make([]netip.Addr, 0, len(have))
	for addr := range have {
		addrs = append(addrs, addr)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	for _, addr := range addrs {
		fmt.Fprintf(b, "#   %s\n", have[addr].text(addr))
	}
	slices.SortFunc(strange, func(a, b mac) int { return slices.Compare(a[:], b[:]) })
	for _, m := range strange {
		fmt.Fprintf(b, "#   nobody is %s, by %v\n", m, d.vteps[m])
	}
	return nil
}

func layout() nft.Layout {
	l := nft.Layout{Table: table(), Title: "inet " + TableName}
	for _, s := range sets() {
		l.Sets = append(l.Sets, nft.SetLayout{Set: s.kernel(), Types: s.kind, Separator: ", ", Lines: s.lines})
	}
	for _, c := range chains() {
		l.Chains = append(l.Chains, c.layout())
	}
	return l
}

func (s set) lines(list []nftables.SetElement) []string {
	slices.SortFunc(list, func(a, b nftables.SetElement) int { return slices.Compare(a.Key, b.Key) })
	out := make([]string, len(list))
	for i, e := range list {
		out[i] = s.text(e.Key)
	}
	return out
}

func (c chain) layout() nft.ChainLayout {
	out := nft.ChainLayout{
		Name: c.name, Head: fmt.Sprintf("type filter hook %s priority %s; policy accept;", c.hook, c.priority),
		Same: func(k *nftables.Chain) bool {
			return k.Hooknum != nil && k.Type == nftables.ChainTypeFilter && *k.Hooknum == *c.hookNum && *k.Priority == *c.prioNum &&
				(k.Policy == nil || *k.Policy == nftables.ChainPolicyAccept)
		},
	}
	for _, r := range c.rules {
		out.Rules = append(out.Rules, nft.RuleLayout{Text: r.text, Same: func(have []expr.Any) bool {
			return nft.Same(unix.NFPROTO_INET, r.exprs, have)
		}})
	}
	return out
}
