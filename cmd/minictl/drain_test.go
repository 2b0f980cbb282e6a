package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/internal/id"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// drainMoves move a service's tasks from nodes that drain to the last one, and
// end its rebalancings. Images named "bound" fit nowhere else, and those of
// services named "lopsided" land where nothing is gained.
func drainMoves(view store.View, s *pb.Service, tasks []*pb.Task) []*pb.Command {
	var cmds []*pb.Command
	for _, t := range tasks {
		if store.Draining(view.Node(t.NodeId)) && t.Status.State == pb.TaskState_TASK_STATE_RUNNING && t.DesiredState <= t.Status.State {
			cmds = append(cmds, moveAway(s, t, tasks)...)
		}
	}
	if store.Rebalancing(s) {
		done := proto.CloneOf(s.Rebalance)
		done.Moved, done.Message, done.CompletedAt = 2, "2 moved", timestamppb.New(epoch.Add(time.Minute))
		if s.Spec.Name == "lopsided" {
			done.Message = "gave up, none moved: the replacement of lopsided.1 landed on node2, no emptier than node1"
		}
		cmds = append(cmds, &pb.Command{Kind: &pb.Command_SetRebalance{SetRebalance: &pb.SetRebalance{Id: s.Id, Rebalance: done}}})
	}
	return cmds
}

func moveAway(s *pb.Service, t *pb.Task, tasks []*pb.Task) []*pb.Command {
	var next *pb.Task
	for _, other := range tasks {
		if other.Replaces == t.Id {
			next = other
		}
	}
	switch state := next.GetStatus().GetState(); {
	case next == nil:
		return []*pb.Command{{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
			Id: id.New(), ServiceId: s.Id, ServiceName: s.Spec.Name, Slot: t.Slot, SpecVersion: t.SpecVersion,
			DesiredState: pb.TaskState_TASK_STATE_RUNNING, Replaces: t.Id}}}}}}
	case state == pb.TaskState_TASK_STATE_PENDING && strings.Contains(s.Spec.Task.Container.Image, "bound"):
		if next.Status.Refused != nil {
			return nil
		}
		return []*pb.Command{{Kind: &pb.Command_ExplainTasks{ExplainTasks: &pb.ExplainTasks{Tasks: []*pb.TaskStatusReport{{Id: next.Id, Status: &pb.TaskStatus{
			Message: "waiting: 0 of 3 nodes fit", Error: "2 lack label disk=ssd, 1 is draining",
			Refused: []*pb.FilterCount{{Filter: "constraint", Nodes: 2, Reason: "lack label disk=ssd"}}}}}}}}}
	case state == pb.TaskState_TASK_STATE_PENDING:
		return []*pb.Command{{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{{Id: next.Id, NodeId: nodeID(3)}}}}}}
	case state == pb.TaskState_TASK_STATE_RUNNING:
		return stop(t)
	}
	return step(s, next)
}

func TestDrainText(t *testing.T) {
	task := func(slot uint64, why string, desired pb.TaskState) *pb.Task {
		return &pb.Task{ServiceName: "web", Slot: slot, DesiredState: desired,
			Status: &pb.TaskStatus{State: pb.TaskState_TASK_STATE_RUNNING, Error: why}}
	}
	const wanted, unwanted = pb.TaskState_TASK_STATE_RUNNING, pb.TaskState_TASK_STATE_SHUTDOWN
	moves, stays := task(1, "moves: its replacement is starting on n2", wanted), task(3, "stays: its replacement waits: 0 of 3 nodes fit", wanted)
	for want, left := range map[string][]*pb.Task{
		"5 of 8 tasks moved; web.3 stays: its replacement waits: 0 of 3 nodes fit": {moves, task(2, "", unwanted), stays},
		"6 of 8 tasks moved; web.1 moves: its replacement is starting on n2":       {task(2, "", unwanted), moves},
		"7 of 8 tasks moved; web.2 is being stopped":                               {task(2, "", unwanted)},
	} {
		if got := drainText(left, 8); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
