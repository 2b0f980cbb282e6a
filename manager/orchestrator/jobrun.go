package orchestrator

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// keptRuns is how many ended runs are listed.
	keptRuns = 10
	// maxRuns is how many runs of a job may go on at a time, where its
	// schedule allows several: each has its tasks, and all are in one record.
	maxRuns = 100
	// countEvery is how often the progress of a run is told.
	countEvery = time.Second
)

// record works out how the runs stand and which begin, and plans to write it
// down if users would see a difference. Tasks of a run that begins, and the
// end of those of one that ends, come when that is in the store: what two
// leaders may both have proposed happens once.
func (s *jobSet) record() {
	old := s.service.GetJob()
	s.next = &pb.JobStatus{
		Runs: slices.Clone(old.GetRuns()), LastRun: old.GetLastRun(), ScheduledUntil: old.GetScheduledUntil(),
		RunsAnswered: old.GetRunsAnswered(), Message: old.GetMessage(),
	}
	for i, r := range s.next.Runs {
		s.next.Runs[i] = s.judge(s.run(r.Number), r)
	}
	s.begin()
	s.forgetRuns()
	s.outlive()
	if proto.Equal(old, s.next) || old == nil && proto.Equal(s.next, &pb.JobStatus{}) {
		return
	}
	if at := s.counted.Add(countEvery); at.After(s.now) && onlyCounts(old, s.next) {
		s.lookAgain(at)
		return
	}
	s.counted = s.now
	s.plan.Job = &pb.SetJobStatus{Id: s.service.Id, IfLastRun: old.GetLastRun(), Status: s.next}
}

// onlyCounts tells whether two forms of a status differ in numbers only, which
// can wait.
func onlyCounts(a, b *pb.JobStatus) bool {
	if a == nil {
		return false
	}
	return proto.Equal(withoutCounts(a), withoutCounts(b))
}

func withoutCounts(s *pb.JobStatus) *pb.JobStatus {
	n := proto.CloneOf(s)
	for _, r := range n.Runs {
		r.Completed, r.Total, r.Failed = 0, 0, 0
	}
	return n
}

func (s *jobSet) lookAgain(at time.Time) { s.again = earliest(s.again, at) }

// judge is the record of a run as its seats have it.
func (s *jobSet) judge(r *run, record *pb.JobRun) *pb.JobRun {
	n := proto.CloneOf(record)
	switch {
	case r.goesOn():
	case r.open && len(r.vacant) > 0:
		n.State, n.EndedAt, n.ResumedAt = pb.JobState_JOB_STATE_RUNNING, nil, timestamppb.New(s.now)
		n.Message = "a node joined"
	default:
		return record
	}
	n.Completed, n.Total, n.Failed = uint64(r.done), s.total(r), uint64(r.failures)
	switch end := s.deadline(n); {
	case n.Total > 0 && n.Completed >= n.Total:
		s.end(n, pb.JobState_JOB_STATE_COMPLETE, n.Message)
	case len(r.spent) > 0:
		s.end(n, pb.JobState_JOB_STATE_FAILED, s.whyFailed(r))
	case !end.IsZero() && !end.After(s.now):
		s.end(n, pb.JobState_JOB_STATE_FAILED, fmt.Sprintf("took longer than its deadline of %s", spell(s.service.Spec.Job.Deadline.AsDuration())))
	case !end.IsZero():
		s.lookAgain(end)
	}
	if proto.Equal(n, record) {
		return record
	}
	return n
}

func (s *jobSet) end(r *pb.JobRun, state pb.JobState, message string) {
	r.State, r.Message, r.EndedAt = state, message, timestamppb.New(s.now)
}

func (s *jobSet) total(r *run) uint64 {
	if s.perNode() {
		return uint64(r.total)
	}
	return s.completions()
}

// deadline is when a run has to have ended; zero is never.
func (s *jobSet) deadline(r *pb.JobRun) time.Time {
	d := s.service.GetSpec().GetJob().GetDeadline().AsDuration()
	if d == 0 {
		return time.Time{}
	}
	from := r.StartedAt
	if r.ResumedAt != nil {
		from = r.ResumedAt
	}
	return from.AsTime().Add(d)
}

// whyFailed tells of the first seat that has used up its tries.
func (s *jobSet) whyFailed(r *run) string {
	var first *seat
	for _, sl := range r.spent {
		if first == nil || comparePlaces(sl.place, first.place) < 0 {
			first = sl
		}
	}
	where := fmt.Sprintf("slot %d", first.slot)
	if first.node != "" {
		where = "the task on node " + first.node
		if name := s.nodes.Node(first.node).GetDescription().GetHostname(); name != "" {
			where = "the task on node " + name
		}
	}
	times := "once"
	if first.tries > 1 {
		times = fmt.Sprintf("%d times", first.tries)
	}
	return fmt.Sprintf("%s failed %s: %s", where, times, howEnded(first.last().GetStatus()))
}

func howEnded(s *pb.TaskStatus) string {
	switch {
	case s.GetError() != "":
		return s.Error
	case s.GetContainer().GetExitCode() != 0:
		return fmt.Sprintf("exit code %d", s.Container.ExitCode)
	}
	return s.GetMessage()
}

// spell writes a duration without its empty parts: 10m, not 10m0s.
func spell(d time.Duration) string {
	text := d.String()
	if d >= time.Minute && d%time.Minute == 0 {
		text = text[:len(text)-len("0s")]
	}
	if d >= time.Hour && d%time.Hour == 0 {
		text = text[:len(text)-len("0m")]
	}
	return text
}

