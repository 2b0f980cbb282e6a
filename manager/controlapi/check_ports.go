package controlapi

import (
	"fmt"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
)

const maxPort = 65535

func checkPorts(ports []*pb.PortConfig) error {
	type key struct {
		port     uint32
		protocol pb.PortConfig_Protocol
	}
	published := map[key]uint32{}
	for _, p := range ports {
		if err := checkPort(p); err != nil {
			return err
		}
		k := key{p.Published, p.Protocol}
		if other, taken := published[k]; taken && p.Published != 0 {
			return invalid("publish %s: it is published twice, for ports %d and %d of the task",
				portName(p.Published, p.Protocol), other, p.Target)
		}
		published[k] = p.Target
	}
	return nil
}

func checkPort(p *pb.PortConfig) error {
	switch {
	case p.Target < 1 || p.Target > maxPort:
		return invalid("publish: the task's port %d is not between 1 and %d", p.Target, maxPort).
			WithTry("--publish mode=host,published=8080,target=80")
	case p.Published > maxPort:
		return invalid("publish: the node's port %d is not between 1 and %d, nor 0 for any", p.Published, maxPort).
			WithTry("--publish mode=host,published=8080,target=%d", p.Target)
	case protocolName(p.Protocol) == "":
		return invalid("publish %d: there is no protocol %d", p.Target, p.Protocol).WithTry("protocol=tcp|udp|sctp")
	case p.Mode == pb.PortConfig_MODE_HOST:
		return nil
	case p.Mode == pb.PortConfig_MODE_INGRESS:
		return invalid("publish %d: mode ingress needs the routing mesh, which this version does not have yet; mode host publishes on the nodes that run a task",
			p.Target).WithTry("--publish %s", hostFlag(p))
	}
	return invalid("publish %d: there is no mode %d", p.Target, p.Mode).WithTry("--publish %s", hostFlag(p))
}

// hostFlag is the value of --publish that publishes a port on its own node.
func hostFlag(p *pb.PortConfig) string {
	parts := []string{"mode=host"}
	if p.Published != 0 {
		parts = append(parts, fmt.Sprintf("published=%d", p.Published))
	}
	parts = append(parts, fmt.Sprintf("target=%d", p.Target))
	if p.Protocol != pb.PortConfig_PROTOCOL_TCP {
		parts = append(parts, "protocol="+protocolName(p.Protocol))
	}
	return strings.Join(parts, ",")
}

func portName(port uint32, protocol pb.PortConfig_Protocol) string {
	return fmt.Sprintf("%d/%s", port, protocolName(protocol))
}

func protocolName(p pb.PortConfig_Protocol) string {
	switch p {
	case pb.PortConfig_PROTOCOL_TCP:
		return "tcp"
	case pb.PortConfig_PROTOCOL_UDP:
		return "udp"
	case pb.PortConfig_PROTOCOL_SCTP:
		return "sctp"
	}
	return ""
}
