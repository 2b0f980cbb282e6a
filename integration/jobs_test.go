package integration_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

// job is one that leaves a trace: each of its tasks notes its begin and its end
// in one file, with its slot and its id.
type job struct {
	w     *world
	name  string
	trace string
	// work is how long a task takes, and with which code it ends.
	work []string
}

func (w *world) job(t *testing.T, name string, work ...string) *job {
	t.Helper()
	return &job{w: w, name: name, trace: filepath.Join(t.TempDir(), "trace"), work: work}
}

// create makes the job with more flags, and has it removed with the test.
func (j *job) create(t *testing.T, via *cluster.Node, flags ...string) cluster.Result {
	t.Helper()
	args := append([]string{"service", "create", "--name", j.name, "--restart-delay", "100ms",
		"--env", "WHO={{.Task.Slot}} {{.Task.ID}} {{.Node.Hostname}}",
		"--mount", "type=bind,source=" + filepath.Dir(j.trace) + ",target=/trace"}, flags...)
	res := try(t, via, append(append(args, sampleV1, "job", "/trace/trace"), j.work...)...)
	j.w.drop(t, j.name)
	return res
}

// event is a line of a trace.
type event struct{ what, slot, task, node string }

func (j *job) events(t *testing.T) []event {
	t.Helper()
	text, err := os.ReadFile(j.trace)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var events []event
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 4 {
			t.Fatalf("the trace has a line %q", line)
		}
		events = append(events, event{f[0], f[1], f[2], f[3]})
	}
	return events
}

// runs returns what the store knows of the job's runs.
func (j *job) runs(t *testing.T, via *cluster.Node) []*pb.JobRun {
	t.Helper()
	s, err := api(t, via).Control.GetService(t.Context(), &pb.GetRequest{Ref: j.name})
	if err != nil {
		t.Fatal(err)
	}
	return s.GetJob().GetRuns()
}

// once checks that every slot, or every node, began once and ended once.
func once(t *testing.T, events []event, key func(event) string, want int) {
	t.Helper()
	began, ended := map[string]int{}, map[string]int{}
	for _, e := range events {
		if e.what == "begin" {
			began[key(e)]++
		} else {
			ended[key(e)]++
		}
	}
	for k, n := range began {
		if n != 1 || ended[k] != 1 {
			t.Errorf("%s began %d times and ended %d times", k, n, ended[k])
		}
	}
	if len(began) != want || t.Failed() {
		t.Errorf("%d began, not %d: %v", len(began), want, events)
	}
}

func bySlot(e event) string { return e.slot }
func byNode(e event) string { return e.node }

// TestJobKeepsToItsConcurrency completes seven tasks, two at a time at most.
func TestJobKeepsToItsConcurrency(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	j := w.job(t, "seven", "400ms")
	res := j.create(t, via, "--mode", "replicated-job", "--replicas", "7", "--max-concurrent", "2")
	if res.Code != 0 {
		t.Fatal(res.Stderr)
	}
	says(t, "create", res.Stderr, "job progress: 7 out of 7 complete", "Run 1 of job seven complete in ", ": 7 of 7 tasks")
	events := j.events(t)
	once(t, events, bySlot, 7)
	running, most := 0, 0
	for _, e := range events {
		running += map[string]int{"begin": 1, "end": -1}[e.what]
		most = max(most, running)
	}
	if most != 2 {
		t.Errorf("%d ran at a time, not 2: %v", most, events)
	}
	says(t, "service ls", ctl(t, via, "service", "ls", "-f", "mode=replicated-job"), "replicated job", "0/0 (7/7 completed)")
	if ps := ctl(t, via, "service", "ps", "seven"); strings.Count(ps, "Complete") != 7 {
		t.Errorf("service ps shows\n%s", ps)
	}
	// What a task that has ended wrote is still there.
	if logs := ctl(t, via, "service", "logs", "--raw", "seven"); strings.Count(logs, "end ") != 7 {
		t.Errorf("service logs shows\n%s", logs)
	}
	says(t, "wait", ctl(t, via, "wait", "job/seven"), "job/seven complete")
}

