package store_test

import (
	"testing"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	worker  = pb.NodeRole_NODE_ROLE_WORKER
	manager = pb.NodeRole_NODE_ROLE_MANAGER
)

func clusterSpec(ifVersion uint64, spec *pb.ClusterSpec) *pb.Command {
	return &pb.Command{Kind: &pb.Command_UpdateClusterSpec{UpdateClusterSpec: &pb.UpdateClusterSpec{IfVersion: ifVersion, Spec: spec}}}
}

func joinTokens(tokens *pb.JoinTokens) *pb.Command {
	return &pb.Command{Kind: &pb.Command_SetJoinTokens{SetJoinTokens: &pb.SetJoinTokens{Tokens: tokens}}}
}

func setRole(id string, role pb.NodeRole) *pb.Command {
	return &pb.Command{Kind: &pb.Command_SetNodeRole{SetNodeRole: &pb.SetNodeRole{Id: id, Role: role}}}
}

func managerAddr(id, addr string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_SetManagerAddr{SetManagerAddr: &pb.SetManagerAddr{Id: id, Addr: addr}}}
}

func TestCluster(t *testing.T) {
	m := newMachine(t)
	renamed := &pb.ClusterSpec{Name: "other"}
	m.refused(fault.NotFound, clusterSpec(0, renamed))
	m.refused(fault.NotFound, joinTokens(&pb.JoinTokens{Worker: "w"}))
	m.refused(fault.Invalid, &pb.Command{Kind: &pb.Command_CreateCluster{CreateCluster: &pb.CreateCluster{}}})
	m.must(createCluster())
	version := m.index
	m.refused(fault.Exists, createCluster())
	m.refused(fault.Invalid, clusterSpec(0, nil))
	m.refused(fault.Invalid, clusterSpec(0, renamed))
	m.refused(fault.Stale, clusterSpec(version-1+5, &pb.ClusterSpec{Name: "default"}))
	m.refused(fault.Invalid, joinTokens(nil))
	m.must(joinTokens(&pb.JoinTokens{Worker: "w", Manager: "m"}))
	m.must(clusterSpec(version, &pb.ClusterSpec{Name: "default", TaskHistoryLimit: 7})) // the tokens did not change the version
	equal(t, "cluster", m.View().Cluster(), &pb.Cluster{
		Id: "c", Meta: &pb.Meta{Version: m.index, CreatedAt: at(version), UpdatedAt: at(m.index)},
		Spec:       &pb.ClusterSpec{Name: "default", TaskHistoryLimit: 7},
		JoinTokens: &pb.JoinTokens{Worker: "w", Manager: "m"},
	})
}

func TestNodeSpec(t *testing.T) {
	m := newMachine(t)
	m.refused(fault.Invalid, createNode("", worker))
	m.refused(fault.Invalid, &pb.Command{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: &pb.Node{Id: "n"}}}})
	m.must(createNode("n1", manager), createNode("n2", worker))
	m.refused(fault.Exists, createNode("n1", worker))
	m.refused(fault.NotFound, nodeSpec("n9", 0, &pb.NodeSpec{}))
	m.refused(fault.Invalid, nodeSpec("n1", 0, nil))
	m.refused(fault.Stale, nodeSpec("n1", 77, &pb.NodeSpec{Role: manager}))
	m.refused(fault.State, nodeSpec("n1", 0, &pb.NodeSpec{Role: worker})) // the last manager

	version := m.View().Node("n1").Meta.Version
	m.must(nodeState("n1", pb.NodeState_NODE_STATE_READY), managerAddr("n1", "h:2377"), setRole("n1", manager))
	if got := m.View().Node("n1").Meta.Version; got != version {
		t.Errorf("reports changed the version from %d to %d", version, got)
	}
	m.must(nodeSpec("n2", 0, &pb.NodeSpec{Role: manager, Labels: map[string]string{"a": "b"}}))
	m.must(nodeSpec("n1", version, &pb.NodeSpec{Role: worker})) // now it is not the last
	if got := m.View().Node("n1").Meta; got.Version != m.index || !got.UpdatedAt.AsTime().Equal(at(m.index).AsTime()) {
		t.Errorf("meta after an update: %v", got)
	}
}

