package placement_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/scheduler"
)

// start runs a cluster with placement in virtual time.
func start(t *testing.T, test func(*testing.T, *cluster)) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.record = true
		stop := c.run(t)
		defer stop()
		test(t, c)
	})
}

// pass lets virtual time pass and all that it brings come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// nodes tells how many of a service's tasks each node has.
func (c *cluster) nodes(service string) map[string]int {
	counts := map[string]int{}
	for task := range c.View().TasksByService(service) {
		if task.Status.State == pb.TaskState_TASK_STATE_ASSIGNED {
			counts[task.NodeId]++
		}
	}
	return counts
}

func needing(memory int64) *pb.TaskSpec {
	return &pb.TaskSpec{Resources: &pb.ResourceRequirements{ReserveMemoryBytes: memory}}
}

func isExplain(c *pb.Command) bool { return c.GetExplainTasks() != nil }

func TestOneTaskIsPlacedWithinMilliseconds(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, node("n1", nil), spec("web", &pb.TaskSpec{}))
		pass(time.Second)
		c.must(t, tasks("web", 0, 1))
		pass(5 * time.Millisecond)
		if got := c.nodes("web"); got["n1"] != 1 {
			t.Errorf("after 5 ms: %v", got)
		}
	})
}

// Changes that never pause do not put a pass off for long.
func TestSteadyChangesDoNotStarveTasks(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, node("n1", nil), spec("web", &pb.TaskSpec{}))
		pass(time.Second)
		for i := range 70 {
			c.must(t, tasks("web", i, 1))
			pass(time.Millisecond)
		}
		if got := c.nodes("web"); got["n1"] < 40 {
			t.Errorf("after 70 ms of changes: %v", got)
		}
	})
}

func TestTasksCreatedTogetherAreSpread(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, node("n1", nil), node("n2", nil), node("n3", nil), spec("web", &pb.TaskSpec{}))
		c.must(t, tasks("web", 0, 2))
		c.must(t, tasks("web", 2, 7))
		pass(time.Second)
		if diff := cmp.Diff(map[string]int{"n1": 3, "n2": 3, "n3": 3}, c.nodes("web")); diff != "" {
			t.Error(diff)
		}
		assigns := c.count(func(c *pb.Command) bool { return c.GetAssignTasks() != nil })
		if assigns > 2 { // two creations; a pass may fall between them
			t.Errorf("%d proposals for two creations", assigns)
		}
	})
}

func TestStrategyOfTheClusterIsFollowedAtOnce(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		strategy := func(s pb.PlacementStrategy) *pb.ClusterSpec { return &pb.ClusterSpec{PlacementStrategy: s} }
		c.must(t, &pb.Command{Kind: &pb.Command_CreateCluster{CreateCluster: &pb.CreateCluster{
			Cluster: &pb.Cluster{Id: "cluster", Spec: strategy(pb.PlacementStrategy_PLACEMENT_STRATEGY_SPREAD)},
		}}})
		c.must(t, node("n1", nil), node("n2", nil), node("n3", nil), spec("web", &pb.TaskSpec{}), tasks("web", 0, 3))
		pass(time.Second)
		if diff := cmp.Diff(map[string]int{"n1": 1, "n2": 1, "n3": 1}, c.nodes("web")); diff != "" {
			t.Error(diff)
		}
		c.must(t, &pb.Command{Kind: &pb.Command_UpdateClusterSpec{UpdateClusterSpec: &pb.UpdateClusterSpec{
			IfVersion: c.View().Cluster().GetMeta().GetVersion(), Spec: strategy(pb.PlacementStrategy_PLACEMENT_STRATEGY_BINPACK),
		}}})
		c.must(t, spec("db", &pb.TaskSpec{}), tasks("db", 0, 4))
		pass(time.Second)
		if got := c.nodes("db"); len(got) != 1 {
			t.Errorf("spread over %v", got)
		}
	})
}

