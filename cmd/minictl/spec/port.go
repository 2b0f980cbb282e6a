package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
)

func addPorts(s *pb.ServiceSpec, v string, _ Environment) error {
	ports, err := ParsePublish(v)
	if err != nil {
		return err
	}
	t := task(s)
	for _, p := range ports {
		if !slices.ContainsFunc(t.Ports, func(have *pb.PortConfig) bool { return proto.Equal(have, p) }) {
			t.Ports = append(t.Ports, p)
		}
	}
	return nil
}

// removePorts removes by target port and protocol, tcp unless said otherwise;
// PUBLISHED:TARGET is understood too.
func removePorts(s *pb.ServiceSpec, v string) error {
	ports, err := ParsePublish(v)
	if err != nil {
		return err
	}
	t := task(s)
	t.Ports = slices.DeleteFunc(t.Ports, func(have *pb.PortConfig) bool {
		return slices.ContainsFunc(ports, func(p *pb.PortConfig) bool { return have.Target == p.Target && have.Protocol == p.Protocol })
	})
	return nil
}

// ParsePublish reads the value of --publish: the short form
// [PUBLISHED:]TARGET[/PROTOCOL], where ports may be ranges, or the long form
// published=8080,target=80,protocol=tcp,mode=host.
func ParsePublish(s string) ([]*pb.PortConfig, error) {
	if strings.Contains(s, "=") {
		p, err := parseLongPort(s)
		return []*pb.PortConfig{p}, err
	}
	return parseShortPorts(s)
}

func parseLongPort(s string) (*pb.PortConfig, error) {
	pairs, err := fields(s)
	if err != nil {
		return nil, err
	}
	p := &pb.PortConfig{Protocol: pb.PortConfig_PROTOCOL_TCP, Mode: pb.PortConfig_MODE_INGRESS}
	for _, f := range pairs {
		switch f.key {
		case "published":
			p.Published, err = parsePort(f.val, 0)
		case "target":
			p.Target, err = parsePort(f.val, 1)
		case "protocol":
			p.Protocol, err = parseProtocol(f.val)
		case "mode":
			p.Mode, err = parsePortMode(f.val)
		default:
			err = fmt.Errorf("unknown field %q", f.key)
		}
		if err != nil {
			return nil, err
		}
	}
	if p.Target == 0 {
		return nil, fmt.Errorf("target is missing")
	}
	return p, nil
}

func parseShortPorts(s string) ([]*pb.PortConfig, error) {
	rest, protocolName, hasProtocol := strings.Cut(s, "/")
	protocol := pb.PortConfig_PROTOCOL_TCP
	if hasProtocol {
		var err error
		if protocol, err = parseProtocol(protocolName); err != nil {
			return nil, err
		}
	}
	published, target, hasPublished := strings.Cut(rest, ":")
	if !hasPublished {
		published, target = "", published
	}
	if strings.Contains(target, ":") {
		return nil, fmt.Errorf("a host address is not supported: ports are published on every address")
	}
	first, last, err := parseRange(target)
	if err != nil {
		return nil, err
	}
	var from uint32
	if published != "" {
		var to uint32
		if from, to, err = parseRange(published); err != nil {
			return nil, err
		}
		if to-from != last-first {
			return nil, fmt.Errorf("the ranges differ in length")
		}
	}
	var ports []*pb.PortConfig
	for i := range last - first + 1 {
		p := &pb.PortConfig{Protocol: protocol, Target: first + i, Mode: pb.PortConfig_MODE_INGRESS}
		if published != "" {
			p.Published = from + i
		}
		ports = append(ports, p)
	}
	return ports, nil
}

func parseRange(s string) (first, last uint32, err error) {
	a, b, isRange := strings.Cut(s, "-")
	if first, err = parsePort(a, 1); err != nil {
		return 0, 0, err
	}
	if !isRange {
		return first, first, nil
	}
	if last, err = parsePort(b, 1); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("range %s runs backwards", s)
	}
	return first, last, nil
}

func parsePort(s string, least uint64) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n < least {
		return 0, fmt.Errorf("%q is no port number", s)
	}
	return uint32(n), nil
}

func parseProtocol(s string) (pb.PortConfig_Protocol, error) {
	switch strings.ToLower(s) {
	case "tcp":
		return pb.PortConfig_PROTOCOL_TCP, nil
	case "udp":
		return pb.PortConfig_PROTOCOL_UDP, nil
	case "sctp":
		return pb.PortConfig_PROTOCOL_SCTP, nil
	}
	return 0, fmt.Errorf("unknown protocol %q: expected tcp, udp or sctp", s)
}

func parsePortMode(s string) (pb.PortConfig_Mode, error) {
	switch s {
	case "ingress":
		return pb.PortConfig_MODE_INGRESS, nil
	case "host":
		return pb.PortConfig_MODE_HOST, nil
	}
	return 0, fmt.Errorf("unknown mode %q: expected ingress or host", s)
}
