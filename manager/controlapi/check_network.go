package controlapi

import (
	"net/netip"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	maxMTU = 65535
	// What every host must take in one piece, RFC 791 and RFC 8200.
	minMTU4, minMTU6 = 576, 1280
	// VXLAN's numbers have 24 bits, RFC 7348.
	maxVNI = 1<<24 - 1
	// A /30 has one address for the gateway and one for a task.
	maxBits4, maxBits6 = 30, 126
	// The ingress network's bits are halved between two numbers of nodes, and
	// four bits each are the least that a cluster could do with.
	maxIngressBits = 24
)

// unusable are the addresses that no network can have, RFC 6890.
var unusable = [...]struct {
	prefix netip.Prefix
	why    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "stands for a host that has no address yet"},
	{netip.MustParsePrefix("127.0.0.0/8"), "stays within a host"},
	{netip.MustParsePrefix("169.254.0.0/16"), "is for addresses of one link only"},
	{netip.MustParsePrefix("224.0.0.0/4"), "is for multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "is reserved"},
	{netip.MustParsePrefix("::1/128"), "stays within a host"},
	{netip.MustParsePrefix("fe80::/10"), "is for addresses of one link only"},
	{netip.MustParsePrefix("ff00::/8"), "is for multicast"},
}

// normalNetwork copies a spec, makes its driver explicit, and writes addresses
// in their shortest form. What cannot be parsed stays, for checkNetwork.
func normalNetwork(spec *pb.NetworkSpec) *pb.NetworkSpec {
	if spec == nil {
		spec = &pb.NetworkSpec{}
	}
	spec = proto.CloneOf(spec)
	if spec.Driver == pb.NetworkSpec_DRIVER_UNSPECIFIED {
		spec.Driver = pb.NetworkSpec_DRIVER_OVERLAY
	}
	for _, pool := range spec.Pools {
		pool.Subnet, pool.IpRange = normalPrefix(pool.Subnet), normalPrefix(pool.IpRange)
		if addr, err := netip.ParseAddr(pool.Gateway); err == nil {
			pool.Gateway = addr.String()
		}
	}
	return spec
}

func normalPrefix(text string) string {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix.String()
	}
	return text
}

// checkNetwork tells what is wrong with a spec in normal form, whatever else
// the cluster holds.
func checkNetwork(spec *pb.NetworkSpec) error {
	return firstOf(
		checkName(spec.Name),
		checkLabels(spec.Labels),
		checkDriver(spec),
		checkIngress(spec),
		checkMTU(spec),
		checkPools(spec),
	)
}

func checkDriver(spec *pb.NetworkSpec) error {
	switch {
	case spec.Driver == pb.NetworkSpec_DRIVER_OVERLAY && spec.Vni > maxVNI:
		return invalid("vni: %d is not between 1 and %d", spec.Vni, maxVNI).WithTry("--opt vni=5000, or leave it out")
	case spec.Driver == pb.NetworkSpec_DRIVER_OVERLAY:
		return nil
	case spec.Driver != pb.NetworkSpec_DRIVER_BRIDGE:
		return invalid("driver: there is no driver %d", spec.Driver).WithTry("--driver overlay|bridge")
	case spec.Ingress:
		return invalid("ingress: the routing mesh joins the nodes, driver bridge does not leave them").WithTry("--driver overlay --ingress")
	case spec.Encrypted:
		return invalid("encrypted: nothing of a network of driver bridge travels between nodes").
			WithTry("--driver overlay --opt encrypted, or leave encrypted out")
	case spec.Vni != 0:
		return invalid("vni: a network of driver bridge has no VXLAN").WithTry("--driver overlay, or leave the number out")
	}
	return nil
}

// checkIngress refuses what makes no sense for the routing mesh's own network.
func checkIngress(spec *pb.NetworkSpec) error {
	if !spec.Ingress {
		return nil
	}
	for _, option := range []struct {
		name string
		set  bool
	}{{"encrypted", spec.Encrypted}, {"internal", spec.Internal}, {"attachable", spec.Attachable}, {"ipv6", spec.Ipv6}} {
		if option.set {
			return invalid("ingress: this network only numbers the nodes for the routing mesh, so it cannot be %s", option.name).
				WithTry("leave %s out", option.name)
		}
	}
	for _, pool := range spec.Pools {
		prefix, err := netip.ParsePrefix(pool.Subnet)
		switch {
		case err != nil:
			continue // checkPools tells
		case prefix.Bits()%2 != 0 || prefix.Bits() > maxIngressBits:
			return invalid("subnet %s: the ingress network's bits are divided in two halves, so its length must be even and %d at most",
				pool.Subnet, maxIngressBits).WithTry("--subnet %s", netip.PrefixFrom(prefix.Addr(), min(prefix.Bits()&^1, maxIngressBits)).Masked())
		case pool.IpRange != "" || pool.Gateway != "":
			return invalid("subnet %s: the ingress network has neither a gateway nor a range for tasks", pool.Subnet).
				WithTry("leave --gateway and --ip-range out")
		}
	}
	return nil
}