func TestWaitingTaskIsToldWhyAndPlacedLater(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, node("n1", nil), spec("web", &pb.TaskSpec{Placement: &pb.Placement{Constraints: []string{"node.labels.disk==ssd"}}}))
		c.must(t, tasks("web", 0, 2))
		pass(100 * time.Millisecond)
		for task := range c.View().TasksByService("web") {
			want := &pb.TaskStatus{
				Message: "waiting: 0 of 1 nodes fit",
				Error:   "1 lacks label disk=ssd",
				State:   pb.TaskState_TASK_STATE_PENDING,
				Refused: []*pb.FilterCount{{Filter: "constraints", Nodes: 1, Reason: "lacks label disk=ssd"}},
			}
			if diff := cmp.Diff(want, task.Status, protocmp.Transform(), protocmp.IgnoreFields(want, "at")); diff != "" {
				t.Error(diff)
			}
		}
		pass(time.Minute)
		if n := c.count(isExplain); n != 1 {
			t.Errorf("the same reason was told %d times", n)
		}
		// A task that joins those that wait is told within a second.
		c.must(t, tasks("web", 2, 1))
		pass(1100 * time.Millisecond)
		if got := c.View().Task("web.0000002").Status.Error; got == "" {
			t.Error("a later task is not told why it waits")
		}
		c.must(t, node("n2", map[string]string{"disk": "ssd"}))
		pass(5 * time.Millisecond)
		if got := c.nodes("web"); got["n2"] != 3 {
			t.Errorf("after a node came that fits: %v", got)
		}
	})
}

// TestManyAreToldInRounds: more groups than a pass explains are all told soon,
// and once more when the reason changes, while they are also tried again.
func TestManyAreToldInRounds(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		const services = 3000
		c.must(t, node("n1", nil))
		for i := range services {
			name := fmt.Sprintf("s%04d", i)
			c.must(t, spec(name, needing(1<<50)), tasks(name, 0, 1))
		}
		told := func(want string) (n int) {
			for task := range c.View().Tasks() {
				if task.Status.Message == want {
					n++
				}
			}
			return n
		}
		pass(time.Second)
		if n := told("waiting: 0 of 1 nodes fit"); n != services {
			t.Errorf("%d of %d are told", n, services)
		}
		c.must(t, node("n2", nil))
		pass(3 * time.Second)
		if n := told("waiting: 0 of 2 nodes fit"); n != services {
			t.Errorf("%d of %d are told of the second node", n, services)
		}
	})
}

// TestSlowExplanationsAreWaitedFor: while reasons are on their way to the log the
// loop sleeps, however long that takes; if it did not, no time would pass here.
func TestSlowExplanationsAreWaitedFor(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.before(func(cmds []*pb.Command) error {
			if isExplain(cmds[0]) {
				time.Sleep(10 * time.Second)
			}
			return nil
		})
		c.must(t, node("n1", nil), spec("web", needing(1<<50)), tasks("web", 0, 1))
		pass(5 * time.Second)
		c.must(t, tasks("web", 1, 1))
		pass(20 * time.Second)
		for task := range c.View().TasksByService("web") {
			if task.Status.Error == "" {
				t.Errorf("%s is not told why it waits", task.Id)
			}
		}
	})
}

func TestReasonsThatChangeAreToldRarely(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, node("n1", nil), spec("web", needing(1<<50)), tasks("web", 0, 1))
		pass(time.Second)
		for i := range 60_000 / 70 {
			c.must(t, report("n1", []pb.NodeState{2, 3}[i%2]))
			pass(70 * time.Millisecond)
		}
		// At once, then after 1, 2, 4, 8, 16, 30 s.
		if n := c.count(isExplain); n < 3 || n > 8 {
			t.Errorf("told %d times in a minute", n)
		}
	})
}

func TestRoomOfAnEndedTaskIsUsed(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, node("n1", nil), spec("web", needing(200<<30)), tasks("web", 0, 2))
		pass(time.Second)
		if got := c.nodes("web"); got["n1"] != 1 {
			t.Fatalf("a node for one got %v", got)
		}
		c.must(t, status("n1", "web.0000000", pb.TaskState_TASK_STATE_FAILED))
		pass(5 * time.Millisecond)
		if got := c.View().Task("web.0000001"); got.NodeId != "n1" {
			t.Errorf("still waits: %v", got.Status)
		}
	})
}

