package task_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/minid/minid/agent/faketask"
	"github.com/minid/minid/agent/task"
	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// failing makes a runtime whose tests fail from one to another, the first is 1.
func failing(action pb.HealthConfig_Action, change func(*faketask.Behaviour), ranges ...[2]int) *faketask.Runtime {
	b := faketask.Behaviour{
		Health: &pb.HealthConfig{Test: []string{"CMD", "x"}, Interval: durationpb.New(time.Second), Timeout: durationpb.New(3 * time.Second), Retries: 3},
		ProbeErr: func(try int) error {
			if slices.ContainsFunc(ranges, func(r [2]int) bool { return r[0] <= try && try <= r[1] }) {
				return errors.New("no luck")
			}
			return nil
		},
	}
	if change != nil {
		change(&b)
	}
	return faketask.New(func(w *task.Wanted) faketask.Behaviour {
		w.Spec.Container.Health = &pb.HealthConfig{Action: action}
		return b
	})
}

const (
	restarts = pb.HealthConfig_ACTION_RESTART
	unready  = pb.HealthConfig_ACTION_UNREADY
)

// news are the statuses from STARTING on.
func (b *bench) news() []string {
	told := b.told()
	if i := slices.Index(told, "STARTING starting"); i >= 0 {
		told = told[i+1:]
	}
	return told
}

func (b *bench) wantNews(want ...string) {
	b.Helper()
	if diff := cmp.Diff(want, b.news()); diff != "" {
		b.Error(diff)
	}
}

const (
	waits  = "STARTING starting: waiting for the first successful health check"
	failed = "unhealthy: 3 health checks failed in a row, the last with exit code 1: no luck"
)

func TestRunnerHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := failing(restarts, nil, [2]int{1, 2}, [2]int{5, 6})
		b := newBench(t, runtime, fresh(), task.Input{Desired: running})
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		if runtime.Open("t1") {
			t.Error("it gets connections before it is healthy")
		}
		b.wantNews(waits, waits+": health check: exit code 1: no luck")
		time.Sleep(time.Minute)
		synctest.Wait()
		b.wantNews(waits, waits+": health check: exit code 1: no luck", "RUNNING started, healthy")
		if !runtime.Open("t1") {
			t.Error("it gets no connections")
		}
		b.forget()
	})
}

func TestRunnerUnhealthyRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := failing(restarts, func(b *faketask.Behaviour) { b.StopFor = 2 * time.Second }, [2]int{4, 1000})
		b := newBench(t, runtime, fresh(), task.Input{Desired: running})
		time.Sleep(time.Minute)
		synctest.Wait()
		b.wantNews(waits, "RUNNING started, healthy", "RUNNING unhealthy, stopping: "+failed, "FAILED failed: "+failed)
		if h := runtime.History(); len(h) != 1 || h[0].ExitCode != 143 {
			t.Errorf("it was not stopped with its grace: %v", h)
		}
		b.forget()
	})
}

func TestRunnerUnhealthyUnready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := failing(unready, nil, [2]int{4, 20})
		b := newBench(t, runtime, fresh(), task.Input{Desired: running})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		away := "RUNNING unhealthy: gets no new connections: " + failed
		b.wantNews(waits, "RUNNING started, healthy", away)
		if runtime.Open("t1") {
			t.Error("it gets connections")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		b.wantNews(waits, "RUNNING started, healthy", away, "RUNNING started, healthy")
		if !runtime.Open("t1") || runtime.History()[0].ExitCode != 0 {
			t.Error("it is not back")
		}
		b.forget()
	})
}

func TestRunnerHealthTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := failing(restarts, func(b *faketask.Behaviour) { b.ProbeFor = time.Hour })
		b := newBench(t, runtime, fresh(), task.Input{Desired: running})
		time.Sleep(time.Minute)
		synctest.Wait()
		b.want("FAILED failed: unhealthy: 3 health checks failed in a row, the last with no result within 3s")
		b.forget()
	})
}

// TestRunnerHealthInterrupted ends a task in the middle of a test.
func TestRunnerHealthInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := failing(restarts, func(b *faketask.Behaviour) { b.ProbeFor = 2 * time.Second })
		b := newBench(t, runtime, fresh(), task.Input{Desired: running})
		time.Sleep(time.Second)
		b.set(func(in *task.Input) { in.Desired = shutdown }, 100*time.Millisecond)
		b.want("SHUTDOWN shut down")
		b.forget()
	})
}

// TestRunnerHealthTakenOver restarts the runner, as a restart of minid does.
func TestRunnerHealthTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := failing(restarts, nil, [2]int{4, 1000})
		b := newBench(t, runtime, fresh(), task.Input{Desired: running})
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		b.want("RUNNING started, healthy")
		b.cancel()
		<-b.done
		again := newBench(t, runtime, b.statuses[len(b.statuses)-1], task.Input{Desired: running})
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		if told := again.told(); len(told) != 0 {
			t.Errorf("it was told anew: %v", told)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		again.want("FAILED failed: " + failed)
		again.forget()
	})
}
