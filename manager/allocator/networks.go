package allocator

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	// firstVNI leaves those below to others, as Swarm does; lastVNI is VXLAN's.
	firstVNI = 4096
	lastVNI  = 1<<24 - 1
	// defaultPool and defaultBits are used in clusters that were founded without.
	defaultPool = "10.0.0.0/8"
	defaultBits = 20
	// The ingress network takes a sixteenth of a default pool, within limits: an
	// even length, because nodes are numbered in both halves of its bits.
	widestIngress, narrowestIngress = 12, 24
)

// networkPass allocates networks within one pass.
type networkPass struct {
	*book
	view  store.View
	pools []netip.Prefix
	bits  int
}

// allocateNetworks gives the dirty networks subnets and VNIs, and says where
// one cannot have them or is in trouble.
func (b *book) allocateNetworks(view store.View, emit func(*pb.Command)) {
	if len(b.dirtyNetworks) == 0 {
		return
	}
	p := &networkPass{book: b, view: view}
	p.pools, p.bits = defaults(view.Cluster().GetSpec())
	for _, id := range slices.Sorted(maps.Keys(b.dirtyNetworks)) {
		o := view.Network(id)
		if n := b.networks[id]; o == nil || n == nil || b.flying[object{pb.Kind_KIND_NETWORK, id}] {
			continue
		}
		want := p.wanted(o)
		if proto.Equal(o.Allocation, want) {
			continue
		}
		b.flying[object{pb.Kind_KIND_NETWORK, id}] = true
		emit(&pb.Command{Kind: &pb.Command_AllocateNetwork{AllocateNetwork: &pb.AllocateNetwork{Id: id, Allocation: want}}})
	}
	clear(b.dirtyNetworks)
}

// defaults are the pools that subnets come from, and their length.
func defaults(spec *pb.ClusterSpec) ([]netip.Prefix, int) {
	var pools []netip.Prefix
	for _, text := range spec.GetDefaultAddressPools() {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() {
			pools = append(pools, p.Masked())
		}
	}
	if len(pools) == 0 {
		pools = append(pools, netip.MustParsePrefix(defaultPool))
	}
	return pools, cmp.Or(int(spec.GetSubnetMaskLength()), defaultBits)
}

// wanted is the allocation that a network should have. What it was given it
// keeps.
func (p *networkPass) wanted(o *pb.Network) *pb.NetworkAllocation {
	want := proto.CloneOf(o.GetAllocation())
	if want == nil {
		want = &pb.NetworkAllocation{}
	}
	want.Problem = ""
	if len(want.Pools) == 0 {
		pools, problem := p.complete(o)
		if problem != "" {
			want.Problem = problem
			return want
		}
		want.Pools = pools
		p.hold(p.networks[o.Id], subnetsOf(&pb.Network{Spec: o.Spec, Allocation: want}))
	}
	if want.Vni == 0 && o.GetSpec().GetDriver() != pb.NetworkSpec_DRIVER_BRIDGE {
		want.Vni = cmp.Or(o.GetSpec().GetVni(), p.freeVNI())
	}
	want.Problem = cmp.Or(p.clash(want), p.crowded(o, want))
	return want
}

// complete turns the pools that a network wants into those that it gets.
func (p *networkPass) complete(o *pb.Network) (pools []*pb.AddressPool, problem string) {
	var v4, v6 *pb.AddressPool
	for _, pool := range o.GetSpec().GetPools() {
		subnet, err := netip.ParsePrefix(pool.GetSubnet())
		switch {
		case err != nil:
			return nil, fmt.Sprintf("there is no subnet %q", pool.GetSubnet())
		case subnet.Addr().Is4():
			v4 = pool
		default:
			v6 = pool
		}
	}
	if v4 == nil {
		subnet, problem := p.freeSubnet(o)
		if problem != "" {
			return nil, problem
		}
		v4 = &pb.AddressPool{Subnet: subnet.String()}
	}
	if v6 == nil && o.GetSpec().GetIpv6() {
		v6 = &pb.AddressPool{Subnet: p.subnet6(o.Id).String()}
	}
	if o.GetSpec().GetIngress() {
		return ingressPool(v4)
	}
	pools = append(pools, withGateway(v4))
	if v6 != nil {
		pools = append(pools, withGateway(v6))
	}
	return pools, ""
}

