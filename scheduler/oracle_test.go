package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
)

// The oracle looks at every node for every task, and knows nothing of levels,
// classes, branches or heaps.

type oracleNode struct {
	*pb.Node
	memory  int64
	ports   map[uint32]bool
	gpus    int64
	service int
	tasks   int
	flaps   bool
}

type oracle struct {
	nodes  []*oracleNode
	spec   *pb.TaskSpec
	spread []string
	pack   bool
}

// oracleConstraints are what the constraints that drawSpec knows mean.
var oracleConstraints = map[string]func(labels map[string]string) bool{
	"node.labels.disk==ssd":           func(l map[string]string) bool { return l["disk"] == "ssd" },
	"node.labels.disk!=ssd":           func(l map[string]string) bool { return l["disk"] != "ssd" },
	"node.labels.disk in (ssd,nvme)":  func(l map[string]string) bool { return l["disk"] == "ssd" || l["disk"] == "nvme" },
	"node.labels.disk notin (ssd,hd)": func(l map[string]string) bool { return l["disk"] != "ssd" },
	"node.labels.rack exists":         func(l map[string]string) bool { return l["rack"] != "" },
	"node.labels.rack !exists":        func(l map[string]string) bool { return l["rack"] == "" },
	"node.labels.rack < 3":            func(l map[string]string) bool { return l["rack"] == "1" || l["rack"] == "2" },
	"node.labels.rack > 1":            func(l map[string]string) bool { return l["rack"] == "2" || l["rack"] == "3" },
	"node.ip in (10.0.0.0/8)":         func(map[string]string) bool { return true },
}

func (o *oracle) feasible(n *oracleNode) bool {
	if n.Status.State != pb.NodeState_NODE_STATE_READY || n.Spec.Availability != pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE {
		return false
	}
	need := o.spec.GetResources().GetReserveMemoryBytes()
	if need > 0 && need > n.memory {
		return false
	}
	for _, text := range o.spec.GetPlacement().GetConstraints() {
		if !oracleConstraints[text](n.Spec.Labels) {
			return false
		}
	}
	for _, g := range o.spec.GetResources().GetGeneric() {
		if g.Count > n.gpus {
			return false
		}
	}
	for _, p := range o.spec.GetPorts() {
		if n.ports[p.Published] {
			return false
		}
	}
	most := int(o.spec.GetPlacement().GetMaxReplicasPerNode())
	return most == 0 || n.service < most
}

// key is what nodes are compared by, the best first; ties are left open.
func (o *oracle) key(n *oracleNode) []int {
	key := []int{0}
	if n.flaps {
		key[0] = 1
	}
	for depth := range o.spread {
		sum := 0
		for _, m := range o.nodes {
			same := true
			for _, name := range o.spread[:depth+1] {
				same = same && m.Spec.Labels[name] == n.Spec.Labels[name]
			}
			if same {
				sum += m.service
			}
		}
		key = append(key, sum)
	}
	if o.pack {
		return append(key, -o.fullness(n), -n.tasks)
	}
	return append(key, n.service, n.tasks)
}

// fullness is the share of a node's memory that is reserved, in parts of 840,
// which every size that drawNode gives divides. Nobody reserves CPUs.
func (o *oracle) fullness(n *oracleNode) int {
	total := n.Description.Resources.MemoryBytes
	if total == 0 {
		return 0
	}
	return int((total - n.memory) * 840 / total)
}

func (o *oracle) best() []int {
	var best []int
	for _, n := range o.nodes {
		if !o.feasible(n) {
			continue
		}
		if key := o.key(n); best == nil || slices.Compare(key, best) < 0 {
			best = key
		}
	}
	return best
}

func (o *oracle) give(n *oracleNode) {
	for _, g := range o.spec.GetResources().GetGeneric() {
		n.gpus -= g.Count
	}
	n.memory -= o.spec.GetResources().GetReserveMemoryBytes()
	for _, p := range o.spec.GetPorts() {
		n.ports[p.Published] = true
	}
	n.service++
	n.tasks++
}

func drawNode(t *rapid.T, id string) *pb.Node {
	n := testNode(id, memory(int64(rapid.IntRange(0, 8).Draw(t, "memory"))))
	n.Status.State = rapid.SampledFrom([]pb.NodeState{3, 3, 3, 3, 2, 1}).Draw(t, "state")
	n.Spec.Availability = rapid.SampledFrom([]pb.NodeAvailability{1, 1, 1, 1, 2, 3}).Draw(t, "availability")
	if gpus := rapid.IntRange(0, 3).Draw(t, "gpus"); gpus > 0 {
		n.Description.Resources.Generic = []*pb.GenericResource{{Kind: "gpu", Count: int64(gpus)}}
	}
	for _, l := range [...]struct{ name, values string }{{"disk", "ssd hdd nvme"}, {"az", "1 2"}, {"rack", "1 2 3"}} {
		if v := rapid.SampledFrom(append(strings.Fields(l.values), "")).Draw(t, l.name); v != "" {
			n.Spec.Labels[l.name] = v
		}
	}
	return n
}

