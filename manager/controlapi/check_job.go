package controlapi

import (
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/cron"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// utc is the time zone of schedules that name none.
const utc = "UTC"

// normalJob makes a job's defaults explicit. A deadline of 0 is none.
func normalJob(spec *pb.ServiceSpec) {
	if r := spec.GetReplicatedJob(); r != nil && r.Completions == 0 {
		r.Completions = 1
	}
	if j := spec.Job; j.GetDeadline() != nil && j.Deadline.AsDuration() == 0 {
		j.Deadline = nil
	}
	s := spec.GetJob().GetSchedule()
	if s == nil {
		return
	}
	if s.Timezone == "" {
		s.Timezone = utc
	}
	if s.Concurrency == pb.JobSchedule_CONCURRENCY_UNSPECIFIED {
		s.Concurrency = pb.JobSchedule_CONCURRENCY_ALLOW
	}
	if s.Missed == pb.JobSchedule_MISSED_UNSPECIFIED {
		s.Missed = pb.JobSchedule_MISSED_RUN_ONCE
	}
}

// checkJob looks at what only jobs have, and at what they do not have: their
// tasks end by themselves, so none is replaced, or started again after it
// completed.
func checkJob(spec *pb.ServiceSpec) error {
	switch {
	case !store.IsJob(spec) && spec.Job != nil:
		return invalid("job settings: only jobs have them").WithTry("--mode replicated-job|global-job")
	case !store.IsJob(spec):
		return nil
	case spec.Update != nil:
		return invalid("update settings: a job's tasks are not replaced, a changed job starts a new run").WithTry("leave --update-* out")
	case spec.Rollback != nil:
		return invalid("rollback settings: a job's tasks are not replaced, a changed job starts a new run").WithTry("leave --rollback-* out")
	case spec.Task.Restart.Condition == pb.RestartPolicy_CONDITION_ANY:
		return invalid("restart-condition any: a job's task that completed is done").WithTry("--restart-condition on-failure|none")
	}
	return firstOf(checkCounts(spec.GetReplicatedJob()), checkDuration("job-deadline", spec.Job.GetDeadline()),
		checkTTL(spec.Job.GetTtl()), checkSchedule(spec.Job.GetSchedule()))
}

func checkCounts(r *pb.ReplicatedJob) error {
	switch {
	case r.GetCompletions() > maxReplicas:
		return invalid("replicas: %d are too many, %d are the most", r.Completions, maxReplicas)
	case r.GetMaxConcurrent() > maxReplicas:
		return invalid("max-concurrent: %d are too many, %d are the most", r.MaxConcurrent, maxReplicas).
			WithTry("--max-concurrent 0, for all tasks at once")
	}
	return nil
}

func checkTTL(ttl *durationpb.Duration) error {
	if ttl != nil && ttl.AsDuration() == 0 {
		return invalid("job-ttl: with 0s nobody could see how the job ended").WithTry("--job-ttl 1h")
	}
	return checkDuration("job-ttl", ttl)
}

func checkSchedule(s *pb.JobSchedule) error {
	if s == nil {
		return nil
	}
	switch {
	case pb.JobSchedule_Concurrency_name[int32(s.Concurrency)] == "":
		return invalid("schedule-concurrency: there is no policy %d", s.Concurrency).WithTry("--schedule-concurrency allow|forbid|replace")
	case pb.JobSchedule_Missed_name[int32(s.Missed)] == "":
		return invalid("schedule-missed: there is no policy %d", s.Missed).WithTry("--schedule-missed run-once|skip")
	}
	if _, err := cron.Parse(s.Cron, s.Timezone); err != nil {
		return invalid("schedule: %w", err).WithTry(`--schedule "*/5 * * * *" --timezone Europe/Berlin`)
	}
	return nil
}
