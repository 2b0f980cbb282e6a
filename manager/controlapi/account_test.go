package controlapi

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

func (r *rig) availability(node string, a pb.NodeAvailability) {
	r.t.Helper()
	spec := proto.CloneOf(r.state.View().Node(node).Spec)
	spec.Availability = a
	r.apply(&pb.Command{Kind: &pb.Command_UpdateNodeSpec{UpdateNodeSpec: &pb.UpdateNodeSpec{Id: node, Spec: spec}}})
}

// replacement makes a task that takes another's place, as far as a status says.
func (r *rig) replacement(id, of, node string, status *pb.TaskStatus) {
	r.t.Helper()
	old := r.state.View().Task(of)
	r.apply(&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
		Id: id, ServiceId: old.ServiceId, ServiceName: old.ServiceName, SpecVersion: 1, Slot: old.Slot,
		DesiredState: pb.TaskState_TASK_STATE_READY, Replaces: of,
	}}}}})
	report := []*pb.TaskStatusReport{{Id: id, Status: status}}
	if node == "" {
		r.apply(&pb.Command{Kind: &pb.Command_ExplainTasks{ExplainTasks: &pb.ExplainTasks{Tasks: report}}})
		return
	}
	r.apply(
		&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{{Id: id, NodeId: node}}}}},
		&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{NodeId: node, Reports: report}}},
	)
}

// TestWhyTasksStay: every list and look at a task gives the same reason why it
// is still on a node that drains.
func TestWhyTasksStay(t *testing.T) {
	for _, c := range []struct {
		name, node, want string
		status           *pb.TaskStatus
	}{
		{"nothing yet", "", "stays: its replacement is about to be made", nil},
		{"not looked at", "", "moves: its replacement is being placed", &pb.TaskStatus{}},
		{"no node", "", "stays: its replacement waits: 0 of 3 nodes fit: 3 lack label disk=ssd", &pb.TaskStatus{
			Message: "waiting: 0 of 3 nodes fit", Error: "3 lack label disk=ssd",
			Refused: []*pb.FilterCount{{Filter: "constraints", Nodes: 3, Reason: "lack label disk=ssd"}}}},
		{"on its way", "node-w2", "moves: its replacement is preparing on w2: pulling image", &pb.TaskStatus{
			State: pb.TaskState_TASK_STATE_PREPARING, Message: "pulling image"}},
		{"failed", "node-w2", "stays: its replacement failed: no such image", &pb.TaskStatus{
			State: pb.TaskState_TASK_STATE_REJECTED, Error: "no such image"}},
		{"cannot be spared", "node-w2", "stays: its replacement is ready, but of 2 replicas 1 run, and 1 have to", &pb.TaskStatus{
			State: pb.TaskState_TASK_STATE_READY}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.create(web())
			r.task("t1", "web", 1, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
			if c.status != nil {
				r.replacement("t2", "t1", c.node, c.status)
			}
			if got, err := r.server.GetTask(t.Context(), &pb.GetRequest{Ref: "t1"}); err != nil || got.Status.Error != "" {
				t.Errorf("on a node that does not drain: %v, %v", got, err)
			}
			r.availability("node-w1", pb.NodeAvailability_NODE_AVAILABILITY_DRAIN)
			got, err := r.server.GetTask(t.Context(), &pb.GetRequest{Ref: "t1"})
			if err != nil || got.Status.Error != c.want {
				t.Errorf("task inspect: %q, want %q (%v)", got.GetStatus().GetError(), c.want, err)
			}
			all, err := r.server.ListTasks(t.Context(), &pb.ListTasksRequest{Nodes: []string{"w1"}})
			if err != nil || len(all.Tasks) != 1 || all.Tasks[0].Status.Error != c.want {
				t.Errorf("node ps: %v, %v", all, err)
			}
			why, err := r.server.ExplainTask(t.Context(), &pb.GetRequest{Ref: "t1"})
			if err != nil || len(why.Summary) < len(c.want) || why.Summary[:len(c.want)] != c.want {
				t.Errorf("task why: %q, %v", why.GetSummary(), err)
			}
			if stored := r.state.View().Task("t1"); stored.Status.Error != "" {
				t.Errorf("the reason is stored: %v", stored.Status)
			}
		})
	}
}

