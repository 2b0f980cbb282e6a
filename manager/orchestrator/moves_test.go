package orchestrator

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// runSome lets some tasks take a step, as agents of different speed do.
func (e *env) runSome(rt *rapid.T) {
	view := e.state.View()
	for t := range view.Tasks() {
		n := view.Node(t.NodeId)
		if n == nil || n.Status.State != pb.NodeState_NODE_STATE_READY || t.Status.State < pb.TaskState_TASK_STATE_ASSIGNED || rapid.Bool().Draw(rt, "slow") {
			continue
		}
		if next := e.step(view, t); next != nil {
			e.report(t, next)
		}
	}
}

// serving counts the slots of a service that do their work.
func (e *env) serving(s *pb.Service) int {
	slots := map[place]bool{}
	for t := range e.state.View().TasksByService(s.Id) {
		if t.Status.State == pb.TaskState_TASK_STATE_RUNNING {
			slots[placeOf(t)] = true
		}
	}
	return len(slots)
}

// checkHandOvers: no slot ever has more live tasks than one that leaves and one
// that comes.
func (e *env) checkHandOvers(rt *rapid.T, s *pb.Service) {
	lives := map[place]int{}
	for t := range e.state.View().TasksByService(s.Id) {
		if live(t) {
			lives[placeOf(t)]++
		}
	}
	for p, n := range lives {
		if n > 2 {
			rt.Fatalf("%d live tasks in %v\n%s", n, p, e.trace.String())
		}
	}
}

func anyPace(rt *rapid.T) []string {
	return []string{
		fmt.Sprintf("replicas=%d", rapid.IntRange(1, 7).Draw(rt, "replicas")),
		fmt.Sprintf("parallelism=%d", rapid.IntRange(0, 3).Draw(rt, "parallelism")),
		"order=" + rapid.SampledFrom([]string{"STOP_FIRST", "START_FIRST"}).Draw(rt, "order"),
		"delay=" + rapid.SampledFrom([]string{"0s", "2s"}).Draw(rt, "delay"),
	}
}

// TestDrainsCostNothing drains nodes of a service that is well, in any order
// and with agents of any speed: what the update settings promise holds at
// every moment, and in the end nothing is left on the nodes that drain.
func TestDrainsCostNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := newEnv(t)
		for i := range 4 {
			e.addNode(fmt.Sprint("n", i+1))
		}
		e.honest = true
		e.setService("web", anyPace(rt)...)
		e.settle()
		s := e.service("web")
		least := store.LeastServing(s)
		if store.StartsFirst(s) {
			least = int(s.Spec.GetReplicated().Replicas)
		}
		for range rapid.IntRange(1, 40).Draw(rt, "rounds") {
			e.drainAny(rt)
			e.round()
			e.placeAll()
			e.runSome(rt)
			if n := e.serving(s); n < least {
				rt.Fatalf("%d slots serve, %d have to\n%s", n, least, e.trace.String())
			}
			e.checkHandOvers(rt, s)
		}
		clear(e.stubborn)
		e.changeNode("n4", func(s *pb.NodeSpec) { s.Availability = pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE })
		e.settle()
		e.checkAtRest(rt)
		e.checkDrained(rt)
	})
}

// drainAny may change one node's availability or willingness.
func (e *env) drainAny(rt *rapid.T) {
	node := fmt.Sprint("n", rapid.IntRange(1, 4).Draw(rt, "node"))
	switch rapid.IntRange(0, 9).Draw(rt, "what") {
	case 0, 1:
		e.changeNode(node, func(s *pb.NodeSpec) { s.Availability = pb.NodeAvailability_NODE_AVAILABILITY_DRAIN })
	case 2:
		e.changeNode(node, func(s *pb.NodeSpec) { s.Availability = pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE })
	case 3:
		e.stubborn[node] = !e.stubborn[node]
	case 4:
		e.now = e.now.Add(time.Second)
	}
}

// checkDrained: every slot is served, and by no node that drains.
func (e *env) checkDrained(rt *rapid.T) {
	view := e.state.View()
	s := e.service("web")
	for t := range view.TasksByService(s.Id) {
		if t.Status.State <= pb.TaskState_TASK_STATE_RUNNING && store.Draining(view.Node(t.NodeId)) {
			rt.Fatalf("%s is left on a node that drains\n%s", describe(t), e.trace.String())
		}
	}
	if n := e.serving(s); n != int(s.Spec.GetReplicated().Replicas) {
		rt.Fatalf("%d slots serve in the end\n%s", n, e.trace.String())
	}
}

