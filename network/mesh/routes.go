package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/netns"
)

const loopbackIndex = 1 // of lo, in every namespace

// wantedRoutes: to the other nodes, to this one, and back to the entry nodes.
func wantedRoutes(link int, w Wanted) []netlink.Route {
	return []netlink.Route{
		{
			Dst: ipNet(w.Subnet), LinkIndex: link, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST,
			Scope: netlink.SCOPE_LINK, Src: w.own().AsSlice(), Protocol: routeProtocol,
		},
		{
			Dst: ipNet(w.base().arriving()), LinkIndex: loopbackIndex, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL,
			Scope: netlink.SCOPE_HOST, Protocol: routeProtocol,
		},
		{
			Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, LinkIndex: link, Table: routeTable, Type: unix.RTN_UNICAST,
			Gw: w.gateway().AsSlice(), Flags: int(netlink.FLAG_ONLINK), Protocol: routeProtocol,
		},
	}
}

// sameRoute compares what this package gives its routes.
func sameRoute(a, b netlink.Route) bool {
	return a.Dst.String() == b.Dst.String() && a.LinkIndex == b.LinkIndex && a.Table == b.Table && a.Type == b.Type &&
		a.Gw.Equal(b.Gw) && (a.Src.Equal(b.Src) || b.Src == nil)
}

func ownRoutes() ([]netlink.Route, error) {
	filter := &netlink.Route{Protocol: routeProtocol, Table: unix.RT_TABLE_UNSPEC}
	list, err := netlink.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return list, nil
}

func (d *mender) routes(link netlink.Link, w Wanted) error {
	list, err := ownRoutes()
	if err != nil {
		return err
	}
	wanted := wantedRoutes(link.Attrs().Index, w)
	there := make([]bool, len(wanted))
	for _, have := range list {
		found := false
		for i, want := range wanted {
			if sameRoute(have, want) {
				found, there[i] = true, true
			}
		}
		if found {
			continue
		}
		if err := d.wrong("remove route "+have.String(), func() error { return gone(netlink.RouteDel(&have)) }); err != nil {
			return err
		}
	}
	for i, want := range wanted {
		if there[i] {
			continue
		}
		if err := d.wrong("add route "+want.String(), func() error { return netlink.RouteReplace(&want) }); err != nil {
			return err
		}
	}
	return nil
}

// gone forgives that something to be removed is not there.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// wantedRule sends all that bears an entry node's mark to the table of answers.
func wantedRule() *netlink.Rule {
	r := netlink.NewRule()
	mask := markNumber(markMask)
	r.Family, r.Priority, r.Table, r.Protocol = netlink.FAMILY_V4, rulePriority, routeTable, routeProtocol
	r.Mark, r.Mask = markNumber(markOf(0)), &mask
	return r
}

func ownRules() ([]netlink.Rule, error) {
	list, err := netlink.RuleListFiltered(netlink.FAMILY_V4, &netlink.Rule{Priority: rulePriority}, netlink.RT_FILTER_PRIORITY)
	if err != nil {
		return nil, fmt.Errorf("list routing rules: %w", err)
	}
	return list, nil
}

func (d *mender) rule() error {
	list, err := ownRules()
	if err != nil {
		return err
	}
	want, there := wantedRule(), false
	for _, have := range list {
		if have.Mark == want.Mark && have.Mask != nil && *have.Mask == *want.Mask && have.Table == want.Table && !there {
			there = true
			continue
		}
		if have.Protocol != routeProtocol {
			continue // someone else's, at the same priority
		}
		if err := d.wrong("remove routing rule", func() error { return gone(netlink.RuleDel(&have)) }); err != nil {
			return err
		}
	}
	if there {
		return nil
	}
	return d.wrong("add routing rule", func() error { return netlink.RuleAdd(want) })
}

// removeLinks removes link, routes and rule; what belongs to the link goes with it.
func removeLinks() error {
	rules, err := ownRules()
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range rules {
		if r.Protocol == routeProtocol {
			errs = append(errs, gone(netlink.RuleDel(&r)))
		}
	}
	routes, err := ownRoutes()
	errs = append(errs, err)
	for _, r := range routes {
		errs = append(errs, gone(netlink.RouteDel(&r)))
	}
	link, err := netlink.LinkByName(LinkName)
	if err == nil {
		err = gone(netlink.LinkDel(link))
	} else if errors.As(err, &netlink.LinkNotFoundError{}) {
		err = nil
	}
	return errors.Join(append(errs, err)...)
}

// localAddrs are the node's own addresses, but for those that lead to this node
// by the mesh, which are not listed one by one.
func localAddrs() (map[netip.Addr]bool, error) {
	list, err := netns.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			out[addr.Unmap()] = true
		}
	}
	return out, nil
}
