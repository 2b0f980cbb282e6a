package vip

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/netns"
)

// leadAnew deletes the flows that changes would not reach: those without
// connections, which go on to a backend that is gone for as long as packets
// come, and those that began when the VIP was not known and bypass it.
// Connections end with their backend.
func (b *Balancer) leadAnew(gone map[netip.Addr]map[netip.Addr]bool) error {
	fresh := b.fresh
	b.fresh = make(map[netip.Addr]bool)
	families := make(map[family]bool)
	for vip := range gone {
		families[familyOf(vip)] = true
	}
	for vip := range fresh {
		families[familyOf(vip)] = true
	}
	return b.deleteFlows(families, func(proto uint8, to, from netip.Addr) bool {
		if to == from {
			return fresh[to]
		}
		return proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_SCTP && gone[to][from]
	})
}

// Forget ends the connections with backends whose task has exited: the caller's
// next packet is led to another one, which resets the connection at once.
func (b *Balancer) Forget(backends []netip.Addr) error {
	gone := make(map[netip.Addr]bool, len(backends))
	families := make(map[family]bool)
	for _, a := range backends {
		gone[a] = true
		families[familyOf(a)] = true
	}
	return b.deleteFlows(families, func(_ uint8, to, from netip.Addr) bool {
		return to != from && gone[from]
	})
}

// flowFilter decides by protocol, the address that the caller sent to and the
// one that answers.
type flowFilter func(proto uint8, to, from netip.Addr) bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	to, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	from, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return ok && ok2 && f(flow.Forward.Protocol, to.Unmap(), from.Unmap())
}

func (b *Balancer) deleteFlows(families map[family]bool, filter flowFilter) error {
	if len(families) == 0 {
		return nil
	}
	if n, err := b.session.Flows(); err == nil && n == 0 {
		return nil
	}
	h, err := netns.Handle(b.netns, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("delete flows: %w", err)
	}
	defer h.Close()
	for f := range families {
		af := netlink.InetFamily(unix.AF_INET)
		if f == ipv6 {
			af = unix.AF_INET6
		}
		_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, af, filter)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete flows: %w", err)
		}
	}
	return nil
}
