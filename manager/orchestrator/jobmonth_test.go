package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// month is a cluster in miniature over weeks of virtual time, whose leaders
// change all the time. Every proposal may be the last one of its leader's: not
// committed, committed and not heard of, or committed only after its end.
type month struct {
	*stage
	rnd *rand.Rand
	// outages are the times without a leader.
	outages []span
	pending sync.WaitGroup // commits that come after their leader's end
	fires   map[string]map[time.Time]*pb.JobRun
}

type span struct{ from, until time.Time }

var errLost = errors.New("the leadership is lost")

// reign is one leader's time: until a chosen proposal, or for a while.
func (m *month) reign() {
	ctx, end := context.WithTimeoutCause(m.t.Context(), time.Duration(m.rnd.IntN(36*3600))*time.Second, errLost)
	defer end()
	left, how := m.rnd.IntN(60), m.rnd.IntN(3)
	late := time.Duration(m.rnd.IntN(3000)) * time.Millisecond
	propose := func(_ context.Context, cmds ...*pb.Command) ([]error, error) {
		if left--; left > 0 {
			return m.lead(cmds...), nil
		}
		defer end()
		switch how {
		case 0: // is never committed
		case 1:
			m.lead(cmds...)
		case 2:
			m.pending.Go(func() { time.Sleep(late); m.lead(cmds...) })
		}
		return nil, errLost
	}
	o := New(Config{State: m.state, Propose: propose, NewID: m.newID, Logger: slog.New(slog.DiscardHandler)})
	if err := o.Run(ctx); err != nil {
		m.t.Errorf("Run: %v", err)
	}
}

// lead commits what a leader proposed; now is the world's.
func (m *month) lead(cmds ...*pb.Command) []error { return m.commitAt(time.Now(), cmds...) }

// interregnum is the time until the next leader, which knows all that was
// committed before.
func (m *month) interregnum() {
	from := time.Now()
	m.pending.Wait()
	time.Sleep(time.Duration(m.rnd.IntN(9000)) * time.Millisecond)
	m.outages = append(m.outages, span{from, time.Now()})
}

// world is placement and the agents, and writes down the runs that begin.
func (m *month) world(ctx context.Context) {
	kinds := []pb.Kind{pb.Kind_KIND_TASK, pb.Kind_KIND_SERVICE}
	m.state.Follow(ctx, func() { m.t.Error("lagged") }, kinds, func(ctx context.Context, view store.View, changes <-chan []store.Change) error {
		for {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case batch := <-changes:
				m.note(batch)
			}
			m.now = time.Now()
			for m.placeAll() || m.runAll() {
			}
			m.forgetRemoved()
		}
	})
}

func (m *month) note(changes []store.Change) {
	for _, c := range changes {
		s, ok := c.New.(*pb.Service)
		if !ok {
			continue
		}
		for _, r := range s.GetJob().GetRuns() {
			at := r.ScheduledFor.AsTime()
			if first := m.fires[s.Spec.Name][at]; first == nil {
				m.fires[s.Spec.Name][at] = r
			} else if first.Number != r.Number {
				m.t.Errorf("%s fires twice for %v: as run %d and as %d", s.Spec.Name, at, first.Number, r.Number)
			}
		}
	}
}

// forgetRemoved is the reaper.
func (m *month) forgetRemoved() {
	var ids []string
	for t := range m.state.View().Tasks() {
		if t.DesiredState == pb.TaskState_TASK_STATE_REMOVE && t.Status.State > pb.TaskState_TASK_STATE_RUNNING {
			ids = append(ids, t.Id)
		}
	}
	if len(ids) > 0 {
		m.commit(&pb.Command{Kind: &pb.Command_DeleteTasks{DeleteTasks: &pb.DeleteTasks{Ids: ids}}})
	}
}

// check compares what fired with what should have, in every minute, and looks
// at how late it was.
func (m *month) check(name string, want map[time.Time]bool) {
	m.t.Helper()
	got := m.fires[name]
	for _, at := range slices.SortedFunc(maps.Keys(want), time.Time.Compare) {
		r := got[at]
		if r == nil {
			m.t.Errorf("%s did not fire at %v", name, at)
			continue
		}
		begin := at
		for _, o := range m.outages {
			if !o.from.After(begin) && o.until.After(begin) {
				begin = o.until
			}
		}
		if started := r.StartedAt.AsTime(); started.Before(at) || started.After(begin.Add(time.Second)) {
			m.t.Errorf("%s fired for %v at %v", name, at, r.StartedAt.AsTime())
		}
	}
	for at := range got {
		if !want[at] {
			m.t.Errorf("%s fired at %v", name, at)
		}
	}
	for task := range m.state.View().TasksByService(m.service(name).Id) {
		if task.Status.State != pb.TaskState_TASK_STATE_COMPLETE || task.RestartCount > 0 {
			m.t.Errorf("a task of %s is %v after %d restarts", name, task.Status.State, task.RestartCount)
		}
	}
	if s := m.service(name); int(s.Job.LastRun) != len(want) {
		m.t.Errorf("%s had %d runs for %d times", name, s.Job.LastRun, len(want))
	}
}

