package controlapi

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	jobRunning  = pb.JobState_JOB_STATE_RUNNING
	jobComplete = pb.JobState_JOB_STATE_COMPLETE
)

// backup is a valid job to vary.
func backup() *pb.ServiceSpec {
	return &pb.ServiceSpec{
		Name: "backup",
		Task: &pb.TaskSpec{Container: &pb.ContainerSpec{Image: "tar"}},
		Mode: &pb.ServiceSpec_ReplicatedJob{ReplicatedJob: &pb.ReplicatedJob{Completions: 7, MaxConcurrent: 2}},
	}
}

func nightly(s *pb.JobSchedule) *pb.ServiceSpec {
	spec := backup()
	spec.Job = &pb.JobConfig{Schedule: s}
	return spec
}

// Each row spoils a job; the error must say so in these words.
func TestCreateJobRefuses(t *testing.T) {
	job := func(j *pb.JobConfig) func(*pb.ServiceSpec) { return func(s *pb.ServiceSpec) { s.Job = j } }
	schedule := func(s *pb.JobSchedule) func(*pb.ServiceSpec) { return job(&pb.JobConfig{Schedule: s}) }
	for want, spoil := range map[string]func(*pb.ServiceSpec){
		"job settings: only jobs have them": func(s *pb.ServiceSpec) { s.Mode, s.Job = web().Mode, &pb.JobConfig{} },
		"update settings: a job's tasks":    func(s *pb.ServiceSpec) { s.Update = &pb.UpdateConfig{} },
		"rollback settings: a job's tasks":  func(s *pb.ServiceSpec) { s.Rollback = &pb.UpdateConfig{} },
		"restart-condition any: a job's task": func(s *pb.ServiceSpec) {
			s.Task.Restart = &pb.RestartPolicy{Condition: pb.RestartPolicy_CONDITION_ANY}
		},
		"a global service has one task": func(s *pb.ServiceSpec) {
			s.Mode = &pb.ServiceSpec_GlobalJob{GlobalJob: &pb.GlobalJob{}}
			s.Task.Placement = &pb.Placement{MaxReplicasPerNode: 1}
		},
		"replicas: 2000000 are too many":                 func(s *pb.ServiceSpec) { s.GetReplicatedJob().Completions = 2e6 },
		"max-concurrent: 2000000 are too many":           func(s *pb.ServiceSpec) { s.GetReplicatedJob().MaxConcurrent = 2e6 },
		"job-deadline: -1s is not between":               job(&pb.JobConfig{Deadline: durationpb.New(-time.Second)}),
		"job-ttl: -1s is not between":                    job(&pb.JobConfig{Ttl: durationpb.New(-time.Second)}),
		"job-ttl: with 0s nobody":                        job(&pb.JobConfig{Ttl: durationpb.New(0)}),
		`schedule: cron expression "often": has 1`:       schedule(&pb.JobSchedule{Cron: "often"}),
		`schedule: cron expression "": has 0 fields`:     schedule(&pb.JobSchedule{}),
		`schedule: time zone "Mars": not in`:             schedule(&pb.JobSchedule{Cron: "@daily", Timezone: "Mars"}),
		"schedule-concurrency: there is no policy 9":     schedule(&pb.JobSchedule{Cron: "@daily", Concurrency: 9}),
		"schedule-missed: there is no policy 9":          schedule(&pb.JobSchedule{Cron: "@daily", Missed: 9}),
		`cron expression "0 0 30 2 *": there is no such`: schedule(&pb.JobSchedule{Cron: "0 0 30 2 *"}),
	} {
		r := newRig(t)
		spec := backup()
		spoil(spec)
		_, err := r.server.CreateService(t.Context(), &pb.CreateServiceRequest{Spec: spec})
		wantClass(t, err, fault.Invalid)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestJobDefaultsAreMadeExplicit(t *testing.T) {
	spec := nightly(&pb.JobSchedule{Cron: "@daily"})
	spec.Job.Deadline = durationpb.New(0)
	spec.GetReplicatedJob().Completions = 0
	got, err := normalService(spec)
	if err != nil {
		t.Fatal(err)
	}
	want := proto.CloneOf(got)
	want.Update, want.Rollback = nil, nil
	want.Job = &pb.JobConfig{Schedule: &pb.JobSchedule{Cron: "@daily", Timezone: "UTC",
		Concurrency: pb.JobSchedule_CONCURRENCY_ALLOW, Missed: pb.JobSchedule_MISSED_RUN_ONCE}}
	want.GetReplicatedJob().Completions = 1
	want.Task.Restart = &pb.RestartPolicy{Condition: pb.RestartPolicy_CONDITION_ON_FAILURE, Delay: durationpb.New(defaultRestartDelay)}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	again, err := normalService(got)
	if diff := cmp.Diff(got, again, protocmp.Transform()); diff != "" || err != nil {
		t.Error("a normal form changes:", diff, err)
	}
}

// status tells the store what became of a job's runs.
func (r *rig) status(service string, status *pb.JobStatus) {
	r.t.Helper()
	s := r.state.View().ServiceByName(service)
	r.apply(&pb.Command{Kind: &pb.Command_SetJobStatus{SetJobStatus: &pb.SetJobStatus{
		Id: s.Id, IfLastRun: s.GetJob().GetLastRun(), Status: status,
	}}})
}

func TestRunJob(t *testing.T) {
	for _, c := range []struct {
		name   string
		spec   *pb.ServiceSpec
		status *pb.JobStatus
		want   string // of the refusal, if there is one
	}{
		{"a job without a schedule whose run ended", backup(), &pb.JobStatus{LastRun: 1, Runs: []*pb.JobRun{{Number: 1, State: jobComplete}}}, ""},
		{"a job without a schedule whose run goes on", backup(), &pb.JobStatus{LastRun: 1, Runs: []*pb.JobRun{{Number: 1, State: jobRunning}}},
			"run service backup: run 1 goes on, and a job without a schedule has one run at a time"},
		{"a job without a schedule that is new", backup(), nil, "run service backup: a run is about to begin"},
		{"a scheduled job that is new", nightly(&pb.JobSchedule{Cron: "@daily"}), nil, ""},
		{"a schedule that forbids", nightly(&pb.JobSchedule{Cron: "@daily", Concurrency: pb.JobSchedule_CONCURRENCY_FORBID}),
			&pb.JobStatus{LastRun: 8, Runs: []*pb.JobRun{{Number: 7, State: jobComplete}, {Number: 8, State: jobRunning}}},
			"run service backup: run 8 goes on, and its schedule forbids two at a time"},
		{"a schedule that allows", nightly(&pb.JobSchedule{Cron: "@daily"}),
			&pb.JobStatus{LastRun: 8, Runs: []*pb.JobRun{{Number: 8, State: jobRunning}}}, ""},
		{"a schedule that replaces", nightly(&pb.JobSchedule{Cron: "@daily", Concurrency: pb.JobSchedule_CONCURRENCY_REPLACE}),
			&pb.JobStatus{LastRun: 8, Runs: []*pb.JobRun{{Number: 8, State: jobRunning}}}, ""},
		{"no job", web(), nil, "run service web: it is no job"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			name := r.create(c.spec).Spec.Name
			if c.status != nil {
				r.status(name, c.status)
			}
			got, err := r.server.RunJob(t.Context(), &pb.GetRequest{Ref: name})
			switch {
			case c.want == "":
				if err != nil || got.RunsAsked != 1 || got.Status == nil {
					t.Errorf("%v, %v", got, err)
				}
			default:
				wantClass(t, err, fault.State)
				if err == nil || err.Error() != c.want || fault.TryOf(err) == "" {
					t.Errorf("error %v (try %q), want %q", err, fault.TryOf(err), c.want)
				}
			}
		})
	}
}

func TestRunJobThatForbidsIsAskedForOnce(t *testing.T) {
	r := newRig(t)
	r.create(nightly(&pb.JobSchedule{Cron: "@daily", Concurrency: pb.JobSchedule_CONCURRENCY_FORBID}))
	ask := &pb.GetRequest{Ref: "backup"}
	if _, err := r.server.RunJob(t.Context(), ask); err != nil {
		t.Fatal(err)
	}
	_, err := r.server.RunJob(t.Context(), ask)
	wantClass(t, err, fault.State)
	r.status("backup", &pb.JobStatus{LastRun: 1, RunsAnswered: 1, Runs: []*pb.JobRun{{Number: 1, State: jobComplete}}})
	if _, err := r.server.RunJob(t.Context(), ask); err != nil {
		t.Error(err)
	}
}

func TestJobsAreCountedByTheirRuns(t *testing.T) {
	r := newRig(t)
	r.create(backup())
	r.status("backup", &pb.JobStatus{LastRun: 2, Runs: []*pb.JobRun{
		{Number: 1, State: jobComplete, Completed: 7, Total: 7},
		{Number: 2, State: jobRunning, Completed: 3, Total: 7},
	}})
	jobTask := func(id string, slot uint64, state pb.TaskState) {
		r.apply(&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
			Id: id, ServiceId: r.state.View().ServiceByName("backup").Id, ServiceName: "backup",
			SpecVersion: 1, Slot: slot, JobRun: 2, DesiredState: pb.TaskState_TASK_STATE_RUNNING,
		}}}}},
			&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{{Id: id, NodeId: "node-w1"}}}}},
			&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{NodeId: "node-w1", Reports: []*pb.TaskStatusReport{{
				Id: id, Status: &pb.TaskStatus{State: state}}}}}})
	}
	jobTask("done", 1, pb.TaskState_TASK_STATE_COMPLETE)
	jobTask("runs", 4, pb.TaskState_TASK_STATE_RUNNING)
	for _, c := range []struct {
		completed, want uint64
	}{{3, 2}, {6, 1}, {7, 0}, {8, 0}} {
		r.status("backup", &pb.JobStatus{LastRun: 2, Runs: []*pb.JobRun{{Number: 2, State: jobRunning, Completed: c.completed, Total: 7}}})
		got, err := r.server.GetService(t.Context(), &pb.GetRequest{Ref: "backup"})
		if err != nil || got.Status.Running != 1 || got.Status.Desired != c.want {
			t.Errorf("with %d completed: %v, %v; want 1 of %d", c.completed, got.GetStatus(), err, c.want)
		}
	}
}

func TestListServicesByModeOfJob(t *testing.T) {
	r := newRig(t)
	r.create(web())
	r.create(backup())
	everywhere := backup()
	everywhere.Name, everywhere.Mode = "everywhere", &pb.ServiceSpec_GlobalJob{GlobalJob: &pb.GlobalJob{}}
	r.create(everywhere)
	for mode, want := range map[string]string{"replicated": "web", "replicated-job": "backup", "global-job": "everywhere"} {
		got, err := r.server.ListServices(t.Context(), &pb.ListRequest{Filters: []*pb.Filter{{Key: "mode", Values: []string{mode}}}})
		if err != nil || len(got.Services) != 1 || got.Services[0].Spec.Name != want {
			t.Errorf("mode %s: %v, %v; want %s", mode, got, err, want)
		}
	}
}
