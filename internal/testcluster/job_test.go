package testcluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/agent/faketask"
	pb "github.com/minid/minid/proto/minid/v1"
)

// batch creates a job on the workers, so that managers may die without losing
// any of its tasks.
func (l *lifeRig) batch(image string, mode *pb.ReplicatedJob, config *pb.JobConfig) {
	l.t.Helper()
	l.do("create job", func(ctx context.Context, api pb.ControlClient) error {
		_, err := api.CreateService(ctx, &pb.CreateServiceRequest{Spec: &pb.ServiceSpec{
			Name: "web",
			Task: &pb.TaskSpec{
				Container: &pb.ContainerSpec{Image: image},
				Placement: &pb.Placement{Constraints: []string{"node.role==worker"}},
				Restart: &pb.RestartPolicy{Condition: pb.RestartPolicy_CONDITION_ON_FAILURE, MaxAttempts: 3,
					Delay: durationpb.New(5 * time.Second), MaxDelay: durationpb.New(20 * time.Second)},
			},
			Mode: &pb.ServiceSpec_ReplicatedJob{ReplicatedJob: mode},
			Job:  config,
		}})
		return err
	})
}

func (l *lifeRig) awaitRun(number uint64, want pb.JobState) *pb.JobRun {
	l.t.Helper()
	var run *pb.JobRun
	l.await(5*time.Minute, func() string {
		for _, r := range l.service().GetJob().GetRuns() {
			if run = r; r.Number == number && r.State == want {
				return ""
			}
		}
		return fmt.Sprintf("the last run is %v", run)
	})
	return run
}

// awaitCompleted waits until so many of a run's tasks have completed.
func (l *lifeRig) awaitCompleted(want uint64) {
	l.t.Helper()
	l.await(5*time.Minute, func() string {
		runs := l.service().GetJob().GetRuns()
		if len(runs) == 0 || runs[len(runs)-1].Completed < want {
			return fmt.Sprintf("the runs are %v", runs)
		}
		return ""
	})
}

// startsBySlot counts how often containers of each slot were started.
func (l *lifeRig) startsBySlot() map[uint64]int {
	slots := map[uint64]int{}
	for _, n := range l.Nodes {
		for _, run := range n.Runtime.History() {
			slots[run.Slot]++
		}
	}
	return slots
}

// The next leader goes on with a job where the last one stopped: what has
// completed stays so, and nothing runs twice.
func TestLeaderDiesInAJob(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Behave = faketask.ByImage(behaviours)
		l.Form(context.Background(), 5, 2)
		l.batch(brief, &pb.ReplicatedJob{Completions: 9, MaxConcurrent: 2}, nil)
		l.awaitCompleted(2)
		l.killLeader()
		l.awaitCompleted(5)
		l.killLeader()
		r := l.awaitRun(1, pb.JobState_JOB_STATE_COMPLETE)
		if r.Completed != 9 || r.Failed != 0 {
			t.Errorf("the run is %v", r)
		}
		if slots := l.startsBySlot(); len(slots) != 9 || l.starts() != 9 {
			t.Errorf("containers started by slot: %v", slots)
		}
	})
}

// Tries and their growing pace count on too.
func TestLeaderDiesInABackOff(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Behave = faketask.ByImage(behaviours)
		l.Form(context.Background(), 5, 1)
		l.batch(crash, &pb.ReplicatedJob{Completions: 1}, nil)
		for tries := range 2 {
			l.await(time.Minute, func() string {
				if n := l.starts(); n != tries+1 {
					return fmt.Sprintf("it was started %d times", n)
				}
				return ""
			})
			time.Sleep(8 * time.Second) // it has failed, and waits
			l.killLeader()
		}
		r := l.awaitRun(1, pb.JobState_JOB_STATE_FAILED)
		if r.Failed != 4 || r.Message != "slot 1 failed 4 times: exit code 1" {
			t.Errorf("the run is %v", r)
		}
		var history []faketask.Run
		for _, n := range l.Nodes {
			history = append(history, n.Runtime.History()...)
		}
		slices.SortFunc(history, func(a, b faketask.Run) int { return a.Started.Compare(b.Started) })
		for i, delay := range []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second} {
			if len(history) != 4 {
				t.Fatalf("it was started %d times", len(history))
			}
			pause := history[i+1].Started.Sub(history[i].Ended)
			if pause < delay-time.Second || pause > delay+3*time.Second {
				t.Errorf("try %d came %v after the last one, not %v", i+2, pause, delay)
			}
		}
	})
}

// A schedule fires on its minute while one leader after the other dies.
func TestLeadersDieOnASchedule(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Behave = faketask.ByImage(behaviours)
		l.Form(context.Background(), 3, 2)
		l.batch(brief, &pb.ReplicatedJob{Completions: 1}, &pb.JobConfig{Schedule: &pb.JobSchedule{Cron: "*/2 * * * *"}})
		created := l.service().GetMeta().GetCreatedAt().AsTime()
		next := created.Truncate(2 * time.Minute).Add(2 * time.Minute)
		fired := map[time.Time]uint64{}
		note := func() {
			for _, r := range l.service().GetJob().GetRuns() {
				at := r.ScheduledFor.AsTime()
				if number, known := fired[at]; known && number != r.Number {
					t.Errorf("%v fired as run %d and run %d", at, number, r.Number)
				}
				fired[at] = r.Number
				if late := r.StartedAt.AsTime().Sub(at); late < 0 || late > 20*time.Second {
					t.Errorf("run %d for %v began %v later", r.Number, at, late)
				}
			}
		}
		const times = 20
		for i := range times {
			// The leader dies at about the time of a run, before it or after.
			at := next.Add(time.Duration(i) * 2 * time.Minute)
			time.Sleep(time.Until(at.Add(time.Duration(i-times/2) * 100 * time.Millisecond)))
			old := l.leader()
			old.Kill()
			l.leader()
			time.Sleep(30 * time.Second)
			old.Start()
			note()
		}
		l.awaitRun(times, pb.JobState_JOB_STATE_COMPLETE)
		if len(fired) != times || l.starts() != times {
			t.Errorf("%d runs and %d containers for %d times: %v", len(fired), l.starts(), times, slices.SortedFunc(maps.Keys(fired), time.Time.Compare))
		}
	})
}