// everyMinute picks minutes by what a clock in Berlin shows.
func everyMinute(from, until time.Time, pick func(local, before time.Time) bool) map[time.Time]bool {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		panic(err)
	}
	picked := map[time.Time]bool{}
	for at := from.Truncate(time.Minute).Add(time.Minute); !at.After(until); at = at.Add(time.Minute) {
		if local := at.In(berlin); pick(local, local.Add(-time.Minute)) {
			picked[at] = true
		}
	}
	return picked
}

var monthSeed = flag.Uint64("month-seed", 0, "repeat a month of schedules")

// A schedule fires on its minute, neither twice nor never, over a month with a
// change of the clock and some hundred leaders.
func TestSchedulesOverAMonth(t *testing.T) {
	for _, tc := range []struct {
		name string
		from time.Time
	}{
		{"spring", time.Date(2000, 3, 10, 12, 0, 30, 0, time.UTC)},
		{"autumn", time.Date(2000, 10, 13, 12, 0, 30, 0, time.UTC)},
	} {
		seed := cmp.Or(*monthSeed, uint64(time.Now().UnixNano()))
		t.Run(fmt.Sprintf("%s/seed=%d", tc.name, seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { overAMonth(t, tc.from, seed) })
		})
	}
}

func overAMonth(t *testing.T, from time.Time, seed uint64) {
	time.Sleep(time.Until(from))
	m := &month{stage: newStage(t, "n1"), rnd: rand.New(rand.NewPCG(seed, 1)), fires: map[string]map[time.Time]*pb.JobRun{}}
	m.behave = map[string]mood{"task": complete}
	ctx, stop := context.WithCancel(t.Context())
	var world sync.WaitGroup
	defer world.Wait()
	defer stop()
	for name, cron := range map[string]string{"often": "*/20_*_*_*_*", "nightly": "30_2_*_*_*", "early": "15_1-3_*_*_*"} {
		m.fires[name] = map[time.Time]*pb.JobRun{}
		m.setService(name, "image=task", "job=1", "cron="+cron, "zone=Europe/Berlin", "concurrency=FORBID")
	}
	world.Go(func() { m.world(ctx) })
	until := from.AddDate(0, 0, 31)
	for time.Now().Before(until) {
		m.reign()
		m.interregnum()
	}
	// A last leader sees to what is left, and time goes on for nothing else.
	last, end := context.WithTimeout(t.Context(), 10*time.Second)
	defer end()
	propose := func(_ context.Context, cmds ...*pb.Command) ([]error, error) { return m.lead(cmds...), nil }
	o := New(Config{State: m.state, Propose: propose, NewID: m.newID, Logger: slog.New(slog.DiscardHandler)})
	if err := o.Run(last); err != nil {
		t.Errorf("Run: %v", err)
	}
	until = time.Now()

	m.check("often", everyMinute(from, until, func(local, _ time.Time) bool { return local.Minute()%20 == 0 }))
	m.check("nightly", everyMinute(from, until, func(local, before time.Time) bool {
		return passes(local, before, 2, 30) && !again(local)
	}))
	m.check("early", everyMinute(from, until, func(local, before time.Time) bool {
		return (passes(local, before, 1, 15) || passes(local, before, 2, 15) || passes(local, before, 3, 15)) && !again(local)
	}))
	t.Logf("%d leaders", len(m.outages)+1)
}

// passes tells whether a clock comes to a time, or jumps over it.
func passes(local, before time.Time, hour, minute int) bool {
	at := hour*60 + minute
	now, then := local.Hour()*60+local.Minute(), before.Hour()*60+before.Minute()
	return now == at || then < at && at < now && now-then > 1
}

// again tells whether a clock has shown the same an hour ago.
func again(local time.Time) bool {
	earlier := local.Add(-time.Hour)
	return earlier.Hour() == local.Hour() && earlier.Minute() == local.Minute()
}
