package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/cmd/minictl/print"
	pb "github.com/minid/minid/proto/minid/v1"
)

// attempt is a task of a slot, made and ended some minutes before testNow.
func attempt(id string, slot uint64, ago time.Duration, state pb.TaskState, change func(*pb.Task)) *pb.Task {
	at := timestamppb.New(testNow().Add(-ago))
	t := &pb.Task{Id: id + strings.Repeat("0", 25-len(id)), ServiceId: "svc", ServiceName: "web", Slot: slot, SpecVersion: 2, NodeId: "n1",
		DesiredState: pb.TaskState_TASK_STATE_RUNNING, Meta: &pb.Meta{CreatedAt: at}, Status: &pb.TaskStatus{State: state, At: at}}
	if state > pb.TaskState_TASK_STATE_RUNNING {
		t.DesiredState = pb.TaskState_TASK_STATE_SHUTDOWN
	}
	if change != nil {
		change(t)
	}
	return t
}

func crashed(t *pb.Task) {
	t.Status.Error, t.Status.Container = "task: non-zero exit (1)", &pb.ContainerStatus{ExitCode: 1}
}

func testTable() *taskTable {
	spec := func(image string) *pb.TaskSpec { return &pb.TaskSpec{Container: &pb.ContainerSpec{Image: image}} }
	return &taskTable{now: testNow, nodes: map[string]string{"n1": "node1", "n2": "node2"}, rows: map[string]taskRow{}, services: map[string]*pb.Service{"svc": {
		Id: "svc", SpecVersion: 2, Spec: &pb.ServiceSpec{Name: "web", Task: spec("docker.io/library/nginx:2")},
		Versions: []*pb.TaskSpecVersion{{Version: 1, Spec: spec("docker.io/library/nginx:1")}}}}}
}

func TestTaskTable(t *testing.T) {
	const run, failed, shutdown, pending = pb.TaskState_TASK_STATE_RUNNING, pb.TaskState_TASK_STATE_FAILED, pb.TaskState_TASK_STATE_SHUTDOWN, pb.TaskState_TASK_STATE_PENDING
	tasks := []*pb.Task{
		attempt("old", 1, 50*time.Minute, shutdown, func(t *pb.Task) { t.SpecVersion, t.Status.Container = 1, &pb.ContainerStatus{ExitCode: 143} }),
		attempt("crash1", 1, 40*time.Minute, failed, crashed),
		attempt("crash2", 1, 30*time.Minute, failed, crashed),
		attempt("crash3", 1, 20*time.Minute, failed, crashed),
		attempt("live", 1, 8*time.Second, run, func(t *pb.Task) {
			t.Status.Ports = []*pb.PortConfig{{Target: 80, Published: 32768, Mode: pb.PortConfig_MODE_HOST, Protocol: pb.PortConfig_PROTOCOL_TCP}}
		}),
		attempt("oom", 2, 3*time.Hour, failed, func(t *pb.Task) { t.Status.Container = &pb.ContainerStatus{ExitCode: 137, OomKilled: true} }),
		attempt("wait", 2, time.Minute, pending, func(t *pb.Task) {
			t.NodeId, t.Status.Message, t.Status.Refused = "", "waiting: 0 of 5 nodes fit: 3 lack label disk=ssd, 2 are draining and away", []*pb.FilterCount{{Nodes: 5}}
		}),
	}
	want := `
ID             NAME        IMAGE     NODE      DESIRED STATE   CURRENT STATE               ERROR                                                            PORTS
live00000000   web.1       nginx:2   node1     Running         Running 8 seconds ago                                                                        *:32768->80/tcp
crash3000000    \_ web.1   nginx:2   node1     Shutdown        Failed 20 minutes ago       "task: non-zero exit (1)" (x3 over 20 minutes)                   
old000000000    \_ web.1   nginx:1   node1     Shutdown        Shutdown 50 minutes ago                                                                      
wait00000000   web.2       nginx:2             Running         Pending about a minute ago   "waiting: 0 of 5 nodes fit: 3 lack label disk=ssd, 2 are dra…"   
oom000000000    \_ web.2   nginx:2   node1     Shutdown        Failed 3 hours ago          "out of memory (exit code 137)"                                  
`
	table := testTable()
	var out strings.Builder
	out.WriteString("\n")
	if err := table.list().Write(&out, print.Format{}, table.arrange(tasks, true), true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(squash(want), squash(out.String())); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if rows := table.arrange(tasks, false); len(rows) != len(tasks) {
		t.Errorf("%d rows for %d tasks", len(rows), len(tasks))
	}
}

// squash makes tables comparable whatever the width of their columns.
func squash(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

// Two like ends stay two rows; only more are folded.
func TestTaskTableFoldsFromThree(t *testing.T) {
	for n, want := range map[int]int{1: 2, 2: 3, 3: 2, 9: 2} {
		tasks := []*pb.Task{attempt("live", 1, 0, pb.TaskState_TASK_STATE_RUNNING, nil)}
		for i := range n {
			tasks = append(tasks, attempt(fmt.Sprint("x", i), 1, time.Duration(i+1)*time.Minute, pb.TaskState_TASK_STATE_FAILED, crashed))
		}
		table := testTable()
		rows := table.arrange(tasks, true)
		if len(rows) != want {
			t.Errorf("%d failures make %d rows, expected %d", n, len(rows), want)
		}
		for _, row := range rows[1:] {
			if !table.rows[row.Id].history {
				t.Errorf("%d failures: row %s is not history", n, row.Id)
			}
		}
	}
}

// Tasks of a global service on different nodes are no history of each other.
func TestTaskTableGlobal(t *testing.T) {
	on := func(node string) func(*pb.Task) { return func(t *pb.Task) { t.NodeId = node } }
	tasks := []*pb.Task{attempt("b", 0, 0, pb.TaskState_TASK_STATE_RUNNING, on("n2")), attempt("a", 0, 0, pb.TaskState_TASK_STATE_RUNNING, on("n1")),
		attempt("c", 0, time.Hour, pb.TaskState_TASK_STATE_SHUTDOWN, on("n1"))}
	table := testTable()
	var names []string
	for _, row := range table.arrange(tasks, true) {
		names = append(names, table.name(row, false))
	}
	if diff := cmp.Diff([]string{"web.n1", ` \_ web.n1`, "web.n2"}, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}
