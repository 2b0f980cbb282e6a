package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// ingressNetwork is what the founding makes.
func ingressNetwork() *pb.Network {
	return &pb.Network{Id: "ingress0000000000000000000", Meta: meta(1),
		Spec:       &pb.NetworkSpec{Name: "ingress", Ingress: true, Driver: pb.NetworkSpec_DRIVER_OVERLAY},
		Allocation: &pb.NetworkAllocation{Vni: 4096, Pools: []*pb.AddressPool{{Subnet: "10.0.0.0/12"}}}}
}

// allocate gives what is missing, one thing at a time: in place of the allocator.
func (c *cluster) allocate(ctx context.Context) {
	for {
		next := allocation(c.state.View())
		if next == nil {
			return
		}
		c.propose(ctx, next)
	}
}

// allocation is the next command of an allocator, nil when nothing is missing.
func allocation(view store.View) *pb.Command {
	for n := range view.Networks() {
		if n.Allocation == nil {
			return &pb.Command{Kind: &pb.Command_AllocateNetwork{AllocateNetwork: &pb.AllocateNetwork{Id: n.Id, Allocation: networkAllocation(view, n)}}}
		}
	}
	for s := range view.Services() {
		if e := endpoint(view, s); !s.Removing && e != nil {
			return &pb.Command{Kind: &pb.Command_AllocateService{AllocateService: &pb.AllocateService{Id: s.Id, IfVersion: s.Meta.Version, Endpoint: e}}}
		}
	}
	for t := range view.Tasks() {
		if a := taskAllocation(view, t); a != nil {
			return &pb.Command{Kind: &pb.Command_AllocateTasks{AllocateTasks: &pb.AllocateTasks{Tasks: []*pb.TaskAllocation{a}}}}
		}
	}
	return nil
}

func networkAllocation(view store.View, n *pb.Network) *pb.NetworkAllocation {
	a := &pb.NetworkAllocation{Vni: n.Spec.Vni}
	for vni := uint32(4097); a.Vni == 0; vni++ {
		if view.VNIOwner(vni) == nil {
			a.Vni = vni
		}
	}
	for _, p := range n.Spec.Pools {
		a.Pools = append(a.Pools, withGateway(netip.MustParsePrefix(p.Subnet), p.Gateway, p.IpRange))
	}
	for i := 1; len(a.Pools) == 0; i++ {
		if subnet := netip.MustParsePrefix(fmt.Sprintf("10.16.%d.0/20", 16*i)); view.Overlapping(subnet) == nil {
			a.Pools = append(a.Pools, withGateway(subnet, "", ""))
		}
	}
	return a
}

func withGateway(subnet netip.Prefix, gateway, ipRange string) *pb.AddressPool {
	if gateway == "" {
		gateway = subnet.Addr().Next().String()
	}
	return &pb.AddressPool{Subnet: subnet.String(), Gateway: gateway, IpRange: ipRange}
}

// endpoint is what a service should have, nil when it has it.
func endpoint(view store.View, s *pb.Service) *pb.Endpoint {
	e, missing := &pb.Endpoint{}, false
	for _, on := range s.Spec.Task.Networks {
		if s.Spec.EndpointMode == pb.EndpointMode_ENDPOINT_MODE_DNSRR {
			break
		}
		i := slices.IndexFunc(s.Endpoint.GetVips(), func(v *pb.VirtualIP) bool { return v.NetworkId == on.NetworkId })
		if i >= 0 {
			e.Vips = append(e.Vips, s.Endpoint.Vips[i])
			continue
		}
		missing = true
		if addrs := freeAddresses(view, on.NetworkId); addrs != nil {
			e.Vips = append(e.Vips, &pb.VirtualIP{NetworkId: on.NetworkId, Addresses: bare(addrs)})
		} else {
			e.Problem = "no free address in network " + on.NetworkName
		}
	}
	chosen := servicePorts(s)
	for i, p := range modePorts(chosen, pb.PortConfig_MODE_INGRESS) {
		if p.Published == 0 {
			p = proto.CloneOf(p)
			p.Published, missing = uint32(30000+i), true
		}
		e.Ports = append(e.Ports, p)
	}
	if !missing && len(e.Ports) == len(s.Endpoint.GetPorts()) && len(e.Vips) == len(s.Endpoint.GetVips()) || e.Problem != "" && e.Problem == s.Endpoint.GetProblem() {
		return nil
	}
	return e
}

func bare(prefixes []string) []string {
	var addrs []string
	for _, p := range prefixes {
		addrs = append(addrs, netip.MustParsePrefix(p).Addr().String())
	}
	return addrs
}

// taskAllocation is what a new task should get, nil if it has been told that
// there is nothing.
func taskAllocation(view store.View, t *pb.Task) *pb.TaskAllocation {
	if t.Status.State != pb.TaskState_TASK_STATE_NEW || t.DesiredState > pb.TaskState_TASK_STATE_RUNNING {
		return nil
	}
	a := &pb.TaskAllocation{Id: t.Id}
	for _, on := range view.Service(t.ServiceId).Spec.Task.Networks {
		addrs := freeAddresses(view, on.NetworkId)
		if addrs == nil {
			a.Addresses, a.Problem = nil, "no free address in network "+on.NetworkName
			break
		}
		a.Addresses = append(a.Addresses, &pb.TaskAddress{NetworkId: on.NetworkId, Addresses: addrs})
	}
	if a.Problem != "" && t.Status.Message == "waiting: "+a.Problem {
		return nil
	}
	return a
}

// freeAddresses are one per family, nil if there is none of one.
func freeAddresses(view store.View, network string) []string {
	var addrs []string
	for _, p := range view.Network(network).Allocation.Pools {
		subnet := netip.MustParsePrefix(p.Subnet)
		addr := subnet.Addr().Next()
		for addr.String() == p.Gateway || view.AddressOwner(network, addr) != (store.Owner{}) {
			addr = addr.Next()
		}
		if !subnet.Contains(addr.Next()) {
			return nil
		}
		addrs = append(addrs, netip.PrefixFrom(addr, subnet.Bits()).String())
	}
	return addrs
}

// probe pretends to try the ways to other nodes; with a broken network, none
// leads to node3.
func (a *attachment) probe(from string, to []string, broken bool) {
	send := func(probe pb.ProbeResult_Probe, to, what string, ok bool, detail string) {
		a.up <- &pb.AttachUp{Kind: &pb.AttachUp_Probe{Probe: &pb.ProbeResult{Probe: probe, ToId: to, What: what, Ok: ok, Detail: detail}}}
	}
	defer close(a.up)
	send(pb.ProbeResult_PROBE_DNS, from, "", true, "0.1 ms")
	for _, node := range to {
		if node == from {
			continue
		}
		if broken && node == nodeID(3) {
			send(pb.ProbeResult_PROBE_OVERLAY, node, "", false, "no answer within 1s: look at UDP port 4789 in the firewalls between")
			continue
		}
		send(pb.ProbeResult_PROBE_OVERLAY, node, "", true, "0.3 ms")
		send(pb.ProbeResult_PROBE_PORT, node, "8080/tcp of web", true, "0.5 ms")
	}
}