// ingressPool has no gateway: its addresses stand for nodes.
func ingressPool(pool *pb.AddressPool) ([]*pb.AddressPool, string) {
	subnet := netip.MustParsePrefix(pool.Subnet)
	if subnet.Bits()%2 != 0 || subnet.Bits() > narrowestIngress {
		return nil, fmt.Sprintf("the subnet %v does not suit the routing mesh: its length must be even, and %d at most", subnet, narrowestIngress)
	}
	return []*pb.AddressPool{{Subnet: subnet.Masked().String()}}, ""
}

func withGateway(pool *pb.AddressPool) *pb.AddressPool {
	subnet := netip.MustParsePrefix(pool.Subnet).Masked()
	gateway := cmp.Or(pool.Gateway, subnet.Addr().Next().String())
	return &pb.AddressPool{Subnet: subnet.String(), Gateway: gateway, IpRange: pool.IpRange}
}

// freeSubnet is the lowest subnet of the default pools that no other network
// and no route of a node overlaps.
func (p *networkPass) freeSubnet(o *pb.Network) (netip.Prefix, string) {
	bits := p.bits
	for _, pool := range p.pools {
		if o.GetSpec().GetIngress() {
			bits = min(max((pool.Bits()+5)&^1, widestIngress), narrowestIngress)
		}
		if subnet, ok := p.freeIn(pool, bits); ok {
			return subnet, ""
		}
	}
	names := make([]string, len(p.pools))
	for i, pool := range p.pools {
		names[i] = pool.String()
	}
	return netip.Prefix{}, fmt.Sprintf("no subnet of length %d is left in the default address pools %s: networks and the nodes' own routes take all",
		bits, strings.Join(names, ", "))
}

func (b *book) freeIn(pool netip.Prefix, bits int) (netip.Prefix, bool) {
	if bits < pool.Bits() {
		return netip.Prefix{}, false
	}
	key := netip.PrefixFrom(pool.Addr(), bits) // as far as it was searched for this length
	at, size := b.from[key], uint64(1)<<(32-bits)
	for at < spread(pool) {
		candidate := netip.PrefixFrom(addrAt(pool, at), bits)
		taken, overlaps := b.subnets.overlapping(candidate)
		if !overlaps {
			taken, overlaps = b.routes.overlapping(candidate)
		}
		if !overlaps {
			b.from[key] = at
			return candidate, true
		}
		at += size
		if taken.Bits() < bits {
			at = low(taken.Addr()) + spread(taken) - low(pool.Addr())
		}
	}
	b.from[key] = at
	return netip.Prefix{}, false
}

// subnet6 is a /64 of fd00::/8 derived from the network's id, so that clusters
// hardly ever have the same; RFC 4193 wants the same of randomness.
func (b *book) subnet6(id string) netip.Prefix {
	for seed := id; ; seed += "'" {
		sum := sha256.Sum256([]byte(seed))
		addr := [16]byte{0xfd}
		copy(addr[1:8], sum[:])
		p := netip.PrefixFrom(netip.AddrFrom16(addr), 64)
		_, taken := b.subnets.overlapping(p)
		_, routed := b.routes.overlapping(p)
		if !taken && !routed {
			return p
		}
	}
}

// freeVNI goes round: nodes may still have a removed network's.
func (p *networkPass) freeVNI() uint32 {
	for range lastVNI - firstVNI + 1 {
		if p.vni > lastVNI {
			p.vni = firstVNI
		}
		p.vni++
		if p.view.VNIOwner(p.vni-1) == nil {
			return p.vni - 1
		}
	}
	return 0 // all 16.7 million: the store would be full before
}

// clash is whether nodes have routes of their own to a network's addresses.
func (b *book) clash(a *pb.NetworkAllocation) string {
	for _, pool := range a.GetPools() {
		subnet, err := netip.ParsePrefix(pool.GetSubnet())
		if err != nil {
			continue
		}
		if route, ok := b.routes.overlapping(subnet); ok {
			return fmt.Sprintf("the subnet %v overlaps the route to %v of node %s", subnet, route, b.nodes[b.routes.holder(route)].name)
		}
	}
	return ""
}

// subnetsOf is what a network was given, and what it wants.
func subnetsOf(n *pb.Network) []netip.Prefix {
	var all []netip.Prefix
	for _, pool := range slices.Concat(n.GetSpec().GetPools(), n.GetAllocation().GetPools()) {
		if p, err := netip.ParsePrefix(pool.GetSubnet()); err == nil && !slices.Contains(all, p.Masked()) {
			all = append(all, p.Masked())
		}
	}
	return all
}
