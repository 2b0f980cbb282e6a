package testcluster

import (
	"context"
	"fmt"
	"slices"

	"github.com/minid/minid/client"
	pb "github.com/minid/minid/proto/minid/v1"
)

// makeNetworks gives a story its networks: one with the addresses that the
// cluster chooses, and one so small that its addresses are soon used again.
func (s *Story) makeNetworks() {
	for _, spec := range []*pb.NetworkSpec{
		{Name: "wide", Ipv6: true},
		{Name: "small", Pools: []*pb.AddressPool{{Subnet: "172.20.0.0/26"}}},
	} {
		if err := s.Control(context.Background(), func(ctx context.Context, api pb.ControlClient) error {
			res, err := api.CreateNetwork(ctx, &pb.CreateNetworkRequest{Spec: spec})
			if err == nil {
				s.networks = append(s.networks, &pb.NetworkAttachment{NetworkId: res.Network.Id, NetworkName: spec.Name})
			}
			return err
		}); err != nil {
			s.t.Fatalf("create network %s: %v", spec.Name, err)
		}
	}
}

// connect puts a task spec on some of the networks, and publishes a port that
// other services may want as well.
func (s *Story) connect(spec *pb.TaskSpec) {
	spec.Networks, spec.Ports = nil, nil
	for _, a := range s.networks {
		if s.rnd.IntN(2) == 0 {
			spec.Networks = append(spec.Networks, a)
		}
	}
	if s.rnd.IntN(2) == 0 {
		spec.Ports = []*pb.PortConfig{{
			Target: 80, Published: []uint32{0, 0, 8001, 8002}[s.rnd.IntN(4)],
			Protocol: pb.PortConfig_PROTOCOL_TCP, Mode: pb.PortConfig_MODE_INGRESS,
		}}
	}
}

// reconnect moves a service to other networks and ports.
func (s *Story) reconnect() {
	s.change("reconnect", func(spec *pb.ServiceSpec) { s.connect(spec.Task) })
}

// GivenTwice watches tasks and services through one manager until ctx ends, and
// reports addresses and published ports that two have at the same time.
func (s *Story) GivenTwice(ctx context.Context, n *Node, report func(string)) {
	n.call(func(api *client.Client) error {
		stream, err := api.Control.Watch(ctx, &pb.WatchRequest{Kinds: []pb.Kind{pb.Kind_KIND_TASK, pb.Kind_KIND_SERVICE}})
		if err != nil {
			return err
		}
		given := given{holders: map[string]string{}, held: map[string][]string{}}
		for {
			event, err := stream.Recv()
			if err != nil {
				return err
			}
			id, holds := holdings(event.GetObject())
			if event.Action == pb.WatchEvent_ACTION_DELETE {
				holds = nil
			}
			if id == "" {
				continue
			}
			if why := given.to(id, holds); why != "" {
				report(why)
			}
		}
	})
}

// given is what only one may have, by what it is and by who has it.
type given struct {
	holders map[string]string
	held    map[string][]string
}

// to notes all that an object holds now, and says what is another's.
func (g given) to(id string, holds []string) string {
	for _, what := range g.held[id] {
		delete(g.holders, what)
	}
	g.held[id] = holds
	for _, what := range holds {
		if other := g.holders[what]; other != "" {
			return fmt.Sprintf("%s was given to %s and %s", what, other, id)
		}
		g.holders[what] = id
	}
	return ""
}

// holdings lists the addresses and ports that an object has.
func holdings(o *pb.Object) (id string, holds []string) {
	if t := o.GetTask(); t != nil {
		if t.GetStatus().GetState() > pb.TaskState_TASK_STATE_RUNNING {
			return t.Id, nil
		}
		for _, a := range t.Addresses {
			for _, addr := range a.Addresses {
				holds = append(holds, a.NetworkId+" "+withoutLength(addr))
			}
		}
		return t.Id, holds
	}
	svc := o.GetService()
	for _, v := range svc.GetEndpoint().GetVips() {
		for _, addr := range v.Addresses {
			holds = append(holds, v.NetworkId+" "+withoutLength(addr))
		}
	}
	for _, p := range slices.Concat(svc.GetSpec().GetTask().GetPorts(), svc.GetEndpoint().GetPorts()) {
		if port := fmt.Sprintf("port %d/%v", p.Published, p.Protocol); p.Published != 0 && !slices.Contains(holds, port) {
			holds = append(holds, port)
		}
	}
	return svc.GetId(), holds
}

func withoutLength(addr string) string {
	for i := range addr {
		if addr[i] == '/' {
			return addr[:i]
		}
	}
	return addr
}

// Unconnected returns what is on fewer networks than it should be, or reached
// on fewer ports, once all has settled; empty when nothing is.
func (s *Story) Unconnected() string {
	for _, svc := range s.allServices() {
		spec := svc.Spec.Task
		if len(svc.Endpoint.GetVips()) != len(spec.Networks) || len(svc.Endpoint.GetPorts()) != len(spec.Ports) || svc.Endpoint.GetProblem() != "" {
			return fmt.Sprintf("%s is on %d networks with %d ports, has %v", svc.Spec.Name, len(spec.Networks), len(spec.Ports), svc.Endpoint)
		}
	}
	return ""
}
