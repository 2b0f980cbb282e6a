package allocator

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// The ports that are chosen from where a user leaves the choice, as in Swarm.
const firstPort, lastPort = 30000, 32767

// servicePass allocates services within one pass.
type servicePass struct {
	*book
	view store.View
	// next is where the search for a free port goes on, per protocol.
	next map[pb.PortConfig_Protocol]uint32
}

// services gives the dirty services their virtual addresses and ports.
func (b *book) services(view store.View, emit func(*pb.Command)) {
	for _, n := range b.eased {
		maps.Copy(b.dirtyServices, n.services)
		clear(n.services)
	}
	if len(b.dirtyServices) == 0 {
		return
	}
	p := &servicePass{book: b, view: view, next: map[pb.PortConfig_Protocol]uint32{}}
	for _, id := range slices.Sorted(maps.Keys(b.dirtyServices)) {
		s := view.Service(id)
		delete(b.portless, id)
		if s == nil || s.Removing || b.flying[object{pb.Kind_KIND_SERVICE, id}] {
			continue
		}
		want := p.wanted(s)
		if proto.Equal(s.Endpoint, want) {
			continue
		}
		b.flying[object{pb.Kind_KIND_SERVICE, id}] = true
		for _, port := range want.GetPorts() {
			b.chosen[published{store.Protocol(port), port.Published}] = true
		}
		emit(&pb.Command{Kind: &pb.Command_AllocateService{
			AllocateService: &pb.AllocateService{Id: id, IfVersion: s.Meta.GetVersion(), Endpoint: want}}})
	}
	clear(b.dirtyServices)
}

// wanted is the endpoint that a service should have; nil when it needs none.
// What it has already, and still needs, it keeps.
func (p *servicePass) wanted(s *pb.Service) *pb.Endpoint {
	want := &pb.Endpoint{}
	if s.GetSpec().GetEndpointMode() != pb.EndpointMode_ENDPOINT_MODE_DNSRR {
		want.Vips, want.Problem = p.vips(s)
	}
	ports, problem := p.ports(s)
	want.Ports = ports
	if want.Problem == "" {
		want.Problem = problem
	}
	if len(want.Vips) == 0 && len(want.Ports) == 0 && want.Problem == "" {
		return nil
	}
	return want
}

func (p *servicePass) vips(s *pb.Service) (vips []*pb.VirtualIP, problem string) {
	had := map[string]*pb.VirtualIP{}
	for _, v := range s.GetEndpoint().GetVips() {
		had[v.NetworkId] = v
	}
	for _, a := range s.GetSpec().GetTask().GetNetworks() {
		n := p.networks[a.NetworkId]
		switch v := had[a.NetworkId]; {
		case v != nil:
			vips = append(vips, v)
			continue
		case n == nil:
			continue
		}
		taken, ok := n.take()
		if !ok {
			n.services[s.Id] = true
			if problem == "" {
				problem = n.problem()
			}
			continue
		}
		v := &pb.VirtualIP{NetworkId: n.object.Id}
		for _, prefix := range taken {
			v.Addresses = append(v.Addresses, prefix.Addr().String())
		}
		vips = append(vips, v)
	}
	return vips, problem
}

// ports are the service's ports of mode ingress, with one chosen where the
// spec leaves it open: the same as before if there was one.
func (p *servicePass) ports(s *pb.Service) (ports []*pb.PortConfig, problem string) {
	had := slices.Clone(s.GetEndpoint().GetPorts())
	fixed := map[published]bool{}
	for _, spec := range s.GetSpec().GetTask().GetPorts() {
		fixed[published{store.Protocol(spec), spec.GetPublished()}] = true
	}
	for _, spec := range s.GetSpec().GetTask().GetPorts() {
		if !store.Ingress(spec) {
			continue
		}
		port := proto.CloneOf(spec)
		if port.Published == 0 {
			port.Published = p.keep(&had, port, fixed)
		}
		if port.Published == 0 {
			port.Published = p.freePort(store.Protocol(port))
		}
		if port.Published == 0 {
			p.portless[s.Id] = true
			problem = fmt.Sprintf("no published port for port %d of the tasks: all from %d to %d are taken", port.Target, firstPort, lastPort)
			continue
		}
		ports = append(ports, port)
	}
	return ports, problem
}

// keep finds the port that a service had for a port of its tasks, 0 if none, and
// takes it out of what it had.
func (p *servicePass) keep(had *[]*pb.PortConfig, port *pb.PortConfig, fixed map[published]bool) uint32 {
	i := slices.IndexFunc(*had, func(h *pb.PortConfig) bool {
		return h.Target == port.Target && store.Protocol(h) == store.Protocol(port) && !fixed[published{store.Protocol(h), h.Published}]
	})
	if i < 0 {
		return 0
	}
	kept := (*had)[i].Published
	*had = slices.Delete(*had, i, i+1)
	return kept
}

// freePort is the lowest that nobody has, 0 if there is none.
func (p *servicePass) freePort(protocol pb.PortConfig_Protocol) uint32 {
	for port := max(p.next[protocol], firstPort); port <= lastPort; port++ {
		p.next[protocol] = port + 1
		if p.view.PortOwner(protocol, port) == nil && !p.chosen[published{protocol, port}] {
			return port
		}
	}
	return 0
}

// settleService takes back what a finished proposal did not give.
func (b *book) settleService(view store.View, c *pb.AllocateService) {
	for _, port := range c.GetEndpoint().GetPorts() {
		delete(b.chosen, published{store.Protocol(port), port.Published})
	}
	for _, v := range c.GetEndpoint().GetVips() {
		b.disown(view, []*pb.TaskAddress{{NetworkId: v.NetworkId, Addresses: v.Addresses}})
	}
}
