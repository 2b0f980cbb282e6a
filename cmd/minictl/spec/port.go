package spec

import (
	"fmt"
	"net/netip"
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
	before := len(t.Ports) // a range has each port once
	for _, p := range ports {
		if i := slices.IndexFunc(t.Ports[:before], func(have *pb.PortConfig) bool { return samePort(have, p) }); i >= 0 {
			t.Ports[i] = p
			continue
		}
		t.Ports = append(t.Ports, p)
	}
	return nil
}

// samePort tells whether two ports differ in policy and source at most.
func samePort(a, b *pb.PortConfig) bool {
	return a.Target == b.Target && a.Published == b.Published && a.Protocol == b.Protocol && a.Mode == b.Mode && a.HostIp == b.HostIp
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
// [[HOST_IP:]PUBLISHED:]TARGET[/PROTOCOL], where ports may be ranges, or the
// long form published=8080,target=80,protocol=tcp,mode=ingress,host_ip=ADDRESS,
// policy=cluster,source=preserve.
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
		if err := setPortField(p, f); err != nil {
			return nil, err
		}
	}
	return p, checkPort(p)
}

func setPortField(p *pb.PortConfig, f pair) (err error) {
	switch f.key {
	case "published":
		p.Published, err = parsePort(f.val, 0)
	case "target":
		p.Target, err = parsePort(f.val, 1)
	case "protocol":
		p.Protocol, err = oneOf(f, protocols)
	case "mode":
		p.Mode, err = oneOf(f, portModes)
	case "host_ip":
		p.HostIp, err = parseHostIP(f.val)
	case "policy":
		p.Policy, err = oneOf(f, portPolicies)
	case "source":
		p.Source, err = oneOf(f, portSources)
	default:
		err = fmt.Errorf("unknown field %q", f.key)
	}
	return err
}

// checkPort refuses what does not go together.
func checkPort(p *pb.PortConfig) error {
	host := p.Mode == pb.PortConfig_MODE_HOST
	switch {
	case p.Target == 0:
		return fmt.Errorf("target is missing")
	case host && p.Policy != pb.PortConfig_POLICY_UNSPECIFIED:
		return fmt.Errorf("policy is for mode=ingress: in mode host a node's port leads to its own task")
	case host && p.Source != pb.PortConfig_SOURCE_UNSPECIFIED:
		return fmt.Errorf("source is for mode=ingress: in mode host a task always sees the client's address")
	}
	return nil
}

// The values of the long form's fields.
var (
	protocols    = choices[pb.PortConfig_Protocol]{{"tcp", pb.PortConfig_PROTOCOL_TCP}, {"udp", pb.PortConfig_PROTOCOL_UDP}, {"sctp", pb.PortConfig_PROTOCOL_SCTP}}
	portModes    = choices[pb.PortConfig_Mode]{{"ingress", pb.PortConfig_MODE_INGRESS}, {"host", pb.PortConfig_MODE_HOST}}
	portPolicies = choices[pb.PortConfig_Policy]{{"cluster", pb.PortConfig_POLICY_CLUSTER}, {"local", pb.PortConfig_POLICY_LOCAL}}
	portSources  = choices[pb.PortConfig_Source]{{"preserve", pb.PortConfig_SOURCE_PRESERVE}, {"masquerade", pb.PortConfig_SOURCE_MASQUERADE}}
)

func oneOf[T any](f pair, from choices[T]) (T, error) {
	v, err := from.pick(f.val)
	if err != nil {
		err = fmt.Errorf("unknown %s %q: %w", f.key, f.val, err)
	}
	return v, err
}

// parseHostIP reads an address of the host, with brackets around IPv6 or
// without; that of all addresses is as none.
func parseHostIP(s string) (string, error) {
	bare := s
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if bare, ok = strings.CutSuffix(inner, "]"); !ok {
			return "", fmt.Errorf("%q is no address of a host", s)
		}
	}
	addr, err := netip.ParseAddr(bare)
	if err != nil || addr.Zone() != "" {
		return "", fmt.Errorf("%q is no address of a host", s)
	}
	if addr.IsUnspecified() {
		return "", nil
	}
	return addr.Unmap().String(), nil
}

func parseShortPorts(s string) ([]*pb.PortConfig, error) {
	of := &pb.PortConfig{Protocol: pb.PortConfig_PROTOCOL_TCP, Mode: pb.PortConfig_MODE_INGRESS}
	rest, protocol, hasProtocol := strings.Cut(s, "/")
	published, target := "", rest
	var err error
	if hasProtocol {
		if of.Protocol, err = oneOf(pair{key: "protocol", val: protocol}, protocols); err != nil {
			return nil, err
		}
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		published, target = rest[:i], rest[i+1:]
	}
	if i := strings.LastIndexByte(published, ':'); i >= 0 {
		if of.HostIp, err = parseHostIP(published[:i]); err != nil {
			return nil, err
		}
		published = published[i+1:]
	}
	return portRange(of, published, target)
}

// portRange makes a port for each of a range of targets.
func portRange(of *pb.PortConfig, published, target string) ([]*pb.PortConfig, error) {
	first, last, err := parseRange(target)
	if err != nil {
		return nil, err
	}
	var from, to uint32
	if published != "" {
		if from, to, err = parseRange(published); err != nil {
			return nil, err
		}
		if to-from != last-first {
			return nil, fmt.Errorf("the ranges differ in length")
		}
	}
	var ports []*pb.PortConfig
	for i := range last - first + 1 {
		p := proto.CloneOf(of)
		p.Target = first + i
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
