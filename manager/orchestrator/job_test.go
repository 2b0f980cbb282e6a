package orchestrator

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/minid/minid/cron"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// benchJob is a job of 10,000 completions, all of them busy on 100 nodes.
func benchJob(b *testing.B, kind string) *env {
	e := newEnv(b)
	for i := range 100 {
		e.addNode(fmt.Sprintf("n%03d", i))
	}
	e.setService("batch", kind)
	s := e.service("batch")
	e.commit(e.plan(s).commands(s.Id)...)
	s = e.service("batch")
	p := e.plan(s)
	e.commit(p.commands(s.Id)...)
	for i, t := range p.Create {
		node := fmt.Sprintf("n%03d", i%100)
		e.commit(
			&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{
				Tasks: []*pb.TaskAssignment{{Id: t.Id, NodeId: node}}}}},
			&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{NodeId: node,
				Reports: []*pb.TaskStatusReport{{Id: t.Id, Status: &pb.TaskStatus{State: pb.TaskState_TASK_STATE_RUNNING}}}}}})
	}
	return e
}

// BenchmarkOneEventOfJob10k is what one task's event costs in a job of 10,000
// completions.
func BenchmarkOneEventOfJob10k(b *testing.B) {
	e := benchJob(b, "job=10000")
	o := New(Config{State: e.state, NewID: e.newID, Logger: slog.New(slog.DiscardHandler)})
	tr := &tracked{id: e.service("batch").Id, places: map[place]bool{}}
	view := e.state.View()
	tr.refresh(view.Service(tr.id), view, &o.cfg)
	tr.set.reconcile(e.now)
	tasks := slices.Collect(view.Tasks())
	i := 0
	for b.Loop() {
		tr.places[placeOf(tasks[i%len(tasks)])] = true
		i++
		view := e.state.View()
		tr.refresh(view.Service(tr.id), view, &o.cfg)
		if p := tr.set.reconcile(e.now); !p.Empty() {
			b.Fatal("something to do")
		}
	}
}

// BenchmarkCompletionOfJob10k is a completion with 100 at a time: its report,
// the next task, and what is told of it.
func BenchmarkCompletionOfJob10k(b *testing.B) {
	e := benchJob(b, "job=1000000/100")
	o := New(Config{State: e.state, NewID: e.newID, Logger: slog.New(slog.DiscardHandler)})
	tr := &tracked{id: e.service("batch").Id, places: map[place]bool{}}
	view := e.state.View()
	tr.refresh(view.Service(tr.id), view, &o.cfg)
	busy := slices.Collect(view.Tasks())
	for b.Loop() {
		t := busy[0]
		e.commit(&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{NodeId: t.NodeId,
			Reports: []*pb.TaskStatusReport{{Id: t.Id, Status: &pb.TaskStatus{State: pb.TaskState_TASK_STATE_COMPLETE}}}}}})
		tr.places[placeOf(t)] = true
		view := e.state.View()
		tr.refresh(view.Service(tr.id), view, &o.cfg)
		p := tr.set.reconcile(e.now)
		if len(p.Create) != 1 {
			b.Fatalf("%d tasks follow", len(p.Create))
		}
		e.commit(p.commands(tr.id)...)
		next := p.Create[0]
		e.commit(&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{
			Tasks: []*pb.TaskAssignment{{Id: next.Id, NodeId: "n000"}}}}})
		tr.places[placeOf(next)] = true
		busy = append(busy[1:], e.state.View().Task(next.Id))
	}
}

// BenchmarkStartJob10k is a new leader's first look at such a job.
func BenchmarkStartJob10k(b *testing.B) {
	e := benchJob(b, "job=10000")
	e.benchScratch(b, "batch")
}

// However many tasks complete, a run's progress is told about once a second,
// and its end at once.
func TestProgressIsToldOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "n1")
		defer s.lead()()
		s.setService("batch", "job=300")
		s.pass(100 * time.Millisecond)
		told := 0
		last := s.service("batch").Job
		for i := range 300 {
			s.end(fmt.Sprintf("batch.%d", i+1), "complete")
			s.pass(10 * time.Millisecond)
			if job := s.service("batch").Job; job != last {
				told, last = told+1, job
			}
		}
		s.pass(10 * time.Millisecond)
		r := s.service("batch").Job.Runs[0]
		if r.State != pb.JobState_JOB_STATE_COMPLETE || r.Completed != 300 {
			t.Errorf("the run is %v", r)
		}
		if told < 3 || told > 5 {
			t.Errorf("its progress was told %d times in 3 s", told)
		}
	})
}

