package task

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

const (
	assigned  = pb.TaskState_TASK_STATE_ASSIGNED
	accepted  = pb.TaskState_TASK_STATE_ACCEPTED
	preparing = pb.TaskState_TASK_STATE_PREPARING
	isReady   = pb.TaskState_TASK_STATE_READY
	starting  = pb.TaskState_TASK_STATE_STARTING
	running   = pb.TaskState_TASK_STATE_RUNNING
	complete  = pb.TaskState_TASK_STATE_COMPLETE
	shutdown  = pb.TaskState_TASK_STATE_SHUTDOWN
	failed    = pb.TaskState_TASK_STATE_FAILED
	rejected  = pb.TaskState_TASK_STATE_REJECTED
	remove    = pb.TaskState_TASK_STATE_REMOVE
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// mk makes a state in brief: what is wanted and what was reported.
func mk(desired, reported pb.TaskState, change ...func(*State)) State {
	s := State{ID: "t1", Input: Input{Desired: desired}, Status: &pb.TaskStatus{State: reported}}
	for _, c := range change {
		c(&s)
	}
	return s
}

func prepared(s *State)  { s.Prepared, s.Dirty = true, true }
func dirty(s *State)     { s.Dirty = true }
func forgotten(s *State) { s.Forgotten = true }
func wiped(s *State)     { s.Forgotten, s.Wiped = true, true }
func held(s *State)      { s.Hold = "held" }
func lacking(s *State)   { s.Missing = "no secret" }

func says(message string) func(*State) {
	return func(s *State) { s.Status.Message = message }
}

// tried lets an action have failed since some time, for the last time just now.
func tried(a Action, since time.Duration, err error) func(*State) {
	return func(s *State) {
		s.Failures = Failures{Of: a, Count: 3, First: t0.Add(-since), Last: t0, Err: err}
	}
}

// due is a time at which every back-off is over.
const due = 21 * time.Second

func TestNext(t *testing.T) {
	broken := errors.New("registry does not answer")
	invalid := fault.New(fault.Invalid, "mount /x: no such directory")
	tests := []struct {
		name  string
		state State
		phase Phase
		later time.Duration
		// want is "STATE action", STATE only when it is reported anew.
		want string
	}{
		{"new", mk(running, assigned), Absent, 0, "ACCEPTED advance"},
		{"accepted", mk(running, accepted), Absent, 0, "PREPARING advance"},
		{"preparing", mk(running, preparing, says("preparing")), Absent, 0, "prepare"},
		{"no longer waiting for a secret", mk(running, preparing, says("waiting for a secret")), Absent, 0, "PREPARING prepare"},
		{"prepared", mk(running, preparing, prepared), Created, 0, "READY advance"},
		{"created by a minid that died meanwhile", mk(running, preparing), Created, 0, "PREPARING prepare"},
		{"ready, wants no more", mk(isReady, isReady, prepared), Created, 0, "rest"},
		{"ready, wants to run", mk(running, isReady, prepared), Created, 0, "STARTING advance"},
		{"ready after a restart", mk(running, isReady), Created, 0, "STARTING advance"},
		{"ready but lost", mk(isReady, isReady), Absent, 0, "prepare"},
		{"starting", mk(running, starting), Created, 0, "start"},
		{"started", mk(running, starting), Running, 0, "RUNNING advance"},
		{"running", mk(running, running), Running, 0, "wait"},
		{"found running", mk(running, accepted), Running, 0, "RUNNING advance"},
		{"found running though only READY is wanted", mk(isReady, isReady), Running, 0, "RUNNING advance"},
		{"ended", mk(running, running), Exited, 0, "COMPLETE advance"},
		{"ended before RUNNING was reported", mk(running, starting), Exited, 0, "COMPLETE advance"},
		{"gone while running", mk(running, running), Absent, 0, "FAILED advance"},
		{"host restarted", mk(running, running), Created, 0, "FAILED advance"},
		{"gone while starting", mk(running, starting), Absent, 0, "FAILED advance"},

		{"held", mk(running, isReady, prepared, held), Created, 0, "READY rest"},
		{"held while starting", mk(running, starting, held), Created, 0, "STARTING rest"},
		{"held but running", mk(running, running, held), Running, 0, "wait"},
		{"held only from starting", mk(running, preparing, held), Absent, 0, "PREPARING prepare"},
		{"lacks a secret", mk(running, preparing, lacking), Absent, 0, "PREPARING rest"},
		{"lacks a secret but is prepared", mk(running, isReady, lacking), Created, 0, "STARTING advance"},

		{"prepare failed", mk(running, preparing, tried(Prepare, time.Second, broken)), Absent, 0, "PREPARING rest"},
		{"prepare failed, back-off over", mk(running, preparing, tried(Prepare, time.Second, broken)), Absent, due, "prepare"},
		{"prepare failed for long", mk(running, preparing, tried(Prepare, PreparePatience, broken)), Absent, 0, "REJECTED advance"},
		{"prepare cannot succeed", mk(running, preparing, tried(Prepare, 0, invalid)), Absent, 0, "REJECTED advance"},
		{"start failed", mk(running, starting, tried(Start, time.Second, broken)), Created, 0, "STARTING rest"},
		{"start failed, back-off over", mk(running, starting, tried(Start, 0, broken)), Created, time.Second, "start"},
		{"start failed for long", mk(running, starting, tried(Start, StartPatience, broken)), Created, 0, "FAILED advance"},
		{"start cannot succeed", mk(running, starting, tried(Start, 0, invalid)), Created, 0, "FAILED advance"},
		{"wait failed", mk(running, running, tried(Wait, 0, broken)), Running, 0, "rest"},
		{"wait failed, back-off over", mk(running, running, tried(Wait, 0, broken)), Running, due, "wait"},

		{"shut down while running", mk(shutdown, running), Running, 0, "stop"},
		{"removed while running", mk(remove, running), Running, 0, "stop"},
		{"forgotten while running", mk(running, running, forgotten), Running, 0, "stop"},
		{"stopped", mk(shutdown, running), Exited, 0, "SHUTDOWN advance"},
		{"stop failed", mk(shutdown, running, tried(Stop, time.Hour, broken)), Running, 0, "RUNNING rest"},
		{"stop failed, back-off over", mk(shutdown, running, tried(Stop, time.Hour, broken)), Running, due, "stop"},
		{"shut down before it started", mk(shutdown, preparing, dirty), Absent, 0, "SHUTDOWN advance"},
		{"shut down when ready", mk(shutdown, isReady, prepared), Created, 0, "SHUTDOWN advance"},

		{"ended, container there", mk(running, complete), Exited, 0, "clean"},
		{"ended, remains of a prepare", mk(shutdown, shutdown, dirty), Absent, 0, "clean"},
		{"clean failed", mk(shutdown, shutdown, dirty, tried(Clean, 0, broken)), Absent, 0, "rest"},
		{"ended, clean", mk(remove, failed), Absent, 0, "rest"},
		{"ended yet running", mk(running, failed), Running, 0, "stop"},
		{"ended, forgotten", mk(running, complete, forgotten), Absent, 0, "wipe"},
		{"ended, forgotten, wiped", mk(running, complete, wiped), Absent, 0, "done"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			step := Next(test.state, Observation{Phase: test.phase}, t0.Add(test.later))
			got := step.Action.String()
			if step.Status != nil {
				got = short(step.Status.GetState()) + " " + got
			}
			if got != test.want {
				t.Errorf("got %q, want %q (status %v)", got, test.want, step.Status)
			}
		})
	}
}

