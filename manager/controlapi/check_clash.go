package controlapi

import (
	"fmt"
	"net/netip"
	"slices"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	// Bytes that VXLAN and WireGuard put before a packet.
	vxlanOverhead, wireguardOverhead = 50, 60
	// Subnets with fewer addresses are worth a warning.
	fewAddresses = 16
)

// checkClash refuses a network whose subnets are in the way of a node's own
// routes. The store refuses those that are in another network's.
func checkClash(view store.View, spec *pb.NetworkSpec) error {
	for _, pool := range spec.Pools {
		subnet, err := netip.ParsePrefix(pool.Subnet)
		if err == nil {
			err = checkRoutes(view, subnet)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkRoutes refuses a subnet that a node reaches otherwise: its tasks, or the
// node itself, would lose one of the two.
func checkRoutes(view store.View, subnet netip.Prefix) error {
	for n := range view.Nodes() {
		for _, text := range n.GetDescription().GetRoutes() {
			route, err := netip.ParsePrefix(text)
			if err == nil && route.Bits() > 0 && route.Overlaps(subnet) {
				return invalid("subnet %s: node %s has a route to %s", subnet, n.GetDescription().GetHostname(), route).
					WithTry("another --subnet, or none for one that is free on all nodes")
			}
		}
	}
	return nil
}

// networkWarnings tells what is allowed but may not be meant.
func networkWarnings(view store.View, spec *pb.NetworkSpec) []string {
	var warnings []string
	if spec.Attachable {
		warnings = append(warnings, "attachable changes nothing: only tasks of services join networks")
	}
	for _, pool := range spec.Pools {
		subnet, err := netip.ParsePrefix(pool.Subnet)
		if err != nil || spec.Ingress {
			continue
		}
		if count := usable(pool, subnet, fewAddresses); count < fewAddresses {
			warnings = append(warnings, fmt.Sprintf("subnet %s has room for %d tasks and services together: more have to wait", subnet, count))
		}
	}
	if spec.Driver != pb.NetworkSpec_DRIVER_OVERLAY {
		return warnings
	}
	return slices.Concat(warnings, nodeWarnings(view, spec))
}

// nodeWarnings names the first node that an overlay does not suit, for each reason.
func nodeWarnings(view store.View, spec *pb.NetworkSpec) []string {
	var keyless, narrow string
	size := spec.Mtu + vxlanOverhead
	if spec.Encrypted {
		size += wireguardOverhead
	}
	for n := range view.Nodes() {
		d := n.GetDescription()
		if spec.Encrypted && len(d.GetWireguardKey()) == 0 && keyless == "" {
			keyless = fmt.Sprintf("node %s has no key for WireGuard: its tasks will reach none on other nodes over this network", d.GetHostname())
		}
		if spec.Mtu != 0 && d.GetDataPathMtu() != 0 && d.GetDataPathMtu() < size && narrow == "" {
			narrow = fmt.Sprintf("mtu %d needs packets of %d bytes between the nodes, and node %s sends %d at most: large packets will be lost",
				spec.Mtu, size, d.GetHostname(), d.GetDataPathMtu())
		}
	}
	return slices.DeleteFunc([]string{keyless, narrow}, func(s string) bool { return s == "" })
}
