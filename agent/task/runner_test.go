package task_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/minid/minid/agent/faketask"
	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	ready    = pb.TaskState_TASK_STATE_READY
	running  = pb.TaskState_TASK_STATE_RUNNING
	shutdown = pb.TaskState_TASK_STATE_SHUTDOWN
)

// bench runs one task on a fake runtime.
type bench struct {
	*testing.T
	runtime task.Runtime
	runner  *task.Runner
	input   task.Input
	done    chan error
	cancel  context.CancelFunc

	mu       sync.Mutex
	statuses []*pb.TaskStatus
}

func newBench(t *testing.T, runtime task.Runtime, from *pb.TaskStatus, in task.Input, gates ...*task.Gate) *bench {
	gates = append(gates, task.NewGate(1))
	b := &bench{T: t, runtime: runtime, input: in, done: make(chan error, 1)}
	spec := &pb.TaskSpec{Container: &pb.ContainerSpec{Image: "x", StopGracePeriod: durationpb.New(3 * time.Second)}}
	b.runner = task.NewRunner(task.Config{
		ID:      "t1",
		Runtime: runtime,
		Gate:    gates[0],
		Status:  from,
		Spec:    func() *pb.TaskSpec { return spec },
		Wanted: func() (*task.Wanted, error) {
			return &task.Wanted{ID: "t1", ServiceID: "s", Slot: 1, NodeID: "n", Spec: spec}, nil
		},
		Report: b.report,
		Logger: slog.New(slog.DiscardHandler),
	}, in)
	var ctx context.Context
	ctx, b.cancel = context.WithCancel(t.Context())
	go func() { b.done <- b.runner.Run(ctx) }()
	return b
}

func (b *bench) report(st *pb.TaskStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.statuses = append(b.statuses, st)
}

// set changes what is wanted, and gives it some time.
func (b *bench) set(change func(*task.Input), wait time.Duration) {
	change(&b.input)
	b.runner.Set(b.input)
	time.Sleep(wait)
	synctest.Wait()
}

// told returns the statuses so far as "STATE message: error".
func (b *bench) told() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, st := range b.statuses {
		line := strings.TrimPrefix(st.GetState().String(), "TASK_STATE_") + " " + st.GetMessage()
		if st.GetError() != "" {
			line += ": " + st.GetError()
		}
		out = append(out, line)
	}
	return out
}

func (b *bench) last() string {
	told := b.told()
	if len(told) == 0 {
		return ""
	}
	return told[len(told)-1]
}

func (b *bench) want(last string) {
	b.Helper()
	if got := b.last(); got != last {
		b.Errorf("last status %q, want %q", got, last)
	}
}

// forget ends the task for good.
func (b *bench) forget() {
	b.Helper()
	b.set(func(in *task.Input) { in.Forgotten = true }, time.Minute)
	select {
	case err := <-b.done:
		if err != nil {
			b.Errorf("run: %v", err)
		}
	default:
		b.Errorf("a forgotten task is not done: %s", b.last())
	}
	if ids, _ := b.runtime.List(b.Context()); len(ids) > 0 {
		b.Errorf("left over: %v", ids)
	}
}

func fresh() *pb.TaskStatus { return &pb.TaskStatus{State: pb.TaskState_TASK_STATE_ASSIGNED} }

func TestRunnerLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := faketask.New(func(*task.Wanted) faketask.Behaviour {
			return faketask.Behaviour{PrepareFor: 9 * time.Second, Progress: []string{"pulling image x", "pulling image x: 50 %", "creating container"}}
		})
		b := newBench(t, runtime, fresh(), task.Input{Desired: ready})
		time.Sleep(10 * time.Second)
		b.set(func(in *task.Input) { in.Desired = running }, time.Second)
		b.set(func(in *task.Input) { in.Desired = shutdown }, time.Second)
		want := []string{
			"ACCEPTED accepted",
			"PREPARING preparing",
			"PREPARING pulling image x",
			"PREPARING pulling image x: 50 %",
			"PREPARING creating container",
			"READY ready to start",
			"STARTING starting",
			"RUNNING started",
			"SHUTDOWN shut down",
		}
		if diff := cmp.Diff(want, b.told()); diff != "" {
			t.Errorf("statuses (-want +got):\n%s", diff)
		}
		b.forget()
	})
}

func TestRunnerTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := faketask.New(nil)
		first := newBench(t, runtime, fresh(), task.Input{Desired: running})
		time.Sleep(time.Second)
		first.cancel()
		if err := <-first.done; !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
		calls := len(runtime.Calls())
		second := newBench(t, runtime, first.statuses[len(first.statuses)-1], task.Input{Desired: running})
		time.Sleep(time.Second)
		synctest.Wait()
		if diff := cmp.Diff([]faketask.Call{{Method: "wait", TaskID: "t1"}}, runtime.Calls()[calls:]); diff != "" {
			t.Errorf("calls after the restart (-want +got):\n%s", diff)
		}
		if err := runtime.Exit("t1", 3); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		second.want("FAILED failed: exit code 3")
		if len(runtime.History()) != 1 {
			t.Errorf("ran %d times", len(runtime.History()))
		}
		second.forget()
	})
}

func TestRunnerFailures(t *testing.T) {
	fails := func(times int, err error) func(int) error {
		return func(try int) error {
			if try <= times {
				return err
			}
			return nil
		}
	}
	tests := []struct {
		name      string
		behaviour faketask.Behaviour
		within    time.Duration
		want      string
	}{
		{"registry comes back", faketask.Behaviour{PrepareErr: fails(4, faketask.ErrRegistry)}, time.Minute, "RUNNING started"},
		{"registry stays away", faketask.Behaviour{PrepareErr: fails(1e6, faketask.ErrRegistry)}, 4 * time.Minute,
			"REJECTED could not be prepared: pull image: registry does not answer"},
		{"reason is told while it waits", faketask.Behaviour{PrepareErr: fails(1e6, faketask.ErrRegistry)}, 30 * time.Second,
			"PREPARING prepare failed, trying again: pull image: registry does not answer"},
		{"bad mount", faketask.Behaviour{PrepareErr: fails(1, fault.New(fault.Invalid, "mount /x: no such directory"))}, time.Second,
			"REJECTED could not be prepared: mount /x: no such directory"},
		{"port is just given back", faketask.Behaviour{StartErr: fails(2, errors.New("port 80 is in use"))}, 5 * time.Second, "RUNNING started"},
		{"port stays taken", faketask.Behaviour{StartErr: fails(1e6, errors.New("port 80 is in use"))}, time.Minute,
			"FAILED could not be started: port 80 is in use"},
		{"command not found", faketask.Behaviour{CannotRun: `command "nginy" not found`, ExitCode: 127}, time.Second,
			`FAILED failed: command "nginy" not found`},
		{"ends well", faketask.Behaviour{RunFor: time.Second}, 2 * time.Second, "COMPLETE finished"},
		{"out of memory", faketask.Behaviour{RunFor: time.Second, ExitCode: 137, OOMKilled: true}, 2 * time.Second,
			"FAILED failed: out of memory: the host had none left"},
		{"runtime panics", faketask.Behaviour{PrepareErr: func(try int) error {
			if try == 1 {
				panic("nil map")
			}
			return nil
		}}, time.Minute, "RUNNING started"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, faketask.New(func(*task.Wanted) faketask.Behaviour { return test.behaviour }), fresh(), task.Input{Desired: running})
				time.Sleep(test.within)
				synctest.Wait()
				b.want(test.want)
				b.forget()
			})
		})
	}
}

func TestRunnerBreaksOffPrepare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := faketask.New(func(*task.Wanted) faketask.Behaviour { return faketask.Behaviour{PrepareFor: time.Hour} })
		b := newBench(t, runtime, fresh(), task.Input{Desired: running})
		time.Sleep(time.Second)
		b.set(func(in *task.Input) { in.Desired = shutdown }, 0)
		b.want("SHUTDOWN shut down before it started")
		if calls := runtime.Calls(); calls[len(calls)-1].Method != "remove" {
			t.Errorf("remains of the prepare were not removed: %v", calls)
		}
		b.forget()
	})
}

