package progress

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

var nodes = map[string]string{"n1": "node1", "n2": "node2"}

const (
	fresh     = pb.TaskState_TASK_STATE_NEW
	pending   = pb.TaskState_TASK_STATE_PENDING
	assigned  = pb.TaskState_TASK_STATE_ASSIGNED
	preparing = pb.TaskState_TASK_STATE_PREPARING
	ready     = pb.TaskState_TASK_STATE_READY
	run       = pb.TaskState_TASK_STATE_RUNNING
	shutdown  = pb.TaskState_TASK_STATE_SHUTDOWN
	dead      = pb.TaskState_TASK_STATE_FAILED
)

func service(replicas uint64) *pb.Service {
	spec := &pb.TaskSpec{Container: &pb.ContainerSpec{Image: "a"}}
	return &pb.Service{Id: "s", SpecVersion: 1, Spec: &pb.ServiceSpec{Name: "web", Task: spec, Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: replicas}}},
		Versions: []*pb.TaskSpecVersion{{Version: 1, Spec: spec}}}
}

func global() *pb.Service {
	s := service(0)
	s.Spec.Mode = &pb.ServiceSpec_Global{Global: &pb.GlobalMode{}}
	return s
}

func task(id string, slot uint64, state pb.TaskState, change ...func(*pb.Task)) *pb.Task {
	t := &pb.Task{Id: id, ServiceId: "s", ServiceName: "web", Slot: slot, SpecVersion: 1, DesiredState: run,
		Meta: &pb.Meta{CreatedAt: timestamppb.New(start)}, Status: &pb.TaskStatus{State: state, At: timestamppb.New(start)}}
	if state >= assigned {
		t.NodeId = "n1"
	}
	for _, c := range change {
		c(t)
	}
	return t
}

func version(v uint64) func(*pb.Task)      { return func(t *pb.Task) { t.SpecVersion = v } }
func on(node string) func(*pb.Task)        { return func(t *pb.Task) { t.NodeId = node } }
func wanted(s pb.TaskState) func(*pb.Task) { return func(t *pb.Task) { t.DesiredState = s } }
func because(text string) func(*pb.Task)   { return func(t *pb.Task) { t.Status.Error = text } }
func saying(text string) func(*pb.Task)    { return func(t *pb.Task) { t.Status.Message = text } }
func exited(code int32, oom bool) func(*pb.Task) {
	return func(t *pb.Task) { t.Status.Container = &pb.ContainerStatus{ExitCode: code, OomKilled: oom} }
}

func refused(t *pb.Task) {
	t.Status.Message = "waiting: 0 of 2 nodes fit: 2 lack label disk=ssd"
	t.Status.Refused = []*pb.FilterCount{{Filter: "constraint", Nodes: 2, Reason: "lacks label disk=ssd"}}
}

func full(t *pb.Task) { t.Status.Message = "waiting: no free address in network back" }

func put(o any) *pb.WatchEvent {
	ev := &pb.WatchEvent{Action: pb.WatchEvent_ACTION_PUT, Object: &pb.Object{}}
	switch o := o.(type) {
	case *pb.Service:
		ev.Object.Kind = &pb.Object_Service{Service: o}
	case *pb.Task:
		ev.Object.Kind = &pb.Object_Task{Task: o}
	}
	return ev
}

func gone(o any) *pb.WatchEvent {
	ev := put(o)
	ev.Action = pb.WatchEvent_ACTION_DELETE
	return ev
}

var synced = &pb.WatchEvent{Action: pb.WatchEvent_ACTION_SYNCED}

