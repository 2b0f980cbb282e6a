package store_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/minid/minid/internal/why"
	pb "github.com/minid/minid/proto/minid/v1"
)

// life is a task's life line in words, one step per entry: seconds since the
// step before, the state, its reason.
func (m *machine) life(id string) []string {
	m.t.Helper()
	var words []string
	last := int64(-1)
	for _, s := range why.Steps(m.View().Task(id).GetLife()) {
		text := why.State(s.State)
		if s.Desired {
			text = "wanted " + text
		}
		if s.Reason != "" {
			text += ": " + s.Reason
		}
		if last >= 0 {
			text = fmt.Sprintf("+%d ", (s.AtMS-last)/1000) + text
		}
		last = s.AtMS
		words = append(words, text)
	}
	return words
}

const preparing = pb.TaskState_TASK_STATE_PREPARING

func (m *machine) lives(id string, want ...string) {
	m.t.Helper()
	equal(m.t, "life of "+id, m.life(id), want)
}

func TestLifeLineOfATask(t *testing.T) {
	m := newTaskMachine(t)
	m.must(explain("t1", &pb.TaskStatus{Message: "waiting: 0 of 2 nodes fit", Error: "2 lack label disk=ssd",
		Refused: []*pb.FilterCount{{Filter: "constraint", Nodes: 2}}}))
	m.must(assign("n1", "t1"))
	m.must(report("n1", "t1", &pb.TaskStatus{State: preparing, At: at(m.index), Message: "pulling image"}))
	m.must(report("n1", "t1", &pb.TaskStatus{State: running, At: at(m.index + 1)}))
	m.must(report("n1", "t1", &pb.TaskStatus{State: preparing})) // goes back: refused
	m.must(report("n1", "t1", &pb.TaskStatus{State: running, Message: "still"}))
	m.must(desire(shutdown, "t1"), removeService("web"))
	m.must(reportState("n1", "t1", shutdown))
	m.must(desire(remove, "t1")) // it has ended: nobody wants anything of it any more
	m.lives("t1", "pending: 0 of 2 nodes fit: 2 lack label disk=ssd", "+2 assigned", "+0 preparing: pulling image",
		"+2 running", "+3 wanted shutdown", "+1 shutdown")
}

// The clock of a node orders no step before the one before, or after now.
func TestLifeLineGoesForward(t *testing.T) {
	m := newTaskMachine(t).must(assign("n1", "t1"))
	past, future := timestamppb.New(epoch.Add(-time.Hour)), timestamppb.New(epoch.Add(time.Hour))
	m.must(report("n1", "t1", &pb.TaskStatus{State: ready, At: past}))
	m.must(report("n1", "t1", &pb.TaskStatus{State: running, At: future}))
	m.must(report("n1", "t1", &pb.TaskStatus{State: failed, At: past, Container: &pb.ContainerStatus{ExitCode: 3}}))
	m.lives("t1", "pending", "+1 assigned", "+0 ready", "+2 running", "+0 failed: exit code 3")
}

// Why a task was told to stop is found in what there is.
func TestLifeLineTellsWhyATaskStops(t *testing.T) {
	drained := func(m *machine) {
		m.must(nodeSpec("n1", 0, &pb.NodeSpec{Role: worker, Availability: pb.NodeAvailability_NODE_AVAILABILITY_DRAIN}))
	}
	for name, c := range map[string]struct {
		prepare func(*machine)
		want    pb.TaskState
		why     string
	}{
		"removed":   {func(m *machine) { m.must(removeService("web")) }, remove, ": its service is removed"},
		"down":      {func(m *machine) { m.must(nodeState("n1", pb.NodeState_NODE_STATE_DOWN)) }, shutdown, ": its node is down"},
		"drained":   {drained, shutdown, ": its node is draining"},
		"scaled in": {func(m *machine) {}, remove, ": scaled in"},
		"updated":   {func(m *machine) { m.must(updateService("web", 0, webSpec("Web", "other"))) }, shutdown, ": updated"},
		"rolled back": {func(m *machine) {
			m.must(updateService("web", 0, webSpec("Web", "other")))
			m.must(rollback("web", 0))
		}, shutdown, ": rolled back"},
		"replaced": {func(m *machine) {
			next := task("t2", "web", 1)
			next.Replaces = "t1"
			m.must(createTasks(next))
		}, shutdown, ": replaced by task t2"},
		"nobody knows": {func(m *machine) {}, shutdown, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := newTaskMachine(t).must(assign("n1", "t1"), reportState("n1", "t1", running))
			c.prepare(m)
			m.must(desire(c.want, "t1"))
			if got := m.life("t1"); got[len(got)-1][len("+1 "):] != "wanted "+why.State(c.want)+c.why {
				t.Errorf("life %q", got)
			}
		})
	}
}

// What an older view shows stays as it was.
func TestLifeLinesOfOldViewsStay(t *testing.T) {
	m := newTaskMachine(t).must(assign("n1", "t1"))
	old := m.View().Task("t1").Life
	before := fmt.Sprint(why.Steps(old))
	m.must(report("n1", "t1", &pb.TaskStatus{State: preparing, Message: "a"}), report("n1", "t1", &pb.TaskStatus{State: preparing, Message: "b"}))
	if after := fmt.Sprint(why.Steps(old)); after != before {
		t.Errorf("%s became %s", before, after)
	}
}

// checkLife checks a step of a task's life: what was written stays, but for the
// reason of where the task still is; times only rise.
func checkLife(t *rapid.T, from, to *pb.Task) {
	before, after := why.Steps(from.Life), why.Steps(to.Life)
	if len(after) < len(before) || len(after) > len(before)+2 || len(after) > 16 {
		t.Fatalf("task %s: %d steps after %d", to.Id, len(after), len(before))
	}
	reached := pb.TaskState(-1)
	for i, s := range after {
		if i > 0 && s.AtMS < after[i-1].AtMS {
			t.Fatalf("task %s: step %d is before the last: %v", to.Id, i, after)
		}
		if !s.Desired {
			if s.State <= reached {
				t.Fatalf("task %s reached %v after %v", to.Id, s.State, reached)
			}
			reached = s.State
		}
		if i < len(before) {
			b := before[i]
			if b.Reason = s.Reason; b != s {
				t.Fatalf("task %s: step %d became %v", to.Id, i, s)
			}
		}
	}
	if reached != to.Status.State {
		t.Fatalf("task %s: its life ends with %v, it is %v", to.Id, reached, to.Status.State)
	}
	ended := from.Status.State > running
	if ended && !proto.Equal(from.Life, to.Life) {
		t.Fatalf("task %s lives on: %v", to.Id, after)
	}
}