func drawSpec(t *rapid.T) (*pb.TaskSpec, []string) {
	spec := &pb.TaskSpec{
		Resources: &pb.ResourceRequirements{ReserveMemoryBytes: int64(rapid.IntRange(0, 3).Draw(t, "need"))},
		Placement: &pb.Placement{MaxReplicasPerNode: uint64(rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "max"))},
	}
	for range rapid.SampledFrom([]int{0, 0, 1, 1, 2}).Draw(t, "constraints") {
		c := rapid.SampledFrom(slices.Sorted(maps.Keys(oracleConstraints))).Draw(t, "constraint")
		spec.Placement.Constraints = append(spec.Placement.Constraints, c)
	}
	if rapid.IntRange(0, 3).Draw(t, "wants gpus") == 0 {
		spec.Resources.Generic = []*pb.GenericRequest{{Kind: "gpu", Count: int64(rapid.IntRange(1, 2).Draw(t, "gpus"))}}
	}
	if rapid.IntRange(0, 4).Draw(t, "publishes") == 0 {
		spec.Ports = publishing(80).Ports
	}
	spread := rapid.SampledFrom([][]string{nil, {"rack"}, {"az", "rack"}}).Draw(t, "spread")
	for _, name := range spread {
		spec.Placement.Spread = append(spec.Placement.Spread, "node.labels."+name)
	}
	return spec, spread
}

func TestPlaceAgreesWithOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, o := NewSet(), &oracle{}
		byID := map[string]*oracleNode{}
		if o.pack = rapid.Bool().Draw(t, "pack"); o.pack {
			s.SetStrategy(pb.PlacementStrategy_PLACEMENT_STRATEGY_BINPACK)
		}
		for i := range rapid.IntRange(1, 80).Draw(t, "nodes") {
			n := drawNode(t, fmt.Sprintf("n%02d", i))
			s.PutNode(n)
			on := &oracleNode{Node: n, memory: n.Description.Resources.MemoryBytes, ports: map[uint32]bool{}}
			for _, g := range n.Description.Resources.Generic {
				on.gpus = g.Count
			}
			byID[n.Id] = on
			o.nodes = append(o.nodes, on)
		}
		o.spec, o.spread = drawSpec(t)
		need := Compile(o.spec)
		for i := range rapid.IntRange(0, 30).Draw(t, "old tasks") {
			n := rapid.SampledFrom(o.nodes).Draw(t, "node")
			if rapid.Bool().Draw(t, "same service") {
				s.PutTask(runningTask("web", fmt.Sprint("old", i), n.Id), need)
				o.give(n)
			} else {
				s.PutTask(runningTask("other", fmt.Sprint("old", i), n.Id), Compile(nil))
				n.tasks++
			}
		}
		for range rapid.IntRange(0, 3).Draw(t, "flapping") {
			n := rapid.SampledFrom(o.nodes).Draw(t, "node")
			for range maxFailures {
				s.AddFailure("web", 1, n.Id, epoch)
			}
			n.flaps = true
		}
		g := groupFor("web", o.spec, rapid.IntRange(1, 60).Draw(t, "tasks"))
		ranked := s.Verdicts(g, g.Tasks[0], epoch)
		fit := 0
		for _, n := range o.nodes {
			if o.feasible(n) {
				fit++
			}
		}
		if e := s.Explain(g, g.Tasks[0]); e.Fit != fit || e.Nodes != len(o.nodes) {
			t.Fatalf("explained %s, of %d fit %d", e.Summary(), len(o.nodes), fit)
		}
		placed, left := s.Place(g, epoch)
		if len(placed) > 0 && ranked[0].NodeId != placed[0].Node {
			t.Fatalf("the first task went to %s, but %v ranks first", placed[0].Node, ranked[0])
		}
		for i, d := range placed {
			n := byID[d.Node]
			if !o.feasible(n) {
				t.Fatalf("task %d: %s cannot take it", i, d.Node)
			}
			if got, want := o.key(n), o.best(); slices.Compare(got, want) != 0 {
				t.Fatalf("task %d: %s has %v, the best %v", i, d.Node, got, want)
			}
			o.give(n)
		}
		if best := o.best(); len(left) > 0 && best != nil {
			t.Fatalf("%d left, but there is room", len(left))
		}
	})
}

