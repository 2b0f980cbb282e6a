package scheduler

import (
	"fmt"
	"testing"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type nodeOption func(*pb.Node)

// testNode is a ready worker with 4 CPUs and 1 GiB, named as its id.
func testNode(id string, options ...nodeOption) *pb.Node {
	n := &pb.Node{
		Id:   id,
		Role: pb.NodeRole_NODE_ROLE_WORKER,
		Spec: &pb.NodeSpec{Labels: map[string]string{}, Availability: pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE},
		Description: &pb.NodeDescription{
			Hostname:     id,
			Platform:     &pb.Platform{Os: "linux", Architecture: "x86_64"},
			Resources:    &pb.Resources{NanoCpus: 4e9, MemoryBytes: 1 << 30},
			EngineLabels: map[string]string{},
		},
		Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_READY, Addr: "10.1.2.3:4567"},
	}
	for _, o := range options {
		o(n)
	}
	return n
}

func label(key, value string) nodeOption {
	return func(n *pb.Node) { n.Spec.Labels[key] = value }
}

func engineLabel(key, value string) nodeOption {
	return func(n *pb.Node) { n.Description.EngineLabels[key] = value }
}

func state(s pb.NodeState) nodeOption { return func(n *pb.Node) { n.Status.State = s } }

func availability(a pb.NodeAvailability) nodeOption {
	return func(n *pb.Node) { n.Spec.Availability = a }
}

func memory(bytes int64) nodeOption {
	return func(n *pb.Node) { n.Description.Resources.MemoryBytes = bytes }
}

const (
	down    = pb.NodeState_NODE_STATE_DOWN
	unknown = pb.NodeState_NODE_STATE_UNKNOWN
	pause   = pb.NodeAvailability_NODE_AVAILABILITY_PAUSE
	drain   = pb.NodeAvailability_NODE_AVAILABILITY_DRAIN
)

func setOf(nodes ...*pb.Node) *Set {
	s := NewSet()
	for _, n := range nodes {
		s.PutNode(n)
	}
	return s
}

// runningTask is a task of version 1 that runs on a node.
func runningTask(service, id, node string) *pb.Task {
	return &pb.Task{
		Id:           id,
		ServiceId:    service,
		SpecVersion:  1,
		NodeId:       node,
		DesiredState: pb.TaskState_TASK_STATE_RUNNING,
		Status:       &pb.TaskStatus{State: pb.TaskState_TASK_STATE_RUNNING},
	}
}

func groupFor(service string, spec *pb.TaskSpec, n int) Group {
	g := Group{Service: service, Name: service, Version: 1, Need: Compile(spec), StopFirst: true}
	for i := range n {
		g.Tasks = append(g.Tasks, Waiting{ID: fmt.Sprintf("%s.%d", service, i)})
	}
	return g
}

// place returns how many of a group's tasks each node got.
func place(t testing.TB, s *Set, g Group) map[string]int {
	t.Helper()
	decisions, left := s.Place(g, epoch)
	if len(decisions)+len(left) != len(g.Tasks) {
		t.Fatalf("%d tasks became %d decisions and %d left", len(g.Tasks), len(decisions), len(left))
	}
	counts := map[string]int{}
	for _, d := range decisions {
		counts[d.Node]++
	}
	return counts
}

func needMemory(bytes int64) *pb.TaskSpec {
	return &pb.TaskSpec{Resources: &pb.ResourceRequirements{ReserveMemoryBytes: bytes}}
}

func needGeneric(kind string, count int64) *pb.TaskSpec {
	return &pb.TaskSpec{Resources: &pb.ResourceRequirements{Generic: []*pb.GenericRequest{{Kind: kind, Count: count}}}}
}

func constrainedBy(texts ...string) *pb.TaskSpec {
	return &pb.TaskSpec{Placement: &pb.Placement{Constraints: texts}}
}

func spreadOver(keys ...string) *pb.TaskSpec {
	return &pb.TaskSpec{Placement: &pb.Placement{Spread: keys}}
}

func publishing(ports ...uint32) *pb.TaskSpec {
	spec := &pb.TaskSpec{}
	for _, p := range ports {
		spec.Ports = append(spec.Ports, &pb.PortConfig{
			Protocol: pb.PortConfig_PROTOCOL_TCP, Target: 80, Published: p, Mode: pb.PortConfig_MODE_HOST,
		})
	}
	return spec
}
