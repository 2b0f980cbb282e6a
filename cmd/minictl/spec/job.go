package spec

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// jobAttempts is how often a job's failed task is tried again if the user does
// not say: a mistake in a job should end it, and not be repeated for ever.
const jobAttempts = 3

const restartAttempts = "restart-max-attempts"

// IsJob tells whether a service runs to an end.
func IsJob(s *pb.ServiceSpec) bool { return s.GetReplicatedJob() != nil || s.GetGlobalJob() != nil }

// ModeName is a service's mode as users see it.
func ModeName(s *pb.ServiceSpec) string {
	switch {
	case s.GetGlobal() != nil:
		return "global"
	case s.GetReplicatedJob() != nil:
		return "replicated job"
	case s.GetGlobalJob() != nil:
		return "global job"
	}
	return "replicated"
}

// setMode chooses among the four modes. A job has no settings for updates.
func setMode(s *pb.ServiceSpec, v string) error {
	switch v {
	case "replicated":
	case "global":
		s.Mode = &pb.ServiceSpec_Global{Global: &pb.GlobalMode{}}
	case "replicated-job":
		s.Mode, s.Update = &pb.ServiceSpec_ReplicatedJob{ReplicatedJob: &pb.ReplicatedJob{Completions: 1}}, nil
	case "global-job":
		s.Mode, s.Update = &pb.ServiceSpec_GlobalJob{GlobalJob: &pb.GlobalJob{}}, nil
	default:
		return fmt.Errorf("expected replicated, global, replicated-job or global-job")
	}
	return nil
}

// SetReplicas changes the number of a replicated service's tasks, or of those
// that a replicated job has to complete.
func SetReplicas(s *pb.ServiceSpec, n uint64) error {
	switch m := s.GetMode().(type) {
	case *pb.ServiceSpec_Replicated:
		m.Replicated.Replicas = n
		return nil
	case *pb.ServiceSpec_ReplicatedJob:
		if n == 0 {
			return fmt.Errorf("a job has 1 task to complete at least")
		}
		m.ReplicatedJob.Completions = n
		return nil
	}
	return fmt.Errorf("only services in mode replicated or replicated-job have a replica count")
}

// jobFlags are the flags that only jobs have.
func jobFlags() []flag {
	return []flag{
		scalar("max-concurrent", "", "uint", "most tasks of a replicated-job at a time, 0 is all (default 0)", func(s *pb.ServiceSpec, v string) error {
			r := s.GetReplicatedJob()
			if r == nil {
				return errors.New("only services in mode replicated-job have one")
			}
			return count(func(*pb.ServiceSpec) *uint64 { return &r.MaxConcurrent })(s, v)
		}),
		scalar("job-deadline", "", "duration", "how long a run of the job may take, 0 is for ever (default 0s)", jobPeriod(func(j *pb.JobConfig) **durationpb.Duration { return &j.Deadline })),
		scalar("job-ttl", "", "duration", "how long tasks are kept after their run's end; a job without a schedule is removed with them; 0 is for good (default 0s)",
			jobPeriod(func(j *pb.JobConfig) **durationpb.Duration { return &j.Ttl })),
		scalar("schedule", "", "cron", `when the job runs: minute, hour, day of month, month, day of week, as in "*/5 * * * *", or @hourly and the like; empty is no schedule`, setSchedule),
		scalar("timezone", "", "string", "time zone of the schedule, such as Europe/Berlin (default UTC)", scheduled(func(j *pb.JobSchedule, v string) error {
			j.Timezone = v
			return nil
		})),
		scalar("schedule-concurrency", "", "string", "when a run is due while one goes on: allow both, forbid the new one or replace the old one (default allow)",
			scheduled(func(j *pb.JobSchedule, v string) (err error) {
				j.Concurrency, err = choices[pb.JobSchedule_Concurrency]{
					{"allow", pb.JobSchedule_CONCURRENCY_ALLOW}, {"forbid", pb.JobSchedule_CONCURRENCY_FORBID}, {"replace", pb.JobSchedule_CONCURRENCY_REPLACE},
				}.pick(v)
				return err
			})),
		scalar("schedule-missed", "", "string", "times that pass while the cluster has no leader: run-once for all of them, or skip (default run-once)",
			scheduled(func(j *pb.JobSchedule, v string) (err error) {
				j.Missed, err = choices[pb.JobSchedule_Missed]{
					{"run-once", pb.JobSchedule_MISSED_RUN_ONCE}, {"skip", pb.JobSchedule_MISSED_SKIP},
				}.pick(v)
				return err
			})),
	}
}

// job is a job's settings, made if missing.
func job(s *pb.ServiceSpec) (*pb.JobConfig, error) {
	if !IsJob(s) {
		return nil, errors.New("only services in mode replicated-job or global-job have one")
	}
	return made(&s.Job), nil
}

// jobPeriod reads a duration of which 0 means that there is none.
func jobPeriod(field func(*pb.JobConfig) **durationpb.Duration) setter {
	return func(s *pb.ServiceSpec, v string) error {
		j, err := job(s)
		if err != nil {
			return err
		}
		if err := period(func(*pb.ServiceSpec) **durationpb.Duration { return field(j) })(s, v); err != nil {
			return err
		}
		if d := field(j); (*d).AsDuration() == 0 {
			*d = nil
		}
		return nil
	}
}

func setSchedule(s *pb.ServiceSpec, v string) error {
	j, err := job(s)
	switch {
	case err != nil:
		return err
	case v == "":
		j.Schedule = nil
	default:
		made(&j.Schedule).Cron = v
	}
	return nil
}

// scheduled sets what only jobs with a schedule have.
func scheduled(set func(*pb.JobSchedule, string) error) setter {
	return func(s *pb.ServiceSpec, v string) error {
		j, err := job(s)
		switch {
		case err != nil:
			return err
		case j.Schedule == nil:
			return errors.New("there is no schedule: --schedule makes one")
		}
		return set(j.Schedule, v)
	}
}

// settleJob refuses what was given for a job and is not for jobs, and fills in
// what a new job has if nothing was given.
func (f *Flags) settleJob(s *pb.ServiceSpec, isNew bool) error {
	if !IsJob(s) {
		return nil
	}
	for _, fl := range f.flags {
		if rollout := strings.HasPrefix(fl.name, "update-") || strings.HasPrefix(fl.name, "rollback-"); rollout && f.set.Changed(fl.name) {
			return fault.New(fault.Invalid, "--%s is not for jobs: their tasks are not replaced, a changed job starts a new run", fl.name)
		}
	}
	if isNew && !f.set.Changed(restartAttempts) {
		restart(s).MaxAttempts = jobAttempts
	}
	if s.Job != nil && s.Job.Deadline == nil && s.Job.Ttl == nil && s.Job.Schedule == nil {
		s.Job = nil
	}
	return nil
}

// SetPaused stops a job's schedule from starting runs, or lets it go on.
func SetPaused(s *pb.ServiceSpec, paused bool) error {
	schedule := s.GetJob().GetSchedule()
	if schedule == nil {
		return errors.New("it has no schedule, and only scheduled jobs can be paused and resumed")
	}
	schedule.Paused = paused
	return nil
}

func replicas(s *pb.ServiceSpec, v string) error {
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil {
		return fmt.Errorf("expected a count")
	}
	return SetReplicas(s, n)
}
