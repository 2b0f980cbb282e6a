package testcluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// StepWithJobs is Step, and every other time something that concerns jobs.
func (s *Story) StepWithJobs() {
	if s.rnd.IntN(2) == 0 {
		s.Step()
		return
	}
	steps := []func(){s.createJob, s.createJob, s.changeJob, s.changeJob, s.runJob, s.removeJob}
	steps[s.rnd.IntN(len(steps))]()
	time.Sleep(time.Duration(s.rnd.IntN(4000)) * time.Millisecond)
}

func (s *Story) createJob() {
	if len(s.jobs) >= 3 {
		return
	}
	s.made++
	spec := &pb.ServiceSpec{
		Name: fmt.Sprintf("j%d", s.made),
		Task: &pb.TaskSpec{Container: &pb.ContainerSpec{}},
		Mode: &pb.ServiceSpec_GlobalJob{GlobalJob: &pb.GlobalJob{}},
	}
	if s.rnd.IntN(3) > 0 {
		spec.Mode = &pb.ServiceSpec_ReplicatedJob{ReplicatedJob: &pb.ReplicatedJob{}}
		s.resize(spec)
	}
	s.fillJob(spec)
	s.jobs[spec.Name] = spec
	s.want(fmt.Sprintf("create job %s of %s, %v", spec.Name, spec.Task.Container.Image, spec.Mode), func(ctx context.Context, api pb.ControlClient) error {
		_, err := api.CreateService(ctx, &pb.CreateServiceRequest{Spec: spec})
		return err
	})
}

func (s *Story) resize(spec *pb.ServiceSpec) {
	if r := spec.GetReplicatedJob(); r != nil {
		r.Completions, r.MaxConcurrent = uint64(1+s.rnd.IntN(6)), uint64(s.rnd.IntN(4))
	}
}

// fillJob draws what a job's containers do. Only what fails by itself has its
// tries counted: a machine that loses its power makes others fail.
func (s *Story) fillJob(spec *pb.ServiceSpec) {
	image := []string{brief, brief, steady, crash, absent}[s.rnd.IntN(5)]
	spec.Task.Container.Image = image
	spec.Task.Container.Env = []string{fmt.Sprintf("N=%d", s.rnd.IntN(1000))}
	spec.Task.Restart = &pb.RestartPolicy{
		Condition: pb.RestartPolicy_CONDITION_ON_FAILURE,
		Delay:     durationpb.New(time.Duration(s.rnd.IntN(3000)) * time.Millisecond),
	}
	if image == crash || image == absent {
		spec.Task.Restart.MaxAttempts = uint64(1 + s.rnd.IntN(2))
	}
}

func (s *Story) pickJob() string {
	names := slices.Sorted(maps.Keys(s.jobs))
	if len(names) == 0 {
		return ""
	}
	return names[s.rnd.IntN(len(names))]
}

func (s *Story) changeJob() {
	name := s.pickJob()
	if name == "" {
		return
	}
	spec := proto.CloneOf(s.jobs[name])
	s.resize(spec)
	if s.rnd.IntN(2) == 0 {
		s.fillJob(spec)
	}
	s.jobs[name] = spec
	s.want(fmt.Sprintf("change job %s: %v, %s", name, spec.Mode, spec.Task.Container.Image), func(ctx context.Context, api pb.ControlClient) error {
		_, err := api.UpdateService(ctx, &pb.UpdateServiceRequest{Ref: name, Spec: spec})
		return err
	})
}

// runJob is refused while a run goes on.
func (s *Story) runJob() {
	if name := s.pickJob(); name != "" {
		s.want("run job "+name, func(ctx context.Context, api pb.ControlClient) error {
			_, err := api.RunJob(ctx, &pb.GetRequest{Ref: name})
			return err
		})
	}
}

func (s *Story) removeJob() {
	name := s.pickJob()
	if name == "" {
		return
	}
	delete(s.jobs, name)
	s.want("remove job "+name, func(ctx context.Context, api pb.ControlClient) error {
		_, err := api.RemoveService(ctx, &pb.RemoveRequest{Ref: name})
		return err
	})
}

// unsettledJob judges one job by its last run: it has ended as its image does,
// or as many tasks of it run as may.
func (s *Story) unsettledJob(svc *pb.Service, tasks []*pb.Task) string {
	name, image := svc.Spec.Name, svc.Spec.Task.Container.Image
	last := store.Run(svc, svc.GetJob().GetLastRun())
	if last == nil || last.SpecVersion != svc.SpecVersion || svc.Job.RunsAnswered != svc.RunsAsked {
		return fmt.Sprintf("job %s is at version %d with %d runs asked for, and its last run is %v", name, svc.SpecVersion, svc.RunsAsked, last)
	}
	running := map[string]bool{}
	done := map[string]bool{}
	for _, t := range tasks {
		live := t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING && t.Status.State <= pb.TaskState_TASK_STATE_RUNNING
		switch {
		case live && (t.JobRun != last.Number || last.State != pb.JobState_JOB_STATE_RUNNING || running[place(t)]):
			return fmt.Sprintf("job %s has one task too many, of run %d: %s", name, t.JobRun, describe(tasks))
		case t.Status.State == pb.TaskState_TASK_STATE_RUNNING && live:
			running[place(t)] = true
		case t.JobRun == last.Number && t.Status.State == pb.TaskState_TASK_STATE_COMPLETE:
			done[place(t)] = true
		}
	}
	want := map[string]pb.JobState{brief: pb.JobState_JOB_STATE_COMPLETE, steady: pb.JobState_JOB_STATE_RUNNING,
		crash: pb.JobState_JOB_STATE_FAILED, absent: pb.JobState_JOB_STATE_FAILED}[image]
	switch {
	case image == absent && last.State == pb.JobState_JOB_STATE_RUNNING:
		return "" // a node takes minutes to give a pull up
	case last.State != want:
		return fmt.Sprintf("job %s of %s: run is %v: %s", name, image, last, describe(tasks))
	case want == pb.JobState_JOB_STATE_COMPLETE && uint64(len(done)) < last.Total:
		return fmt.Sprintf("job %s has %d places done: %v", name, len(done), last)
	case want == pb.JobState_JOB_STATE_RUNNING && (len(running) < s.places(svc.Spec) || uint64(len(running)) > last.Total):
		return fmt.Sprintf("job %s of %s has %d tasks that run: %s", name, image, len(running), describe(tasks))
	}
	return ""
}

// places is how many tasks of a job run at least while none completes; there may
// be more, started while more were allowed.
func (s *Story) places(spec *pb.ServiceSpec) int {
	r := spec.GetReplicatedJob()
	switch {
	case r == nil:
		return len(s.Nodes)
	case r.MaxConcurrent > 0:
		return int(min(r.MaxConcurrent, r.Completions))
	}
	return int(r.Completions)
}
