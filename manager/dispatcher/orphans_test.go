package dispatcher

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	orphan = pb.TaskState_TASK_STATE_ORPHANED
)

func (r *rig) taskState(id string) pb.TaskState {
	return r.state.View().Task(id).GetStatus().GetState()
}

func (r *rig) orphanTime(d time.Duration) {
	r.t.Helper()
	r.apply(&pb.Command{Kind: &pb.Command_UpdateClusterSpec{UpdateClusterSpec: &pb.UpdateClusterSpec{Spec: &pb.ClusterSpec{
		Name: "default", HeartbeatPeriod: durationpb.New(2 * time.Second), OrphanTime: durationpb.New(d)}}}})
}

func (r *rig) down(node string) {
	r.t.Helper()
	r.apply(downCommands(r.state.View(), []string{node}, time.Now())...)
}

// lostTasks makes a node with a task in each of some states, and loses it.
func (r *rig) lostTasks(node string) {
	r.t.Helper()
	r.service("web")
	states := map[string]pb.TaskState{"a": pb.TaskState_TASK_STATE_ASSIGNED, "b": pb.TaskState_TASK_STATE_PREPARING, "c": pb.TaskState_TASK_STATE_RUNNING, "d": pb.TaskState_TASK_STATE_FAILED}
	for id, state := range states {
		r.task(id, "web", node, pb.TaskState_TASK_STATE_RUNNING)
		r.apply(&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{NodeId: node, Reports: []*pb.TaskStatusReport{status(id, state)}}}})
	}
	r.down(node)
}

func TestTasksOfALostNodeAreOrphaned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		r.lostTasks("n1")
		time.Sleep(23*time.Hour + 59*time.Minute)
		if got := r.taskState("c"); got != pb.TaskState_TASK_STATE_RUNNING {
			t.Fatalf("before its time a task is %v", got)
		}
		time.Sleep(2 * time.Minute)
		for id, want := range map[string]pb.TaskState{"a": orphan, "b": orphan, "c": orphan, "d": pb.TaskState_TASK_STATE_FAILED} {
			if got := r.taskState(id); got != want {
				t.Errorf("task %s is %v", id, got)
			}
		}
		if got := r.state.View().Task("c").Status.Message; got != "its node was down for 24h0m0s" {
			t.Errorf("message %q", got)
		}
		proposed := r.proposed()
		time.Sleep(24 * time.Hour)
		if got := r.proposed(); got != proposed {
			t.Errorf("%d more proposals for a node without tasks", got-proposed)
		}
	})
}

// TestOrphanTimeSurvivesElections: a new leader goes on counting.
func TestOrphanTimeSurvivesElections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		r.orphanTime(10 * time.Minute)
		r.lostTasks("n1")
		for range 3 {
			time.Sleep(3 * time.Minute)
			r.stop()
			r.run()
		}
		if got := r.taskState("c"); got != pb.TaskState_TASK_STATE_RUNNING {
			t.Fatalf("before its time a task is %v", got)
		}
		time.Sleep(time.Minute + 2*time.Second)
		if got := r.taskState("c"); got != orphan {
			t.Errorf("a task is %v after ten minutes under four leaders", got)
		}
	})
}

func TestOrphanTimeCanBeChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		r.lostTasks("n1")
		time.Sleep(5 * time.Minute)
		r.breakProposals(errors.New("no majority"))
		r.orphanTime(time.Minute)
		time.Sleep(30 * time.Second)
		if got := r.taskState("c"); got != pb.TaskState_TASK_STATE_RUNNING {
			t.Fatalf("without a majority a task is %v", got)
		}
		r.breakProposals(nil)
		time.Sleep(2 * time.Second)
		if got := r.taskState("c"); got != orphan {
			t.Errorf("a task is %v, what could not be proposed was forgotten", got)
		}
	})
}