func TestEndings(t *testing.T) {
	tests := []struct {
		obs   Observation
		limit int64
		state pb.TaskState
		want  string
	}{
		{Observation{}, 0, complete, ""},
		{Observation{ExitCode: 3}, 0, failed, "exit code 3"},
		{Observation{ExitCode: 139}, 0, failed, "killed by SIGSEGV (exit code 139)"},
		{Observation{ExitCode: 255}, 0, failed, "exit code 255"},
		{Observation{ExitCode: 137, OOMKilled: true}, 64 << 20, failed, "out of memory: reached its limit of 64 MiB"},
		{Observation{ExitCode: 137, OOMKilled: true}, 0, failed, "out of memory: the host had none left"},
		{Observation{ExitCode: 127, Error: `command "nginy" not found`}, 0, failed, `command "nginy" not found`},
	}
	for _, test := range tests {
		test.obs.Phase = Exited
		test.obs.At = t0.Add(-time.Second)
		step := Next(mk(running, running, func(s *State) { s.MemoryLimit = test.limit }), test.obs, t0)
		st := step.Status
		if st.GetState() != test.state || st.GetError() != test.want || st.GetContainer().GetExitCode() != test.obs.ExitCode {
			t.Errorf("%+v: got %v", test.obs, st)
		}
		if !st.GetAt().AsTime().Equal(test.obs.At) {
			t.Errorf("%+v: ended at %v", test.obs, st.GetAt().AsTime())
		}
	}
}

// TestConversation is the whole life of a task as its managers see it.
func TestConversation(t *testing.T) {
	s := mk(isReady, assigned)
	obs, now := Observation{}, t0
	var log strings.Builder
	for range 40 {
		step := Next(s, obs, now)
		if step.Status != nil {
			s.Status = step.Status
			fmt.Fprintf(&log, "%s  %s", short(s.Status.GetState()), s.Status.GetMessage())
			if s.Status.GetError() != "" {
				fmt.Fprintf(&log, ": %s", s.Status.GetError())
			}
			log.WriteString("\n")
		}
		if step.Action != Advance {
			fmt.Fprintf(&log, "    %s\n", step.Action)
		}
		now = now.Add(time.Second)
		if step.Action == Done {
			break
		}
		script(&s, &obs, step, now)
	}
	want := `ACCEPTED  accepted
PREPARING  preparing
    prepare
PREPARING  prepare failed, trying again: registry does not answer
    rest
    prepare
READY  ready to start
    rest
STARTING  starting
    start
RUNNING  started
    wait
FAILED  failed: exit code 3
    clean
    rest
    wipe
    done
`
	if diff := cmp.Diff(want, log.String()); diff != "" {
		t.Errorf("conversation (-want +got):\n%s", diff)
	}
}