// TestJobFails tries a task again as often as it may, and then says why.
func TestJobFails(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	j := w.job(t, "bad", "0s", "9")
	res := j.create(t, via, "--mode", "replicated-job", "--restart-max-attempts", "2")
	if res.Code != 6 {
		t.Errorf("code %d, not 6", res.Code)
	}
	says(t, "create", res.Stderr, "exit code 9", "Last lines of bad.1:", "Error: run 1 of job \"bad\" failed: ", "Try: minictl service ps bad")
	if n := len(j.events(t)); n != 6 {
		t.Errorf("%d lines of 3 attempts: %v", n, j.events(t))
	}
	run := j.runs(t, via)[0]
	if run.State != pb.JobState_JOB_STATE_FAILED || run.Failed != 3 || !strings.Contains(run.Message, "9") {
		t.Errorf("the run is %v", run)
	}
	refused(t, via, 6, []string{"run 1 of job \"bad\" failed", "9"}, "wait", "job/bad")
	says(t, "wait", ctl(t, via, "wait", "--for=failed", "job/bad"), "job/bad failed")
	says(t, "service ls", ctl(t, via, "service", "ls"), "(0/1 completed, failed)")

	late := w.job(t, "late", "1m")
	if res := late.create(t, via, "--mode", "replicated-job", "--job-deadline", "2s", "--stop-grace-period", "1s"); res.Code != 6 {
		t.Errorf("code %d, not 6", res.Code)
	} else {
		says(t, "create", res.Stderr, "run 1 of job \"late\" failed: ", "deadline")
	}
	if events := late.events(t); len(events) > 1 {
		t.Errorf("it went on after its deadline: %v", events)
	}
}

// TestGlobalJob completes one task on every node, and one more each on demand.
func TestGlobalJob(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	j := w.job(t, "each", "100ms")
	if res := j.create(t, via, "--mode", "global-job"); res.Code != 0 {
		t.Fatal(res.Stderr)
	}
	once(t, j.events(t), byNode, 5)
	says(t, "service ls", ctl(t, via, "service", "ls"), "global job", "0/0 (5/5 completed)")
	says(t, "service run", try(t, via, "service", "run", "each").Stderr, "Run 2 of job each complete")
	if n := len(j.events(t)); n != 20 {
		t.Errorf("%d lines of 10 tasks: %v", n, j.events(t))
	}
}

// TestScheduledJob runs when its minute comes, and when asked for.
func TestScheduledJob(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	j := w.job(t, "cron", "100ms")
	res := j.create(t, via, "--mode", "replicated-job", "--schedule", "* * * * *", "--timezone", "Asia/Tokyo")
	if res.Code != 0 {
		t.Fatal(res.Stderr)
	}
	says(t, "create", res.Stderr, "Job cron runs next at ", "JST")
	if res := try(t, via, "service", "run", "cron"); res.Code != 0 {
		t.Error(res.Stderr)
	}
	var due *pb.JobRun
	await(t, "the minute's run", 75*time.Second, func() error {
		for _, run := range j.runs(t, via) {
			if run.ScheduledFor != nil && run.State == pb.JobState_JOB_STATE_COMPLETE {
				due = run
				return nil
			}
		}
		return errors.New("none has completed")
	})
	if at := due.ScheduledFor.AsTime(); !at.Equal(at.Truncate(time.Minute)) || due.StartedAt.AsTime().Sub(at) > 10*time.Second || due.StartedAt.AsTime().Before(at) {
		t.Errorf("the run for %v began at %v", at, due.StartedAt.AsTime())
	}
	says(t, "pause", try(t, via, "service", "pause", "cron").Stderr, "is paused")
	says(t, "inspect", ctl(t, via, "service", "inspect", "--pretty", "cron"), "* * * * * (Asia/Tokyo)", "asked for", "scheduled", "Paused")
	runs := j.runs(t, via)
	if n := len(j.events(t)); n != 2*len(runs) {
		t.Errorf("%d lines of %d runs", n, len(runs))
	}
	for i, run := range runs[1:] {
		if a, b := runs[i].ScheduledFor, run.ScheduledFor; a != nil && b != nil && a.AsTime().Equal(b.AsTime()) {
			t.Errorf("%v was followed twice: %v", a.AsTime(), runs)
		}
	}
}

// TestLeaderKilledInAJob ends the leader in the middle of a job: the next one
// goes on with its counts, and nothing runs twice.
func TestLeaderKilledInAJob(t *testing.T) {
	w := sharedSwarm(t)
	leader := leaderOf(t, w)
	via := others(w, leader)[0]
	const slots = 12
	j := w.job(t, "survivor", "1500ms")
	if res := j.create(t, leader, "--mode", "replicated-job", "--replicas", fmt.Sprint(slots), "--max-concurrent", "3", "--detach"); res.Code != 0 {
		t.Fatal(res.Stderr)
	}
	await(t, "a part of the job", patience, func() error {
		if n := len(j.events(t)); n < 8 {
			return fmt.Errorf("%d lines", n)
		}
		return nil
	})
	follows := background(t, via, "wait", "job/survivor")
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	if done := len(j.events(t)); done >= 2*slots {
		t.Fatalf("the job was over too soon: %d lines", done)
	}
	awaitWrite(t, via, 15*time.Second)
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	if code := follows.wait(t); code != 0 {
		_, stderr := follows.output()
		t.Errorf("wait ended with code %d: %s", code, stderr)
	}
	once(t, j.events(t), bySlot, slots)
	runs := j.runs(t, via)
	if len(runs) != 1 || runs[0].Completed != slots || runs[0].Failed != 0 || runs[0].State != pb.JobState_JOB_STATE_COMPLETE {
		t.Errorf("the runs are %v", runs)
	}
}