func TestTasksOfANodeThatIsDownSaySo(t *testing.T) {
	r := newRig(t)
	r.create(web())
	r.task("t1", "web", 1, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
	r.task("t2", "web", 2, "node-w1", pb.TaskState_TASK_STATE_FAILED)
	r.apply(&pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{Id: "node-w1",
		Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_DOWN, Message: "no heartbeat for 6s"}}}})
	all, err := r.server.ListTasks(t.Context(), &pb.ListTasksRequest{})
	if err != nil || len(all.Tasks) != 2 || all.Tasks[0].Status.Error != "its node is down: no heartbeat for 6s" || all.Tasks[1].Status.Error != "" {
		t.Errorf("%v, %v", all, err)
	}
}

func TestRebalanceService(t *testing.T) {
	r := newRig(t)
	r.create(web())
	ask := &pb.GetRequest{Ref: "web"}
	_, err := r.server.RebalanceService(t.Context(), &pb.GetRequest{Ref: "none"})
	wantClass(t, err, fault.NotFound)
	first, err := r.server.RebalanceService(t.Context(), ask)
	if err != nil || !store.Rebalancing(first) || first.Rebalance.Message != "asked for" {
		t.Fatalf("%v, %v", first, err)
	}
	again, err := r.server.RebalanceService(t.Context(), ask)
	if err != nil || !proto.Equal(again.GetRebalance(), first.Rebalance) {
		t.Errorf("asked for twice: %v, %v", again, err)
	}

	global := web()
	global.Name, global.Mode = "mon", &pb.ServiceSpec_Global{Global: &pb.GlobalMode{}}
	r.create(global)
	_, err = r.server.RebalanceService(t.Context(), &pb.GetRequest{Ref: "mon"})
	wantClass(t, err, fault.State)
	r.apply(&pb.Command{Kind: &pb.Command_SetUpdateStatus{SetUpdateStatus: &pb.SetUpdateStatus{
		Id: first.Id, Status: &pb.UpdateStatus{State: pb.UpdateState_UPDATE_STATE_PAUSED, ToVersion: 1}}}})
	_, err = r.server.RebalanceService(t.Context(), ask)
	wantClass(t, err, fault.State)
	packed := normalClusterSpec(nil)
	packed.PlacementStrategy = pb.PlacementStrategy_PLACEMENT_STRATEGY_BINPACK
	r.apply(&pb.Command{Kind: &pb.Command_UpdateClusterSpec{UpdateClusterSpec: &pb.UpdateClusterSpec{Spec: packed}}})
	_, err = r.server.RebalanceService(t.Context(), ask)
	wantClass(t, err, fault.State)
}

func TestDrainDeadlineIsChecked(t *testing.T) {
	r := newRig(t)
	spec := &pb.NodeSpec{Availability: pb.NodeAvailability_NODE_AVAILABILITY_DRAIN, DrainDeadline: durationpb.New(-time.Second)}
	_, err := r.server.UpdateNode(t.Context(), &pb.UpdateNodeRequest{Ref: "w1", Spec: spec})
	wantClass(t, err, fault.Invalid)
	spec.DrainDeadline = durationpb.New(0)
	n, err := r.server.UpdateNode(t.Context(), &pb.UpdateNodeRequest{Ref: "w1", Spec: spec})
	if err != nil || n.DrainStartedAt == nil || !store.DrainEnd(n).Equal(n.DrainStartedAt.AsTime()) {
		t.Errorf("%v, %v", n, err)
	}
}
