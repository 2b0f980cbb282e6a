package orchestrator

import (
	"time"

	"github.com/minid/minid/cron"
	pb "github.com/minid/minid/proto/minid/v1"
)

// punctual is how late a run may be started and still be on time: a change of
// leaders takes less, also on a slow day. What is later was missed.
const punctual = 30 * time.Second

// timetable is a job's schedule as it was read last.
type timetable struct {
	of    *pb.JobSchedule
	times cron.Schedule
	// problem is why there are no times.
	problem string
	// soonest is the first time after since.
	since, soonest time.Time
}

func (t *timetable) turnTo(s *pb.JobSchedule) {
	if t.of.GetCron() == s.GetCron() && t.of.GetTimezone() == s.GetTimezone() && (t.of == nil) == (s == nil) {
		t.of = s
		return
	}
	*t = timetable{of: s}
	if s == nil {
		return
	}
	times, err := cron.Parse(s.Cron, s.Timezone)
	if err != nil {
		t.problem = "no run can be scheduled: " + err.Error()
	}
	t.times = times
}

// after is the first of the schedule's times after one up to which all have
// been dealt with; zero if there is none.
func (t *timetable) after(until time.Time) time.Time {
	if t.since.IsZero() || !t.since.Equal(until) {
		t.since, t.soonest = until, t.times.Next(until)
	}
	return t.soonest
}

// due is the last of a schedule's times that are after until and not after
// now; zero if there is none. It halves what is between, for months may be.
func due(times cron.Schedule, until, now time.Time) time.Time {
	passed := func(at time.Time) bool { return !at.IsZero() && !at.After(now) }
	last := times.Next(until)
	if !passed(last) {
		return time.Time{}
	}
	for next := times.Next(last); passed(next); next = times.Next(last) {
		last = next
		if later := times.Next(last.Add(now.Sub(last) / 2)); passed(later) {
			last = later
		}
	}
	return last
}
