package main

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/internal/id"
	pb "github.com/minid/minid/proto/minid/v1"
)

// loop puts a service's first two slots where seven and three restarts leave
// them: the last task has ended, the next one waits for its turn.
func (c *cluster) loop(service string) error {
	s := c.state.View().ServiceByName(service)
	var refused []error
	for slot, restarts := range map[uint64]uint64{1: 7, 2: 3} {
		tasks := []*pb.Task{c.attempt(s, slot, restarts-1), c.attempt(s, slot, restarts)}
		end := &pb.TaskStatus{State: pb.TaskState_TASK_STATE_FAILED, At: timestamppb.New(epoch), Error: "killed by SIGSEGV (exit code 139)",
			Container: &pb.ContainerStatus{ContainerId: tasks[0].Id, ExitCode: 139}}
		tasks[1].DesiredState, tasks[1].StartAfter = pb.TaskState_TASK_STATE_READY, timestamppb.New(testNow().Add(40*time.Second))
		for _, t := range tasks {
			errs, err := c.propose(context.Background(), &pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{t}}}})
			refused = append(append(refused, err), errs...)
		}
		errs, err := c.propose(context.Background(),
			&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{{Id: tasks[0].Id, NodeId: nodeID(1)}}}}},
			&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{NodeId: nodeID(1), Reports: []*pb.TaskStatusReport{{Id: tasks[0].Id, Status: end}}}}},
			&pb.Command{Kind: &pb.Command_SetDesired{SetDesired: &pb.SetDesired{Tasks: []*pb.TaskDesired{{Id: tasks[0].Id, State: pb.TaskState_TASK_STATE_SHUTDOWN}}}}})
		refused = append(append(refused, err), errs...)
	}
	return errors.Join(refused...)
}

func (c *cluster) attempt(s *pb.Service, slot, restarts uint64) *pb.Task {
	return &pb.Task{Id: id.New(), ServiceId: s.Id, ServiceName: s.Spec.Name, Slot: slot, SpecVersion: s.SpecVersion, DesiredState: pb.TaskState_TASK_STATE_RUNNING,
		RestartCount: restarts, Streak: &pb.RestartStreak{Restarts: restarts, Since: timestamppb.New(epoch.Add(-130 * time.Second))},
		Status: &pb.TaskStatus{State: pb.TaskState_TASK_STATE_PENDING}}
}