func TestDecisionThatTheStoreSkippedIsTakenAgain(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, node("n1", nil), spec("web", needing(200<<30)))
		skipped := false
		c.before(func(cmds []*pb.Command) error {
			if cmds[0].GetAssignTasks() != nil && !skipped {
				skipped = true
				c.must(t, report("n1", pb.NodeState_NODE_STATE_DOWN), node("n2", nil))
			}
			return nil
		})
		c.must(t, tasks("web", 0, 1))
		pass(time.Second)
		if got := c.nodes("web"); got["n2"] != 1 {
			t.Errorf("got %v", got)
		}
		c.must(t, report("n1", pb.NodeState_NODE_STATE_READY), tasks("web", 1, 1))
		pass(time.Second)
		if got := c.nodes("web"); got["n1"] != 1 {
			t.Errorf("the room that the skipped decision took is not free: %v", got)
		}
	})
}

func TestProposalsThatFailAreRepeated(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		attempts := 0
		c.before(func([]*pb.Command) error {
			if attempts++; attempts <= 5 {
				return errors.New("no leader")
			}
			return nil
		})
		c.must(t, node("n1", nil), spec("web", &pb.TaskSpec{}), tasks("web", 0, 3))
		pass(time.Second)
		if got := c.nodes("web"); got["n1"] != 3 {
			t.Errorf("got %v", got)
		}
		c.before(nil)
		if attempts > 7 {
			t.Errorf("%d attempts in a second", attempts)
		}
	})
}

func TestTasksThatAreNotPlaced(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, spec("web", &pb.TaskSpec{}), spec("old", &pb.TaskSpec{}), tasks("web", 0, 2), tasks("old", 0, 1))
		pass(time.Second)
		c.must(t, desired("web.0000000", pb.TaskState_TASK_STATE_SHUTDOWN),
			&pb.Command{Kind: &pb.Command_RemoveService{RemoveService: &pb.RemoveService{Id: "old"}}})
		c.must(t, node("n1", nil))
		pass(time.Second)
		for id, want := range map[string]string{"web.0000000": "", "web.0000001": "n1", "old.0000000": ""} {
			if got := c.View().Task(id).GetNodeId(); got != want {
				t.Errorf("%s: got %q, want %q", id, got, want)
			}
		}
	})
}

func TestGlobalTaskWaitsForItsNode(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, node("n1", nil), node("n2", nil), report("n2", pb.NodeState_NODE_STATE_DOWN), spec("agent", &pb.TaskSpec{}))
		create := tasks("agent", 0, 2)
		create.GetCreateTasks().Tasks[0].NodeId = "n1"
		create.GetCreateTasks().Tasks[1].NodeId = "n2"
		c.must(t, create)
		pass(time.Second)
		if got := c.nodes("agent"); got["n1"] != 1 || got["n2"] != 0 {
			t.Errorf("got %v", got)
		}
		waiting := c.View().Task("agent.0000001").Status
		if waiting.Message != "waiting for its node" || waiting.Error != "the node is down" {
			t.Errorf("got %v", waiting)
		}
		c.must(t, report("n2", pb.NodeState_NODE_STATE_READY))
		pass(time.Second)
		if got := c.nodes("agent"); got["n2"] != 1 {
			t.Errorf("after the node came back: %v", got)
		}
	})
}

func TestReplacementTakesTheHostPortOfTheOldTask(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		ports := &pb.TaskSpec{Ports: []*pb.PortConfig{{Target: 80, Published: 80, Mode: pb.PortConfig_MODE_HOST}}}
		c.must(t, node("n1", nil), spec("web", ports), tasks("web", 0, 2))
		pass(time.Second)
		next := tasks("web", 2, 1)
		next.GetCreateTasks().Tasks[0].Replaces = "web.0000000"
		next.GetCreateTasks().Tasks[0].DesiredState = pb.TaskState_TASK_STATE_READY
		c.must(t, next)
		pass(time.Second)
		for id, want := range map[string]string{"web.0000001": "", "web.0000002": "n1"} {
			if got := c.View().Task(id).NodeId; got != want {
				t.Errorf("%s: got %q, want %q", id, got, want)
			}
		}
	})
}

