package agent_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/minid/minid/agent"
	"github.com/minid/minid/agent/faketask"
	"github.com/minid/minid/agent/task"
	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestRunsWhatItIsAssigned(t *testing.T) {
	play(t, faketask.New(nil), func(w *world) {
		m := w.managers["m1"]
		m.set = join(assign("t1", running), assign("t2", ready, func(c *pb.ContainerSpec) { c.Env = []string{"WHERE={{.Node.Hostname}}/{{.Node.Platform.OS}}"} }))
		w.start("m1")
		w.pass(time.Second)
		w.want(m, "t1", running)
		w.want(m, "t2", ready)
		if got := w.runtime.Wanted("t2").Spec.GetContainer().GetEnv()[0]; got != "WHERE=alpha/linux" {
			t.Errorf("env %s", got)
		}
		m.diff(0, nil, taskOnly("t2", running))
		m.diff(0, nil, taskOnly("t1", shutdown))
		w.pass(time.Second)
		w.want(m, "t1", shutdown)
		w.want(m, "t2", running)
		if n := w.agent.Running(); n != 1 {
			t.Errorf("%d tasks run, want 1", n)
		}
		m.diff(0, []*pb.AssignmentKey{{Kind: pb.ItemKind_ITEM_KIND_TASK, Id: "t2"}, {Kind: pb.ItemKind_ITEM_KIND_SPEC, Id: "service-of-t2@1"}})
		w.pass(time.Second)
		if ids, _ := w.runtime.List(w.Context()); len(ids) > 0 {
			t.Errorf("left over: %v", ids)
		}
		if n := m.count(); n != 1 {
			t.Errorf("%d sessions", n)
		}
	}, "m1")
}

func TestGapMeansFullSync(t *testing.T) {
	play(t, faketask.New(nil), func(w *world) {
		m := w.managers["m1"]
		m.set = assign("t1", running)
		w.start("m1")
		w.pass(time.Second)
		m.locked(func() { m.set = join(assign("t1", running), assign("t2", running)) })
		m.diff(1, nil, taskOnly("t1", shutdown))
		w.pass(time.Second)
		w.want(m, "t1", running)
		w.want(m, "t2", running)
		if n := m.count(); n != 2 {
			t.Errorf("%d sessions, want a second one", n)
		}
	}, "m1")
}

func TestFollowsTheLeader(t *testing.T) {
	play(t, faketask.New(nil), func(w *world) {
		w.managers["m1"].leader = "m2"
		w.managers["m2"].set = assign("t1", running)
		w.start("m1")
		w.pass(500 * time.Millisecond)
		w.want(w.managers["m2"], "t1", running)
		if diff := cmp.Diff([]string{"m1", "m2"}, w.dials()); diff != "" {
			t.Errorf("dialed (-want +got):\n%s", diff)
		}
	}, "m1", "m2")
}

func TestTellsWhatChangedInTheNode(t *testing.T) {
	play(t, faketask.New(nil), func(w *world) {
		w.start("m1")
		w.pass(90 * time.Second)
		upgraded := "v2.9"
		w.version.Store(&upgraded)
		w.pass(5 * time.Minute)
		m := w.managers["m1"]
		m.locked(func() {
			if !slices.Equal(m.described, []string{upgraded}) {
				t.Errorf("told of runtimes %q, want the new one once", m.described)
			}
		})
		if n := m.count(); n != 1 {
			t.Errorf("%d sessions", n)
		}
	}, "m1")
}

func TestClearLeavesNothing(t *testing.T) {
	play(t, faketask.New(nil), func(w *world) {
		w.managers["m1"].set = join(assign("t1", running), assign("t2", ready))
		w.start("m1")
		w.pass(time.Second)
		w.stop()
		if err := agent.Clear(w.Context(), w.runtime); err != nil {
			t.Error(err)
		}
		if ids, _ := w.runtime.List(w.Context()); len(ids) > 0 {
			t.Errorf("left over: %v", ids)
		}
	}, "m1")
}