// TestReturningNodeKeepsItsTasks: one that was back when the report was
// committed is not robbed, and one that comes back in time starts anew.
func TestReturningNodeKeepsItsTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		r.orphanTime(time.Minute)
		r.lostTasks("n1")
		stale := orphaned(r.state.View(), "n1", time.Now())
		time.Sleep(50 * time.Second)
		a := r.open("n1")
		a.greeted()
		time.Sleep(time.Second)
		r.apply(&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{NodeId: "n1", Reports: stale}}})
		for range 6 {
			a.beat()
			time.Sleep(5 * time.Second)
		}
		if got := r.taskState("c"); len(stale) != 3 || got != pb.TaskState_TASK_STATE_RUNNING {
			t.Errorf("of %d reports one made a task of a node that is up %v", len(stale), got)
		}
	})
}

func TestDoubtful(t *testing.T) {
	start := time.Unix(0, 0)
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	for name, c := range map[string]struct {
		nodes string
		came  string
		now   float64
		want  string
	}{
		"nobody is expected":            {"", "", 0, "done"},
		"all came":                      {"a b c", "a@.1 b@.2 c@.3", .4, "done"},
		"one is missing, it is early":   {"a b c", "a@.1 b@.2", 1.9, ""},
		"one is missing":                {"a b c", "a@.1 b@.2", 2, "c"},
		"one is missing, they come yet": {"a b c", "a@.1 b@1.5", 2.4, ""},
		"one is missing, none comes":    {"a b c", "a@.1 b@1.5", 2.5, "c"},
		"most are missing":              {"a b c", "a@.1", 60, ""},
		"half is missing":               {"a b c d", "a@.1 c@.1", 3, "b d"},
		"a stranger came":               {"a b", "x@.1", 3, ""},
	} {
		a := newAbsent(start)
		for _, n := range strings.Fields(c.nodes) {
			a.expect(n)
		}
		for _, n := range strings.Fields(c.came) {
			node, when, _ := strings.Cut(n, "@")
			seconds, _ := strconv.ParseFloat(when, 64)
			a.came(node, at(seconds))
		}
		nodes, done := a.doubtful(at(c.now))
		got := strings.Join(nodes, " ")
		if done && got == "" {
			got = "done"
		}
		if got != c.want || done != (c.want != "") {
			t.Errorf("%s: %q, done %v", name, got, done)
		}
	}
}

// TestMissingNodeIsDoubted: the one of three that died with the old leader is
// UNKNOWN soon and DOWN later, also if the leader changes in between.
func TestMissingNodeIsDoubted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		for _, n := range []string{"n1", "n2", "n3"} {
			r.open(n).greeted()
		}
		time.Sleep(time.Second)
		before := len(r.commands())
		r.stop()
		r.run()
		a, b := r.open("n1"), r.open("n2")
		beats := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
				a.beat()
				b.beat()
			}
		}
		beats(1500 * time.Millisecond)
		if got := r.nodeState("n3"); got != pb.NodeState_NODE_STATE_READY {
			t.Fatalf("n3 is %v early", got)
		}
		beats(1500 * time.Millisecond)
		if got := r.nodeState("n3"); got != pb.NodeState_NODE_STATE_UNKNOWN {
			t.Errorf("n3 is %v after 3 s", got)
		}
		if wrote := r.commands()[before:]; len(wrote) != 1 {
			t.Errorf("the election wrote %v", wrote)
		}
		r.stop()
		r.run()
		a, b = r.open("n1"), r.open("n2")
		beats(8 * time.Second)
		if got := r.nodeState("n3"); got != pb.NodeState_NODE_STATE_DOWN {
			t.Errorf("n3 is %v", got)
		}
		r.open("n3").greeted()
		time.Sleep(100 * time.Millisecond)
		if got := r.nodeState("n3"); got != pb.NodeState_NODE_STATE_READY {
			t.Errorf("n3 is %v after it came back", got)
		}
	})
}
