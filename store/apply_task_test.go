package store_test

import (
	"slices"
	"testing"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Short names for the states, in order.
const (
	pending  = pb.TaskState_TASK_STATE_PENDING
	assigned = pb.TaskState_TASK_STATE_ASSIGNED
	ready    = pb.TaskState_TASK_STATE_READY
	running  = pb.TaskState_TASK_STATE_RUNNING
	complete = pb.TaskState_TASK_STATE_COMPLETE
	shutdown = pb.TaskState_TASK_STATE_SHUTDOWN
	failed   = pb.TaskState_TASK_STATE_FAILED
	remove   = pb.TaskState_TASK_STATE_REMOVE
	orphaned = pb.TaskState_TASK_STATE_ORPHANED
)

// newTaskMachine has two ready workers, a service and its task t1.
func newTaskMachine(t *testing.T) *machine {
	m := newMachine(t).must(readyWorker("n1")...).must(readyWorker("n2")...)
	return m.must(createService("web", webSpec("Web", "nginx")), createTasks(task("t1", "web", 1)))
}

func (m *machine) state(id string) pb.TaskState { return m.View().Task(id).GetStatus().GetState() }

func TestCreateTasks(t *testing.T) {
	m := newTaskMachine(t).must(createService("gone", webSpec("gone", "nginx")), removeService("gone"))
	preset, badNode, badVersion := task("g1", "web", 0), task("g2", "web", 0), task("v9", "web", 4)
	preset.NodeId, badNode.NodeId, badVersion.SpecVersion = "n1", "n9", 9
	m.must(createTasks(task("t1", "web", 7), task("x", "none", 1), task("y", "gone", 1), badNode, badVersion, preset, task("t2", "web", 2)))
	if got, want := ids(m.View().Tasks()), []string{"g1", "t1", "t2"}; !slices.Equal(got, want) {
		t.Errorf("tasks %v, want %v", got, want)
	}
	equal(t, "task", m.View().Task("g1"), &pb.Task{
		Id: "g1", Meta: &pb.Meta{Version: m.index, CreatedAt: at(m.index), UpdatedAt: at(m.index)},
		ServiceId: "web", SpecVersion: 1, NodeId: "n1", DesiredState: running,
		Status: &pb.TaskStatus{State: pending, At: at(m.index)},
		Life:   &pb.LifeLine{States: []pb.TaskState{pending}, Desired: []bool{false}, AtMs: []int64{at(m.index).AsTime().UnixMilli()}},
	})
	m.refused(fault.Invalid, createTasks(task("t3", "web", 1), task("", "web", 1)))
}

func TestSetDesired(t *testing.T) {
	m := newTaskMachine(t).must(createTasks(task("t2", "web", 2)), assign("n1", "t2"))
	m.refused(fault.Invalid, desire(failed, "t1"))
	m.refused(fault.Invalid, desire(0, "t1"))
	before := m.View().Task("t2")
	if m.must(desire(ready, "t2", "none")); m.View().Task("t2") != before {
		t.Error("the desired state went back")
	}
	m.must(desire(shutdown, "t1", "t2"))
	for id, want := range map[string]pb.TaskState{"t1": shutdown, "t2": assigned} {
		if got := m.View().Task(id); got.DesiredState != shutdown || got.Status.State != want || got.Meta.Version != m.index {
			t.Errorf("%s: wanted %v, is %v (want %v), version %d", id, got.DesiredState, got.Status.State, want, got.Meta.Version)
		}
	}
	equal(t, "time", m.View().Task("t1").Status.At, at(m.index))
	m.must(desire(remove, "t1"))
	if got := m.View().Task("t1"); got.DesiredState != remove || got.Status.State != shutdown {
		t.Errorf("wanted %v, is %v", got.DesiredState, got.Status.State)
	}
}

func TestAssignTasks(t *testing.T) {
	m := newTaskMachine(t).must(createNode("down", worker), createNode("drain", worker))
	m.must(nodeState("drain", pb.NodeState_NODE_STATE_READY), nodeSpec("drain", 0, &pb.NodeSpec{Availability: pb.NodeAvailability_NODE_AVAILABILITY_DRAIN}))
	unwanted, preset := task("unwanted", "web", 2), task("preset", "web", 0)
	unwanted.DesiredState, preset.NodeId = shutdown, "n2"
	m.must(createTasks(unwanted, preset))
	m.refused(fault.Invalid, assign("", "t1"))
	m.refused(fault.Invalid, assign("n1", "t1", ""))
	m.must(assign("down", "t1"), assign("drain", "t1"), assign("n9", "t1"), assign("n1", "none", "unwanted", "preset"))
	for _, id := range []string{"t1", "unwanted", "preset"} {
		if got := m.state(id); got != pending {
			t.Errorf("%s is %v, it should have been skipped", id, got)
		}
	}
	m.must(explain("t1", &pb.TaskStatus{Message: "waiting", Refused: []*pb.FilterCount{{Filter: "ready"}}}))
	m.must(assign("n1", "t1"), assign("n2", "preset"))
	m.must(assign("n2", "t1"))
	got := m.View().Task("t1")
	if got.NodeId != "n1" || got.Status.State != assigned || got.Status.Refused != nil || got.Meta.Version != m.index-1 {
		t.Errorf("after assignment: %v", got)
	}
	if got := m.View().Task("preset"); got.NodeId != "n2" || got.Status.State != assigned {
		t.Errorf("a task born with its node: %v", got)
	}
	if got := ids(m.View().TasksByNode("n2")); !slices.Equal(got, []string{"preset"}) {
		t.Errorf("tasks of n2: %v", got)
	}
}

func TestExplainTasks(t *testing.T) {
	m := newTaskMachine(t)
	born := m.index
	refused := []*pb.FilterCount{{Filter: "resources", Nodes: 2}}
	m.must(explain("t1", &pb.TaskStatus{State: running, Message: "waiting", Error: "no room", Refused: refused, At: at(99)}), explain("none", nil))
	equal(t, "status", m.View().Task("t1").Status, &pb.TaskStatus{State: pending, At: at(born), Message: "waiting", Error: "no room", Refused: refused})
	before := m.View().Task("t1")
	if m.must(explain("t1", &pb.TaskStatus{Message: "waiting", Error: "no room", Refused: refused})); m.View().Task("t1") != before {
		t.Error("saying the same twice is a change")
	}
	m.must(assign("n1", "t1"))
	before = m.View().Task("t1")
	if m.must(explain("t1", &pb.TaskStatus{Message: "late"})); m.View().Task("t1") != before {
		t.Error("a task that was placed got an explanation")
	}
}

func TestReportStatuses(t *testing.T) {
	for _, test := range []struct {
		name    string
		node    string
		reports []pb.TaskState
		want    pb.TaskState
	}{
		{"forward", "n1", []pb.TaskState{ready, running, complete}, complete},
		{"back", "n1", []pb.TaskState{running, ready}, running},
		{"another node", "n2", []pb.TaskState{running}, assigned},
		{"one end only", "n1", []pb.TaskState{complete, failed}, complete},
		{"below assigned", "n1", []pb.TaskState{pending}, assigned},
		{"not observable", "n1", []pb.TaskState{remove}, assigned},
		{"unknown", "n1", []pb.TaskState{777}, assigned},
		{"skipping states", "n1", []pb.TaskState{failed}, failed},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newTaskMachine(t).must(assign("n1", "t1"))
			for _, state := range test.reports {
				m.must(reportState(test.node, "t1", state))
			}
			if got := m.state("t1"); got != test.want {
				t.Errorf("the task is %v, want %v", got, test.want)
			}
		})
	}
}

