package store

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store/internal/btree"
)

// claims are what only one may have at a time, by what it is: an order of the
// objects that is kept with them and can be computed from them.
type claims struct {
	addresses btree.Tree[addressKey, address]
	ports     btree.Tree[portKey, port]
	subnets   btree.Tree[netip.Prefix, subnet]
	vnis      btree.Tree[uint32, vni]
	numbers   btree.Tree[uint32, number]
	// users are the services by the networks of their present spec.
	users btree.Tree[userKey, userKey]
}

// Owner is who holds an address of a network: a task until it has ended, or the
// service that the address stands for. The zero Owner is nobody.
type Owner struct{ Task, Service string }

type addressKey struct {
	network string
	addr    netip.Addr
}

type address struct {
	addressKey
	owner Owner
}

// portKey orders published ports; several services may have one for
// themselves if none of them does so on all nodes.
type portKey struct {
	protocol pb.PortConfig_Protocol
	number   uint32
	service  string
}

type port struct {
	portKey
	ingress bool
}

type subnet struct {
	prefix  netip.Prefix
	network string
}

type vni struct {
	vni     uint32
	network string
}

// number is a node's in the routing mesh.
type number struct {
	number uint32
	node   string
}

type userKey struct{ network, service string }

func newClaims() claims {
	return claims{
		addresses: btree.New(func(a address) addressKey { return a.addressKey }, compareAddresses),
		ports:     btree.New(func(p port) portKey { return p.portKey }, comparePorts),
		subnets:   btree.New(func(s subnet) netip.Prefix { return s.prefix }, comparePrefixes),
		vnis:      btree.New(func(v vni) uint32 { return v.vni }, cmp.Compare[uint32]),
		numbers:   btree.New(func(n number) uint32 { return n.number }, cmp.Compare[uint32]),
		users:     btree.New(func(u userKey) userKey { return u }, compareUsers),
	}
}

func compareAddresses(a, b addressKey) int {
	if c := strings.Compare(a.network, b.network); c != 0 {
		return c
	}
	return a.addr.Compare(b.addr)
}

func comparePorts(a, b portKey) int {
	return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.number, b.number), strings.Compare(a.service, b.service))
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func compareUsers(a, b userKey) int {
	return cmp.Or(strings.Compare(a.network, b.network), strings.Compare(a.service, b.service))
}

// TaskAddresses are the addresses that a task holds: until it has ended. The
// task may be nil.
func TaskAddresses(t *pb.Task) []*pb.TaskAddress {
	if t == nil || t.GetStatus().GetState() > pb.TaskState_TASK_STATE_RUNNING {
		return nil
	}
	return t.Addresses
}

// claimTask moves what a task holds from its old form to its new one. Most
// changes of a task leave its addresses alone.
func (tx *txn) claimTask(old, t *pb.Task) {
	had, has := TaskAddresses(old), TaskAddresses(t)
	if len(had) == 0 && len(has) == 0 || len(had) == len(has) && &had[0] == &has[0] {
		return
	}
	for _, a := range had {
		for key := range addressesOf(a.NetworkId, a.Addresses) {
			tx.addresses.Delete(tx.edit, key)
		}
	}
	for _, a := range has {
		for key := range addressesOf(a.NetworkId, a.Addresses) {
			tx.addresses.Set(tx.edit, address{key, Owner{Task: t.Id}})
		}
	}
}

// addressesOf reads addresses of a network, with or without a length; what is
// none is left out.
func addressesOf(network string, texts []string) func(func(addressKey) bool) {
	return func(yield func(addressKey) bool) {
		for _, text := range texts {
			if addr, ok := parseAddr(text); ok && !yield(addressKey{network, addr}) {
				return
			}
		}
	}
}

func parseAddr(text string) (netip.Addr, bool) {
	if i := strings.IndexByte(text, '/'); i >= 0 {
		p, err := netip.ParsePrefix(text)
		return p.Addr().Unmap(), err == nil
	}
	addr, err := netip.ParseAddr(text)
	return addr.Unmap(), err == nil && addr.Zone() == ""
}

// claimService moves what a service holds from its old form to its new one;
// either may be nil.
func (tx *txn) claimService(old, s *pb.Service) {
	if old.GetEndpoint() != s.GetEndpoint() {
		for _, v := range old.GetEndpoint().GetVips() {
			for key := range addressesOf(v.NetworkId, v.Addresses) {
				tx.addresses.Delete(tx.edit, key)
			}
		}
		for _, v := range s.GetEndpoint().GetVips() {
			for key := range addressesOf(v.NetworkId, v.Addresses) {
				tx.addresses.Set(tx.edit, address{key, Owner{Service: s.Id}})
			}
		}
	}
	had, has := old.GetSpec().GetTask(), s.GetSpec().GetTask()
	if had != has || old.GetEndpoint() != s.GetEndpoint() {
		for p := range publishedBy(old) {
			tx.ports.Delete(tx.edit, p.portKey)
		}
		for p := range publishedBy(s) {
			tx.ports.Set(tx.edit, p)
		}
	}
	if had == has {
		return
	}
	for _, n := range had.GetNetworks() {
		tx.users.Delete(tx.edit, userKey{n.NetworkId, old.Id})
	}
	for _, n := range has.GetNetworks() {
		tx.users.Set(tx.edit, userKey{n.NetworkId, s.Id})
	}
}

