package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/internal/id"
	pb "github.com/minid/minid/proto/minid/v1"
)

// The robot's part for jobs: it starts runs and carries them to their end. A
// "broken" image fails at once and for good, an "endless" one never ends.

// jobMoves are the next steps of a job.
func jobMoves(s *pb.Service, tasks []*pb.Task) []*pb.Command {
	status := &pb.JobStatus{}
	if s.Job != nil {
		status = proto.CloneOf(s.Job)
	}
	startRuns(s, status)
	var cmds []*pb.Command
	for _, run := range status.Runs {
		if run.State == pb.JobState_JOB_STATE_RUNNING {
			cmds = append(cmds, runMoves(s, run, ofRun(tasks, run.Number))...)
		}
	}
	if !proto.Equal(status, s.Job) && (s.Job != nil || len(status.Runs) > 0) {
		set := &pb.Command{Kind: &pb.Command_SetJobStatus{SetJobStatus: &pb.SetJobStatus{Id: s.Id, IfLastRun: s.Job.GetLastRun(), Status: status}}}
		cmds = append([]*pb.Command{set}, cmds...)
	}
	return cmds
}

func startRuns(s *pb.Service, status *pb.JobStatus) {
	start := func(why string) {
		status.LastRun++
		for _, run := range status.Runs {
			if run.State == pb.JobState_JOB_STATE_RUNNING && s.Spec.Job.GetSchedule().GetConcurrency() == pb.JobSchedule_CONCURRENCY_REPLACE {
				run.State, run.EndedAt = pb.JobState_JOB_STATE_REPLACED, timestamppb.New(epoch.Add(time.Minute))
			}
		}
		status.Runs = append(status.Runs, &pb.JobRun{Number: status.LastRun, State: pb.JobState_JOB_STATE_RUNNING, SpecVersion: s.SpecVersion,
			StartedAt: timestamppb.New(epoch.Add(30 * time.Second)), Message: why, Total: max(1, s.Spec.GetReplicatedJob().GetCompletions())})
	}
	hasRun := slices.ContainsFunc(status.Runs, func(r *pb.JobRun) bool { return r.SpecVersion == s.SpecVersion })
	if s.Spec.Job.GetSchedule() == nil && !hasRun {
		start("created")
	}
	for ; status.RunsAnswered < s.RunsAsked; status.RunsAnswered++ {
		start("asked for")
	}
}

func ofRun(tasks []*pb.Task, number uint64) []*pb.Task {
	return slices.DeleteFunc(slices.Clone(tasks), func(t *pb.Task) bool { return t.JobRun != number })
}

// runMoves counts a run's tasks into its record, and takes each a step further.
func runMoves(s *pb.Service, run *pb.JobRun, tasks []*pb.Task) []*pb.Command {
	var cmds []*pb.Command
	slots, busy := map[uint64]bool{}, uint64(0)
	run.Completed, run.Failed = 0, 0
	for _, t := range tasks {
		slots[t.Slot] = true
		switch t.Status.State {
		case pb.TaskState_TASK_STATE_COMPLETE:
			run.Completed++
		case pb.TaskState_TASK_STATE_FAILED:
			run.Failed++
			run.State, run.EndedAt = pb.JobState_JOB_STATE_FAILED, timestamppb.New(epoch.Add(time.Minute))
			run.Message = fmt.Sprintf("task %d failed 1 time: exit code 1", t.Slot)
			return nil
		case pb.TaskState_TASK_STATE_RUNNING:
			busy++
			if !strings.Contains(s.Spec.Task.Container.Image, "endless") {
				cmds = append(cmds, report(t, &pb.TaskStatus{State: pb.TaskState_TASK_STATE_COMPLETE, At: timestamppb.New(epoch.Add(time.Minute)),
					Container: &pb.ContainerStatus{ContainerId: t.Id}}))
			}
		default:
			busy++
			cmds = append(cmds, step(s, t)...)
		}
	}
	if run.Completed >= run.Total {
		run.State, run.EndedAt = pb.JobState_JOB_STATE_COMPLETE, timestamppb.New(epoch.Add(time.Minute))
		return nil
	}
	most := s.Spec.GetReplicatedJob().GetMaxConcurrent()
	for slot := uint64(1); slot <= run.Total && (most == 0 || busy < most); slot++ {
		if !slots[slot] {
			busy++
			cmds = append(cmds, &pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
				Id: id.New(), ServiceId: s.Id, ServiceName: s.Spec.Name, Slot: slot, JobRun: run.Number, SpecVersion: run.SpecVersion,
				DesiredState: pb.TaskState_TASK_STATE_RUNNING}}}}})
		}
	}
	return cmds
}