func TestLeavesSilentManager(t *testing.T) {
	play(t, faketask.New(nil), func(w *world) {
		m := w.managers["m1"]
		m.beats = false
		w.start("m1")
		w.pass(3*period - time.Second)
		if n := m.count(); n != 1 {
			t.Errorf("left after %d sessions before three periods", n)
		}
		w.pass(3 * time.Second)
		if n := m.count(); n != 2 {
			t.Errorf("%d sessions, want a second one", n)
		}
		m.locked(func() { m.beats = true })
		w.pass(time.Minute)
		if n := m.count(); n > 3 {
			t.Errorf("%d sessions though heartbeats are answered", n)
		}
	}, "m1")
}

func TestResendsWhatWasNotAcknowledged(t *testing.T) {
	play(t, faketask.New(nil), func(w *world) {
		m := w.managers["m1"]
		m.set, m.acks = assign("t1", running), false
		w.start("m1")
		w.pass(time.Second)
		m.locked(func() {
			clear(m.latest)
			m.acks = true
			m.set[1].GetTask().ObservedState = running
		})
		m.drop()
		w.pass(time.Second)
		w.want(m, "t1", running)
		// Acknowledged, but the manager says that it does not have it.
		m.locked(func() {
			clear(m.latest)
			m.set[1].GetTask().ObservedState = pb.TaskState_TASK_STATE_ASSIGNED
		})
		m.drop()
		w.pass(time.Second)
		w.want(m, "t1", running)
		// Acknowledged and known: nothing to tell.
		m.locked(func() {
			m.set[1].GetTask().ObservedState = running
			clear(m.latest)
		})
		m.drop()
		w.pass(time.Second)
		if st := m.status("t1"); st != nil {
			t.Errorf("told again: %v", st)
		}
		m.locked(func() {
			for i, b := range m.batches {
				if b.GetNumber() != uint64(i+1) {
					t.Errorf("batch %d has number %d", i+1, b.GetNumber())
				}
			}
		})
	}, "m1")
}

func TestRestartWithoutManagers(t *testing.T) {
	play(t, faketask.New(nil), func(w *world) {
		m := w.managers["m1"]
		m.set = join(assign("t1", running), assign("t2", ready), assign("t3", running))
		w.start("m1")
		w.pass(time.Second)
		if err := w.runtime.Exit("t3", 1); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Second)
		m.diff(0, nil, taskOnly("t2", ready))
		w.pass(time.Second)
		w.stop()
		calls := len(w.runtime.Calls())
		w.cut("m1", true)
		w.start("gone")
		w.pass(time.Minute)
		want := []faketask.Call{{Method: "wait", TaskID: "t1"}}
		if diff := cmp.Diff(want, w.runtime.Calls()[calls:]); diff != "" {
			t.Errorf("calls after the restart (-want +got):\n%s", diff)
		}
		w.cut("m1", false)
		m.locked(func() { clear(m.latest) })
		w.pass(time.Minute) // it still knows where m1 is
		w.want(m, "t1", running)
		w.want(m, "t2", ready)
		w.want(m, "t3", pb.TaskState_TASK_STATE_FAILED)
		if w.runs() != 2 {
			t.Errorf("%d processes were started, want 2", w.runs())
		}
	}, "m1")
}

// TestStartsAloneAfterRestart: what was assigned and not yet started is started
// without managers, after they had their chance to object.
func TestStartsAloneAfterRestart(t *testing.T) {
	slow := func(*task.Wanted) faketask.Behaviour { return faketask.Behaviour{PrepareFor: 3 * time.Second} }
	play(t, faketask.New(slow), func(w *world) {
		m := w.managers["m1"]
		m.set = assign("t1", running)
		w.start("m1")
		w.pass(time.Second)
		w.stop()
		w.cut("m1", true)
		w.start("gone")
		w.pass(4900 * time.Millisecond)
		if w.runs() != 0 {
			t.Error("started before managers had a chance to object")
		}
		w.pass(time.Second)
		if w.runs() != 1 {
			t.Error("not started")
		}
	}, "m1")
}

