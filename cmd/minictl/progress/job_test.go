package progress

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
)

func jobService(asked, answered uint64, runs ...*pb.JobRun) *pb.Service {
	s := &pb.Service{Id: "backup", SpecVersion: 2, RunsAsked: asked, Spec: &pb.ServiceSpec{Name: "backup",
		Mode: &pb.ServiceSpec_ReplicatedJob{ReplicatedJob: &pb.ReplicatedJob{Completions: 3}}}}
	if len(runs) > 0 {
		s.Job = &pb.JobStatus{Runs: runs, LastRun: runs[len(runs)-1].Number, RunsAnswered: answered}
	}
	return s
}

func runIn(number uint64, state pb.JobState) *pb.JobRun {
	return &pb.JobRun{Number: number, State: state, SpecVersion: 1, Total: 3}
}

func TestWhichRunIsWaitedFor(t *testing.T) {
	scheduled := runIn(5, pb.JobState_JOB_STATE_RUNNING)
	scheduled.ScheduledFor = timestamppb.Now()
	newer := runIn(6, pb.JobState_JOB_STATE_RUNNING)
	newer.SpecVersion = 2
	runs := []*pb.JobRun{runIn(3, pb.JobState_JOB_STATE_COMPLETE), runIn(4, pb.JobState_JOB_STATE_COMPLETE), scheduled, newer}
	for _, c := range []struct {
		name string
		pick func(*pb.Service) uint64
		s    *pb.Service
		want uint64
	}{
		{"no run yet", RunOf(1), jobService(0, 0), 0},
		{"the newest of a version", RunOf(1), jobService(0, 0, runs...), 6},
		{"the newest of the new version", RunOf(2), jobService(0, 0, runs...), 6},
		{"the run of a new version is to come", RunOf(2), jobService(0, 0, runs[:3]...), 0},
		{"asked for and not answered", RunAsked(8), jobService(8, 7, runs...), 0},
		{"asked for and answered last", RunAsked(8), jobService(8, 8, runs...), 6},
		{"answered before another", RunAsked(8), jobService(9, 9, runs...), 4},
		{"its run is forgotten", RunAsked(1), jobService(9, 9, runs...), 0},
		{"none yet", NewestRun, jobService(0, 0), 0},
		{"the newest", NewestRun, jobService(0, 0, runs...), 6},
	} {
		if got := c.pick(c.s); got != c.want {
			t.Errorf("%s: run %d, want %d", c.name, got, c.want)
		}
	}
}

func TestRunIsFollowedToItsEnd(t *testing.T) {
	now := time.Unix(1000, 0)
	old := runIn(1, pb.JobState_JOB_STATE_FAILED)
	tracker := NewJobTracker(jobService(0, 0, old), nil, RunOf(2))
	verdict := func(want Outcome) {
		t.Helper()
		if got, _ := tracker.Verdict(now); got != want {
			t.Errorf("verdict %v, want %v", got, want)
		}
	}
	news := func(runs ...*pb.JobRun) {
		tracker.Apply(&pb.WatchEvent{Action: pb.WatchEvent_ACTION_PUT, Object: &pb.Object{Kind: &pb.Object_Service{Service: jobService(0, 0, runs...)}}}, now)
	}
	task := func(id string, run, slot uint64, state pb.TaskState) []Change {
		return tracker.Apply(&pb.WatchEvent{Action: pb.WatchEvent_ACTION_PUT, Object: &pb.Object{Kind: &pb.Object_Task{Task: &pb.Task{
			Id: id, ServiceId: "backup", ServiceName: "backup", JobRun: run, Slot: slot, SpecVersion: run, DesiredState: pb.TaskState_TASK_STATE_RUNNING,
			Status: &pb.TaskStatus{State: state, Error: map[bool]string{true: "exit code 9"}[state == pb.TaskState_TASK_STATE_FAILED]},
		}}}}, now)
	}
	task("old", 1, 1, pb.TaskState_TASK_STATE_FAILED)
	tracker.Apply(&pb.WatchEvent{Action: pb.WatchEvent_ACTION_SYNCED}, now)
	verdict(Waiting)
	if got, want := tracker.Counts().Overall(false), "job progress: 0 out of 3 complete"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if lines := strings.Join(tracker.Picture(now, 80), "\n"); !strings.Contains(lines, "the run has not begun") || tracker.Failed() != nil {
		t.Errorf("before the run: %s, failed %v", lines, tracker.Failed())
	}
	run := runIn(2, pb.JobState_JOB_STATE_RUNNING)
	run.SpecVersion, run.Completed, run.Failed, run.StartedAt = 2, 1, 1, timestamppb.New(now.Add(-time.Minute))
	news(old, run)
	if changes := task("old", 1, 1, pb.TaskState_TASK_STATE_ORPHANED); len(changes) > 0 {
		t.Errorf("an old run's task is told of: %v", changes)
	}
	if changes := task("done", 2, 1, pb.TaskState_TASK_STATE_COMPLETE); len(changes) != 1 || changes[0].String() != "backup.1 complete" {
		t.Errorf("a completed task is told as %v", changes)
	}
	task("bad", 2, 2, pb.TaskState_TASK_STATE_FAILED)
	task("good", 2, 2, pb.TaskState_TASK_STATE_RUNNING)
	verdict(Waiting)
	if got, want := tracker.Counts().Overall(false), "job progress: 1 out of 3 complete (1 failed, 1 running)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	picture := strings.Join(tracker.Picture(now, 80), "\n")
	if !strings.Contains(picture, "run 2: running for 1m0s\n2/3:") || strings.Contains(picture, "1/3:") {
		t.Errorf("the picture is\n%s", picture)
	}
	if f := tracker.Failed(); f.GetId() != "bad" {
		t.Errorf("failed is %v", f)
	}
	// Managers tell of the end of a task before they have counted it.
	task("good", 2, 2, pb.TaskState_TASK_STATE_COMPLETE)
	if got, want := tracker.Counts().Overall(true), "job progress: 2 out of 3 complete (1 failed)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	// A run that begins meanwhile is not waited for.
	ended := runIn(2, pb.JobState_JOB_STATE_COMPLETE)
	news(old, ended, runIn(3, pb.JobState_JOB_STATE_FAILED))
	verdict(Completed)
	for _, state := range []pb.JobState{pb.JobState_JOB_STATE_FAILED, pb.JobState_JOB_STATE_REPLACED} {
		news(runIn(2, state))
		verdict(RunFailed)
	}
	// The end of a job that is gone is remembered.
	tracker.Apply(&pb.WatchEvent{Action: pb.WatchEvent_ACTION_DELETE, Object: &pb.Object{Kind: &pb.Object_Service{Service: jobService(0, 0)}}}, now)
	verdict(RunFailed)
	never := NewJobTracker(jobService(0, 0), nil, RunOf(2))
	never.Apply(&pb.WatchEvent{Action: pb.WatchEvent_ACTION_DELETE, Object: &pb.Object{Kind: &pb.Object_Service{Service: jobService(0, 0)}}}, now)
	if got, _ := never.Verdict(now); got != Gone {
		t.Errorf("verdict %v of a job that was removed", got)
	}
}
