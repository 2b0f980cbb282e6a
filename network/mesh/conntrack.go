package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/bridge"
)

// stale matches what conntrack remembers and should not: it would decide where
// packets go for as long as they come.
type stale struct {
	// fresh ports: what came for them before they led anywhere.
	fresh map[Published]bool
	// left: where a port leads no longer. Only UDP; a TCP connection lives on
	// until its task ends.
	left map[Published]map[target]bool
	// ended: addresses that tasks or nodes had.
	ended map[netip.Addr]bool
	// local are the node's own addresses.
	local map[netip.Addr]bool
}

// forget deletes from conntrack what is stale.
func forget(s stale) (err error) {
	leftUDP := false
	for p := range s.left {
		leftUDP = leftUDP || p.Protocol == bridge.UDP
	}
	if len(s.fresh)+len(s.ended) == 0 && !leftUDP {
		return nil
	}
	if s.local, err = localAddrs(); err != nil {
		return err
	}
	_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, s)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forget stale connections: %w", err)
	}
	return nil
}

// MatchConntrackFlow is netlink.CustomConntrackFilter's.
func (s stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	p := Published{bridge.Protocol(flow.Forward.Protocol), flow.Forward.DstPort}
	to, by := addrOf(flow.Forward.DstIP), addrOf(flow.Reverse.SrcIP)
	switch {
	case to == by: // not led anywhere
		return s.fresh[p] && s.local[to]
	case s.ended[by]:
		return true
	case p.Protocol == bridge.UDP:
		return s.left[p][target{by, flow.Reverse.SrcPort}]
	}
	return false
}

func addrOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