// TestStopsBeforeItStarts: a node that comes back stops what was replaced
// before it starts anything.
func TestStopsBeforeItStarts(t *testing.T) {
	behave := func(w *task.Wanted) faketask.Behaviour { return faketask.Behaviour{StopFor: 4 * time.Second} }
	play(t, faketask.New(behave), func(w *world) {
		m := w.managers["m1"]
		m.set = join(assign("removed", running), assign("ended", running), assign("stays", running))
		w.start("m1")
		w.pass(time.Second)
		m.locked(func() { m.set = join(assign("ended", shutdown), assign("stays", running), assign("new", running)) })
		m.drop()
		w.pass(3 * time.Second)
		if st := m.status("new"); st.GetState() != ready || st.GetMessage() == "" {
			t.Errorf("new task is %v, want it ready and waiting with a reason", st)
		}
		w.pass(5 * time.Second)
		w.want(m, "new", running)
		w.want(m, "stays", running)
		var stopped, started time.Time
		for _, run := range w.runtime.History() {
			switch run.TaskID {
			case "new":
				started = run.Started
			case "stays":
			default:
				if run.Ended.IsZero() {
					t.Errorf("%s still runs", run.TaskID)
				}
				stopped = run.Ended
			}
		}
		if started.Before(stopped) {
			t.Errorf("started at %v, before the stop at %v", started, stopped)
		}
	}, "m1")
}

// TestForgottenWhileStopping: a task that the managers forget keeps its own
// grace period though its spec goes with it, and a restart in the middle leaves
// nothing behind.
func TestForgottenWhileStopping(t *testing.T) {
	behave := func(*task.Wanted) faketask.Behaviour {
		return faketask.Behaviour{StopFor: 20 * time.Second, Log: []string{"hello"}}
	}
	grace := func(c *pb.ContainerSpec) { c.StopGracePeriod = durationpb.New(time.Minute) }
	for _, restart := range []bool{false, true} {
		play(t, faketask.New(behave), func(w *world) {
			m := w.managers["m1"]
			m.set = assign("t1", running, grace)
			w.start("m1")
			w.pass(time.Second)
			m.locked(func() { m.set = nil })
			m.diff(0, []*pb.AssignmentKey{{Kind: pb.ItemKind_ITEM_KIND_TASK, Id: "t1"}, {Kind: pb.ItemKind_ITEM_KIND_SPEC, Id: "service-of-t1@1"}})
			w.pass(time.Second)
			if restart {
				w.stop()
				w.cut("m1", true)
				w.start("m1")
			}
			w.pass(time.Minute)
			if ids, _ := w.runtime.List(w.Context()); len(ids) > 0 {
				t.Errorf("left over: %v", ids)
			}
			run := w.runtime.History()[0]
			if !restart && run.ExitCode != 143 {
				t.Errorf("killed with code %d within its grace period", run.ExitCode)
			}
			if err := w.runtime.Logs(w.Context(), "t1", &pb.LogsAttach{}, func(*pb.LogBatch) error { return nil }); err == nil {
				t.Error("its log is still there")
			}
		}, "m1")
	}
}

func TestRemovesLeftovers(t *testing.T) {
	runtime := faketask.New(nil)
	play(t, runtime, func(w *world) {
		spec := &pb.TaskSpec{Container: &pb.ContainerSpec{Image: "x"}}
		if err := runtime.Prepare(w.Context(), &task.Wanted{ID: "stray", ServiceID: "s", Slot: 1, Spec: spec}, func(string) {}); err != nil {
			t.Fatal(err)
		}
		if err := runtime.Start(w.Context(), "stray"); err != nil {
			t.Fatal(err)
		}
		m := w.managers["m1"]
		m.set = assign("t1", running)
		m.leader = "nobody"
		w.start("m1")
		w.pass(time.Minute)
		if ids, _ := runtime.List(w.Context()); !slices.Equal(ids, []string{"stray"}) {
			t.Errorf("before a full set: %v", ids)
		}
		m.locked(func() { m.leader = "" })
		w.pass(time.Minute)
		if ids, _ := runtime.List(w.Context()); !slices.Equal(ids, []string{"t1"}) {
			t.Errorf("after a full set: %v", ids)
		}
	}, "m1")
}