func TestNodeRoleAndReports(t *testing.T) {
	m := newMachine(t).must(createNode("n1", manager), createNode("n2", worker))
	m.refused(fault.NotFound, setRole("n9", worker))
	m.refused(fault.Invalid, setRole("n1", pb.NodeRole_NODE_ROLE_UNSPECIFIED))
	m.refused(fault.NotFound, nodeState("n9", pb.NodeState_NODE_STATE_READY))
	m.refused(fault.NotFound, managerAddr("n9", "h:1"))
	m.refused(fault.State, managerAddr("n2", "h:1"))
	m.must(managerAddr("n1", "h:1"))
	m.must(setRole("n1", worker))
	if n := m.View().Node("n1"); n.Role != worker || n.ManagerAddr != "" {
		t.Errorf("a node without manager's certificate has role %v and address %q", n.Role, n.ManagerAddr)
	}
	description := &pb.NodeDescription{Hostname: "host"}
	m.must(&pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{Id: "n2", Description: description}}})
	m.must(nodeState("n2", pb.NodeState_NODE_STATE_DOWN))
	n := m.View().Node("n2")
	equal(t, "description", n.Description, description)
	equal(t, "status", n.Status, &pb.NodeStatus{State: pb.NodeState_NODE_STATE_DOWN})
	m.must(nodeState("n2", pb.NodeState_NODE_STATE_DOWN), setRole("n2", worker))
	if m.View().Node("n2") != n {
		t.Error("saying the same twice is a change")
	}
}

func TestComputedFieldsAreNotStored(t *testing.T) {
	m := newMachine(t)
	c := createNode("n1", worker)
	c.GetCreateNode().Node.ManagerStatus = &pb.ManagerStatus{Leader: true}
	if n := m.must(c).View().Node("n1"); n.ManagerStatus != nil {
		t.Error("the manager status was stored")
	}
}

func TestRemoveNode(t *testing.T) {
	m := newMachine(t).must(createNode("m1", manager), createNode("m2", worker)).must(readyWorker("n1")...)
	m.must(setRole("m2", manager)) // still has the certificate
	m.refused(fault.NotFound, removeNode("n9", false))
	m.refused(fault.State, removeNode("m1", true))
	m.refused(fault.State, removeNode("m2", true))
	m.refused(fault.State, removeNode("n1", false))
	m.must(createService("web", webSpec("web", "nginx")))
	preset := task("global", "web", 0)
	preset.NodeId = "n1"
	m.must(createTasks(task("live", "web", 1), task("done", "web", 2), task("elsewhere", "web", 3), preset))
	m.must(assign("n1", "live", "done"), reportState("n1", "live", pb.TaskState_TASK_STATE_RUNNING), reportState("n1", "done", pb.TaskState_TASK_STATE_FAILED))
	m.must(removeNode("n1", true))
	v := m.View()
	if v.Node("n1") != nil {
		t.Error("the node is still there")
	}
	for id, want := range map[string]pb.TaskState{
		"live": pb.TaskState_TASK_STATE_ORPHANED, "global": pb.TaskState_TASK_STATE_ORPHANED,
		"done": pb.TaskState_TASK_STATE_FAILED, "elsewhere": pb.TaskState_TASK_STATE_PENDING,
	} {
		if got := v.Task(id).Status.State; got != want {
			t.Errorf("task %s is %v, want %v", id, got, want)
		}
	}
	equal(t, "time of the orphan", v.Task("live").Status.At, at(m.index))
	m.must(nodeState("m1", pb.NodeState_NODE_STATE_READY), createNode("n2", worker)).must(removeNode("n2", false))
}
