package scheduler

import (
	"testing"

	pb "github.com/minid/minid/proto/minid/v1"
)

func packing(nodes ...*pb.Node) *Set {
	s := setOf(nodes...)
	s.SetStrategy(pb.PlacementStrategy_PLACEMENT_STRATEGY_BINPACK)
	return s
}

func TestPackFillsTheFullestThatFits(t *testing.T) {
	s := packing(testNode("a", memory(100)), testNode("b", memory(100)), testNode("c", memory(100)))
	s.PutTask(runningTask("old", "o1", "a"), Compile(needMemory(90)))
	s.PutTask(runningTask("old", "o2", "b"), Compile(needMemory(50)))
	if got := place(t, s, groupFor("web", needMemory(20), 4)); got["b"] != 2 || got["c"] != 2 {
		t.Errorf("placed %v, want the rest of b, then c", got)
	}
	// Where nothing is reserved, most tasks decide.
	if got := place(t, s, groupFor("free", nil, 3)); got["a"]+got["b"] != 3 {
		t.Errorf("placed %v on an emptier node", got)
	}
}

func TestPackKeepsSpreadingOverRacks(t *testing.T) {
	s := packing(testNode("a", memory(100), label("rack", "1")), testNode("b", memory(100), label("rack", "1")),
		testNode("c", memory(100), label("rack", "2")), testNode("d", memory(100), label("rack", "2")))
	spec := spreadOver("node.labels.rack")
	spec.Resources = needMemory(20).Resources
	got := place(t, s, groupFor("web", spec, 6))
	if len(got) != 2 || got["a"]+got["b"] != 3 || got["c"]+got["d"] != 3 {
		t.Errorf("placed %v, want three on one node of each rack", got)
	}
}

func TestPackHonoursLimitPerNode(t *testing.T) {
	s := packing(testNode("a"), testNode("b"), testNode("c"))
	spec := &pb.TaskSpec{Placement: &pb.Placement{MaxReplicasPerNode: 2}}
	if got := place(t, s, groupFor("web", spec, 5)); got["a"]+got["b"]+got["c"] != 5 || max(got["a"], got["b"], got["c"]) != 2 {
		t.Errorf("placed %v", got)
	}
}
