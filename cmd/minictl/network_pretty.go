package main

import (
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/progress"
	pb "github.com/minid/minid/proto/minid/v1"
)

// prettyNetwork prints a network for people, with all that is on it if that is known.
func prettyNetwork(w io.Writer, m proto.Message) {
	p := prettyPrinter{w}
	detail, verbose := m.(*pb.NetworkDetail)
	if !verbose {
		prettyNetworkSpec(p, m.(*pb.Network))
		return
	}
	prettyNetworkSpec(p, detail.GetNetwork())
	p.line(0, "Services", "")
	for _, s := range detail.Services {
		prettyMember(p, s)
	}
	p.line(0, "Nodes", "")
	for _, n := range detail.Nodes {
		tasks := "1 task"
		if n.Tasks != 1 {
			tasks = fmt.Sprintf("%d tasks", n.Tasks)
		}
		p.line(1, n.Name, strings.TrimSpace(n.DataPathAddr+" ("+tasks+")"))
	}
}

func prettyNetworkSpec(p prettyPrinter, n *pb.Network) {
	s := n.GetSpec()
	p.line(0, "ID", n.GetId())
	p.line(0, "Name", s.GetName())
	p.labels(0, s.GetLabels())
	p.field(0, "Created at", timeText(n.GetMeta().GetCreatedAt()))
	p.line(0, "Driver", driverName(n))
	p.line(0, "Scope", networkScope)
	p.field(0, "Options", joinComma(networkOptions(s)))
	p.field(0, "VNI", vniText(n))
	if s.GetMtu() > 0 {
		p.line(0, "MTU", fmt.Sprint(s.Mtu))
	}
	for _, pool := range networkPools(n) {
		p.line(0, "Subnet", pool.Subnet)
		p.field(1, "Gateway", pool.Gateway)
		p.field(1, "IP Range", pool.IpRange)
	}
	p.field(0, "Problem", n.GetAllocation().GetProblem())
}

func networkOptions(s *pb.NetworkSpec) []string {
	var set []string
	for _, o := range []struct {
		name string
		on   bool
	}{{"attachable", s.GetAttachable()}, {"encrypted", s.GetEncrypted()}, {"ingress", s.GetIngress()}, {"internal", s.GetInternal()}, {"ipv6", s.GetIpv6()}} {
		if o.on {
			set = append(set, o.name)
		}
	}
	return set
}

// prettyMember prints a service and its tasks on a network.
func prettyMember(p prettyPrinter, s *pb.NetworkMember) {
	p.line(1, s.Name, "")
	p.field(2, "VIP", joinComma(s.Vips))
	p.field(2, "Aliases", joinComma(s.Aliases))
	p.field(2, "Ports", portsText(s.Ports))
	for _, t := range s.Tasks {
		text := fmt.Sprintf("%s on %s, %s", joinComma(t.Addresses), t.NodeName, progress.StateName(t.State))
		if t.NodeName == "" {
			text = fmt.Sprintf("%s, %s", joinComma(t.Addresses), progress.StateName(t.State))
		}
		p.line(2, t.Name, text)
	}
}