// play feeds events, one a second, and returns the lines of the plain display.
func play(t *Tracker, events ...*pb.WatchEvent) []string {
	var out strings.Builder
	d := NewPlain(&out)
	now := start
	for _, ev := range events {
		d.Show(t, t.Apply(ev, now), now)
		now = now.Add(time.Second)
	}
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

func TestPlainLines(t *testing.T) {
	for _, test := range []struct {
		name    string
		service *pb.Service
		events  []*pb.WatchEvent
		want    []string
	}{
		{"starting", service(1), []*pb.WatchEvent{synced, put(task("a", 1, pending)), put(task("a", 1, assigned)), put(task("a", 1, preparing, saying("pulling image"))),
			put(task("a", 1, preparing, saying("pulling image"))), put(task("a", 1, run))}, []string{
			"12:00:00 overall progress: 0 out of 1 tasks",
			"12:00:01 web.1 pending", "12:00:02 web.1 assigned on node1", "12:00:03 web.1 preparing on node1: pulling image",
			"12:00:05 web.1 running on node1", "12:00:05 overall progress: 1 out of 1 tasks"}},
		{"waiting, said once per reason", service(2), []*pb.WatchEvent{synced, put(task("a", 1, pending, refused)), put(task("b", 2, pending, refused))}, []string{
			"12:00:00 overall progress: 0 out of 2 tasks",
			"12:00:01 web.1 pending: waiting: 0 of 2 nodes fit: 2 lack label disk=ssd", "12:00:01 try: minictl task why web.1",
			"12:00:02 web.2 pending: waiting: 0 of 2 nodes fit: 2 lack label disk=ssd"}},
		{"without an address", service(2), []*pb.WatchEvent{synced, put(task("a", 1, fresh, saying("waiting for its addresses"))), put(task("a", 1, fresh, full)),
			put(task("b", 2, fresh, full)), put(task("a", 1, pending))}, []string{
			"12:00:00 overall progress: 0 out of 2 tasks",
			"12:00:02 web.1 new: waiting: no free address in network back", "12:00:02 try: minictl task why web.1",
			"12:00:03 web.2 new: waiting: no free address in network back", "12:00:04 web.1 pending"}},
		{"crash loop", service(1), []*pb.WatchEvent{synced, put(task("a", 1, run)), put(task("a", 1, dead, exited(3, false))),
			put(task("b", 1, ready, wanted(ready))), put(task("b", 1, dead, exited(137, true)))}, []string{
			"12:00:00 overall progress: 0 out of 1 tasks",
			"12:00:01 web.1 running on node1", "12:00:01 overall progress: 1 out of 1 tasks",
			"12:00:02 web.1 failed on node1: exit code 3", "12:00:02 overall progress: 0 out of 1 tasks",
			"12:00:03 web.1 ready on node1", "12:00:04 web.1 failed on node1: out of memory (exit code 137)"}},
		{"history and deliberate stops are no news", service(1), []*pb.WatchEvent{put(task("old", 1, dead, wanted(shutdown))), put(task("a", 1, run)), synced,
			put(task("a", 1, run, wanted(shutdown))), put(task("a", 1, shutdown, wanted(shutdown)))}, []string{
			"12:00:02 web.1 running on node1", "12:00:02 overall progress: 1 out of 1 tasks",
			"12:00:03 overall progress: 0 out of 1 tasks"}},
		{"global", global(), []*pb.WatchEvent{synced, put(task("a", 0, run)), put(task("b", 0, run, on("n2")))}, []string{
			"12:00:00 overall progress: 0 out of 0 tasks",
			"12:00:01 web.node1 running", "12:00:01 overall progress: 1 out of 1 tasks",
			"12:00:02 web.node2 running", "12:00:02 overall progress: 2 out of 2 tasks"}},
		{"control characters", service(1), []*pb.WatchEvent{synced, put(task("a", 1, dead, because("\x1b[31mboom\n")))}, []string{
			"12:00:00 overall progress: 0 out of 1 tasks", "12:00:01 web.1 failed on node1:  [31mboom "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, play(NewTracker(test.service, nodes), test.events...)); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

func TestManyReplicasAreSummedUp(t *testing.T) {
	events := []*pb.WatchEvent{synced}
	for i := range 50 {
		events = append(events, put(task(fmt.Sprintf("t%02d", i), uint64(i+1), pending, refused)))
	}
	events = append(events, put(task("t00", 1, dead, because("boom"))), put(task("t01", 2, run)))
	lines := play(NewTracker(service(50), nodes), events...)
	text := strings.Join(lines, "\n")
	for _, want := range []string{"web.1 failed on node1: boom", "overall progress: 1 out of 50 tasks (1 failed, 48 pending)"} {
		if !strings.Contains(text, want) {
			t.Errorf("missing %q in:\n%s", want, text)
		}
	}
	if n := strings.Count(text, "lack label"); n != 1 {
		t.Errorf("the reason is told %d times", n)
	}
}

func TestVerdict(t *testing.T) {
	updated := func(s *pb.Service, state pb.UpdateState) *pb.Service {
		s = proto.Clone(s).(*pb.Service)
		s.SpecVersion = 2
		s.Spec.Task = &pb.TaskSpec{Container: &pb.ContainerSpec{Image: "b"}}
		s.Versions = append(s.Versions, &pb.TaskSpecVersion{Version: 2, Spec: s.Spec.Task})
		if state != 0 {
			s.UpdateStatus = &pb.UpdateStatus{State: state, ToVersion: 2}
		}
		return s
	}
	replaced := func(s *pb.Service) *pb.Service {
		s = updated(s, 0)
		s.Spec.Task = &pb.TaskSpec{Container: &pb.ContainerSpec{Image: "a"}, Placement: &pb.Placement{Constraints: []string{"x==y"}}}
		return s
	}
	published := func(s *pb.Service, p *pb.PortConfig) *pb.Service {
		s = updated(s, 0)
		s.Spec.Task = &pb.TaskSpec{Container: &pb.ContainerSpec{Image: "a"}, Ports: []*pb.PortConfig{p}}
		return s
	}
	removing := service(1)
	removing.Removing = true
	const updating, paused, completed = pb.UpdateState_UPDATE_STATE_UPDATING, pb.UpdateState_UPDATE_STATE_PAUSED, pb.UpdateState_UPDATE_STATE_COMPLETED
	for _, test := range []struct {
		name    string
		service *pb.Service
		events  []*pb.WatchEvent
		after   time.Duration
		want    Outcome
	}{
		{"nothing known", service(1), nil, time.Hour, Waiting},
		{"no tasks yet", service(1), []*pb.WatchEvent{synced}, time.Hour, Waiting},
		{"scaled to none", service(0), []*pb.WatchEvent{synced}, time.Second, Converged},
		{"surplus still there", service(1), []*pb.WatchEvent{synced, put(task("a", 1, run)), put(task("b", 2, run))}, time.Hour, Waiting},
		{"surplus on its way out", service(1), []*pb.WatchEvent{synced, put(task("a", 1, run)), put(task("b", 2, run, wanted(pb.TaskState_TASK_STATE_REMOVE)))}, time.Second, Converged},
		{"running, to be verified", service(1), []*pb.WatchEvent{synced, put(task("a", 1, run))}, time.Second - 1, Waiting},
		{"verified", service(1), []*pb.WatchEvent{synced, put(task("a", 1, run))}, time.Second, Converged},
		{"died while verified", service(1), []*pb.WatchEvent{synced, put(task("a", 1, run)), put(task("a", 1, dead))}, time.Hour, Waiting},
		{"restarted while verified", service(1), []*pb.WatchEvent{synced, put(task("a", 1, run)), put(task("a", 1, dead)), put(task("b", 1, run))}, time.Second, Converged},
		{"global without a node", global(), []*pb.WatchEvent{synced}, time.Hour, Waiting},
		{"global", global(), []*pb.WatchEvent{synced, put(task("a", 0, run)), put(task("b", 0, run, on("n2")))}, time.Second, Converged},
		{"ports of the mesh replace nothing", published(service(1), &pb.PortConfig{Target: 80, Mode: pb.PortConfig_MODE_INGRESS}),
			[]*pb.WatchEvent{synced, put(task("a", 1, run))}, time.Second, Converged},
		{"host ports replace tasks", published(service(1), &pb.PortConfig{Target: 80, Mode: pb.PortConfig_MODE_HOST}),
			[]*pb.WatchEvent{synced, put(task("a", 1, run))}, time.Hour, Waiting},
		{"update not begun", updated(service(1), 0), []*pb.WatchEvent{synced, put(task("a", 1, run))}, time.Hour, Waiting},
		{"update under way", updated(service(1), 0), []*pb.WatchEvent{put(updated(service(1), updating)), synced, put(task("a", 1, run, version(2)))}, time.Hour, Waiting},
		{"update done: monitored already", updated(service(1), 0), []*pb.WatchEvent{put(updated(service(1), completed)), synced, put(task("a", 1, run, version(2)))}, 0, Converged},
		{"update paused", updated(service(1), 0), []*pb.WatchEvent{put(updated(service(1), paused)), synced}, 0, Paused},
		{"paused before: only the count matters", updated(service(1), paused), []*pb.WatchEvent{synced, put(task("a", 1, run))}, time.Second, Converged},
		{"nothing to replace", replaced(service(1)), []*pb.WatchEvent{synced, put(task("a", 1, run))}, time.Second, Converged},
		{"removed", service(1), []*pb.WatchEvent{synced, put(removing)}, 0, Gone},
		{"deleted", service(1), []*pb.WatchEvent{synced, gone(service(1))}, 0, Gone},
		{"start-first: both run", updated(service(1), 0), []*pb.WatchEvent{put(updated(service(1), updating)), synced, put(task("a", 1, run)), put(task("b", 1, run, version(2)))}, time.Hour, Waiting},
	} {
		tracker := NewTracker(test.service, nodes)
		for _, ev := range test.events {
			tracker.Apply(ev, start)
			tracker.Settle(start)
		}
		if got, _ := tracker.Verdict(start.Add(test.after)); got != test.want {
			t.Errorf("%s: outcome %v, expected %v", test.name, got, test.want)
		}
	}
}

func TestPicture(t *testing.T) {
	tracker := NewTracker(service(3), nodes)
	for _, ev := range []*pb.WatchEvent{synced, put(task("a", 1, run)), put(task("b", 2, preparing, on("n2"), saying("pulling image"))), put(task("c", 3, pending, refused))} {
		tracker.Apply(ev, start)
	}
	want := []string{
		"overall progress: 1 out of 3 tasks",
		"1/3:     running    [=======>] node1",
		"2/3:     preparing  [====>   ] node2           3s  pulling im…",
		"3/3:     pending    [=>      ]                 3s  waiting: 0…",
		"try: minictl task why web.3",
	}
	if diff := cmp.Diff(want, tracker.Picture(start.Add(3*time.Second), 62)); diff != "" {
		t.Errorf("picture (-want +got):\n%s", diff)
	}
}

func TestTTYRedrawsInPlace(t *testing.T) {
	var out strings.Builder
	d := NewTTY(&out, func() (int, int) { return 80, 24 })
	tracker := NewTracker(service(1), nodes)
	tracker.Apply(synced, start)
	d.Show(tracker, nil, start)
	tracker.Apply(put(task("a", 1, run)), start)
	d.Show(tracker, nil, start.Add(time.Hour))
	want := "overall progress: 0 out of 1 tasks\x1b[K\n\x1b[J" +
		"\x1b[1Aoverall progress: 1 out of 1 tasks\x1b[K\n1/1:     running    [=======>] node1\x1b[K\n\x1b[J"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("terminal (-want +got):\n%s", diff)
	}
}

func TestJSONLines(t *testing.T) {
	var out strings.Builder
	tracker := NewTracker(service(1), nodes)
	tracker.Apply(synced, start)
	NewJSON(&out).Show(tracker, tracker.Apply(put(task("a", 1, dead, because("boom"))), start), start)
	want := `{"time":"2026-11-22T12:00:00Z","service":"web","slot":"1","task":"a","node":"node1","state":"failed","reason":"boom","failed":true}` + "\n"
	if out.String() != want {
		t.Errorf("got %s", out.String())
	}
}

func TestReason(t *testing.T) {
	for want, task := range map[string]*pb.Task{
		"":                                     task("a", 1, run, saying("started")),
		"exit code 2":                          task("a", 1, dead, exited(2, false)),
		"out of memory (exit code 137)":        task("a", 1, dead, exited(137, true)),
		"boom (exit code 2)":                   task("a", 1, dead, because("boom"), exited(2, false)),
		"non-zero exit (2)":                    task("a", 1, dead, because("non-zero exit (2)"), exited(2, false)),
		"waiting: no node fits: full (1 node)": task("a", 1, pending, func(t *pb.Task) { t.Status.Refused = []*pb.FilterCount{{Nodes: 1, Reason: "full"}} }),
	} {
		if got := Reason(task); got != want {
			t.Errorf("reason %q, expected %q", got, want)
		}
	}
}

// script is a watch that gives its events and then waits or fails.
func script(err error, events ...*pb.WatchEvent) Open {
	return func(ctx context.Context) (func() (*pb.WatchEvent, error), error) {
		left := events
		return func() (*pb.WatchEvent, error) {
			if len(left) == 0 {
				if err == nil {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return nil, err
			}
			ev := left[0]
			left = left[1:]
			return ev, nil
		}, nil
	}
}

func TestFollow(t *testing.T) {
	errStop := errors.New("stop")
	for _, test := range []struct {
		name  string
		open  Open
		want  Outcome
		err   error
		class fault.Class
		took  time.Duration
	}{
		{"converges after the verification", script(nil, synced, put(task("a", 1, run))), Converged, nil, 0, time.Second},
		{"ends with its context", script(nil, synced), Waiting, errStop, 0, time.Minute},
		{"watches again while there is no leader", script(fault.New(fault.Unavailable, "no leader"), synced), Waiting, errStop, 0, time.Minute},
		{"gives up on what does not pass", script(fault.New(fault.Denied, "no")), Waiting, nil, fault.Denied, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errStop)
				defer cancel()
				before := time.Now()
				got, err := Follow(ctx, test.open, NewTracker(service(1), nodes), NewQuiet())
				if got != test.want || test.err != nil && !errors.Is(err, test.err) || test.class != 0 && !fault.Is(err, test.class) {
					t.Errorf("got %v, %v", got, err)
				}
				if took := time.Since(before); took != test.took {
					t.Errorf("took %v, expected %v", took, test.took)
				}
				cancel()
				synctest.Wait()
			})
		})
	}
}