func TestReportDetails(t *testing.T) {
	m := newTaskMachine(t)
	m.refused(fault.Invalid, reportState("", "t1", running))
	m.must(reportState("n1", "t1", running)) // nobody gave it to n1
	if got := m.state("t1"); got != pending {
		t.Errorf("an unplaced task became %v", got)
	}
	m.must(assign("n1", "t1"), reportState("n1", "none", running))
	status := &pb.TaskStatus{State: running, At: at(5), Message: "started", Container: &pb.ContainerStatus{ContainerId: "t1", Pid: 7}}
	m.must(report("n1", "t1", status))
	before := m.View().Task("t1")
	equal(t, "status", before.Status, status)
	if m.must(report("n1", "t1", status)); m.View().Task("t1") != before {
		t.Error("saying the same twice is a change")
	}
	status = &pb.TaskStatus{State: running, At: at(5), Message: "healthy", Container: &pb.ContainerStatus{ContainerId: "t1", Pid: 7}}
	m.must(report("n1", "t1", status))
	equal(t, "status in the same state", m.View().Task("t1").Status, status)
	status = &pb.TaskStatus{State: running, At: at(5), Message: "healthy", Container: &pb.ContainerStatus{ContainerId: "t1", Pid: 7},
		Health: &pb.HealthStatus{State: pb.HealthState_HEALTH_STATE_UNHEALTHY, Unready: true, Probes: []*pb.HealthProbe{{ExitCode: 1, Output: "no"}}}}
	m.must(report("n1", "t1", status))
	equal(t, "status of another health", m.View().Task("t1").Status, status)
}

func TestDeleteTasks(t *testing.T) {
	m := newTaskMachine(t).must(createTasks(task("t2", "web", 2), task("t3", "web", 3), task("t4", "web", 4)))
	m.must(assign("n1", "t1", "t2", "t3", "t4"), reportState("n1", "t2", complete), desire(remove, "t3"))
	m.must(deleteTasks("t1", "t2", "t3", "none"))
	if got, want := ids(m.View().Tasks()), []string{"t1", "t4"}; !slices.Equal(got, want) {
		t.Errorf("tasks %v, want %v: live ones stay", got, want)
	}
	if got := ids(m.View().TasksByNode("n1")); !slices.Equal(got, []string{"t1", "t4"}) {
		t.Errorf("tasks of the node: %v", got)
	}
	if got := ids(m.View().TasksByService("web")); !slices.Equal(got, []string{"t1", "t4"}) {
		t.Errorf("tasks of the service: %v", got)
	}
}
