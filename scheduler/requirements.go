package scheduler

import (
	"fmt"
	"slices"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Requirements is what one version of a service's task spec asks of a node,
// read once and shared by all its tasks. It never changes.
type Requirements struct {
	constraints []Constraint
	platforms   []platform
	ports       []hostPort
	spread      []SpreadKey
	need        resources
	generic     []genericNeed
	maxPerNode  int
	// overlay is set for tasks on a network that reaches over nodes, encrypted if
	// one of these is.
	overlay, encrypted bool
	// class names what is asked of a node's lasting attributes (constraints,
	// platforms and networks): equal classes have the same candidate nodes.
	class string
	// key names everything but maxPerNode and spread: where tasks of one service
	// find no room, those of another with the same key find none either.
	key string
}

// Key is the same for services whose tasks every node takes or refuses alike,
// but for what they replace: what was found out for one holds for the other.
func (r *Requirements) Key(service string) string {
	if r.maxPerNode > 0 {
		return fmt.Sprintf("%s\x00%d %s", r.key, r.maxPerNode, service)
	}
	return r.key
}

// resources is what tasks reserve and nodes offer: billionths of a CPU, bytes.
type resources struct{ cpu, mem int64 }

type platform struct{ os, arch string }

// hostPort is a port that only one task of a node can publish.
type hostPort struct {
	protocol pb.PortConfig_Protocol
	port     uint32
}

func (p hostPort) String() string {
	name := strings.ToLower(strings.TrimPrefix(p.protocol.String(), "PROTOCOL_"))
	return fmt.Sprintf("%d/%s", p.port, name)
}

// Compile reads a task spec. A nil spec asks for nothing. A constraint that
// cannot be read (the control API admits none) is one that no node satisfies;
// an unreadable preference is ignored. The networks are those that the tasks
// are on.
func Compile(spec *pb.TaskSpec, networks ...*pb.Network) *Requirements {
	r := &Requirements{
		need: resources{
			cpu: spec.GetResources().GetReserveNanoCpus(),
			mem: spec.GetResources().GetReserveMemoryBytes(),
		},
		generic:    genericNeeds(spec.GetResources().GetGeneric()),
		ports:      hostPorts(spec.GetPorts()),
		maxPerNode: int(min(spec.GetPlacement().GetMaxReplicasPerNode(), 1<<31)),
	}
	for _, text := range spec.GetPlacement().GetConstraints() {
		c, err := ParseConstraint(text)
		if err != nil {
			refused := "refused by the unreadable constraint " + text
			c = Constraint{key: text, invalid: true, why: reason{"is " + refused, "are " + refused}}
		}
		r.constraints = append(r.constraints, c)
	}
	for _, text := range spec.GetPlacement().GetSpread() {
		if k, err := ParseSpread(text); err == nil {
			r.spread = append(r.spread, k)
		}
	}
	for _, p := range spec.GetContainer().GetPlatforms() {
		r.platforms = append(r.platforms, platform{strings.ToLower(p.GetOs()), normalArch(p.GetArchitecture())})
	}
	for _, n := range networks {
		if n.GetSpec().GetDriver() != pb.NetworkSpec_DRIVER_BRIDGE {
			r.overlay = true
			r.encrypted = r.encrypted || n.GetSpec().GetEncrypted()
		}
	}
	r.class = r.className()
	r.key = fmt.Sprintf("%s\x00%d %d %v %v", r.class, r.need.cpu, r.need.mem, r.generic, r.ports)
	return r
}

func hostPorts(configs []*pb.PortConfig) []hostPort {
	var ports []hostPort
	for _, c := range configs {
		if c.GetMode() != pb.PortConfig_MODE_HOST || c.GetPublished() == 0 {
			continue
		}
		p := hostPort{c.GetProtocol(), c.GetPublished()}
		if p.protocol == pb.PortConfig_PROTOCOL_UNSPECIFIED {
			p.protocol = pb.PortConfig_PROTOCOL_TCP
		}
		if !slices.Contains(ports, p) {
			ports = append(ports, p)
		}
	}
	return ports
}

func (r *Requirements) className() string {
	var b strings.Builder
	for _, c := range r.constraints {
		b.WriteString(c.String() + "\x00")
	}
	for _, p := range r.platforms {
		b.WriteString(p.os + "/" + p.arch + "\x01")
	}
	if r.overlay {
		fmt.Fprintf(&b, "overlay %v", r.encrypted)
	}
	return b.String()
}
