package main

import (
	pb "github.com/minid/minid/proto/minid/v1"
)

// ingressNetwork is what the founding makes.
func ingressNetwork() *pb.Network {
	return &pb.Network{Id: "ingress0000000000000000000", Meta: meta(1),
		Spec:       &pb.NetworkSpec{Name: "ingress", Ingress: true, Driver: pb.NetworkSpec_DRIVER_OVERLAY},
		Allocation: &pb.NetworkAllocation{Vni: 4096, Pools: []*pb.AddressPool{{Subnet: "10.0.0.0/12"}}}}
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