// publishedBy are the ports that are a service's: the fixed ones of its spec,
// and those chosen by the allocator for the rest. Of a port published in both
// modes, ingress counts.
func publishedBy(s *pb.Service) func(func(port) bool) {
	return func(yield func(port) bool) {
		specs := s.GetSpec().GetTask().GetPorts()
		for _, p := range slices.Concat(hostPorts(specs), ingressPorts(specs), chosenPorts(s)) {
			if !yield(port{portKey{Protocol(p), p.Published, s.Id}, Ingress(p)}) {
				return
			}
		}
	}
}

func hostPorts(specs []*pb.PortConfig) (fixed []*pb.PortConfig) {
	for _, p := range specs {
		if p.GetPublished() != 0 && !Ingress(p) {
			fixed = append(fixed, p)
		}
	}
	return fixed
}

func ingressPorts(specs []*pb.PortConfig) (fixed []*pb.PortConfig) {
	for _, p := range specs {
		if p.GetPublished() != 0 && Ingress(p) {
			fixed = append(fixed, p)
		}
	}
	return fixed
}

// chosenPorts are those of the endpoint that the present spec leaves open.
func chosenPorts(s *pb.Service) (chosen []*pb.PortConfig) {
	for _, e := range s.GetEndpoint().GetPorts() {
		open := slices.ContainsFunc(s.GetSpec().GetTask().GetPorts(), func(p *pb.PortConfig) bool {
			return p.Published == 0 && publishes(p, e)
		})
		if open {
			chosen = append(chosen, e)
		}
	}
	return chosen
}

// publishes tells whether a port of an endpoint comes of one of a spec.
func publishes(spec, e *pb.PortConfig) bool {
	return Ingress(spec) && Protocol(spec) == Protocol(e) && spec.Target == e.Target && (spec.Published == 0 || spec.Published == e.Published)
}

// Ingress tells whether a port is published on every node. It is unless it is
// of mode host.
func Ingress(p *pb.PortConfig) bool { return p.GetMode() != pb.PortConfig_MODE_HOST }

// Protocol is a port's protocol: TCP unless it says otherwise.
func Protocol(p *pb.PortConfig) pb.PortConfig_Protocol {
	if p.GetProtocol() == pb.PortConfig_PROTOCOL_UNSPECIFIED {
		return pb.PortConfig_PROTOCOL_TCP
	}
	return p.GetProtocol()
}

// claimNumber moves a node from one number to another; 0 is none.
func (tx *txn) claimNumber(node string, old, next uint32) {
	if old == next {
		return
	}
	if old != 0 {
		tx.numbers.Delete(tx.edit, old)
	}
	if next != 0 {
		tx.numbers.Set(tx.edit, number{next, node})
	}
}

// claimNetwork moves what a network holds from its old form to its new one.
func (tx *txn) claimNetwork(old, n *pb.Network) {
	for _, p := range subnetsOf(old) {
		tx.subnets.Delete(tx.edit, p)
	}
	for _, p := range subnetsOf(n) {
		tx.subnets.Set(tx.edit, subnet{p, n.Id})
	}
	if v := vniOf(old); v != 0 {
		tx.vnis.Delete(tx.edit, v)
	}
	if v := vniOf(n); v != 0 {
		tx.vnis.Set(tx.edit, vni{v, n.Id})
	}
}

// vniOf is what the network was given, or wants.
func vniOf(n *pb.Network) uint32 {
	return cmp.Or(n.GetAllocation().GetVni(), n.GetSpec().GetVni())
}

// subnetsOf is what the network was given, and what it wants.
func subnetsOf(n *pb.Network) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range slices.Concat(n.GetSpec().GetPools(), n.GetAllocation().GetPools()) {
		prefix, err := netip.ParsePrefix(p.GetSubnet())
		if prefix = prefix.Masked(); err == nil && !slices.Contains(all, prefix) {
			all = append(all, prefix)
		}
	}
	return all
}

// overlapping is the network that has a part of a prefix, empty if none has.
// Those that there are do not overlap each other: so one that contains the
// prefix is found by its length, and one within it comes next in the order.
func (c *claims) overlapping(p netip.Prefix) string {
	p = p.Masked()
	for bits := range p.Bits() + 1 {
		if s := c.subnets.Get(netip.PrefixFrom(p.Addr(), bits).Masked()); s.network != "" {
			return s.network
		}
	}
	for s := range c.subnets.From(p) {
		if p.Contains(s.prefix.Addr()) {
			return s.network
		}
		break
	}
	return ""
}
