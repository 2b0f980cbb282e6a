package scheduler

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	pb "github.com/minid/minid/proto/minid/v1"
)

// The cases of SwarmKit's scheduler tests, as behaviour.

func TestNodesJoinLeavePauseAndDrain(t *testing.T) {
	s := setOf(testNode("n1", availability(pause)), testNode("n2", availability(drain)),
		testNode("n3", state(down)), testNode("n4", state(unknown)))
	g := groupFor("web", nil, 1)
	if got := place(t, s, g); len(got) != 0 {
		t.Fatalf("placed without a usable node: %v", got)
	}
	s.PutNode(testNode("n5"))
	if got := place(t, s, g); got["n5"] != 1 {
		t.Fatalf("new node: %v", got)
	}
	s.RemoveNode("n5")
	s.PutNode(testNode("n1"))
	if got := place(t, s, groupFor("api", nil, 2)); got["n1"] != 2 {
		t.Fatalf("node back from pause: %v", got)
	}
}

// A service's own tasks count before all others: n1 to n3 have 500 of another
// service, n4 has none, and still each gets its share of the new one.
func TestHighAvailability(t *testing.T) {
	s := setOf(testNode("n1"), testNode("n2"), testNode("n3"), testNode("n4"), testNode("n5"))
	for i, n := range []int{10, 20, 30} {
		for j := range n {
			id := fmt.Sprintf("old.%d.%d", i, j)
			s.PutTask(runningTask("old", id, fmt.Sprintf("n%d", i+1)), Compile(nil))
		}
	}
	if got, want := place(t, s, groupFor("one", nil, 2)), (map[string]int{"n4": 1, "n5": 1}); !maps.Equal(got, want) {
		t.Errorf("fewest tasks of all: got %v, want %v", got, want)
	}
	want := map[string]int{"n1": 3, "n2": 3, "n3": 2, "n4": 3, "n5": 3}
	if got := place(t, s, groupFor("two", nil, 14)); !maps.Equal(got, want) {
		t.Errorf("even by service: got %v, want %v", got, want)
	}
}

func racks(perRack map[string]int) *Set {
	s := NewSet()
	for rack, n := range perRack {
		for i := range n {
			s.PutNode(testNode(fmt.Sprintf("%s-%d", rack, i), label("rack", rack)))
		}
	}
	return s
}

func TestPreferences(t *testing.T) {
	s := racks(map[string]int{"a": 1, "b": 3})
	s.PutNode(testNode("bare-0"))
	s.PutNode(testNode("bare-1"))
	got := place(t, s, groupFor("web", spreadOver("node.labels.rack"), 9))
	// Nodes without the label share one bucket.
	want := map[string]int{"a-0": 3, "b-0": 1, "b-1": 1, "b-2": 1}
	for id, n := range want {
		if got[id] != n {
			t.Errorf("%s: got %d, want %d", id, got[id], n)
		}
	}
	if got["bare-0"]+got["bare-1"] != 3 {
		t.Errorf("without label: %v", got)
	}
}

func TestPreferencesSpillOverWhenABucketIsFull(t *testing.T) {
	s := racks(map[string]int{"a": 1, "b": 3})
	spec := spreadOver("node.labels.rack")
	spec.Resources = &pb.ResourceRequirements{ReserveMemoryBytes: 256 << 20} // four per node
	got := place(t, s, groupFor("web", spec, 20))
	if got["a-0"] != 4 || got["b-0"]+got["b-1"]+got["b-2"] != 12 {
		t.Errorf("got %v", got)
	}
}

