package events

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
)

func (e *Entry) node(old, new *pb.Node) {
	subject := cmp.Or(new, old)
	event := func() *pb.Event {
		return &pb.Event{Kind: "node", ObjectId: subject.Id, NodeId: subject.Id,
			Name: cmp.Or(subject.GetDescription().GetHostname(), subject.Id)}
	}
	switch {
	case new == nil:
		e.add(event(), "removed", "")
		return
	case old == nil:
		e.add(event(), "joined", "as a "+roleWord(new.Role))
	case old.Spec != new.Spec:
		e.nodeSpec(event, old.GetSpec(), new.GetSpec())
	}
	if old != nil && old.Role != new.Role {
		e.add(event(), "became a "+roleWord(new.Role), "")
	}
	if was, is := old.GetStatus().GetState(), new.GetStatus().GetState(); was != is {
		switch is {
		case pb.NodeState_NODE_STATE_READY:
			e.add(event(), "ready", new.Status.Message)
		case pb.NodeState_NODE_STATE_DOWN:
			e.warn(event(), "down", new.Status.Message)
		}
	}
}

func (e *Entry) nodeSpec(event func() *pb.Event, old, new *pb.NodeSpec) {
	if was, is := old.GetAvailability(), new.GetAvailability(); was != is {
		switch is {
		case pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE:
			e.add(event(), "active", "")
		case pb.NodeAvailability_NODE_AVAILABILITY_PAUSE:
			e.add(event(), "paused", "")
		case pb.NodeAvailability_NODE_AVAILABILITY_DRAIN:
			e.add(event(), "draining", "")
		}
	}
	if old.GetRole() != new.GetRole() {
		action := "demoted"
		if new.GetRole() == pb.NodeRole_NODE_ROLE_MANAGER {
			action = "promoted"
		}
		e.add(event(), action, "")
	}
	if words := labelWords(old.GetLabels(), new.GetLabels()); words != "" {
		e.add(event(), "updated", words)
	}
}

func roleWord(r pb.NodeRole) string {
	if r == pb.NodeRole_NODE_ROLE_MANAGER {
		return "manager"
	}
	return "worker"
}

// labelWords is "label disk=ssd set, label zone removed"; empty if nothing changed.
func labelWords(old, new map[string]string) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(new)) {
		if was, ok := old[key]; !ok || was != new[key] {
			parts = append(parts, "label "+key+"="+new[key]+" set")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(old)) {
		if _, ok := new[key]; !ok {
			parts = append(parts, "label "+key+" removed")
		}
	}
	return strings.Join(parts, ", ")
}
