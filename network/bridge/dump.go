package bridge

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	rtnl "github.com/vishvananda/netlink"

	"github.com/minid/minid/network/netns"
	"github.com/minid/minid/network/nft"
)

// Dump writes the node-local network as the kernel has it, in the form of Render.
func (b *Bridge) Dump() (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.want()
	links, err := dumpLinks(w)
	if err != nil {
		return "", err
	}
	tables, err := dumpTables(w)
	return links + tables, err
}

func dumpLinks(w Wanted) (string, error) {
	bridge, err := rtnl.LinkByName(LinkName)
	if errors.As(err, &rtnl.LinkNotFoundError{}) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find %s: %w", LinkName, err)
	}
	addrs, err := netns.Whole(func() ([]rtnl.Addr, error) { return rtnl.AddrList(bridge, rtnl.FAMILY_V4) })
	if err != nil {
		return "", fmt.Errorf("list addresses of %s: %w", LinkName, err)
	}
	all, err := netns.Whole(rtnl.LinkList)
	if err != nil {
		return "", fmt.Errorf("list links: %w", err)
	}
	cables := make(map[string]rtnl.Link)
	for _, l := range all {
		if l.Attrs().MasterIndex == bridge.Attrs().Index {
			cables[l.Attrs().Name] = l
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "# bridge %s", LinkName)
	for _, a := range addrs {
		fmt.Fprintf(&out, " %s", a.IPNet)
	}
	out.WriteString(downText(bridge) + "\n")
	for _, t := range w.sorted() {
		if cable := cables[hostLink(t.ID)]; cable != nil {
			fmt.Fprintf(&out, "# task %s: %s%s -> %s in %s\n", t.ID, hostLink(t.ID), downText(cable), t.found(), t.Netns)
			delete(cables, hostLink(t.ID))
		}
	}
	var rest []string
	for name := range cables {
		rest = append(rest, "# nobody's: "+name+"\n")
	}
	slices.Sort(rest)
	return out.String() + strings.Join(rest, ""), nil
}

func downText(l rtnl.Link) string {
	if l.Attrs().Flags&net.FlagUp == 0 {
		return " (down)"
	}
	return ""
}

// found is what there is in the task's namespace.
func (t Endpoint) found() string {
	text := "eth0"
	h, err := netns.Handle(t.Netns)
	if err != nil {
		return text + " (" + err.Error() + ")"
	}
	defer h.Close()
	link, err := h.LinkByName("eth0")
	if err != nil {
		return text + " (" + err.Error() + ")"
	}
	addrs, err := netns.Whole(func() ([]rtnl.Addr, error) { return h.AddrList(link, rtnl.FAMILY_V4) })
	for _, a := range addrs {
		text += " " + a.IP.String()
	}
	if err != nil {
		text += " (" + err.Error() + ")"
	}
	return text + " " + link.Attrs().HardwareAddr.String() + downText(link)
}

func dumpTables(w Wanted) (string, error) {
	c, err := nft.Connect("")
	if err != nil {
		return "", err
	}
	defer c.CloseLasting()
	packets := nft.Layout{
		Table: table(), Title: "ip " + TableName,
		Sets: []nft.SetLayout{
			{Set: portMap(), Types: "inet_proto . inet_service : ipv4_addr . inet_service", Lines: portLines},
			{Set: internalSet(), Types: "ipv4_addr", Lines: addressLines},
		},
	}
	frames := nft.Layout{Table: frameTable(), Title: "bridge " + TableName}
	for _, ch := range w.chains() {
		if ch.frames {
			frames.Chains = append(frames.Chains, ch.layout())
		} else {
			packets.Chains = append(packets.Chains, ch.layout())
		}
	}
	var out strings.Builder
	for _, l := range []nft.Layout{packets, frames} {
		text, err := nft.Dump(c, l)
		if err != nil {
			return "", err
		}
		out.WriteString(text)
	}
	return out.String(), nil
}

func portLines(list []nftables.SetElement) []string {
	have := make(map[hostPort]backend)
	var strange []string
	for _, e := range list {
		if key, to, ok := parseElement(e); ok {
			have[key] = to
		} else {
			strange = append(strange, fmt.Sprintf("0x%x : 0x%x", e.Key, e.Val))
		}
	}
	slices.Sort(strange)
	return append(elementLines(have), strange...)
}

func addressLines(list []nftables.SetElement) []string {
	slices.SortFunc(list, func(a, b nftables.SetElement) int { return slices.Compare(a.Key, b.Key) })
	out := make([]string, len(list))
	for i, e := range list {
		out[i] = net.IP(e.Key).String()
	}
	return out
}

func (c chain) layout() nft.ChainLayout {
	out := nft.ChainLayout{
		Name: c.name, Head: fmt.Sprintf("type %s hook %s priority %s; policy accept;", c.kind, c.hook, c.priority),
		Same: func(k *nftables.Chain) bool {
			return k.Hooknum != nil && k.Type == c.kind && *k.Hooknum == *c.hookNum && *k.Priority == *c.prioNum &&
				(k.Policy == nil || *k.Policy == nftables.ChainPolicyAccept)
		},
	}
	for _, r := range c.rules {
		out.Rules = append(out.Rules, nft.RuleLayout{Text: r.text, Same: func(have []expr.Any) bool {
			return nft.Same(c.table().Family, r.exprs, have)
		}})
	}
	return out
}