func checkMTU(spec *pb.NetworkSpec) error {
	least := uint32(minMTU4)
	if spec.Ipv6 {
		least = minMTU6
	}
	if spec.Mtu != 0 && (spec.Mtu < least || spec.Mtu > maxMTU) {
		return invalid("mtu: %d bytes are not between %d and %d", spec.Mtu, least, maxMTU).
			WithTry("--opt mtu=1450, or leave it out for what the nodes' path allows")
	}
	return nil
}

func checkPools(spec *pb.NetworkSpec) error {
	families := map[bool]string{}
	for _, pool := range spec.Pools {
		subnet, err := checkSubnet(pool.Subnet)
		if err != nil {
			return err
		}
		is4 := subnet.Addr().Is4()
		switch other, twice := families[is4]; {
		case twice:
			return invalid("subnet %s: the network has %s already, and can have one subnet per family", pool.Subnet, other).
				WithTry("another network for the other subnet")
		case !is4 && !spec.Ipv6:
			return invalid("subnet %s: the network has no IPv6", pool.Subnet).WithTry("--ipv6 --subnet %s", pool.Subnet)
		}
		families[is4] = pool.Subnet
		if err := firstOf(checkRange(pool, subnet), checkGateway(pool, subnet)); err != nil {
			return err
		}
	}
	return nil
}

// checkSubnet parses a subnet that tasks could have addresses of.
func checkSubnet(text string) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, invalid("subnet: none is given for the gateway or ip-range").WithTry("--subnet 10.20.0.0/20")
	}
	subnet, err := netip.ParsePrefix(text)
	if err != nil || subnet.Addr().Is4In6() {
		return subnet, invalid("subnet %q: it is none in CIDR form", text).WithTry("--subnet 10.20.0.0/20")
	}
	most := maxBits4
	if subnet.Addr().Is6() {
		most = maxBits6
	}
	switch masked := subnet.Masked(); {
	case masked != subnet:
		return subnet, invalid("subnet %s: its address has bits beyond the /%d", subnet, subnet.Bits()).WithTry("--subnet %s", masked)
	case subnet.Bits() > most:
		return subnet, invalid("subnet %s: it is too small for a gateway and a task, a /%d is the least", subnet, most).
			WithTry("--subnet %s", netip.PrefixFrom(subnet.Addr(), most-4).Masked())
	}
	for _, u := range unusable {
		if u.prefix.Overlaps(subnet) {
			return subnet, invalid("subnet %s: %s %s", subnet, u.prefix, u.why).WithTry("a private one, such as --subnet 10.20.0.0/20")
		}
	}
	return subnet, nil
}

func checkRange(pool *pb.AddressPool, subnet netip.Prefix) error {
	if pool.IpRange == "" {
		return nil
	}
	ips, err := netip.ParsePrefix(pool.IpRange)
	switch {
	case err != nil:
		return invalid("ip-range %q: it is none in CIDR form", pool.IpRange).WithTry("--ip-range %s, a part of the subnet", subnet)
	case ips.Masked() != ips:
		return invalid("ip-range %s: its address has bits beyond the /%d", ips, ips.Bits()).WithTry("--ip-range %s", ips.Masked())
	case ips.Bits() < subnet.Bits() || !subnet.Contains(ips.Addr()):
		return invalid("ip-range %s: it is no part of the subnet %s", ips, subnet).WithTry("--ip-range %s, or a part of it", subnet)
	case usable(pool, subnet, 1) == 0:
		return invalid("ip-range %s: no address is left for a task: the subnet's own, its gateway and its broadcast address are not given out", ips).
			WithTry("a larger --ip-range, or none")
	}
	return nil
}

func checkGateway(pool *pb.AddressPool, subnet netip.Prefix) error {
	if pool.Gateway == "" {
		return nil
	}
	gateway, err := netip.ParseAddr(pool.Gateway)
	switch {
	case err != nil || gateway.Zone() != "":
		return invalid("gateway %q: it is no address", pool.Gateway).WithTry("--gateway %s", subnet.Addr().Next())
	case !subnet.Contains(gateway):
		return invalid("gateway %s: it is outside of the subnet %s", gateway, subnet).WithTry("--gateway %s", subnet.Addr().Next())
	case gateway == subnet.Addr() || isBroadcast(subnet, gateway):
		return invalid("gateway %s: it is the subnet's own or its broadcast address", gateway).WithTry("--gateway %s", subnet.Addr().Next())
	}
	return nil
}

// isBroadcast tells whether an address is the last of an IPv4 subnet.
func isBroadcast(subnet netip.Prefix, addr netip.Addr) bool {
	return subnet.Addr().Is4() && !subnet.Contains(addr.Next())
}

// usable counts the addresses that a pool has for tasks and services, up to a bound.
func usable(pool *pb.AddressPool, subnet netip.Prefix, most int) int {
	part, gateway := subnet, subnet.Addr().Next()
	if ips, err := netip.ParsePrefix(pool.IpRange); err == nil {
		part = ips
	}
	if addr, err := netip.ParseAddr(pool.Gateway); err == nil {
		gateway = addr
	}
	count := 0
	for a := part.Addr(); count < most && part.Contains(a); a = a.Next() {
		if a != subnet.Addr() && a != gateway && !isBroadcast(subnet, a) {
			count++
		}
	}
	return count
}