// going are the runs that have not ended.
func (s *jobSet) going() (runs []*pb.JobRun) {
	for _, r := range s.next.Runs {
		if r.State == pb.JobState_JOB_STATE_RUNNING {
			runs = append(runs, r)
		}
	}
	return runs
}

// begin starts the runs that are due: for a new version, by the schedule, and
// at last what users asked for.
func (s *jobSet) begin() {
	if s.schedule() == nil {
		s.beginVersion()
	} else {
		s.beginScheduled()
	}
	if s.next.RunsAnswered < s.service.RunsAsked && s.mayBegin() == "" {
		s.next.RunsAnswered++
		s.start("asked for", time.Time{})
	}
}

func (s *jobSet) schedule() *pb.JobSchedule { return s.service.GetSpec().GetJob().GetSchedule() }

// beginVersion starts a run of a version that has had none, for which those of
// older ones end.
func (s *jobSet) beginVersion() {
	message := "created"
	if n := len(s.next.Runs); n > 0 {
		if s.next.Runs[n-1].SpecVersion == s.service.SpecVersion {
			return
		}
		message = "updated"
	}
	s.replaceAll()
	s.start(message, time.Time{})
}

// beginScheduled deals with the schedule's times up to now. Of those that
// passed unseen only the last one counts.
func (s *jobSet) beginScheduled() {
	schedule := s.schedule()
	if s.timetable.problem != "" {
		s.next.Message = s.timetable.problem
	}
	if schedule.Paused {
		return
	}
	until := s.next.ScheduledUntil.AsTime()
	if soonest := s.timetable.after(until); soonest.IsZero() || soonest.After(s.now) {
		s.lookAgain(soonest)
		return
	}
	at := due(s.timetable.times, until, s.now)
	s.next.ScheduledUntil = timestamppb.New(at)
	s.lookAgain(s.timetable.times.Next(at))
	late := s.now.Sub(at) > punctual
	why := s.mayBegin()
	if late && schedule.Missed == pb.JobSchedule_MISSED_SKIP {
		why = "no manager led then"
	}
	switch {
	case why != "":
		s.next.Message = fmt.Sprintf("%s left out: %s", at.Format("2006-01-02 15:04"), why)
	case late:
		s.start("scheduled, late", at)
	default:
		s.start("scheduled", at)
	}
}

// mayBegin tells why no run may begin now, empty if one may: without a
// schedule, one goes on after the other.
func (s *jobSet) mayBegin() string {
	going := s.going()
	if len(going) == 0 {
		return ""
	}
	schedule := s.schedule()
	switch {
	case schedule == nil || schedule.Concurrency == pb.JobSchedule_CONCURRENCY_FORBID:
		return fmt.Sprintf("run %d goes on", going[0].Number)
	case schedule.Concurrency == pb.JobSchedule_CONCURRENCY_REPLACE:
		return ""
	case len(going) >= maxRuns:
		return fmt.Sprintf("%d runs go on", len(going))
	}
	return ""
}

// start begins a run, in place of others where the schedule says so.
func (s *jobSet) start(message string, at time.Time) {
	if s.schedule().GetConcurrency() == pb.JobSchedule_CONCURRENCY_REPLACE {
		s.replaceAll()
	}
	s.next.LastRun++
	r := &pb.JobRun{
		Number: s.next.LastRun, State: pb.JobState_JOB_STATE_RUNNING, SpecVersion: s.service.SpecVersion,
		StartedAt: timestamppb.New(s.now), Message: message,
	}
	if !s.perNode() {
		r.Total = s.completions()
	}
	if !at.IsZero() {
		r.ScheduledFor = timestamppb.New(at)
	}
	s.next.Runs = append(s.next.Runs, r)
}

// replaceAll ends what goes on for a new run's sake.
func (s *jobSet) replaceAll() {
	for i, r := range s.next.Runs {
		if r.State == pb.JobState_JOB_STATE_RUNNING {
			n := proto.CloneOf(r)
			s.end(n, pb.JobState_JOB_STATE_REPLACED, fmt.Sprintf("run %d took its place", s.next.LastRun+1))
			s.next.Runs[i] = n
		}
	}
}

// forgetRuns leaves out the oldest ended runs.
func (s *jobSet) forgetRuns() {
	surplus := len(s.next.Runs) - len(s.going()) - keptRuns
	s.next.Runs = slices.DeleteFunc(s.next.Runs, func(r *pb.JobRun) bool {
		if surplus <= 0 || r.State == pb.JobState_JOB_STATE_RUNNING {
			return false
		}
		surplus--
		return true
	})
}

// outlive sees to what has a time to live: the tasks of ended runs, and the
// whole job once the last run of one without a schedule has had its time.
func (s *jobSet) outlive() {
	for _, r := range s.next.Runs {
		if end := s.expiry(r); end.After(s.now) {
			s.lookAgain(end)
		}
	}
	if s.schedule() != nil || len(s.next.Runs) == 0 || len(s.going()) > 0 || s.next.RunsAnswered < s.service.RunsAsked {
		return
	}
	if end := s.expiry(s.next.Runs[len(s.next.Runs)-1]); !end.IsZero() && !end.After(s.now) {
		s.plan.Remove = &pb.RemoveService{Id: s.service.Id}
	}
}
