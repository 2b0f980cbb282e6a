package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/minid/minid/network/netns"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Describe adds to a node's description what the managers have to know of its
// network: where other nodes reach it, what passes there, and which subnets
// are taken. What cannot be found out is left empty.
func (e *Engine) Describe(d *pb.NodeDescription, dataPath string) error {
	d.WireguardKey = e.WireGuardKey()
	routes, err := hostRoutes()
	if err != nil {
		return err
	}
	d.Routes = routes
	addr, err := netip.ParseAddr(dataPath)
	if err != nil {
		return fmt.Errorf("describe data path: %w", err)
	}
	d.DataPathAddr = addr.String()
	d.DataPathMtu, err = mtuOf(addr)
	return err
}

// hostRoutes are the subnets that the host has routes to, without default
// routes and those that minid made.
func hostRoutes() ([]string, error) {
	ours, err := ownLinks()
	if err != nil {
		return nil, err
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	seen := map[string]bool{}
	for _, r := range routes {
		if r.Dst == nil || ours[r.LinkIndex] {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if !ok || bits == 0 {
			continue
		}
		p := netip.PrefixFrom(addr.Unmap(), bits)
		if addr.IsLinkLocalUnicast() || addr.IsLoopback() || addr.IsMulticast() || p.IsSingleIP() {
			continue
		}
		seen[p.String()] = true
	}
	out := make([]string, 0, len(seen))
	for p := range seen {
		out = append(out, p)
	}
	slices.Sort(out)
	return out, nil
}

func ownLinks() (map[int]bool, error) {
	links, err := netns.Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	ours := map[int]bool{}
	for _, l := range links {
		ours[l.Attrs().Index] = strings.HasPrefix(l.Attrs().Name, "mn")
	}
	return ours, nil
}

// mtuOf is the MTU of the link that has an address, 0 when none has it.
func mtuOf(addr netip.Addr) (uint32, error) {
	addrs, err := netns.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return 0, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == addr {
			link, err := netlink.LinkByIndex(a.LinkIndex)
			if err != nil {
				return 0, fmt.Errorf("find the link of %s: %w", addr, err)
			}
			return uint32(link.Attrs().MTU), nil
		}
	}
	return 0, nil
}
