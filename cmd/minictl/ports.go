package main

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
)

// servicePorts are a service's ports in the order of its spec; where the
// managers chose the published one, it is theirs.
func servicePorts(s *pb.Service) []*pb.PortConfig {
	ports := slices.Clone(s.GetSpec().GetTask().GetPorts())
	chosen := slices.DeleteFunc(slices.Clone(s.GetEndpoint().GetPorts()), func(c *pb.PortConfig) bool {
		return slices.ContainsFunc(ports, func(p *pb.PortConfig) bool { return sameTarget(p, c) && p.Published == c.Published })
	})
	for i, p := range ports {
		if p.Published != 0 || p.Mode != pb.PortConfig_MODE_INGRESS {
			continue
		}
		if n := slices.IndexFunc(chosen, func(c *pb.PortConfig) bool { return sameTarget(p, c) }); n >= 0 {
			ports[i] = proto.CloneOf(p)
			ports[i].Published = chosen[n].Published
			chosen = slices.Delete(chosen, n, n+1)
		}
	}
	return ports
}

func sameTarget(a, b *pb.PortConfig) bool { return a.Target == b.Target && a.Protocol == b.Protocol }

// modePorts are the ports of one mode.
func modePorts(ports []*pb.PortConfig, mode pb.PortConfig_Mode) []*pb.PortConfig {
	return slices.DeleteFunc(slices.Clone(ports), func(p *pb.PortConfig) bool { return p.Mode != mode })
}

// portSpan is ports that follow on each other.
type portSpan struct {
	first *pb.PortConfig
	// more is how many follow the first.
	more uint32
}

// continues tells whether a port is the next one of a span.
func (s portSpan) continues(p *pb.PortConfig) bool {
	next := s.more + 1
	published := s.first.Published
	if published != 0 {
		published += next
	}
	return p.Protocol == s.first.Protocol && p.HostIp == s.first.HostIp && p.Target == s.first.Target+next && p.Published == published
}

// String writes a span as Swarm does: "*:8080-8081->80-81/tcp".
func (s portSpan) String() string {
	reach := func(from uint32) string {
		if s.more == 0 {
			return fmt.Sprint(from)
		}
		return fmt.Sprintf("%d-%d", from, from+s.more)
	}
	target := reach(s.first.Target) + "/" + enumName(s.first.Protocol.String(), "PROTOCOL_")
	if s.first.Published == 0 {
		return target
	}
	return fmt.Sprintf("%s:%s->%s", cmp.Or(s.first.HostIp, "*"), reach(s.first.Published), target)
}

// portsText writes ports, ranges of them as one.
func portsText(ports []*pb.PortConfig) string {
	sorted := slices.SortedStableFunc(slices.Values(ports), func(a, b *pb.PortConfig) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.HostIp, b.HostIp), cmp.Compare(a.Published, b.Published), cmp.Compare(a.Target, b.Target))
	})
	var spans []portSpan
	for _, p := range sorted {
		if last := len(spans) - 1; last >= 0 && spans[last].continues(p) {
			spans[last].more++
			continue
		}
		spans = append(spans, portSpan{first: p})
	}
	return joinComma(namesOf(spans, portSpan.String))
}

// portDetails is how a port is published, where that is not as usual.
func portDetails(p *pb.PortConfig) string {
	details := []string{enumName(p.Mode.String(), "MODE_")}
	if p.Policy == pb.PortConfig_POLICY_LOCAL {
		details = append(details, "local tasks first")
	}
	if p.Source == pb.PortConfig_SOURCE_MASQUERADE {
		details = append(details, "masquerade")
	}
	return joinComma(details)
}