func TestSecretsAreNotOnDisk(t *testing.T) {
	const planted, auth = "planted-secret-value", "planted-registry-auth"
	runtime := faketask.New(nil)
	play(t, runtime, func(w *world) {
		m := w.managers["m1"]
		m.set = join(
			assign("t1", running, withSecret),
			assign("t2", ready, withSecret),
			assign("t3", running, func(c *pb.ContainerSpec) { c.PullAuth = []byte(auth) }),
			[]*pb.Assignment{secret(planted)},
		)
		w.start("m1")
		w.pass(time.Second)
		m.diff(0, nil, secret(planted))
		w.pass(time.Second)
		if got := string(runtime.Wanted("t1").Secrets["sec1"].GetSpec().GetData()); got != planted {
			t.Errorf("task got %q", got)
		}
		if got := string(runtime.Wanted("t3").Spec.GetContainer().GetPullAuth()); got != auth {
			t.Errorf("task got %q", got)
		}
		w.stop()
		data, err := os.ReadFile(w.db)
		if err != nil {
			t.Fatal(err)
		}
		for _, clear := range []string{planted, auth} {
			if bytes.Contains(data, []byte(clear)) {
				t.Errorf("%s is on disk", clear)
			}
		}
	}, "m1")
}

func TestWaitsForSecretAfterRestart(t *testing.T) {
	var restarted atomic.Bool
	behave := func(*task.Wanted) faketask.Behaviour {
		if !restarted.Load() {
			return faketask.Behaviour{PrepareFor: time.Hour}
		}
		return faketask.Behaviour{}
	}
	play(t, faketask.New(behave), func(w *world) {
		m := w.managers["m1"]
		m.set = join(assign("t1", running, withSecret), []*pb.Assignment{secret("x")})
		w.start("m1")
		w.pass(time.Second)
		w.stop()
		restarted.Store(true)
		m.locked(func() { m.set = m.set[:2] })
		w.start("m1")
		w.pass(time.Minute)
		want := `waiting for a manager to send secret "password": secrets are not kept on this node's disk`
		if st := m.status("t1"); st.GetMessage() != want {
			t.Errorf("status %v", st)
		}
		m.diff(0, nil, secret("x"))
		w.pass(time.Second)
		w.want(m, "t1", running)
	}, "m1")
}

func TestManyTasksAtOnce(t *testing.T) {
	behave := func(*task.Wanted) faketask.Behaviour {
		return faketask.Behaviour{PrepareFor: 20 * time.Millisecond, StartFor: 20 * time.Millisecond, StopFor: 2 * time.Second}
	}
	play(t, faketask.New(behave), func(w *world) {
		m := w.managers["m1"]
		var ids []string
		for i := range 100 {
			ids = append(ids, fmt.Sprintf("t%03d", i))
			m.set = append(m.set, assign(ids[i], running)...)
		}
		w.start("m1")
		w.pass(10 * time.Second)
		for _, id := range ids {
			w.want(m, id, running)
		}
		var stops []*pb.Assignment
		for _, id := range ids {
			stops = append(stops, taskOnly(id, shutdown))
		}
		m.diff(0, nil, stops...)
		w.pass(3 * time.Second)
		for _, id := range ids {
			w.want(m, id, shutdown)
		}
	}, "m1")
}

