package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
)

// advisor looks for one change that would make a node fit: only nodes that
// pass all filters but one are worth an advice.
type advisor struct {
	*query
	service string
	// The nodes to advise about, the one with the least name each.
	label, activate, memory, cpu, full, unreached *node
	down                                          bool
}

// consider takes note of a node that was refused by the filter at a position.
func (a *advisor) consider(n *node, refusedBy int) {
	if filters[refusedBy].name == "ready" {
		a.down = true
	}
	for _, later := range filters[refusedBy+1:] {
		if !later.fits(a.query, n) {
			return
		}
	}
	switch filters[refusedBy].name {
	case "constraints":
		if _, ok := a.missingLabel(n); ok {
			a.label = lesser(a.label, n)
		}
	case "availability":
		a.activate = lesser(a.activate, n)
	case "resources":
		a.considerSize(n)
	case "max-replicas":
		a.full = lesser(a.full, n)
	case "networks":
		a.unreached = lesser(a.unreached, n)
	}
}

// considerSize takes note of a node that would be large enough if less of one
// resource were set aside: the one with the most of it.
func (a *advisor) considerSize(n *node) {
	short, free := a.short(n.pos), a.set.free
	switch {
	case short.cpu == 0 && free[n.pos].mem >= 4<<20:
		if a.memory == nil || free[n.pos].mem > free[a.memory.pos].mem {
			a.memory = n
		}
	case short.mem == 0 && free[n.pos].cpu >= 1e6:
		if a.cpu == nil || free[n.pos].cpu > free[a.cpu.pos].cpu {
			a.cpu = n
		}
	}
}

// missingLabel returns the label whose addition alone would satisfy the
// constraints. A label that has another value already is not touched.
func (a *advisor) missingLabel(n *node) (string, bool) {
	label := ""
	for i := range a.need.constraints {
		c := &a.need.constraints[i]
		if c.matches(n) {
			continue
		}
		if label != "" || c.invalid || c.key != nodeLabels || n.labels[c.label] != "" {
			return "", false
		}
		switch c.op {
		case opEqual, opIn:
			label = c.label + "=" + c.values[0]
		case opExists:
			label = c.label
		default:
			return "", false
		}
	}
	return label, label != ""
}

func (a *advisor) hint(nodes int, w Waiting) string {
	switch {
	case nodes == 0 && w.Node == "":
		return "minictl swarm join-token worker"
	case a.label != nil:
		label, _ := a.missingLabel(a.label)
		return fmt.Sprintf("minictl node update --label-add %s %s", quote(label), a.label.display())
	case a.activate != nil:
		return "minictl node update --availability active " + a.activate.display()
	case a.memory != nil:
		mem := a.set.free[a.memory.pos].mem >> 20
		return fmt.Sprintf("minictl service update --reserve-memory %dMiB %s", mem, a.service)
	case a.cpu != nil:
		cpu := a.set.free[a.cpu.pos].cpu
		return fmt.Sprintf("minictl service update --reserve-cpu %s %s", formatCPU(cpu-cpu%1e6), a.service)
	case a.full != nil:
		return fmt.Sprintf("minictl service update --replicas-max-per-node %d %s", a.need.maxPerNode+1, a.service)
	case a.unreached != nil && !a.unreached.dataPath:
		return "minid --data-path-addr ADDRESS, on node " + a.unreached.display()
	case a.unreached != nil:
		return "minid check, on node " + a.unreached.display()
	case a.down:
		return "minictl node ls"
	}
	return ""
}

// display is the node's name, its id when it has none.
func (n *node) display() string { return cmp.Or(n.name, n.id) }

func lesser(a, b *node) *node {
	if a == nil || b.display() < a.display() {
		return b
	}
	return a
}

// quote protects a word from the shell where that is needed.
func quote(word string) string {
	if strings.ContainsAny(word, " \t'\"$&|;<>()*?[]{}~#`\\!") {
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return word
}

// ofNode names the filters that judge a node by itself, and not by what runs
// there or how it is.
var ofNode = []string{"constraints", "platform", "resources", "generic-resources"}

// StillFits tells whether a task may be on a node, whatever else runs there, and
// whether it may stay when the node or what the service asks for has changed:
// role, labels and other attributes must satisfy the constraints, the image
// must have the node's platform, and the node must be large enough. If not,
// why says so in words that follow the node's name.
func StillFits(t *pb.Task, n *pb.Node, spec *pb.TaskSpec) (ok bool, why string) {
	need := Compile(spec)
	if len(need.constraints) == 0 && len(need.platforms) == 0 && len(need.generic) == 0 && need.need == (resources{}) {
		return true, ""
	}
	s := NewSet()
	s.PutNode(n)
	q := s.query(Group{Service: t.GetServiceId(), Need: need})
	for _, f := range filters {
		if !slices.Contains(ofNode, f.name) {
			continue
		}
		if at := s.nodes[n.GetId()]; !f.fits(q, at) {
			return false, f.why(q, at).one()
		}
	}
	return true, ""
}
