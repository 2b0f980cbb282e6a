package store

import (
	"iter"
	"net/netip"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Network returns the network with an id.
func (v View) Network(id string) *pb.Network { return v.t.networks.Get(id) }

// NetworkByName returns the network with a name.
func (v View) NetworkByName(name string) *pb.Network { return v.t.networksByName.Get(name) }

// Networks iterates over all networks, by id.
func (v View) Networks() iter.Seq[*pb.Network] { return v.t.networks.All() }

// Ingress returns the routing mesh's network, nil if there is none.
func (v View) Ingress() *pb.Network { return v.t.networks.Get(v.t.ingress) }

// Overlapping returns the network that was given, or wants, a part of a subnet.
func (v View) Overlapping(subnet netip.Prefix) *pb.Network {
	return v.t.networks.Get(v.t.overlapping(subnet))
}

// VNIOwner returns the network that was given, or wants, a VNI.
func (v View) VNIOwner(vni uint32) *pb.Network { return v.t.networks.Get(v.t.vnis.Get(vni).network) }

// AddressOwner tells who holds an address of a network, the zero Owner if it
// is free.
func (v View) AddressOwner(network string, addr netip.Addr) Owner {
	return v.t.addresses.Get(addressKey{network, addr}).owner
}

// Addresses iterates over the addresses of a network that are held, in order.
func (v View) Addresses(network string) iter.Seq2[netip.Addr, Owner] {
	return func(yield func(netip.Addr, Owner) bool) {
		for a := range v.t.addresses.From(addressKey{network: network}) {
			if a.network != network || !yield(a.addr, a.owner) {
				return
			}
		}
	}
}

// ServicesByNetwork iterates over the services whose present spec is on a
// network, by id. Tasks of older specs may be on others.
func (v View) ServicesByNetwork(id string) iter.Seq[*pb.Service] {
	return func(yield func(*pb.Service) bool) {
		for u := range v.t.users.From(userKey{network: id}) {
			if u.network != id || !yield(v.t.services.Get(u.service)) {
				return
			}
		}
	}
}

// PortOwner returns the service that publishes a port: the one that does so on
// every node, or the first of those that do so on their tasks' nodes; nil if
// none does. Ports of mode host that a node chose are not the cluster's.
func (v View) PortOwner(protocol pb.PortConfig_Protocol, published uint32) *pb.Service {
	var first *pb.Service
	for p := range v.t.portsAt(protocol, published) {
		if p.ingress {
			return v.t.services.Get(p.service)
		}
		if first == nil {
			first = v.t.services.Get(p.service)
		}
	}
	return first
}

func (c *claims) portsAt(protocol pb.PortConfig_Protocol, published uint32) iter.Seq[port] {
	return while(c.ports.From(portKey{protocol: protocol, number: published}), func(p port) bool {
		return p.protocol == protocol && p.number == published
	})
}

// NodeByNumber returns the node with a number in the routing mesh.
func (v View) NodeByNumber(number uint32) *pb.Node {
	if number == 0 {
		return nil
	}
	return v.t.nodes.Get(v.t.numbers.Get(number).node)
}