// The next leader goes on with a job where the last one stopped: its tries and
// what is done count on, and no slot runs twice.
func TestLeadersFollowEachOtherInAJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "n1", "n2")
		resign := s.lead()
		s.setService("batch", "job=6/2", "attempts=2", "restart-delay=2s")
		for i, act := range []func(){
			func() { s.end("batch.1", "complete") },
			func() { s.end("batch.2", "failed") },
			func() { s.end("batch.3", "complete") },
			func() { s.end("batch.2", "failed") },
			func() { s.end("batch.4", "complete") },
			func() { s.end("batch.5", "complete") },
			func() { s.end("batch.6", "complete") },
			func() { s.end("batch.2", "failed") },
		} {
			s.pass(3 * time.Second)
			act()
			if i%2 == 0 {
				s.pass(time.Duration(i) * time.Millisecond)
			}
			resign()
			resign = s.lead()
		}
		s.pass(time.Second)
		resign()
		r := s.service("batch").Job.Runs[0]
		if r.State != pb.JobState_JOB_STATE_FAILED || r.Completed != 5 || r.Failed != 3 || !strings.Contains(r.Message, "slot 2 failed 3 times") {
			t.Errorf("the run is %v", r)
		}
		slots := map[uint64]int{}
		for task := range s.state.View().Tasks() {
			slots[task.Slot]++
		}
		if slots[2] != 3 || len(slots) != 6 || s.ids != 8 {
			t.Errorf("tasks by slot: %v", slots)
		}
	})
}

// A slot whose tasks have vanished is tried like one that never had any.
func TestVanishedTasksAreMadeAgain(t *testing.T) {
	e := newEnv(t)
	e.addNode("n1")
	e.setService("batch", "job=5/3")
	e.settle()
	view := e.state.View()
	set := newJobSet(nil, e.newID)
	set.turnTo(e.service("batch"), view)
	set.load(slices.Collect(view.Tasks()))
	if p := set.reconcile(e.now); !p.Empty() {
		t.Fatalf("the plan is %v", p)
	}
	set.put(place{slot: 2}, nil)
	if p := set.reconcile(e.now); len(p.Create) != 1 || p.Create[0].Slot != 2 {
		t.Errorf("the plan is %v", p)
	}
}

// due finds what going through all times finds.
func TestDue(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		expr := rapid.SampledFrom([]string{"* * * * *", "*/7 * * * *", "30 2 * * *", "0 0 1 * *", "* * 1-15 * *", "15 1-3 * * sun"}).Draw(rt, "expression")
		times, err := cron.Parse(expr, "Europe/Berlin")
		if err != nil {
			rt.Fatal(err)
		}
		until := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.IntRange(0, 50*86400).Draw(rt, "until")) * time.Second)
		now := until.Add(time.Duration(rapid.OneOf(rapid.IntRange(0, 600), rapid.IntRange(0, 9*86400)).Draw(rt, "later")) * time.Second)
		var want time.Time
		for at := times.Next(until); !at.After(now); at = times.Next(at) {
			want = at
		}
		if got := due(times, until, now); !got.Equal(want) {
			rt.Fatalf("%v is due, not %v", got, want)
		}
	})
	never := cron.Schedule{}
	if at := due(never, time.Unix(0, 0), time.Unix(1e9, 0)); !at.IsZero() {
		t.Errorf("a schedule without times is due at %v", at)
	}
}

// A schedule that cannot be read, as by an older manager, says so and does no
// harm.
func TestUnreadableSchedule(t *testing.T) {
	e := newEnv(t)
	e.addNode("n1")
	e.setService("batch", "job=1", "cron=nonsense")
	e.advance(time.Hour)
	s := e.service("batch")
	if len(s.Job.Runs) > 0 || !strings.Contains(s.Job.Message, "nonsense") {
		t.Errorf("its status is %v", s.Job)
	}
	e.jobCommand("run", []string{"batch"})
	e.settle()
	if s := e.service("batch"); s.Job.LastRun != 1 || store.Run(s, 1) == nil {
		t.Errorf("it cannot be run by hand: %v", s.Job)
	}
}

func TestSpell(t *testing.T) {
	for d, want := range map[time.Duration]string{
		10 * time.Minute: "10m", time.Hour: "1h", 90 * time.Second: "1m30s", 30 * time.Second: "30s",
		24 * time.Hour: "24h", 90 * time.Minute: "1h30m", time.Hour + time.Second: "1h0m1s", 1500 * time.Millisecond: "1.5s",
	} {
		if got := spell(d); got != want {
			t.Errorf("%v is spelt %s, not %s", d, got, want)
		}
	}
}