func TestRunnerStopsStubborn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := faketask.New(func(*task.Wanted) faketask.Behaviour { return faketask.Behaviour{StopFor: time.Hour} })
		b := newBench(t, runtime, fresh(), task.Input{Desired: running})
		time.Sleep(time.Second)
		b.set(func(in *task.Input) { in.Desired = shutdown }, 2*time.Second)
		select {
		case <-b.runner.Stopped():
			t.Error("stopped before its grace period was over")
		default:
		}
		time.Sleep(time.Second)
		synctest.Wait()
		<-b.runner.Stopped()
		b.want("SHUTDOWN shut down")
		b.forget()
	})
}

func TestRunnerHoldAndMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, faketask.New(nil), fresh(), task.Input{Desired: running, Missing: "waiting for secret", Hold: "waiting for stops"})
		time.Sleep(time.Hour)
		b.want("PREPARING waiting for secret")
		b.set(func(in *task.Input) { in.Missing = "" }, time.Hour)
		b.want("READY waiting for stops")
		b.set(func(in *task.Input) { in.Hold = "" }, time.Second)
		b.want("RUNNING started")
		b.forget()
	})
}

// TestGateLetsSlowOnesPass: one stalled registry keeps no other task waiting.
func TestGateLetsSlowOnesPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := task.NewGate(1)
		leaveSlow, err := gate.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		leave, err := gate.Enter(t.Context())
		if err != nil || time.Since(start) == 0 || time.Since(start) > 10*time.Second {
			t.Errorf("entered after %v: %v", time.Since(start), err)
		}
		leaveSlow()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := gate.Enter(ctx); err == nil {
			t.Error("a slot was given back twice")
		}
		leave()
		if leave, err = gate.Enter(t.Context()); err != nil {
			t.Error(err)
		}
		leave()
	})
}

// TestRunnerLeavesTheQueue: a task that is to end does not wait for its turn.
func TestRunnerLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := task.NewGate(1)
		leave, err := gate.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b := newBench(t, faketask.New(nil), fresh(), task.Input{Desired: running}, gate)
		time.Sleep(time.Second)
		b.set(func(in *task.Input) { in.Desired = shutdown }, 0)
		b.want("SHUTDOWN shut down before it started")
		leave()
		b.forget()
	})
}

func TestRunnerBoundsProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		messages := make([]string, 300)
		for i := range messages {
			messages[i] = fmt.Sprintf("pulling image x: %d of 300", i)
		}
		b := newBench(t, faketask.New(func(*task.Wanted) faketask.Behaviour {
			return faketask.Behaviour{PrepareFor: 3 * time.Second, Progress: messages}
		}), fresh(), task.Input{Desired: running})
		time.Sleep(time.Minute)
		if n := len(b.told()); n > 9 {
			t.Errorf("%d statuses, want a few", n)
		}
		b.forget()
	})
}

// hollow is a runtime that says it prepared a container and has none.
type hollow struct{ *faketask.Runtime }

func (hollow) Prepare(context.Context, *task.Wanted, func(string)) error { return nil }

func TestRunnerTrustsWhatItSees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, hollow{faketask.New(nil)}, fresh(), task.Input{Desired: running})
		time.Sleep(time.Hour)
		b.want("REJECTED could not be prepared: the container vanished after it was created")
		b.forget()
	})
}

// flaky is a runtime whose daemon is away for some calls.
type flaky struct {
	*faketask.Runtime
	mu   sync.Mutex
	away int
}

func (f *flaky) Inspect(ctx context.Context, id string) (task.Observation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away > 0 {
		f.away--
		return task.Observation{}, errors.New("containerd is away")
	}
	return f.Runtime.Inspect(ctx, id)
}

func TestRunnerOutlivesRuntime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, &flaky{Runtime: faketask.New(nil), away: 5}, fresh(), task.Input{Desired: running})
		time.Sleep(time.Minute)
		b.want("RUNNING started")
		if slices.Contains(b.told(), "FAILED failed") {
			t.Error("a runtime that is away must not fail a task")
		}
		b.forget()
	})
}
