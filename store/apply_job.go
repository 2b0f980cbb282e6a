package store

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// IsJob tells whether a service runs to an end: in runs, and not for good.
func IsJob(spec *pb.ServiceSpec) bool {
	return spec.GetReplicatedJob() != nil || spec.GetGlobalJob() != nil
}

// PerNode tells whether a service has one task on each node that fits, for
// good or to its end.
func PerNode(spec *pb.ServiceSpec) bool {
	return spec.GetGlobal() != nil || spec.GetGlobalJob() != nil
}

// Run is a job's run with a number, nil if it is not listed.
func Run(s *pb.Service, number uint64) *pb.JobRun {
	runs := s.GetJob().GetRuns()
	if i := slices.IndexFunc(runs, func(r *pb.JobRun) bool { return r.Number == number }); i >= 0 {
		return runs[i]
	}
	return nil
}

// takesTask tells whether a task belongs to a run of its job that goes on, or
// to none if its service is no job. So two leaders cannot start one run's tasks
// under two numbers, and what has ended is not added to.
func takesTask(s *pb.Service, t *pb.Task) bool {
	if !IsJob(s.Spec) {
		return t.JobRun == 0
	}
	return Run(s, t.JobRun).GetState() == pb.JobState_JOB_STATE_RUNNING
}

// sameMode tells whether two specs are of the same of the four modes.
func sameMode(a, b *pb.ServiceSpec) bool {
	return IsJob(a) == IsJob(b) && PerNode(a) == PerNode(b)
}

// rescheduled is a job's status after a change of its spec. Times of a schedule
// count from when it became what it is; those that passed while it was another
// one, or paused, are nobody's.
func (tx *txn) rescheduled(status *pb.JobStatus, old, next *pb.ServiceSpec) *pb.JobStatus {
	a, b := old.GetJob().GetSchedule(), next.GetJob().GetSchedule()
	if b == nil || a != nil && a.Cron == b.Cron && a.Timezone == b.Timezone && a.Paused == b.Paused {
		return status
	}
	n := &pb.JobStatus{}
	if status != nil {
		n = shallow(status)
	}
	n.ScheduledUntil = tx.at
	return n
}

// setJobStatus refuses a status that does not know of the last run. The time
// up to which the schedule has been dealt with only goes forward.
func (tx *txn) setJobStatus(c *pb.SetJobStatus) error {
	old := tx.services.Get(c.GetId())
	switch {
	case old == nil:
		return missing("set job status of", "service", c.GetId())
	case c.Status == nil || c.Status.LastRun < c.IfLastRun:
		return fault.New(fault.Invalid, "set job status of service %s: the command is incomplete", old.GetSpec().GetName())
	case !IsJob(old.Spec):
		return fault.New(fault.State, "set job status of service %s: it is no job", old.GetSpec().GetName())
	case old.Job.GetLastRun() != c.IfLastRun:
		return fault.New(fault.Stale, "set job status of service %s: its last run is %d, not %d",
			old.GetSpec().GetName(), old.Job.GetLastRun(), c.IfLastRun)
	}
	status := c.Status
	if until := old.Job.GetScheduledUntil(); until != nil && status.GetScheduledUntil().AsTime().Before(until.AsTime()) {
		status = shallow(status)
		status.ScheduledUntil = until
	}
	if proto.Equal(old.Job, status) {
		return nil
	}
	n := shallow(old)
	n.Job = status
	tx.putService(n)
	return nil
}

func (tx *txn) runJob(c *pb.RunJob) error {
	old := tx.services.Get(c.GetId())
	switch {
	case old == nil:
		return missing("run", "service", c.GetId())
	case !IsJob(old.Spec):
		return fault.New(fault.State, "run service %s: it is no job", old.GetSpec().GetName()).
			WithTry("minictl service update --force %s, to start its tasks anew", old.GetSpec().GetName())
	case old.Removing:
		return fault.New(fault.State, "run service %s: it is being removed", old.GetSpec().GetName())
	}
	n := shallow(old)
	n.RunsAsked++
	tx.putService(n)
	return nil
}
