package progress

import (
	"fmt"
	"slices"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// jobWait is the wait for one run of a job.
type jobWait struct {
	// pick chooses the run; 0 as long as it has not begun.
	pick func(*pb.Service) uint64
	// number of the run, once it is known. Another one that begins later is
	// not waited for.
	number uint64
	run    *pb.JobRun
}

// NewJobTracker follows the run that pick chooses to its end. Pick gets the
// service as it changes, and answers 0 until the run has begun.
func NewJobTracker(service *pb.Service, nodes map[string]string, pick func(*pb.Service) uint64) *Tracker {
	t := NewTracker(service, nodes)
	t.job = &jobWait{pick: pick}
	t.job.see(service)
	return t
}

// see takes in news of the job; of services that are none there is nothing.
func (j *jobWait) see(s *pb.Service) {
	if j == nil {
		return
	}
	if j.number == 0 {
		j.number = j.pick(s)
	}
	i := slices.IndexFunc(s.GetJob().GetRuns(), func(r *pb.JobRun) bool { return r.Number == j.number })
	if i >= 0 {
		j.run = s.Job.Runs[i]
	}
}

// NewestRun is the number of a job's newest run, 0 if it has none.
func NewestRun(s *pb.Service) uint64 { return s.GetJob().GetLastRun() }

// RunOf chooses the newest run of a version of a job's task spec, or of a newer
// one.
func RunOf(version uint64) func(*pb.Service) uint64 {
	return func(s *pb.Service) uint64 {
		for _, run := range slices.Backward(s.GetJob().GetRuns()) {
			if run.SpecVersion >= version {
				return run.Number
			}
		}
		return 0
	}
}

// RunAsked chooses the run that answers the ask with a number, as
// Service.runs_asked counts them. Those that answer later ones began after it.
func RunAsked(ask uint64) func(*pb.Service) uint64 {
	return func(s *pb.Service) uint64 {
		if s.GetJob().GetRunsAnswered() < ask {
			return 0
		}
		later := s.Job.RunsAnswered - ask
		for _, run := range slices.Backward(s.Job.Runs) {
			if run.ScheduledFor != nil {
				continue
			}
			if later == 0 {
				return run.Number
			}
			later--
		}
		return 0
	}
}

// Run is the run that is waited for, nil if it has not begun.
func (t *Tracker) Run() *pb.JobRun {
	if t.job == nil {
		return nil
	}
	return t.job.run
}

// verdict says where a run stands. A job that is gone took its end with it.
func (j *jobWait) verdict(gone bool) Outcome {
	switch j.run.GetState() {
	case pb.JobState_JOB_STATE_COMPLETE:
		return Completed
	case pb.JobState_JOB_STATE_FAILED, pb.JobState_JOB_STATE_REPLACED:
		return RunFailed
	}
	if gone {
		return Gone
	}
	return Waiting
}

// runCounts of a run are those of its record, which managers bring up to date
// once a second, and of the tasks that were seen meanwhile. How many nodes a
// global job is for is told by the record only.
func (t *Tracker) runCounts() Counts {
	run := t.job.run
	c := Counts{Job: true, Others: map[string]int{}}
	failures, done, places := 0, map[place]bool{}, map[place]bool{}
	for _, task := range t.tasks {
		if !t.job.has(task) {
			continue
		}
		p := placeOf(task)
		places[p] = true
		switch {
		case live(task):
			c.Others[StateName(task.GetStatus().GetState())]++
		case task.GetStatus().GetState() == pb.TaskState_TASK_STATE_COMPLETE:
			done[p] = true
		case failed(task):
			failures++
		}
	}
	if failures = max(failures, int(run.GetFailed())); failures > 0 {
		c.Others["failed"] = failures
	}
	c.Good = max(len(done), int(run.GetCompleted()))
	if want, replicated := t.wanted(); replicated && (run == nil || run.State == pb.JobState_JOB_STATE_RUNNING) {
		c.Wanted = want
	} else {
		c.Wanted = max(len(places), int(run.GetTotal()))
	}
	return c
}

// head is the line above a run's tasks.
func (j *jobWait) head(now time.Time) string {
	if j.run == nil {
		return "waiting: the run has not begun"
	}
	line := fmt.Sprintf("run %d: %s", j.run.Number, RunState(j.run))
	if began := j.run.GetStartedAt(); began != nil && j.run.State == pb.JobState_JOB_STATE_RUNNING {
		line += " for " + now.Sub(began.AsTime()).Truncate(time.Second).String()
	}
	return line
}

// has tells whether a task is one of those that are waited for: of a job, the
// run's.
func (j *jobWait) has(task *pb.Task) bool {
	return j == nil || j.number != 0 && task.JobRun == j.number
}

// RunState is the state of a job's run as users write it.
func RunState(r *pb.JobRun) string {
	switch r.GetState() {
	case pb.JobState_JOB_STATE_RUNNING:
		return "running"
	case pb.JobState_JOB_STATE_COMPLETE:
		return "complete"
	case pb.JobState_JOB_STATE_FAILED:
		return "failed"
	case pb.JobState_JOB_STATE_REPLACED:
		return "replaced"
	}
	return ""
}
