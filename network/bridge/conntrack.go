package bridge

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forgetFlows deletes the conntrack entries of UDP ports whose mapping changed:
// they would lead to the old task for as long as packets come, and one made
// before the mapping would bypass it. TCP connections end with their task.
func forgetFlows(ports map[hostPort]backend) error {
	var filters []netlink.CustomConntrackFilter
	for k := range ports {
		if k.Protocol == UDP {
			filters = append(filters, flowFilter{k})
		}
	}
	if len(filters) == 0 {
		return nil
	}
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filters...)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forget flows of changed ports: %w", err)
	}
	return nil
}

// flowFilter matches what came for a host port.
type flowFilter struct{ port hostPort }

func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.Protocol == uint8(f.port.Protocol) && flow.Forward.DstPort == f.port.Port
}