// books is everything a set keeps account of, in comparable form.
func books(s *Set) map[string]string {
	lines := map[string]string{}
	for _, n := range s.nodes {
		services := map[string]int{}
		for id, v := range s.services {
			if v.nodes[n] > 0 {
				services[id] = v.nodes[n]
			}
		}
		indexed := 0
		for k, l := range s.levels {
			if l.members.has(n.pos) {
				indexed += k + 1
			}
		}
		ports := slices.SortedFunc(maps.Keys(n.ports), func(a, b hostPort) int { return cmp.Compare(a.port, b.port) })
		lines[n.id] = fmt.Sprintf("known=%v free=%v generic=%v-%v held=%d tasks=%d ports=%v level=%d indexed=%d services=%v class=%v",
			n.known, s.free[n.pos], n.generic, n.taken, n.held, n.tasks, ports, n.level, indexed, services, s.candidates(ssd).has(n.pos))
		if s.slots[n.pos] != n {
			lines[n.id] += " misplaced"
		}
		if p := s.partition(byRack.spread).of[n]; p != nil {
			i, found := p.members.find(n.pos / 64)
			lines[n.id] += fmt.Sprintf(" part=%q of %d %v", p.path, p.count, found && p.members[i].bits>>(n.pos%64)&1 == 1)
		}
	}
	for id, h := range s.tasks {
		lines["task "+id] = fmt.Sprintf("%s %v", h.node.id, h.wanted)
	}
	members, counted := 0, 0
	for _, l := range s.levels {
		counted += l.count
		for pos := range s.slots {
			if l.members.has(pos) {
				members++
			}
		}
	}
	lines["parts"] = fmt.Sprint(len(s.partition(byRack.spread).all), len(s.partition(byRack.spread).of))
	lines["levels"] = fmt.Sprint(members == counted, " known ", s.known)
	return lines
}

var (
	ssd    = Compile(constrainedBy("node.labels.disk==ssd"))
	byRack = Compile(spreadOver("node.labels.rack"))
)

// However a set came to its nodes and tasks, its account is the one of a set
// that is told of them once.
func TestAccountEqualsRebuild(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewSet()
		nodes, tasks := map[string]*pb.Node{}, map[string]*pb.Task{}
		needs := [...]*Requirements{Compile(nil), Compile(needMemory(2)), Compile(publishing(80)), Compile(needGeneric("gpu", 2)), ssd, byRack}
		needOf := func(task *pb.Task) *Requirements { return needs[task.Slot] }
		s.candidates(ssd)
		s.partition(byRack.spread)
		name := func(kind string, n int) string { return fmt.Sprint(kind, rapid.IntRange(0, n).Draw(t, kind)) }
		t.Repeat(map[string]func(*rapid.T){
			"node": func(t *rapid.T) {
				n := drawNode(t, name("n", 6))
				nodes[n.Id] = n
				s.PutNode(n)
			},
			"node gone": func(t *rapid.T) {
				id := name("n", 6)
				delete(nodes, id)
				s.RemoveNode(id)
			},
			"task": func(t *rapid.T) {
				task := runningTask(name("s", 2), name("t", 10), name("n", 6))
				task.Status.State = rapid.SampledFrom([]pb.TaskState{64, 192, 512, 512, 576, 704}).Draw(t, "state")
				task.DesiredState = rapid.SampledFrom([]pb.TaskState{384, 512, 640}).Draw(t, "desired")
				if old := tasks[task.Id]; old != nil {
					task.ServiceId, task.Slot = old.ServiceId, old.Slot
				} else {
					task.Slot = uint64(rapid.IntRange(0, len(needs)-1).Draw(t, "need"))
				}
				tasks[task.Id] = task
				s.PutTask(task, needOf(task))
				s.PutTask(task, needOf(task))
			},
			"task gone": func(t *rapid.T) {
				id := name("t", 10)
				delete(tasks, id)
				s.RemoveTask(id)
				s.RemoveTask(id)
			},
			"placed and taken back": func(t *rapid.T) {
				g := groupFor("web", nil, 5)
				g.Need = rapid.SampledFrom(needs[:]).Draw(t, "need")
				for id := range tasks {
					g.Tasks[0].Replaces = id
				}
				placed, _ := s.Place(g, epoch)
				for _, d := range placed {
					s.RemoveTask(d.Task)
				}
			},
			"": func(t *rapid.T) {
				fresh := NewSet()
				for _, n := range nodes {
					fresh.PutNode(n)
				}
				for _, task := range tasks {
					fresh.PutTask(task, needOf(task))
				}
				if diff := gocmp.Diff(books(fresh), books(s)); diff != "" {
					t.Fatalf("the account differs (-rebuilt +kept):\n%s", diff)
				}
			},
		})
	})
}

func TestRingVisitsEachMemberOnceFromStart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 200).Draw(t, "size")
		start := rapid.IntRange(0, size-1).Draw(t, "start")
		var a, b bitset
		var want []int
		for _, pos := range rapid.SliceOfDistinct(rapid.IntRange(0, size-1), rapid.ID[int]).Draw(t, "members") {
			a.put(pos)
			if rapid.Bool().Draw(t, "in both") {
				b.put(pos)
				want = append(want, pos)
			}
		}
		slices.SortFunc(want, func(x, y int) int { return cmp.Compare((x-start+size)%size, (y-start+size)%size) })
		var got []int
		ring(a, b, start, size, func(pos int) bool { got = append(got, pos); a.drop(pos); return true })
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}