// TestDrainDeadlineHolds: whatever stands in the way, nothing wanted is left on
// a node once the deadline has passed.
func TestDrainDeadlineHolds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := newEnv(t)
		for _, n := range nodeNames {
			e.addNode(n)
		}
		e.setService("web", anyPace(rt)...)
		e.settle()
		for _, n := range nodeNames {
			e.full[n] = rapid.Bool().Draw(rt, "full")
		}
		e.behave["app"] = rapid.SampledFrom([]mood{"", rejects, fails, hangs, unwell}).Draw(rt, "behaviour")
		deadline := time.Duration(rapid.IntRange(0, 20).Draw(rt, "deadline")) * time.Second
		e.changeNode("n1", func(s *pb.NodeSpec) {
			s.Availability, s.DrainDeadline = pb.NodeAvailability_NODE_AVAILABILITY_DRAIN, durationpb.New(deadline)
		})
		e.advance(deadline)
		for task := range e.state.View().TasksByNode("n1") {
			if live(task) {
				rt.Fatalf("%s is still wanted on n1\n%s", describe(task), e.trace.String())
			}
		}
	})
}

// settled makes running tasks of a service on nodes of the test's choice.
func (e *env) settled(name string, on []string) {
	s := e.service(name)
	for i, node := range on {
		id := e.newID()
		e.apply(
			&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
				Id: id, ServiceId: s.Id, ServiceName: name, Slot: uint64(i + 1), SpecVersion: 1, DesiredState: pb.TaskState_TASK_STATE_RUNNING,
			}}}}},
			&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{{Id: id, NodeId: node}}}}},
			&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{NodeId: node,
				Reports: []*pb.TaskStatusReport{{Id: id, Status: &pb.TaskStatus{State: pb.TaskState_TASK_STATE_RUNNING, At: timestamppb.New(e.now)}}}}}},
		)
	}
}

// loads counts a service's running tasks by node, all nodes being there.
func (e *env) loads(name string) map[string]int {
	loads := map[string]int{}
	for n := range e.state.View().Nodes() {
		loads[n.Id] = 0
	}
	for t := range e.state.View().TasksByService(e.service(name).Id) {
		if live(t) && t.Status.State == pb.TaskState_TASK_STATE_RUNNING {
			loads[t.NodeId]++
		}
	}
	return loads
}

func spreadOf(loads map[string]int) int {
	values := slices.Collect(maps.Values(loads))
	return slices.Max(values) - slices.Min(values)
}

// fewestMoves is how many tasks have to move until no node has two more than
// another.
func fewestMoves(loads map[string]int) int {
	sum := 0
	for _, n := range loads {
		sum += n
	}
	low := sum / len(loads)
	over, under := 0, 0
	for _, n := range loads {
		over += max(0, n-low-min(1, sum%len(loads)))
		under += max(0, low-n)
	}
	return max(over, under)
}

// TestRebalanceEvens: with an honest scheduler every distribution becomes even,
// with no more moves than needed, at the service's pace and price.
func TestRebalanceEvens(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := newEnv(t)
		e.honest = true
		var names []string
		for i := range rapid.IntRange(1, 5).Draw(rt, "nodes") {
			names = append(names, fmt.Sprint("n", i+1))
			e.addNode(names[i])
		}
		on := rapid.SliceOfN(rapid.SampledFrom(names), 0, 12).Draw(rt, "tasks on")
		e.setService("web", anyPace(rt)...)
		e.setService("web", fmt.Sprintf("replicas=%d", len(on)))
		e.settled("web", on)
		before := e.loads("web")
		e.rebalance("web")
		e.passSlowly(rt)
		s := e.service("web")
		after := e.loads("web")
		if store.Rebalancing(s) || spreadOf(after) > 1 {
			rt.Fatalf("from %v to %v: %v\n%s", before, after, s.Rebalance, e.trace.String())
		}
		if want := fewestMoves(before); int(s.Rebalance.Moved) != want {
			rt.Fatalf("%d moves from %v to %v, %d suffice: %v\n%s", s.Rebalance.Moved, before, after, want, s.Rebalance, e.trace.String())
		}
		e.checkAtRest(rt)
		if n := e.serving(s); n != len(on) {
			rt.Fatalf("%d of %d slots serve in the end\n%s", n, len(on), e.trace.String())
		}
	})
}

// passSlowly lets a rebalancing come to its end with agents of any speed, and
// looks that it keeps its promises on the way.
func (e *env) passSlowly(rt *rapid.T) {
	s := e.service("web")
	least := store.LeastServing(s)
	if store.StartsFirst(s) {
		least = int(s.Spec.GetReplicated().Replicas)
	}
	for range rapid.IntRange(0, 30).Draw(rt, "slow rounds") {
		e.round()
		e.placeAll()
		e.runSome(rt)
		if n := e.serving(s); n < least {
			rt.Fatalf("%d slots serve, %d have to\n%s", n, least, e.trace.String())
		}
		e.checkHandOvers(rt, s)
		e.checkMovers(rt, s)
	}
	e.advance(5 * time.Minute)
}