// script plays the world of TestConversation.
func script(s *State, obs *Observation, step Step, now time.Time) {
	switch {
	case step.Action == Prepare && s.Failures.Count == 0:
		s.Dirty = true
		s.Failures = s.Failures.after(Prepare, errors.New("registry does not answer"), now)
	case step.Action == Prepare:
		s.Failures, s.Prepared, obs.Phase = Failures{}, true, Created
	case step.Action == Start:
		obs.Phase = Running
	case step.Action == Wait:
		obs.Phase, obs.ExitCode = Exited, 3
	case step.Action == Clean:
		s.Dirty, obs.Phase = false, Absent
	case step.Action == Wipe:
		s.Wiped = true
	case step.Action == Rest && s.Status.GetState() == isReady:
		s.Desired = running
	case step.Action == Rest && s.Status.GetState() == failed:
		s.Forgotten = true
	}
}

// TestForward: whatever happens in the world, states never go back, no process
// is started twice, and a task that is forgotten ends with nothing left.
func TestForward(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := mk(isReady, rapid.SampledFrom([]pb.TaskState{assigned, accepted, preparing, isReady}).Draw(t, "first"))
		w := &world{T: t, now: t0}
		for i := range 400 {
			if i > 60 {
				s.Forgotten, w.calm = true, true
			}
			step := Next(s, w.obs, w.now)
			if step.Status != nil {
				if step.Status.GetState() < s.Status.GetState() {
					t.Fatalf("went back from %v to %v", s.Status, step.Status)
				}
				if s.Status.GetState() > running && step.Status.GetState() != s.Status.GetState() {
					t.Fatalf("ended twice: %v, %v", s.Status, step.Status)
				}
				s.Status = step.Status
			}
			if step.Action == Advance && step.Status == nil {
				t.Fatal("a step that does nothing")
			}
			if step.Action == Done {
				if w.obs.Phase != Absent || !s.Forgotten {
					t.Fatalf("done with %+v left", w.obs)
				}
				return
			}
			w.play(&s, step)
		}
		t.Fatalf("never done: %v, %+v", s.Status, w.obs)
	})
}

// world is a runtime, and managers, that do anything they may.
type world struct {
	*rapid.T
	now    time.Time
	obs    Observation
	starts int
	calm   bool
}

func (w *world) play(s *State, step Step) {
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 30).Draw(w.T, "seconds")) * time.Second)
	if !w.calm && rapid.IntRange(0, 4).Draw(w.T, "fails") == 0 && step.Action > Advance && step.Action < Rest {
		s.Failures = s.Failures.after(step.Action, errors.New("no luck"), w.now)
		s.Dirty = s.Dirty || step.Action == Prepare
		return
	}
	s.Failures = Failures{}
	switch step.Action {
	case Prepare:
		s.Dirty, s.Prepared = true, true
		if w.obs.Phase == Absent {
			w.obs.Phase = Created
		}
	case Start:
		if w.starts++; w.starts > 1 {
			w.Fatal("started twice")
		}
		w.obs.Phase = Running
	case Wait, Stop:
		w.obs.Phase, w.obs.ExitCode = Exited, int32(rapid.IntRange(0, 255).Draw(w.T, "code"))
	case Clean, Wipe:
		s.Dirty, s.Wiped, w.obs.Phase = false, step.Action == Wipe, Absent
	case Rest:
		s.Desired = max(s.Desired, rapid.SampledFrom([]pb.TaskState{isReady, running, shutdown, remove}).Draw(w.T, "desired"))
	}
	if !w.calm && rapid.IntRange(0, 20).Draw(w.T, "lost") == 0 {
		w.obs.Phase = Absent
	}
	if rapid.IntRange(0, 10).Draw(w.T, "restart") == 0 {
		s.Prepared, s.Dirty = false, false
	}
}

func TestBackoff(t *testing.T) {
	f := Failures{}
	var waits []time.Duration
	for range 9 {
		f = f.after(Prepare, errors.New("no"), t0)
		waits = append(waits, retryAt(f).Sub(t0))
	}
	ms := time.Millisecond
	want := []time.Duration{250 * ms, 500 * ms, 1000 * ms, 2000 * ms, 4000 * ms, 8000 * ms, 16000 * ms, 20000 * ms, 20000 * ms}
	if diff := cmp.Diff(want, waits); diff != "" {
		t.Error(diff)
	}
}

// TestStatusIsFresh: statuses are shared with those who report them, so a step
// must never change one in place.
func TestStatusIsFresh(t *testing.T) {
	s := mk(running, running)
	s.Status.Container = &pb.ContainerStatus{ContainerId: "t1", Pid: 7}
	before := proto.CloneOf(s.Status)
	Next(s, Observation{Phase: Exited, ExitCode: 3}, t0)
	if !proto.Equal(before, s.Status) {
		t.Errorf("changed in place: %v", s.Status)
	}
}

func short(s pb.TaskState) string { return strings.TrimPrefix(s.String(), "TASK_STATE_") }
