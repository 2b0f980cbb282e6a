// Package tasktest checks that a task.Runtime keeps its contract. Every
// implementation runs the same suite.
package tasktest

import (
	"context"
	"testing"
	"time"

	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/id"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Specs are what the suite runs. A nil one skips the tests that need it.
type Specs struct {
	// Sleeps for ever and ends at once at the stop signal.
	Sleeps *pb.TaskSpec
	// Stubborn ignores the stop signal.
	Stubborn *pb.TaskSpec
	// Exits3 ends by itself with code 3 within a second.
	Exits3 *pb.TaskSpec
	// NotFound names a command that does not exist.
	NotFound *pb.TaskSpec
	// Invalid cannot be prepared, whatever is done.
	Invalid *pb.TaskSpec
}

// patience bounds every call; real runtimes on a busy machine are slow.
const patience = 2 * time.Minute

// suite is one test's runtime with one task.
type suite struct {
	*testing.T
	runtime task.Runtime
	ctx     context.Context
	wanted  *task.Wanted
}

// Run checks a runtime. open is called once per test; each time its result may
// be the same runtime.
func Run(t *testing.T, specs Specs, open func(*testing.T) task.Runtime) {
	tests := []struct {
		name string
		spec *pb.TaskSpec
		test func(*suite)
	}{
		{"a life from prepare to remove", specs.Sleeps, life},
		{"every call may be repeated", specs.Sleeps, repeated},
		{"nothing there is no error", specs.Sleeps, absent},
		{"stop ends a waiting Wait", specs.Sleeps, stopWhileWaiting},
		{"cancelled Wait touches nothing", specs.Sleeps, cancelledWait},
		{"a process that ignores the signal is killed", specs.Stubborn, stubborn},
		{"an exit code is observed", specs.Exits3, exitCode},
		{"a command that does not exist ends with 127", specs.NotFound, commandNotFound},
		{"an invalid spec is refused as invalid", specs.Invalid, invalid},
		{"a prepared task can be removed", specs.Sleeps, removePrepared},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.spec == nil {
				t.Fatal("the suite was given no spec for it")
			}
			test.test(newSuite(t, open(t), test.spec))
		})
	}
}

