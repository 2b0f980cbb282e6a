package spec

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// maxVNI is the largest number that VXLAN's header has room for.
const maxVNI = 1<<24 - 1

// NetworkFlags is the flags of `network create`.
type NetworkFlags struct {
	driver, scope                       string
	subnets, gateways, ranges           []string
	labels, options                     []string
	attachable, internal, ingress, ipv6 bool
}

// CreateNetworkFlags adds the flags of `network create` to a flag set.
func CreateNetworkFlags(set *pflag.FlagSet) *NetworkFlags {
	f := &NetworkFlags{}
	set.StringVarP(&f.driver, "driver", "d", "overlay", "overlay, which reaches over all nodes, or bridge, which joins the tasks of each node")
	set.StringVar(&f.scope, "scope", "swarm", "swarm: every network is the whole cluster's")
	set.StringSliceVar(&f.subnets, "subnet", nil, "subnet in CIDR form, one per address family")
	set.StringSliceVar(&f.gateways, "gateway", nil, "address that tasks do not get (default: the subnet's first)")
	set.StringSliceVar(&f.ranges, "ip-range", nil, "part of the subnet that addresses come from")
	set.StringArrayVar(&f.labels, "label", nil, "label KEY=VALUE")
	set.StringArrayVarP(&f.options, "opt", "o", nil, "encrypted, mtu=BYTES or vni=NUMBER")
	set.BoolVar(&f.attachable, "attachable", false, "containers outside of services may join")
	set.BoolVar(&f.internal, "internal", false, "no way out of the network")
	set.BoolVar(&f.ingress, "ingress", false, "make it the routing mesh's network")
	set.BoolVar(&f.ipv6, "ipv6", false, "add an IPv6 subnet")
	return f
}

// Create makes the spec of a network.
func (f *NetworkFlags) Create(name string) (*pb.NetworkSpec, error) {
	s := &pb.NetworkSpec{Name: name, Attachable: f.attachable, Internal: f.internal, Ingress: f.ingress, Ipv6: f.ipv6}
	var err error
	if s.Driver, err = drivers.pick(f.driver); err != nil {
		return nil, invalidFlag("driver", f.driver, err)
	}
	if f.scope != "swarm" {
		return nil, invalidFlag("scope", f.scope, fmt.Errorf("every network is the whole cluster's: only swarm is supported"))
	}
	for _, pair := range f.labels {
		if err := AddLabel(&s.Labels, pair); err != nil {
			return nil, invalidFlag("label", pair, err)
		}
	}
	for _, option := range f.options {
		if err := setNetworkOption(s, option); err != nil {
			return nil, invalidFlag("opt", option, err)
		}
	}
	s.Pools, err = f.pools()
	return s, err
}

func invalidFlag(name, value string, why error) error {
	return fault.New(fault.Invalid, "invalid --%s %q: %w", name, value, why)
}

var drivers = choices[pb.NetworkSpec_Driver]{{"overlay", pb.NetworkSpec_DRIVER_OVERLAY}, {"bridge", pb.NetworkSpec_DRIVER_BRIDGE}}

func setNetworkOption(s *pb.NetworkSpec, option string) (err error) {
	key, val, hasValue := strings.Cut(option, "=")
	switch key {
	case "encrypted":
		s.Encrypted = true
		if hasValue && val != "" { // docker's own examples have it without
			s.Encrypted, err = parseBool(val)
		}
	case "mtu", "com.docker.network.driver.mtu":
		s.Mtu, err = optionNumber(val, 65535, "a size in bytes")
	case "vni", "com.docker.network.driver.overlay.vxlanid_list":
		s.Vni, err = optionNumber(val, maxVNI, fmt.Sprintf("one number up to %d", maxVNI))
	default:
		err = fmt.Errorf("there are encrypted, mtu and vni")
	}
	return err
}

func optionNumber(s string, most uint64, expected string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("expected %s", expected)
	}
	return uint32(n), nil
}

// pools puts gateways and ranges to the subnets that they are in.
func (f *NetworkFlags) pools() ([]*pb.AddressPool, error) {
	p := subnetPools{ipv6: f.ipv6}
	for _, part := range []struct {
		flag   string
		values []string
		add    func(string) error
	}{{"subnet", f.subnets, p.addSubnet}, {"ip-range", f.ranges, p.addRange}, {"gateway", f.gateways, p.addGateway}} {
		for _, v := range part.values {
			if err := part.add(v); err != nil {
				return nil, invalidFlag(part.flag, v, err)
			}
		}
	}
	return p.pools, nil
}

// subnetPools are the pools of a network in the making.
type subnetPools struct {
	ipv6    bool
	subnets []netip.Prefix
	pools   []*pb.AddressPool
}

func (p *subnetPools) addSubnet(s string) error {
	subnet, err := ParseSubnet(s)
	if err != nil {
		return err
	}
	if subnet.Addr().Is6() && !p.ipv6 {
		return fmt.Errorf("an IPv6 subnet needs --ipv6")
	}
	for _, other := range p.subnets {
		if other.Addr().Is4() == subnet.Addr().Is4() {
			return fmt.Errorf("a network has one subnet per address family, and %s is given already", other)
		}
	}
	p.subnets = append(p.subnets, subnet)
	p.pools = append(p.pools, &pb.AddressPool{Subnet: subnet.String()})
	return nil
}

func (p *subnetPools) addRange(s string) error {
	part, err := ParseSubnet(s)
	if err != nil {
		return err
	}
	pool := p.around(part)
	switch {
	case pool == nil:
		return fmt.Errorf("it is in no --subnet")
	case pool.IpRange != "":
		return fmt.Errorf("%s is the range of subnet %s already", pool.IpRange, pool.Subnet)
	}
	pool.IpRange = part.String()
	return nil
}

func (p *subnetPools) addGateway(s string) error {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return fmt.Errorf("expected an IP address")
	}
	pool := p.around(netip.PrefixFrom(addr, addr.BitLen()))
	switch {
	case pool == nil:
		return fmt.Errorf("it is in no --subnet")
	case pool.Gateway != "":
		return fmt.Errorf("%s is the gateway of subnet %s already", pool.Gateway, pool.Subnet)
	}
	pool.Gateway = addr.String()
	return nil
}

// around finds the pool that all of a prefix is in.
func (p *subnetPools) around(part netip.Prefix) *pb.AddressPool {
	for i, subnet := range p.subnets {
		if subnet.Contains(part.Addr()) && subnet.Bits() <= part.Bits() {
			return p.pools[i]
		}
	}
	return nil
}

// ParseSubnet reads a subnet in CIDR form, with nothing set behind its length.
func ParseSubnet(s string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil || prefix.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("expected a subnet such as 10.1.0.0/16")
	}
	if prefix != prefix.Masked() {
		return netip.Prefix{}, fmt.Errorf("expected a subnet: did you mean %s?", prefix.Masked())
	}
	return prefix, nil
}