// A task that failed and was replaced between two looks at the service starts
// the verification anew.
func TestFailureBetweenLooks(t *testing.T) {
	tracker := NewTracker(service(1), nodes)
	tracker.Apply(synced, start)
	tracker.Apply(put(task("a", 1, run)), start)
	tracker.Settle(start)
	tracker.Apply(put(task("a", 1, dead)), start)
	tracker.Apply(put(task("b", 1, run)), start)
	tracker.Settle(start.Add(time.Second))
	if got, left := tracker.Verdict(start.Add(time.Second)); got != Waiting || left != time.Second {
		t.Errorf("outcome %v, %v left", got, left)
	}
}

func TestSlow(t *testing.T) {
	tests := map[string]struct {
		tasks []*pb.Task
		want  string
	}{
		"runs":               {[]*pb.Task{task("a", 1, run)}, ""},
		"tells nothing":      {[]*pb.Task{task("a", 1, preparing)}, ""},
		"asks a registry":    {[]*pb.Task{task("a", 1, run), task("b", 2, preparing, saying("asking the registry for x"))}, "b"},
		"tries again":        {[]*pb.Task{task("a", 1, preparing, because("registry x is not reachable"))}, "a"},
		"is to be shut down": {[]*pb.Task{task("a", 1, preparing, saying("asking"), wanted(shutdown))}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tracker := NewTracker(service(2), nodes)
			for _, task := range test.tasks {
				tracker.Apply(put(task), start)
			}
			tracker.Apply(synced, start)
			if got := tracker.Slow().GetId(); got != test.want {
				t.Errorf("slow is %q, not %q", got, test.want)
			}
		})
	}
}

// BenchmarkFollow is the start of 1000 replicas as minictl sees it.
func BenchmarkFollow(b *testing.B) {
	var events []*pb.WatchEvent
	events = append(events, synced)
	for _, state := range []pb.TaskState{pending, assigned, preparing, ready, run} {
		for i := range 1000 {
			events = append(events, put(task(fmt.Sprint(i), uint64(i+1), state)))
		}
	}
	for b.Loop() {
		tracker, d := NewTracker(service(1000), nodes), NewPlain(new(strings.Builder))
		queue := make(chan *pb.WatchEvent, len(events))
		for _, ev := range events {
			queue <- ev
		}
		now := start
		for len(queue) > 0 {
			part := make(chan *pb.WatchEvent, batch)
			for range min(batch, len(queue)) {
				part <- <-queue
			}
			changes := take(tracker, <-part, part, now)
			tracker.Settle(now)
			d.Show(tracker, changes, now)
			now = now.Add(time.Second)
		}
	}
}