func TestAttachLogs(t *testing.T) {
	behave := func(*task.Wanted) faketask.Behaviour { return faketask.Behaviour{Log: []string{"one", "two", "three"}} }
	play(t, faketask.New(behave), func(w *world) {
		m := w.managers["m1"]
		m.set = assign("t1", running)
		w.start("m1")
		w.pass(time.Second)
		got := w.attach(m, &pb.Attach{Id: "a1", Kind: &pb.Attach_Logs{Logs: &pb.LogsAttach{TaskId: "t1", Tail: 2}}})
		if diff := cmp.Diff("open a1\nlog two\nlog three\n", got); diff != "" {
			t.Error(diff)
		}
		got = w.attach(m, &pb.Attach{Id: "a2", Kind: &pb.Attach_Logs{Logs: &pb.LogsAttach{TaskId: "none"}}})
		if diff := cmp.Diff("open a2\nerror task none: has no log\n", got); diff != "" {
			t.Error(diff)
		}
		// Following ends when the peer does.
		w.open(m, &pb.Attach{Id: "a3", Kind: &pb.Attach_Logs{Logs: &pb.LogsAttach{TaskId: "t1", Follow: true}}})
		w.runtime.WriteLog("t1", "four")
		w.pass(time.Second)
		if n := w.runtime.Followers(); n != 1 {
			t.Errorf("%d followers, want 1", n)
		}
		m.detach <- struct{}{}
		w.pass(time.Second)
		if n := w.runtime.Followers(); n != 0 {
			t.Error("following outlives the peer")
		}
		// And when the session does.
		w.open(m, &pb.Attach{Id: "a4", Kind: &pb.Attach_Logs{Logs: &pb.LogsAttach{TaskId: "t1", Follow: true}}})
		w.pass(time.Second)
		m.drop()
		w.pass(time.Second)
		if n := w.runtime.Followers(); n != 0 {
			t.Error("following outlives the session")
		}
	}, "m1")
}

func TestAttachExec(t *testing.T) {
	play(t, faketask.New(nil), func(w *world) {
		m := w.managers["m1"]
		m.set = assign("t1", running)
		w.start("m1")
		w.pass(time.Second)
		stdin := func(s string) *pb.ExecInput { return &pb.ExecInput{Kind: &pb.ExecInput_Stdin{Stdin: []byte(s)}} }
		tests := []struct {
			task, command string
			input         []*pb.ExecInput
			want          string
		}{
			{"t1", "echo", nil, "open a\nout \nexit 0 \n"},
			{"t1", "cat", []*pb.ExecInput{stdin("hello\n"), {Kind: &pb.ExecInput_CloseStdin{CloseStdin: true}}}, "open a\nout hello\nexit 0 \n"},
			{"t1", "signal", []*pb.ExecInput{stdin("nobody reads it"), {Kind: &pb.ExecInput_Signal{Signal: 15}}}, "open a\nout 15\nexit 143 \n"},
			{"t1", "size", []*pb.ExecInput{{Kind: &pb.ExecInput_Resize{Resize: &pb.WindowSize{Width: 80, Height: 25}}}}, "open a\nout 80 25\nexit 0 \n"},
			{"t1", "nginy", nil, "open a\nexit 127 exec: \"nginy\" not found\n"},
			{"t9", "echo", nil, "open a\nerror task t9: is not on node alpha\n"},
		}
		for _, test := range tests {
			req := &pb.Attach{Id: "a", Kind: &pb.Attach_Exec{Exec: &pb.ExecAttach{TaskId: test.task, Start: &pb.ExecStart{Command: []string{test.command}}}}}
			if diff := cmp.Diff(test.want, w.attach(m, req, test.input...)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", test.command, diff)
			}
		}
	}, "m1")
}

// open sends an Attach and returns the stream that the agent opens for it.
func (w *world) open(m *manager, req *pb.Attach) attachStream {
	m.locked(func() { m.session.Send(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Attach{Attach: req}}) })
	return <-m.attached
}

// attach carries a whole Attach and returns what came up.
func (w *world) attach(m *manager, req *pb.Attach, input ...*pb.ExecInput) string {
	w.Helper()
	stream := w.open(m, req)
	for _, in := range input {
		if err := stream.Send(&pb.AttachDown{Kind: &pb.AttachDown_Exec{Exec: in}}); err != nil {
			w.Errorf("send: %v", err)
		}
	}
	got := read(stream)
	m.detach <- struct{}{}
	return got
}
