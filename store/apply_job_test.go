package store_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	jobRunning  = pb.JobState_JOB_STATE_RUNNING
	jobComplete = pb.JobState_JOB_STATE_COMPLETE
)

func jobSpec(name string, completions uint64) *pb.ServiceSpec {
	s := webSpec(name, "v1")
	s.Mode = &pb.ServiceSpec_ReplicatedJob{ReplicatedJob: &pb.ReplicatedJob{Completions: completions}}
	return s
}

func scheduled(s *pb.ServiceSpec, cron string) *pb.ServiceSpec {
	s.Job = &pb.JobConfig{Schedule: &pb.JobSchedule{Cron: cron}}
	return s
}

func globalJobSpec(name string) *pb.ServiceSpec {
	s := webSpec(name, "v1")
	s.Mode = &pb.ServiceSpec_GlobalJob{GlobalJob: &pb.GlobalJob{}}
	return s
}

func jobStatus(id string, ifLast uint64, status *pb.JobStatus) *pb.Command {
	return &pb.Command{Kind: &pb.Command_SetJobStatus{SetJobStatus: &pb.SetJobStatus{Id: id, IfLastRun: ifLast, Status: status}}}
}

func runJob(id string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_RunJob{RunJob: &pb.RunJob{Id: id}}}
}

func jobTask(id, service string, slot, run uint64) *pb.Task {
	t := task(id, service, slot)
	t.JobRun = run
	return t
}

// jobRun is the status of a job with one run.
func jobRun(number uint64, state pb.JobState) *pb.JobStatus {
	return &pb.JobStatus{LastRun: number, Runs: []*pb.JobRun{{Number: number, State: state, SpecVersion: 1}}}
}

func TestModesStay(t *testing.T) {
	specs := []*pb.ServiceSpec{webSpec("s", "v1"), globalSpec("s"), jobSpec("s", 3), globalJobSpec("s")}
	for i, from := range specs {
		for j, to := range specs {
			m := newMachine(t).must(createService("s", from))
			if i == j {
				m.must(updateService("s", 0, to))
			} else {
				m.refused(fault.Invalid, updateService("s", 0, to))
			}
		}
	}
}

func TestSetJobStatus(t *testing.T) {
	m := newMachine(t).must(createService("job", jobSpec("job", 3)), createService("web", webSpec("web", "v1")))
	first := jobRun(1, jobRunning)
	m.refused(fault.NotFound, jobStatus("none", 0, first))
	m.refused(fault.State, jobStatus("web", 0, first))
	m.refused(fault.Invalid, jobStatus("job", 0, nil))
	m.refused(fault.Invalid, jobStatus("job", 2, first))
	m.must(jobStatus("job", 0, first))
	m.refused(fault.Stale, jobStatus("job", 0, first))
	equal(t, "job", m.View().Service("job").Job, first)
	before := m.View().Service("job")
	m.must(jobStatus("job", 1, proto.CloneOf(first)))
	if m.View().Service("job") != before {
		t.Error("the same status again made another service")
	}
	if before.Meta.Version == m.index || before.SpecVersion != 1 {
		t.Errorf("a job's status changed its versions: %v", before)
	}
}

func TestScheduledUntilOnlyGoesForward(t *testing.T) {
	m := newMachine(t).must(createService("job", scheduled(jobSpec("job", 1), "@hourly")))
	created := m.index
	equal(t, "until", m.View().Service("job").Job, &pb.JobStatus{ScheduledUntil: at(created)})
	m.must(jobStatus("job", 0, &pb.JobStatus{ScheduledUntil: at(created + 50), Message: "a"}))
	for _, earlier := range []*pb.JobStatus{{ScheduledUntil: at(created), Message: "b"}, {Message: "b"}} {
		m.must(jobStatus("job", 0, earlier))
		equal(t, "until", m.View().Service("job").Job, &pb.JobStatus{ScheduledUntil: at(created + 50), Message: "b"})
	}
}

