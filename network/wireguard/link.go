package wireguard

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/netns"
)

// setLink gives the link its MTU and address and sets it up.
func (d *Device) setLink(w Wanted) error {
	link, err := d.host.LinkByName(LinkName)
	if err != nil {
		return fmt.Errorf("find %s: %w", LinkName, err)
	}
	if link.Attrs().MTU != w.MTU {
		if err := d.host.LinkSetMTU(link, w.MTU); err != nil {
			return fmt.Errorf("set MTU of %s to %d: %w", LinkName, w.MTU, err)
		}
	}
	addrs, err := d.addresses(link)
	if err != nil {
		return err
	}
	own := ipNet(single(w.Address))
	if !slices.ContainsFunc(addrs, func(a rtnl.Addr) bool { return a.IPNet.String() == own.String() }) {
		if err := d.host.AddrAdd(link, &rtnl.Addr{IPNet: &own}); err != nil {
			return fmt.Errorf("give %s address %s: %w", LinkName, w.Address, err)
		}
	}
	for _, a := range addrs {
		if a.IPNet.String() == own.String() {
			continue
		}
		if err := d.host.AddrDel(link, &a); err != nil {
			return fmt.Errorf("take address %s from %s: %w", a.IPNet, LinkName, err)
		}
	}
	if err := d.host.LinkSetUp(link); err != nil {
		return failed("set up", w, err)
	}
	return nil
}

// addresses of the link, without the kernel's own link-local ones.
func (d *Device) addresses(link rtnl.Link) ([]rtnl.Addr, error) {
	addrs, err := d.host.AddrList(link, rtnl.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", LinkName, err)
	}
	return slices.DeleteFunc(addrs, func(a rtnl.Addr) bool { return a.IP.IsLinkLocalUnicast() }), nil
}

func (d *Device) linkIntact(link rtnl.Link, w Wanted) (bool, error) {
	if link.Attrs().MTU != w.MTU || link.Attrs().Flags&net.FlagUp == 0 {
		return false, nil
	}
	addrs, err := d.addresses(link)
	if err != nil || len(addrs) != 1 {
		return false, err
	}
	own := ipNet(single(w.Address))
	return addrs[0].IPNet.String() == own.String(), nil
}

// routesOf lists this package's routes.
func (d *Device) routesOf() (map[route]rtnl.Route, error) {
	filter := &rtnl.Route{Protocol: RouteProtocol, Table: unix.RT_TABLE_MAIN}
	list, err := netns.Whole(func() ([]rtnl.Route, error) {
		return d.host.RouteListFiltered(rtnl.FAMILY_ALL, filter, rtnl.RT_FILTER_PROTOCOL|rtnl.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	out := make(map[route]rtnl.Route, len(list))
	for _, r := range list {
		if r.Dst == nil {
			continue
		}
		addr, _ := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		key := route{to: netip.PrefixFrom(addr.Unmap(), bits), unreachable: r.Type == unix.RTN_UNREACHABLE}
		if key.unreachable || r.LinkIndex == d.link {
			out[key] = r
		}
	}
	return out, nil
}

// setRoutes adds the routes that are missing and removes the others.
func (d *Device) setRoutes(w Wanted) error {
	have, err := d.routesOf()
	if err != nil {
		return err
	}
	for _, r := range w.routes() {
		if _, ok := have[r]; ok {
			delete(have, r)
			continue
		}
		if err := d.host.RouteReplace(d.kernelRoute(r, w.Address)); err != nil {
			return fmt.Errorf("add %s: %w", r, err)
		}
	}
	for r, k := range have {
		if err := d.host.RouteDel(&k); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove %s: %w", r, err)
		}
	}
	return nil
}

func (d *Device) kernelRoute(r route, own netip.Addr) *rtnl.Route {
	to := ipNet(r.to)
	out := &rtnl.Route{Dst: &to, Protocol: RouteProtocol, Table: unix.RT_TABLE_MAIN}
	if r.unreachable {
		out.Type, out.Priority = unix.RTN_UNREACHABLE, lastResort
		return out
	}
	out.LinkIndex, out.Scope, out.Src = d.link, rtnl.SCOPE_LINK, own.AsSlice()
	return out
}

func (d *Device) routesIntact(w Wanted) (bool, error) {
	have, err := d.routesOf()
	if err != nil {
		return false, err
	}
	want := w.routes()
	for _, r := range want {
		if _, ok := have[r]; !ok {
			return false, nil
		}
	}
	return len(have) == len(want), nil
}
