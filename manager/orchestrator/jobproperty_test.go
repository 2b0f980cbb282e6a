package orchestrator

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// anyJobs is a cluster with a job of any kind.
func anyJobs(rt *rapid.T, t testing.TB) *env {
	e := newEnv(t)
	for _, n := range nodeNames {
		e.addNode(n)
	}
	e.addNode("idle")
	e.changeNode("idle", func(s *pb.NodeSpec) { s.Availability = pb.NodeAvailability_NODE_AVAILABILITY_DRAIN })
	e.behave = map[string]mood{"rejects": rejects, "fails": fails, "task": complete}
	options := []string{
		"image=app",
		rapid.SampledFrom([]string{"job=5/2", "job=3/3", "job=4", "job=4/2", "mode=global-job"}).Draw(rt, "mode"),
		rapid.SampledFrom([]string{"attempts=0", "attempts=2", "restart=NONE", "window=20s"}).Draw(rt, "restart"),
		rapid.SampledFrom([]string{"restart-delay=2s", "max-delay=9s"}).Draw(rt, "delay"),
		rapid.SampledFrom([]string{"deadline-of-run=0s", "deadline-of-run=20s"}).Draw(rt, "deadline"),
	}
	if rapid.Bool().Draw(rt, "scheduled") {
		options = append(options, "cron=*_*_*_*_*",
			rapid.SampledFrom([]string{"concurrency=ALLOW", "concurrency=FORBID", "concurrency=REPLACE"}).Draw(rt, "concurrency"),
			rapid.SampledFrom([]string{"missed=RUN_ONCE", "missed=SKIP"}).Draw(rt, "missed"),
			rapid.SampledFrom([]string{"ttl=30s", "ttl=1h"}).Draw(rt, "ttl"))
	}
	e.setService("web", options...)
	return e
}

// disturbJob does one thing that users, nodes or containers may do.
func (e *env) disturbJob(rt *rapid.T) {
	switch rapid.IntRange(0, 8).Draw(rt, "job") {
	case 0:
		if e.service("web").Spec.GetReplicatedJob() != nil {
			e.setService("web", fmt.Sprintf("job=%d/%d", rapid.IntRange(0, 5).Draw(rt, "completions"), rapid.IntRange(0, 3).Draw(rt, "concurrent")))
		}
	case 1:
		e.jobCommand("run", []string{"web"})
	case 2:
		e.setService("web", "image="+rapid.SampledFrom([]string{"app", "task", "rejects", "fails"}).Draw(rt, "image"))
	case 3:
		if e.service("web").Spec.GetJob().GetSchedule() != nil {
			e.setService("web", "paused="+rapid.SampledFrom([]string{"true", "false"}).Draw(rt, "paused"))
		}
	case 4, 5:
		for _, t := range e.running() {
			end := rapid.SampledFrom([]pb.TaskState{pb.TaskState_TASK_STATE_COMPLETE, pb.TaskState_TASK_STATE_FAILED, 0, 0}).Draw(rt, "end")
			if end > 0 {
				e.report(t, &pb.TaskStatus{State: end})
			}
		}
	case 6:
		e.forgetJob(rapid.Bool().Draw(rt, "tries too"))
	default:
		e.disturbNode(rt)
	}
}

func (e *env) disturbNode(rt *rapid.T) {
	node := rapid.SampledFrom(nodeNames).Draw(rt, "node")
	switch rapid.IntRange(0, 2).Draw(rt, "what") {
	case 0:
		e.setNode(node, rapid.SampledFrom([]pb.NodeState{1, 2, 3, 3}).Draw(rt, "state"))
	case 1:
		availability := rapid.SampledFrom([]pb.NodeAvailability{1, 1, 2, 3}).Draw(rt, "availability")
		e.changeNode(node, func(s *pb.NodeSpec) { s.Availability = availability })
	case 2:
		e.stubborn[node] = rapid.Bool().Draw(rt, "stubborn")
	}
}

// forgetJob trims history as hard as the reaper may: it leaves what completed,
// and the newest tasks of each seat of a run that goes on. Or harder: without
// those its tries begin again.
func (e *env) forgetJob(tries bool) {
	s := e.service("web")
	newer := map[string]uint64{}
	var ids []string
	tasks := slices.SortedFunc(e.state.View().TasksByService(s.Id), compareAge)
	for _, t := range slices.Backward(tasks) {
		seat := fmt.Sprint(placeOf(t), t.JobRun)
		newer[seat]++
		run := store.Run(s, t.JobRun)
		counts := run != nil && t.Status.State == pb.TaskState_TASK_STATE_COMPLETE ||
			!tries && run.GetState() == pb.JobState_JOB_STATE_RUNNING && newer[seat] <= 1+s.Spec.Task.Restart.MaxAttempts
		over := t.Status.State > pb.TaskState_TASK_STATE_RUNNING && t.DesiredState > pb.TaskState_TASK_STATE_RUNNING
		if over && (!counts || t.DesiredState == pb.TaskState_TASK_STATE_REMOVE) {
			ids = append(ids, t.Id)
		}
	}
	e.apply(&pb.Command{Kind: &pb.Command_DeleteTasks{DeleteTasks: &pb.DeleteTasks{Ids: ids}}})
}