func TestStartsOverAfterRestore(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, node("n1", nil), spec("web", needing(200<<30)), tasks("web", 0, 1))
		pass(time.Second)
		if err := c.Restore(c.Snapshot()); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		c.must(t, node("n2", nil), tasks("web", 1, 2))
		pass(time.Second)
		if diff := cmp.Diff(map[string]int{"n1": 1, "n2": 1}, c.nodes("web")); diff != "" {
			t.Error(diff)
		}
	})
}

// Whatever happens to nodes, tasks and proposals: at rest every task that
// waits fits nowhere and says so, and no node has given away more than it has.
func TestAtRestNothingThatFitsWaits(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			start(t, func(t *testing.T, c *cluster) { storm(t, c, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func storm(t *testing.T, c *cluster, rng *rand.Rand) {
	faults := rand.New(rand.NewPCG(rng.Uint64(), 2))
	c.before(func(cmds []*pb.Command) error {
		if faults.IntN(4) > 0 {
			return nil
		}
		if faults.IntN(2) > 0 {
			c.must(t, cmds...) // committed, but nobody hears of it
		}
		return errors.New("lost leadership")
	})
	const nodes, services = 5, 4
	for i := range nodes {
		c.must(t, node(fmt.Sprint("n", i), map[string]string{"odd": fmt.Sprint(i % 2)}))
	}
	for i := range services {
		s := needing(int64(rng.IntN(4)) * 30 << 30)
		if rng.IntN(2) == 0 {
			s.Placement = &pb.Placement{Constraints: []string{"node.labels.odd==1"}, MaxReplicasPerNode: 2}
		}
		c.must(t, spec(fmt.Sprint("s", i), s))
	}
	made := 0
	for range 60 {
		switch rng.IntN(4) {
		case 0, 1:
			n := 1 + rng.IntN(4)
			c.must(t, tasks(fmt.Sprint("s", rng.IntN(services)), made, n))
			made += n
		case 2:
			c.must(t, report(fmt.Sprint("n", rng.IntN(nodes)), []pb.NodeState{2, 3}[rng.IntN(2)]))
		case 3:
			for task := range c.View().Tasks() {
				if rng.IntN(5) == 0 && task.NodeId != "" {
					c.must(t, status(task.NodeId, task.Id, pb.TaskState_TASK_STATE_FAILED))
				} else if rng.IntN(10) == 0 {
					c.must(t, desired(task.Id, pb.TaskState_TASK_STATE_SHUTDOWN))
				}
			}
		}
		time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
	}
	c.before(nil)
	pass(2 * time.Minute)
	checkRest(t, c)
}

func checkRest(t *testing.T, c *cluster) {
	t.Helper()
	v := c.View()
	used := map[string]int64{}
	for task := range v.Tasks() {
		service := v.Service(task.ServiceId)
		if task.Status.State == pb.TaskState_TASK_STATE_ASSIGNED {
			used[task.NodeId] += service.Spec.Task.GetResources().GetReserveMemoryBytes()
		}
		if task.Status.State != pb.TaskState_TASK_STATE_PENDING {
			continue
		}
		why := scheduler.ExplainTask(v, task, time.Now())
		for _, verdict := range why.Nodes {
			if verdict.Fits {
				t.Errorf("%s waits, but fits on %s", task.Id, verdict.NodeId)
			}
		}
		if want := "0 of 5 nodes fit: " + task.Status.Error; why.Summary != want {
			t.Errorf("%s is told %q, but it is %q", task.Id, task.Status.Error, why.Summary)
		}
	}
	for id, memory := range used {
		if most := v.Node(id).Description.Resources.MemoryBytes; memory > most {
			t.Errorf("%s has given away %d of %d bytes", id, memory, most)
		}
	}
}