func newSuite(t *testing.T, runtime task.Runtime, spec *pb.TaskSpec) *suite {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s := &suite{T: t, runtime: runtime, ctx: ctx, wanted: &task.Wanted{
		ID: id.New(), ServiceID: id.New(), ServiceName: "tasktest", Slot: 1,
		NodeID: id.New(), NodeName: "here", Spec: spec,
	}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		runtime.Stop(ctx, s.wanted.ID, "", 0)
		if err := runtime.Remove(ctx, s.wanted.ID, false); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return s
}

func (s *suite) must(what string, err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}

func (s *suite) prepare() {
	s.Helper()
	s.must("prepare", s.runtime.Prepare(s.ctx, s.wanted, func(string) {}))
}

func (s *suite) start() {
	s.Helper()
	s.must("start", s.runtime.Start(s.ctx, s.wanted.ID))
}

func (s *suite) stop(grace time.Duration) {
	s.Helper()
	s.must("stop", s.runtime.Stop(s.ctx, s.wanted.ID, "", grace))
}

func (s *suite) inspect(want task.Phase) task.Observation {
	s.Helper()
	obs, err := s.runtime.Inspect(s.ctx, s.wanted.ID)
	s.must("inspect", err)
	if obs.Phase != want {
		s.Fatalf("phase %v, want %v: %+v", obs.Phase, want, obs)
	}
	return obs
}

func (s *suite) wait() task.Observation {
	s.Helper()
	obs, err := s.runtime.Wait(s.ctx, s.wanted.ID)
	s.must("wait", err)
	if obs.Phase != task.Exited {
		s.Fatalf("wait returned %+v", obs)
	}
	return obs
}

func (s *suite) listed() bool {
	s.Helper()
	ids, err := s.runtime.List(s.ctx)
	s.must("list", err)
	for _, id := range ids {
		if id == s.wanted.ID {
			return true
		}
	}
	return false
}

func life(s *suite) {
	s.inspect(task.Absent)
	s.prepare()
	s.inspect(task.Created)
	if !s.listed() {
		s.Error("a prepared task is not listed")
	}
	s.start()
	if obs := s.inspect(task.Running); obs.Pid == 0 {
		s.Error("a running task has no pid")
	}
	s.stop(10 * time.Second)
	if obs := s.inspect(task.Exited); obs.At.IsZero() {
		s.Error("an ended task has no time of its end")
	}
	s.must("remove", s.runtime.Remove(s.ctx, s.wanted.ID, true))
	s.inspect(task.Absent)
	if s.listed() {
		s.Error("a removed task is listed")
	}
}

func repeated(s *suite) {
	s.prepare()
	s.prepare()
	s.inspect(task.Created)
	s.start()
	pid := s.inspect(task.Running).Pid
	s.start()
	s.prepare()
	if again := s.inspect(task.Running).Pid; again != pid {
		s.Errorf("pid was %d and is %d: the task was started again", pid, again)
	}
	s.stop(10 * time.Second)
	s.stop(10 * time.Second)
	first, second := s.wait(), s.wait()
	if first.ExitCode != second.ExitCode {
		s.Errorf("exit code was %d and is %d", first.ExitCode, second.ExitCode)
	}
	for range 2 {
		s.must("remove", s.runtime.Remove(s.ctx, s.wanted.ID, false))
	}
}

func absent(s *suite) {
	s.inspect(task.Absent)
	s.stop(time.Second)
	s.must("remove", s.runtime.Remove(s.ctx, s.wanted.ID, true))
	if err := s.runtime.Start(s.ctx, s.wanted.ID); err == nil {
		s.Error("a task that was not prepared could be started")
	}
}

func stopWhileWaiting(s *suite) {
	s.prepare()
	s.start()
	waited := make(chan error, 1)
	go func() {
		obs, err := s.runtime.Wait(s.ctx, s.wanted.ID)
		if err == nil && obs.Phase != task.Exited {
			s.Errorf("wait returned %+v", obs)
		}
		waited <- err
	}()
	s.stop(10 * time.Second)
	s.must("wait", <-waited)
}

func cancelledWait(s *suite) {
	s.prepare()
	s.start()
	ctx, cancel := context.WithCancel(s.ctx)
	waited := make(chan error, 1)
	go func() {
		_, err := s.runtime.Wait(ctx, s.wanted.ID)
		waited <- err
	}()
	cancel()
	if err := <-waited; err == nil {
		s.Error("a cancelled Wait returned no error")
	}
	s.inspect(task.Running)
}

func stubborn(s *suite) {
	s.prepare()
	s.start()
	s.stop(time.Second)
	if obs := s.inspect(task.Exited); obs.ExitCode != 137 {
		s.Errorf("exit code %d, want 137", obs.ExitCode)
	}
}

func exitCode(s *suite) {
	s.prepare()
	s.start()
	if obs := s.wait(); obs.ExitCode != 3 || obs.OOMKilled || obs.Error != "" {
		s.Errorf("observed %+v, want exit code 3 and nothing else", obs)
	}
	// Left alone or refused, but never run again.
	if err := s.runtime.Start(s.ctx, s.wanted.ID); err == nil {
		s.inspect(task.Exited)
	}
}

func commandNotFound(s *suite) {
	s.prepare()
	err := s.runtime.Start(s.ctx, s.wanted.ID)
	obs := s.inspect(task.Exited)
	if obs.ExitCode != 127 || obs.Error == "" {
		s.Errorf("start: %v; observed %+v, want exit code 127 and a reason", err, obs)
	}
}

func invalid(s *suite) {
	err := s.runtime.Prepare(s.ctx, s.wanted, func(string) {})
	if !fault.Is(err, fault.Invalid) {
		s.Errorf("prepare: %v, want an error of class invalid", err)
	}
}

func removePrepared(s *suite) {
	s.prepare()
	s.must("remove", s.runtime.Remove(s.ctx, s.wanted.ID, false))
	s.inspect(task.Absent)
	if s.listed() {
		s.Error("a removed task is listed")
	}
}
