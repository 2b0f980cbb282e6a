package controlapi

import (
	"strings"
	"testing"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestFindNode(t *testing.T) {
	r := newRig(t)
	r.node("abc1", "twin", pb.NodeRole_NODE_ROLE_WORKER)
	r.node("abc2", "twin", pb.NodeRole_NODE_ROLE_WORKER)
	r.node("abd", "abc1", pb.NodeRole_NODE_ROLE_WORKER) // named as another's id
	for ref, want := range map[string]string{
		"node-w1": "node-w1", "w1": "node-w1", "node-w": "", "abd": "abd",
		"abc1": "abc1", "ab": "", "twin": "", "nobody": "", "": "",
	} {
		n, err := findNode(r.state.View(), ref)
		if n.GetId() != want || (err == nil) != (want != "") {
			t.Errorf("find %q = %s, %v; want %q", ref, n.GetId(), err, want)
		}
	}
	_, err := findNode(r.state.View(), "twin")
	wantClass(t, err, fault.Invalid)
	for _, candidate := range []string{"abc1 (twin)", "abc2 (twin)"} {
		if !strings.Contains(err.Error(), candidate) {
			t.Errorf("%q does not list %s", err, candidate)
		}
	}
	_, err = findNode(r.state.View(), "nobody")
	wantClass(t, err, fault.NotFound)
	if got := fault.TryOf(err); got != "minictl node ls" {
		t.Errorf("try %q", got)
	}
}

func TestFindTask(t *testing.T) {
	r := newRig(t)
	spec := web()
	spec.Name = "web.v2" // dots do not confuse SERVICE.SLOT
	r.create(spec)
	r.task("told", "web.v2", 1, "node-w1", pb.TaskState_TASK_STATE_FAILED)
	r.task("tnew", "web.v2", 1, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
	r.task("tother", "web.v2", 2, "node-w2", pb.TaskState_TASK_STATE_FAILED)
	for ref, want := range map[string]string{
		"told": "told", "tn": "tnew", "t": "", "web.v2.1": "tnew", "web.v2.2": "tother",
		"web.v2.1.told": "told", "web.v2.3": "", "web.v2": "", "web.v2.2.told": "",
	} {
		task, err := findTask(r.state.View(), ref)
		if task.GetId() != want || (err == nil) != (want != "") {
			t.Errorf("find %q = %s, %v; want %q", ref, task.GetId(), err, want)
		}
	}
}

func TestFilters(t *testing.T) {
	n := &pb.Node{
		Id: "n1", Description: &pb.NodeDescription{Hostname: "rack1-a", EngineLabels: map[string]string{"gpu": "yes"}},
		Spec: &pb.NodeSpec{Role: pb.NodeRole_NODE_ROLE_WORKER, Labels: map[string]string{"disk": "ssd"}},
	}
	for _, row := range []struct {
		filters []*pb.Filter
		want    bool
	}{
		{nil, true},
		{[]*pb.Filter{{Key: "name", Values: []string{"rack2", "rack1"}}}, true},
		{[]*pb.Filter{{Key: "name", Values: []string{"rack2"}}, {Key: "name", Values: []string{"rack1"}}}, true},
		{[]*pb.Filter{{Key: "name", Values: []string{"rack1"}}, {Key: "role", Values: []string{"manager"}}}, false},
		{[]*pb.Filter{{Key: "node.label", Values: []string{"disk"}}, {Key: "label", Values: []string{"gpu=yes"}}}, true},
		{[]*pb.Filter{{Key: "node.label", Values: []string{"disk=hdd"}}}, false},
		{[]*pb.Filter{{Key: "membership", Values: []string{"accepted"}}, {Key: "id", Values: []string{"n"}}}, true},
	} {
		passes, err := nodeFilters().compile(row.filters)
		if err != nil || passes(n) != row.want {
			t.Errorf("%v: %v, want %v", row.filters, err, row.want)
		}
	}
	for want, bad := range map[string]*pb.Filter{
		"there are id, label, membership, name, node.label, role": {Key: "colour"},
		"must be one of manager, worker":                          {Key: "role", Values: []string{"boss"}},
		"KEY or KEY=VALUE":                                        {Key: "label", Values: []string{"=x"}},
	} {
		_, err := nodeFilters().compile([]*pb.Filter{bad})
		wantClass(t, err, fault.Invalid)
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func TestListTasks(t *testing.T) {
	r := newRig(t)
	spec := web()
	spec.Labels = map[string]string{"tier": "front"}
	r.create(spec)
	db := web()
	db.Name = "db"
	r.create(db)
	r.task("t1", "web", 1, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
	r.task("t2", "web", 2, "node-w2", pb.TaskState_TASK_STATE_RUNNING)
	r.task("t3", "db", 1, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
	r.apply(&pb.Command{Kind: &pb.Command_SetDesired{SetDesired: &pb.SetDesired{Tasks: []*pb.TaskDesired{{Id: "t2", State: pb.TaskState_TASK_STATE_SHUTDOWN}}}}})
	for want, req := range map[string]*pb.ListTasksRequest{
		"t1 t2 t3": {},
		"t1 t2":    {Services: []string{"web"}},
		"t1 t3":    {Nodes: []string{"w1"}},
		"t1":       {Services: []string{"web"}, Nodes: []string{"w1"}},
		"t2":       {Filters: []*pb.Filter{{Key: "desired-state", Values: []string{"shutdown"}}}},
		"t3":       {Filters: []*pb.Filter{{Key: "name", Values: []string{"db.1"}}}},
		"t1 t3 ":   {Filters: []*pb.Filter{{Key: "node", Values: []string{"w1"}}}},
		"t1 t2 ":   {Filters: []*pb.Filter{{Key: "label", Values: []string{"tier=front"}}}},
	} {
		answer, err := r.server.ListTasks(t.Context(), req)
		var got []string
		for _, task := range answer.GetTasks() {
			got = append(got, task.Id)
		}
		if err != nil || strings.Join(got, " ") != strings.TrimSpace(want) {
			t.Errorf("%v lists %v, %v; want %s", req, got, err, want)
		}
	}
	_, err := r.server.ListTasks(t.Context(), &pb.ListTasksRequest{Services: []string{"nope"}})
	wantClass(t, err, fault.NotFound)
	_, err = r.server.ListTasks(t.Context(), &pb.ListTasksRequest{Filters: []*pb.Filter{{Key: "node", Values: []string{"nope"}}}})
	wantClass(t, err, fault.NotFound)
}
