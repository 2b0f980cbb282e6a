package controlapi

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	maxPort = 65535
	// defaultDataPathPort is VXLAN's, where the cluster's spec names none.
	defaultDataPathPort = 4789
)

// normalPort makes a port's defaults explicit.
func normalPort(p *pb.PortConfig) {
	if p.Protocol == pb.PortConfig_PROTOCOL_UNSPECIFIED {
		p.Protocol = pb.PortConfig_PROTOCOL_TCP
	}
	if p.Mode == pb.PortConfig_MODE_UNSPECIFIED {
		p.Mode = pb.PortConfig_MODE_INGRESS
	}
	if addr, err := netip.ParseAddr(p.HostIp); err == nil {
		p.HostIp = addr.Unmap().String()
		if addr.Unmap().IsUnspecified() {
			p.HostIp = "" // users write 0.0.0.0 for all
		}
	}
	if p.Mode != pb.PortConfig_MODE_INGRESS {
		return
	}
	if p.Policy == pb.PortConfig_POLICY_UNSPECIFIED {
		p.Policy = pb.PortConfig_POLICY_CLUSTER
	}
	if p.Source == pb.PortConfig_SOURCE_UNSPECIFIED {
		p.Source = pb.PortConfig_SOURCE_PRESERVE
	}
}

func checkPorts(ports []*pb.PortConfig) error {
	for i, p := range ports {
		if err := checkPort(p); err != nil {
			return err
		}
		for _, q := range ports[:i] {
			switch {
			case p.Published != q.Published || p.Protocol != q.Protocol:
			case p.Published != 0:
				return invalid("publish %s: it is published twice, for ports %d and %d of the task",
					portName(p.Published, p.Protocol), q.Target, p.Target)
			case p.Target == q.Target && p.Mode == q.Mode:
				return invalid("publish: port %s of the task is published twice without saying where", portName(p.Target, p.Protocol)).
					WithTry("--publish 8080:%d for one of them", p.Target)
			}
		}
	}
	return nil
}

func checkPort(p *pb.PortConfig) error {
	switch {
	case p.Target < 1 || p.Target > maxPort:
		return invalid("publish: the task's port %d is not between 1 and %d", p.Target, maxPort).
			WithTry("--publish 8080:80")
	case p.Published > maxPort:
		return invalid("publish: the node's port %d is not between 1 and %d, nor 0 for any", p.Published, maxPort).
			WithTry("--publish 8080:%d", p.Target)
	case protocolName(p.Protocol) == "":
		return invalid("publish %d: there is no protocol %d", p.Target, p.Protocol).WithTry("protocol=tcp|udp|sctp")
	case pb.PortConfig_Policy_name[int32(p.Policy)] == "":
		return invalid("publish %d: there is no policy %d", p.Target, p.Policy).WithTry("policy=cluster|local")
	case pb.PortConfig_Source_name[int32(p.Source)] == "":
		return invalid("publish %d: there is no source %d", p.Target, p.Source).WithTry("source=preserve|masquerade")
	}
	if err := checkHostIP(p); err != nil {
		return err
	}
	switch p.Mode {
	case pb.PortConfig_MODE_INGRESS:
		return nil
	case pb.PortConfig_MODE_HOST:
		if p.Policy != pb.PortConfig_POLICY_UNSPECIFIED || p.Source != pb.PortConfig_SOURCE_UNSPECIFIED {
			return invalid("publish %d: policy and source are for mode ingress; a port of mode host leads to the task on its node, and the client's address stays",
				p.Target).WithTry("--publish %s", hostFlag(p))
		}
		return nil
	}
	return invalid("publish %d: there is no mode %d", p.Target, p.Mode).WithTry("mode=ingress|host")
}

func checkHostIP(p *pb.PortConfig) error {
	if p.HostIp == "" {
		return nil
	}
	addr, err := netip.ParseAddr(p.HostIp)
	if err != nil || addr.Zone() != "" || addr.IsMulticast() || addr.IsUnspecified() {
		return invalid("publish %d: %q is no address of a host", p.Target, p.HostIp).WithTry("--publish 127.0.0.1:8080:%d, or no address for all", p.Target)
	}
	return nil
}

// portKey is a port of a node.
type portKey struct {
	port     uint32
	protocol pb.PortConfig_Protocol
}

// checkReach looks at published ports against the cluster: they must leave the
// nodes' own ports alone, or nodes would lose each other, and need a mesh.
func checkReach(view store.View, ports []*pb.PortConfig) error {
	own := ownPorts(view)
	for _, p := range ports {
		if use := own[portKey{p.Published, p.Protocol}]; use != "" {
			return invalid("publish %s: the nodes need it, for %s", portName(p.Published, p.Protocol), use).
				WithTry("another published port, such as --publish 8080:%d", p.Target)
		}
		if p.Mode == pb.PortConfig_MODE_INGRESS && view.Ingress() == nil {
			return fault.New(fault.State, "publish %s: mode ingress needs the routing mesh, and the cluster has no ingress network", portName(p.Target, p.Protocol)).
				WithTry("minictl network create --ingress ingress, or --publish %s", hostFlag(p))
		}
	}
	return nil
}

// ownPorts are those that nodes reach each other on, with what they are for.
func ownPorts(view store.View) map[portKey]string {
	data := view.Cluster().GetSpec().GetDataPathPort()
	if data == 0 {
		data = defaultDataPathPort
	}
	own := map[portKey]string{
		{data, pb.PortConfig_PROTOCOL_UDP}:     "the networks' VXLAN",
		{data + 1, pb.PortConfig_PROTOCOL_UDP}: "WireGuard",
	}
	for n := range view.Nodes() {
		i := strings.LastIndexByte(n.ManagerAddr, ':')
		if port, err := strconv.ParseUint(n.ManagerAddr[i+1:], 10, 16); err == nil {
			own[portKey{uint32(port), pb.PortConfig_PROTOCOL_TCP}] = "the managers"
		}
	}
	return own
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