// TestAnyJob disturbs a job at random. env checks at each step what seats
// promise, and that everything comes to rest; this adds what holds at rest and
// from one rest to the next.
func TestAnyJob(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := anyJobs(rt, t)
		before := e.service("web").Job
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			e.disturbJob(rt)
			e.advance(time.Duration(rapid.IntRange(0, 25).Draw(rt, "seconds")) * time.Second)
			e.checkJobAtRest(rt)
			checkRuns(rt, before, e.service("web").Job)
			before = e.service("web").Job
		}
	})
}

func (e *env) checkJobAtRest(rt *rapid.T) {
	s := e.service("web")
	if p := e.plan(s); !p.Empty() {
		rt.Fatalf("a plan that was carried out leaves another: %v\n%s", p, e.trace.String())
	}
	done, busy := map[uint64]map[place]bool{}, map[uint64]int{}
	for _, r := range s.Job.GetRuns() {
		done[r.Number] = map[place]bool{}
	}
	for t := range e.state.View().TasksByService(s.Id) {
		r := store.Run(s, t.JobRun)
		if live(t) && r.GetState() != pb.JobState_JOB_STATE_RUNNING {
			rt.Fatalf("%s is live, and its run is %v\n%s", describe(t), r, e.trace.String())
		}
		if live(t) {
			busy[t.JobRun]++
		}
		if r != nil && t.Status.State == pb.TaskState_TASK_STATE_COMPLETE {
			done[t.JobRun][placeOf(t)] = true
		}
	}
	for _, r := range s.Job.GetRuns() {
		if r.State != pb.JobState_JOB_STATE_RUNNING || s.Spec.GetReplicatedJob() == nil {
			continue
		}
		total := int(max(1, s.Spec.GetReplicatedJob().Completions))
		n := 0
		for p := range done[r.Number] {
			if int(p.slot) <= total {
				n++
			}
		}
		if n >= total || int(r.Completed) != n || int(r.Total) != total {
			rt.Fatalf("run %d goes on with %d of %d done, and says %d of %d\n%s", r.Number, n, total, r.Completed, r.Total, e.trace.String())
		}
		if busy[r.Number] == 0 && !e.anyBusy(s, r.Number) && e.next[s.Id].IsZero() {
			rt.Fatalf("run %d goes on and nobody works for it\n%s", r.Number, e.trace.String())
		}
	}
}

// anyBusy tells whether a run's tasks that are to stop still hold its places.
func (e *env) anyBusy(s *pb.Service, run uint64) bool {
	for t := range e.state.View().TasksByService(s.Id) {
		if t.JobRun == run && t.Status.State <= pb.TaskState_TASK_STATE_RUNNING {
			return true
		}
	}
	return false
}

// checkRuns: runs are listed in order, end once, and their record stays.
func checkRuns(rt *rapid.T, old, now *pb.JobStatus) {
	ended := 0
	for i, r := range now.GetRuns() {
		if i > 0 && r.Number <= now.Runs[i-1].Number || r.Number > now.LastRun {
			rt.Fatalf("runs are listed as %v", now.Runs)
		}
		if r.State != pb.JobState_JOB_STATE_RUNNING {
			ended++
		}
		if (r.State == pb.JobState_JOB_STATE_RUNNING) != (r.EndedAt == nil) || r.Completed > r.Total {
			rt.Fatalf("a run is %v", r)
		}
		for _, was := range old.GetRuns() {
			again := was.State == pb.JobState_JOB_STATE_COMPLETE && r.ResumedAt != nil
			if was.Number == r.Number && was.EndedAt != nil && !again && !proto.Equal(was, r) {
				rt.Fatalf("a run had ended as %v and is %v", was, r)
			}
		}
	}
	if ended > keptRuns {
		rt.Fatalf("%d ended runs are kept", ended)
	}
}

// TestIncrementalAgreesOnJobs is TestIncrementalAgrees for jobs. What is told
// of progress depends on when it was told last, and is left out.
func TestIncrementalAgreesOnJobs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := anyJobs(rt, t)
		e.agrees(rt, e.disturbJob, 25, withoutProgress)
	})
}

func withoutProgress(s *pb.Service, p Plan) Plan {
	if p.Job != nil && onlyCounts(s.Job, p.Job.Status) {
		p.Job = nil
	}
	p.Next = time.Time{}
	return p
}

// TestJobsAreDeterministic: the order in which tasks are given does not matter.
func TestJobsAreDeterministic(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := anyJobs(rt, t)
		e.deterministic(rt, e.disturbJob, 10*time.Second)
	})
}