// checkMovers: never more slots under way than the update settings allow.
func (e *env) checkMovers(rt *rapid.T, s *pb.Service) {
	limit := store.Rollout(s).Parallelism
	lives := map[place]int{}
	under := uint64(0)
	for t := range e.state.View().TasksByService(s.Id) {
		if live(t) {
			lives[placeOf(t)]++
		}
	}
	for _, n := range lives {
		if n > 1 {
			under++
		}
	}
	if limit > 0 && under > limit {
		rt.Fatalf("%d slots move, %d may\n%s", under, limit, e.trace.String())
	}
}

// TestRebalanceKeepsPreferences: with spread preferences a rebalancing comes to
// an end, and leaves the branches no less even than it found them.
func TestRebalanceKeepsPreferences(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := newEnv(t)
		e.honest = true
		racks := map[string]string{}
		var names []string
		for i := range rapid.IntRange(2, 6).Draw(rt, "nodes") {
			name := fmt.Sprint("n", i+1)
			names = append(names, name)
			e.addNode(name)
			racks[name] = rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "rack")
			e.changeNode(name, func(s *pb.NodeSpec) { s.Labels = map[string]string{"rack": racks[name]} })
		}
		on := rapid.SliceOfN(rapid.SampledFrom(names), 0, 12).Draw(rt, "tasks on")
		e.setService("web", append(anyPace(rt), "spread=node.labels.rack", fmt.Sprintf("replicas=%d", len(on)))...)
		e.settled("web", on)
		byRack := func() map[string]int {
			loads := map[string]int{}
			for node, n := range e.loads("web") {
				loads[racks[node]] += n
			}
			return loads
		}
		nodes, before := e.loads("web"), byRack()
		e.rebalance("web")
		e.passSlowly(rt)
		s := e.service("web")
		if store.Rebalancing(s) {
			rt.Fatalf("it has no end: %v\n%s", s.Rebalance, e.trace.String())
		}
		after := byRack()
		if spreadOf(after) > max(1, spreadOf(before)) || !store.StartsFirst(s) && spreadOf(after) > 1 {
			rt.Fatalf("racks from %v to %v, nodes from %v to %v: %v\n%s", before, after, nodes, e.loads("web"), s.Rebalance, e.trace.String())
		}
		e.checkAtRest(rt)
	})
}

// TestSurveyStops: moves in thought come to an end from anywhere, whatever the
// preferences, and leave no two nodes of a branch two apart.
func TestSurveyStops(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := newEnv(t)
		e.honest = true
		var names []string
		for i := range rapid.IntRange(1, 8).Draw(rt, "nodes") {
			names = append(names, fmt.Sprint("n", i+1))
			e.addNode(names[i])
			label := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "rack")
			e.changeNode(names[i], func(s *pb.NodeSpec) { s.Labels = map[string]string{"rack": label} })
		}
		on := rapid.SliceOfN(rapid.SampledFrom(names), 0, 30).Draw(rt, "tasks on")
		e.setService("web", "spread=node.labels.rack", fmt.Sprintf("replicas=%d", len(on)))
		e.settled("web", on)
		s := newSet(nil, e.newID)
		s.turnTo(e.service("web"), e.state.View())
		s.load(slices.Collect(e.state.View().TasksByService(e.service("web").Id)))
		s.lookAtDirty()
		v := s.survey()
		for moves := 0; v.next() != nil; moves++ {
			if moves > len(on)*len(names) {
				rt.Fatalf("%d moves and no end: %v", moves, v.counts)
			}
		}
		for _, a := range v.fit {
			for _, b := range v.fit {
				if a.keys[0] == b.keys[0] && v.counts[a.keys[1]] > v.counts[b.keys[1]]+1 {
					rt.Fatalf("%s and %s are two apart: %v", a.id, b.id, v.counts)
				}
			}
		}
	})
}

func TestGains(t *testing.T) {
	v := &survey{counts: map[string]int{"x": 4, "y": 2, "z": 3, "x1": 3, "x2": 1, "y1": 2, "z1": 2, "z2": 1}}
	at := func(keys ...string) *spread { return &spread{keys: keys} }
	for _, c := range []struct {
		what     string
		from, to *spread
		want     bool
	}{
		{"to an emptier branch", at("x", "x2"), at("y", "y1"), true},
		{"to a fuller branch", at("y", "y1"), at("x", "x2"), false},
		{"between branches one apart, nodes three to one", at("x", "x1"), at("z", "z2"), true},
		{"between branches one apart, nodes even", at("x", "x2"), at("z", "z2"), false},
		{"in a branch", at("x", "x1"), at("x", "x2"), true},
		{"in a branch, nodes one apart", at("z", "z1"), at("z", "z2"), false},
		{"to itself", at("x", "x1"), at("x", "x1"), false},
	} {
		if got := v.gains(c.from, c.to); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
	if cmp.Compare(fewestMoves(map[string]int{"a": 6, "b": 0, "c": 0}), 4) != 0 || fewestMoves(map[string]int{"a": 2, "b": 1}) != 0 {
		t.Error("fewestMoves is wrong")
	}
}