// A schedule counts from when it became what it is, or was resumed; other
// changes leave what is due due.
func TestChangesOfTheSchedule(t *testing.T) {
	with := func(change func(*pb.JobSchedule)) *pb.ServiceSpec {
		s := scheduled(jobSpec("job", 1), "@hourly")
		change(s.Job.Schedule)
		return s
	}
	m := newMachine(t).must(createService("job", jobSpec("job", 1)))
	if job := m.View().Service("job").Job; job != nil {
		t.Errorf("a job without a schedule has status %v", job)
	}
	for _, tc := range []struct {
		name  string
		spec  *pb.ServiceSpec
		anew  bool
		reset bool
	}{
		{"scheduled", with(func(s *pb.JobSchedule) {}), false, true},
		{"another policy", with(func(s *pb.JobSchedule) { s.Concurrency = 2 }), false, false},
		{"another image", func() *pb.ServiceSpec {
			s := with(func(*pb.JobSchedule) {})
			s.Task.Container.Image = "v2"
			return s
		}(), true, false},
		{"paused", with(func(s *pb.JobSchedule) { s.Paused = true }), true, true},
		{"resumed", with(func(s *pb.JobSchedule) {}), false, true},
		{"another time", with(func(s *pb.JobSchedule) { s.Cron = "@daily" }), false, true},
		{"another zone", with(func(s *pb.JobSchedule) { s.Cron, s.Timezone = "@daily", "Asia/Tokyo" }), false, true},
		{"no schedule", jobSpec("job", 1), false, false},
	} {
		before := m.View().Service("job")
		m.must(updateService("job", 0, tc.spec))
		after := m.View().Service("job")
		if got := !proto.Equal(before.Job.GetScheduledUntil(), after.Job.GetScheduledUntil()); got != tc.reset {
			t.Errorf("%s: the schedule begins anew: %v", tc.name, got)
		}
		if got := after.SpecVersion != before.SpecVersion; got != tc.anew {
			t.Errorf("%s: version %d after %d", tc.name, after.SpecVersion, before.SpecVersion)
		}
	}
}

func TestRunJob(t *testing.T) {
	m := newMachine(t).must(createService("job", jobSpec("job", 3)), createService("web", webSpec("web", "v1")))
	m.refused(fault.NotFound, runJob("none"))
	m.refused(fault.State, runJob("web"))
	m.must(runJob("job")).must(runJob("job"))
	if s := m.View().Service("job"); s.RunsAsked != 2 || s.Meta.Version == m.index {
		t.Errorf("%d runs were asked for, in version %d", s.RunsAsked, s.Meta.Version)
	}
	m.must(removeService("job"))
	m.refused(fault.State, runJob("job"))
}

func TestRunsTakeTasksWhileTheyGoOn(t *testing.T) {
	m := newMachine(t).must(createService("job", jobSpec("job", 3)), createService("web", webSpec("web", "v1")))
	m.must(createTasks(jobTask("early", "job", 1, 1), jobTask("none", "job", 1, 0), jobTask("web", "web", 1, 1)))
	m.must(jobStatus("job", 0, jobRun(1, jobRunning)), createTasks(jobTask("good", "job", 1, 1), jobTask("other", "job", 1, 2)))
	m.must(jobStatus("job", 1, jobRun(1, jobComplete)), createTasks(jobTask("late", "job", 2, 1)))
	equal(t, "tasks", ids(m.View().Tasks()), []string{"good"})
	if got := m.View().Task("good").JobRun; got != 1 {
		t.Errorf("the task is of run %d", got)
	}
}

// A run keeps its version while it goes on, tasks or not.
func TestARunsVersionIsKept(t *testing.T) {
	m := newMachine(t).must(createService("job", jobSpec("job", 3)), jobStatus("job", 0, jobRun(1, jobRunning)))
	for i := range 20 {
		spec := jobSpec("job", 3)
		spec.Task.ForceUpdate = uint64(i + 1)
		m.must(updateService("job", 0, spec))
	}
	if store.TaskSpec(m.View().Service("job"), 1) == nil {
		t.Error("the version of a run that goes on is forgotten")
	}
	if store.TaskSpec(m.View().Service("job"), 2) != nil {
		t.Error("a version that nobody needs is kept")
	}
}

func TestRollingBackAJobIsNoRollout(t *testing.T) {
	m := newMachine(t).must(createService("job", jobSpec("job", 3)))
	second := jobSpec("job", 3)
	second.Task.Container.Image = "v2"
	m.must(updateService("job", 0, second))
	m.must(&pb.Command{Kind: &pb.Command_RollbackService{RollbackService: &pb.RollbackService{Id: "job"}}})
	s := m.View().Service("job")
	if s.SpecVersion != 3 || s.UpdateStatus != nil || s.Spec.Task.Container.Image != "v1" {
		t.Errorf("it is at version %d with %v", s.SpecVersion, s.UpdateStatus)
	}
}