func TestMultiplePreferencesAndScaleUp(t *testing.T) {
	s := NewSet()
	for _, p := range []struct{ az, rack string }{{"az1", "r1"}, {"az1", "r1"}, {"az1", "r2"}, {"az2", "r1"}, {"az2", "r2"}, {"az2", "r3"}} {
		id := fmt.Sprintf("%s-%s-%d", p.az, p.rack, len(s.nodes))
		s.PutNode(testNode(id, label("az", p.az), label("rack", p.rack)))
	}
	spec := spreadOver("node.labels.az", "node.labels.rack")
	got := place(t, s, groupFor("web", spec, 12))
	want := map[string]int{"az1-r1-0": 2, "az1-r1-1": 1, "az1-r2-2": 3, "az2-r1-3": 2, "az2-r2-4": 2, "az2-r3-5": 2}
	if got["az1-r1-0"] == 1 {
		want["az1-r1-0"], want["az1-r1-1"] = 1, 2
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	more := groupFor("web", spec, 24)
	more.Tasks = more.Tasks[12:]
	if got := place(t, s, more); got["az2-r1-3"]+got["az2-r2-4"]+got["az2-r3-5"] != 6 {
		t.Errorf("scale-up: %v", got)
	}
}

func TestFaultyNode(t *testing.T) {
	s := setOf(testNode("n1"), testNode("n2"))
	// n2 is the better choice until it has failed five times.
	s.PutTask(runningTask("other", "o1", "n1"), Compile(nil))
	for i := range 7 {
		g := groupFor("web", nil, 1)
		at := epoch.Add(time.Duration(i) * time.Second)
		placed, _ := s.Place(g, at)
		want := "n2"
		if i >= 5 {
			want = "n1"
		}
		if placed[0].Node != want {
			t.Fatalf("attempt %d: got %s, want %s", i, placed[0].Node, want)
		}
		s.RemoveTask(placed[0].Task)
		s.AddFailure("web", 1, placed[0].Node, at)
	}
	preset := Waiting{ID: "global", Node: "n2"}
	if ok, why := s.Check(groupFor("web", nil, 0), preset); !ok {
		t.Errorf("a task that names its node is refused: %s", why)
	}
	s.RemoveTask("global")
	if placed, _ := s.Place(groupFor("db", nil, 1), epoch); placed[0].Node != "n2" {
		t.Error("failures of one service count against another")
	}
	s.RemoveTask("db.0")
	later := epoch.Add(6 * time.Minute)
	if placed, _ := s.Place(groupFor("web", nil, 1), later); placed[0].Node != "n2" {
		t.Error("failures do not expire")
	}
}

func TestFaultyNodeIsTheLastResortOfItsRack(t *testing.T) {
	s := racks(map[string]int{"a": 1, "b": 1})
	for range maxFailures {
		s.AddFailure("web", 1, "a-0", epoch)
	}
	if got := place(t, s, groupFor("web", spreadOver("node.labels.rack"), 3)); got["b-0"] != 3 {
		t.Errorf("got %v", got)
	}
	s.RemoveNode("b-0")
	if got := place(t, s, groupFor("web", nil, 1)); got["a-0"] != 1 {
		t.Errorf("no other node: %v", got)
	}
}

func TestFaultyNodeOfAnEarlierVersion(t *testing.T) {
	s := setOf(testNode("n1"))
	s.PutNode(testNode("n2"))
	s.PutTask(runningTask("other", "o1", "n1"), Compile(nil))
	for range maxFailures {
		s.AddFailure("web", 1, "n2", epoch)
	}
	g := groupFor("web", nil, 1)
	g.Version = 2
	if placed, _ := s.Place(g, epoch); placed[0].Node != "n2" {
		t.Error("failures of version 1 count against version 2")
	}
	s.RemoveTask("web.0")
	s.AddFailure("web", 2, "n2", epoch)
	s.AddFailure("web", 1, "n2", epoch)
	if placed, _ := s.Place(groupFor("web", nil, 1), epoch); placed[0].Node != "n2" {
		t.Error("version 2 did not reset the count")
	}
}

func TestResourceConstraint(t *testing.T) {
	big := testNode("big", memory(8<<30))
	s := setOf(testNode("small"), big)
	if got := place(t, s, groupFor("db", needMemory(2<<30), 5)); got["big"] != 4 || got["small"] != 0 {
		t.Errorf("got %v", got)
	}
	// A task that ended gives its memory back, one told to stop not yet.
	stopping := runningTask("db", "db.0", "big")
	stopping.DesiredState = pb.TaskState_TASK_STATE_SHUTDOWN
	s.PutTask(stopping, Compile(needMemory(2<<30)))
	if got := place(t, s, groupFor("db2", needMemory(2<<30), 1)); len(got) != 0 {
		t.Errorf("room of a task that still runs is given away: %v", got)
	}
	stopping.Status.State = pb.TaskState_TASK_STATE_FAILED
	s.PutTask(stopping, Compile(needMemory(2<<30)))
	if got := place(t, s, groupFor("db2", needMemory(2<<30), 1)); got["big"] != 1 {
		t.Errorf("room of a dead task stays taken: %v", got)
	}
}

// Tasks without reservations go even where others have booked too much.
func TestOverbookedNodeTakesTasksWithoutReservation(t *testing.T) {
	s := setOf(testNode("n1", memory(1<<20)))
	s.PutTask(runningTask("db", "db.0", "n1"), Compile(needMemory(1<<30)))
	if got := place(t, s, groupFor("web", nil, 1)); got["n1"] != 1 {
		t.Errorf("got %v", got)
	}
}

func TestCompatiblePlatform(t *testing.T) {
	arm := testNode("arm")
	arm.Description.Platform = &pb.Platform{Os: "linux", Architecture: "aarch64"}
	win := testNode("win")
	win.Description.Platform.Os = "windows"
	for _, c := range []struct {
		platforms []*pb.ImagePlatform
		want      []string
	}{
		{nil, []string{"amd", "arm", "win"}},
		{[]*pb.ImagePlatform{{Os: "linux", Architecture: "amd64"}}, []string{"amd"}},
		{[]*pb.ImagePlatform{{Os: "linux", Architecture: "arm64"}}, []string{"arm"}},
		{[]*pb.ImagePlatform{{Os: "linux"}}, []string{"amd", "arm"}},
		{[]*pb.ImagePlatform{{Architecture: "x86_64"}}, []string{"amd", "win"}},
		{[]*pb.ImagePlatform{{Os: "plan9", Architecture: "mips"}}, nil},
	} {
		s := setOf(testNode("amd"), arm, win)
		got := place(t, s, groupFor("web", &pb.TaskSpec{Container: &pb.ContainerSpec{Platforms: c.platforms}}, 3))
		if len(got) != len(c.want) {
			t.Errorf("%v: got %v, want %v", c.platforms, got, c.want)
		}
		for _, id := range c.want {
			if got[id] == 0 {
				t.Errorf("%v: got %v, want %v", c.platforms, got, c.want)
			}
		}
	}
}

func TestPreassignedTasks(t *testing.T) {
	s := setOf(testNode("n1"), testNode("n2", availability(drain)))
	g := groupFor("agent", needMemory(600<<20), 0)
	for _, c := range []struct{ node, why string }{
		{"n1", ""},
		{"n1", "needs 176 MiB more memory"},
		{"n2", "is draining"},
		{"n9", "is gone"},
	} {
		ok, why := s.Check(g, Waiting{ID: "t-" + c.node + c.why, Node: c.node})
		if ok != (c.why == "") || why != c.why {
			t.Errorf("%s: got %v, %q, want %q", c.node, ok, why, c.why)
		}
	}
}

func TestHostPort(t *testing.T) {
	s := setOf(testNode("n1"), testNode("n2"))
	g := groupFor("web", publishing(80, 443), 3)
	placed, left := s.Place(g, epoch)
	if len(placed) != 2 || len(left) != 1 || placed[0].Node == placed[1].Node {
		t.Fatalf("placed %v, left %v", placed, left)
	}
	if got := place(t, s, groupFor("other", publishing(443), 1)); len(got) != 0 {
		t.Errorf("port taken twice: %v", got)
	}
	udp := publishing(443)
	udp.Ports[0].Protocol = pb.PortConfig_PROTOCOL_UDP
	if got := place(t, s, groupFor("udp", udp, 1)); len(got) != 1 {
		t.Error("UDP and TCP ports collide")
	}
	chosen := publishing(0)
	if got := place(t, s, groupFor("any", chosen, 5)); got["n1"]+got["n2"] != 5 {
		t.Error("ports that the node chooses collide")
	}
	s.RemoveTask(placed[1].Task)
	if got := place(t, s, groupFor("next", publishing(80), 1)); got[placed[1].Node] != 1 {
		t.Errorf("port not given back: %v", got)
	}
}

func TestMaxReplicas(t *testing.T) {
	s := setOf(testNode("n1"), testNode("n2"))
	spec := &pb.TaskSpec{Placement: &pb.Placement{MaxReplicasPerNode: 2}}
	if got := place(t, s, groupFor("web", spec, 7)); got["n1"] != 2 || got["n2"] != 2 {
		t.Errorf("got %v", got)
	}
	// Another service with the same spec has its own count.
	if got := place(t, s, groupFor("api", spec, 1)); len(got) != 1 {
		t.Errorf("got %v", got)
	}
}

func TestReplacementCountsOnWhatItReplaces(t *testing.T) {
	for name, spec := range map[string]*pb.TaskSpec{
		"port":   publishing(80),
		"memory": needMemory(800 << 20),
		"max":    {Placement: &pb.Placement{MaxReplicasPerNode: 1}},
	} {
		s := setOf(testNode("n1"), testNode("n2"))
		need := Compile(spec)
		s.PutTask(runningTask("web", "old1", "n1"), need)
		s.PutTask(runningTask("web", "old2", "n2"), need)
		g := groupFor("web", spec, 3)
		g.Version = 2
		g.Tasks[1].Replaces = "old2"
		g.Tasks[2].Replaces = "old1"
		g.StopFirst = false
		if placed, _ := s.Place(g, epoch); len(placed) != 0 {
			t.Errorf("%s: start-first counts on a task that stays: %v", name, placed)
		}
		g.StopFirst = true
		placed, left := s.Place(g, epoch)
		want := []Decision{{"web.1", "n2"}, {"web.2", "n1"}}
		if diff := cmp.Diff(want, placed); diff != "" || len(left) != 1 || left[0].ID != "web.0" {
			t.Errorf("%s: %s left %v", name, diff, left)
		}
		// The old ones are still on the books.
		if got := place(t, s, groupFor("other", publishing(80), 1)); name == "port" && len(got) != 0 {
			t.Errorf("port of the old task given to another service: %v", got)
		}
	}
}

// Lone tasks of many services find the emptiest nodes, and not always the same
// one first.
func TestLoneTasksSpreadOverNodes(t *testing.T) {
	s := NewSet()
	for i := range 100 {
		s.PutNode(testNode(fmt.Sprintf("n%02d", i)))
	}
	first := map[string]bool{}
	for i := range 20 {
		g := groupFor(fmt.Sprintf("s%d", i), nil, 1)
		for id := range place(t, s, g) {
			first[id] = true
		}
		s.RemoveTask(g.Tasks[0].ID)
	}
	if len(first) < 10 {
		t.Errorf("20 services began on %d nodes only", len(first))
	}
	total := map[string]int{}
	for i := range 300 {
		for id := range place(t, s, groupFor(fmt.Sprintf("l%d", i), nil, 1)) {
			total[id]++
		}
	}
	for id, n := range total {
		if n != 3 {
			t.Errorf("%s has %d tasks, not 3", id, n)
		}
	}
}

func TestUnplaceableIsRememberedUntilSomethingEases(t *testing.T) {
	s := setOf(testNode("n1"))
	spec := constrainedBy("node.labels.disk==ssd")
	place(t, s, groupFor("web", spec, 1))
	before := s.Eased()
	if len(s.unfit) != 1 {
		t.Fatal("not remembered")
	}
	place(t, s, groupFor("other", nil, 1))
	s.PutNode(testNode("n1"))
	if s.Eased() != before {
		t.Error("a node that did not change, or a task placed, made room")
	}
	s.PutNode(testNode("n1", label("disk", "ssd")))
	if s.Eased() == before {
		t.Error("a new label made no room")
	}
	if got := place(t, s, groupFor("web", spec, 1)); got["n1"] != 1 {
		t.Errorf("got %v", got)
	}
}
