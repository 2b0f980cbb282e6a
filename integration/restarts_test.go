package integration_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

// TestBackOffSurvivesItsLeader kills the leader in the middle of a long restart
// delay: the next one waits for the rest of it and counts on.
func TestBackOffSurvivesItsLeader(t *testing.T) {
	w := sharedSwarm(t)
	leader, via, _ := w.names(t)
	w.submit(t, via, service{name: "crash", replicas: 1, flags: []string{"--constraint", "node.role==worker", "--restart-delay", "1s", "--restart-max-delay", "30s"}, command: []string{"cat", "/nothing"}})
	before := w.awaitAttempt(t, via, "crash", func(task *pb.Task) bool { return task.GetStreak().GetRestarts() == 4 })
	if pause := before.StartAfter.AsTime().Sub(before.Meta.CreatedAt.AsTime()).Round(time.Second); pause != 8*time.Second {
		t.Errorf("the fourth restart waits %v, not 8 s", pause)
	}
	// What one sees meanwhile.
	res := try(t, via, "service", "ps", "crash")
	says(t, "service ps", res.Stderr, "crash.1 restarts again and again: 4 times in ", ", last: exit code 1, next try in ", "no such file or directory")
	says(t, "service inspect", ctl(t, via, "service", "inspect", "--pretty", "crash"), "Max delay:", "crash.1 restarts again and again: 4 times in ", "no such file")
	says(t, "task why", ctl(t, via, "task", "why", "crash.1"), "crash.1 restarts again and again: 4 times in ", "no such file")
	says(t, "service ls", ctl(t, via, "service", "ls", "-o", "wide"), "crash.1 restarts again and again: 4 times in ")

	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	after := w.awaitAttempt(t, via, "crash", func(task *pb.Task) bool { return task.GetStreak().GetRestarts() >= 5 })
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	if after.Streak.Restarts != 5 || after.RestartCount != 5 || after.Replaces != before.Id || !after.Streak.Since.AsTime().Equal(before.Streak.Since.AsTime()) {
		t.Errorf("restart %d of task %s follows restart %d, task %s", after.Streak.Restarts, after.Replaces, before.Streak.Restarts, before.Id)
	}
	if at, due := after.Meta.CreatedAt.AsTime(), before.StartAfter.AsTime(); at.Before(due) {
		t.Errorf("the task that was due at %v had ended at %v", due, at)
	}
	if pause := after.StartAfter.AsTime().Sub(after.Meta.CreatedAt.AsTime()).Round(time.Second); pause != 16*time.Second {
		t.Errorf("the fifth restart waits %v, not 16 s", pause)
	}
	w.awaitReady(t, 5)
}

// awaitAttempt waits for a task of a service that is wanted and as asked for.
func (w *world) awaitAttempt(t *testing.T, via *cluster.Node, service string, asked func(*pb.Task) bool) (found *pb.Task) {
	t.Helper()
	await(t, "attempt of "+service, patience, func() error {
		// One manager may be away, and the rest without a leader for a moment.
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		tasks, err := via.Tasks(ctx, service)
		if err != nil {
			return err
		}
		for _, task := range tasks {
			if task.DesiredState <= pb.TaskState_TASK_STATE_RUNNING && asked(task) {
				found = task
				return nil
			}
		}
		return fmt.Errorf("%d tasks, none of them", len(tasks))
	})
	return found
}

// TestLoopOfMemory: a task that outgrows its limit says so, in its loop too.
func TestLoopOfMemory(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	w.submit(t, via, service{name: "glutton", replicas: 1, flags: []string{"--limit-memory", "64M"}, command: []string{"eat", "200000000"}})
	w.awaitAttempt(t, via, "glutton", func(task *pb.Task) bool { return task.GetStreak().GetRestarts() >= 3 })
	res := try(t, via, "service", "ps", "glutton")
	says(t, "service ps", res.Stderr, "glutton.1 restarts again and again: ", "last: out of memory: reached its limit of 64 MiB")
}

// TestAttemptsEnd: a slot that has used up its restarts stays down, and says so.
func TestAttemptsEnd(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	res := try(t, via, "service", "create", "--name", "thrice", "--restart-delay", "200ms", "--restart-max-attempts", "3", "--timeout", "8s", "--progress", "plain", sampleV1, "exit", "7")
	w.drop(t, "thrice")
	if res.Code != 7 {
		t.Errorf("code %d: %s", res.Code, res.Stderr)
	}
	says(t, "the wait", res.Stderr, "thrice.1 is given up: 3 restarts are all that may be, last: exit code 7")
	tasks, err := via.AllTasks(t.Context(), "thrice")
	if err != nil || len(tasks) != 4 {
		t.Errorf("%d tasks: %v", len(tasks), err)
	}
	for i, task := range byAge(tasks) {
		if task.RestartCount != uint64(i) || task.Status.State != pb.TaskState_TASK_STATE_FAILED {
			t.Errorf("task %d is restart %d, %v", i, task.RestartCount, task.Status.State)
		}
		if task.RunningAt != nil && task.RunningAt.AsTime().Before(task.StartAfter.AsTime()) {
			t.Errorf("task %d ran before its time", i)
		}
	}
}

func byAge(tasks []*pb.Task) []*pb.Task {
	return slices.SortedFunc(slices.Values(tasks), func(a, b *pb.Task) int {
		return cmp.Or(a.Meta.CreatedAt.AsTime().Compare(b.Meta.CreatedAt.AsTime()), cmp.Compare(a.RestartCount, b.RestartCount))
	})
}

// TestRolloutSurvivesItsLeader kills the leader in the middle of an update:
// what is done is not done again, and failures are counted on.
func TestRolloutSurvivesItsLeader(t *testing.T) {
	w := sharedSwarm(t)
	t.Run("good", w.rolloutGoesOn)
	t.Run("bad", w.failuresAddUp)
}

func (w *world) rolloutGoesOn(t *testing.T) {
	leader, via, _ := w.names(t)
	const replicas = 6
	w.create(t, via, service{name: "onward", replicas: replicas, flags: []string{
		"--update-parallelism", "1", "--update-delay", "1s", "--update-monitor", "300ms", "--stop-grace-period", "2s"}})
	ctl(t, via, "service", "update", "--detach", "--image", sampleV2, "onward")
	var started time.Time
	var first map[string]string
	await(t, "two slots are updated", patience, func() error {
		started = w.rollout(t, via, "onward").GetStartedAt().AsTime()
		if first = w.updated(t, via, "onward"); len(first) < 2 {
			return fmt.Errorf("%d are", len(first))
		}
		return nil
	})
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, "the update completes", patience, func() error {
		if s := w.rollout(t, via, "onward"); s.GetState() != pb.UpdateState_UPDATE_STATE_COMPLETED {
			return fmt.Errorf("it is %v: %s", s.GetState(), s.GetMessage())
		}
		return nil
	})
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	if at := w.rollout(t, via, "onward").GetStartedAt().AsTime(); !at.Equal(started) {
		t.Errorf("it started over at %v", at)
	}
	all := w.updated(t, via, "onward")
	if len(all) < replicas {
		t.Errorf("%d of %d slots are updated", len(all), replicas)
	}
	lost := idOf(t, via, leader.Name) // it is down for long enough to lose its tasks
	for id, node := range first {
		if _, runs := all[id]; !runs && node != lost {
			t.Errorf("task %s was replaced again:\n%s", id, ctl(t, via, "task", "inspect", "--pretty", id))
		}
	}
	w.oncePerSlot(t, via, "onward", leader)
	w.awaitReady(t, 5)
}

// failuresAddUp: of four tasks more than half may not fail; the leader dies
// after the first did.
func (w *world) failuresAddUp(t *testing.T) {
	leader, via, _ := w.names(t)
	w.create(t, via, service{name: "tally", replicas: 4, command: []string{"serve"}, flags: []string{"--restart-delay", "10m",
		"--update-parallelism", "1", "--update-delay", "2s", "--update-monitor", "500ms", "--update-failure-action", "pause", "--update-max-failure-ratio", "0.5"}})
	ctl(t, via, "service", "update", "--detach", "--args", "exit 3", "tally")
	await(t, "one has failed", patience, func() error {
		if s := w.rollout(t, via, "tally"); len(s.GetFailedTasks()) == 0 {
			return fmt.Errorf("none has: %s", s.GetMessage())
		}
		return nil
	})
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, "the update pauses", patience, func() error {
		if s := w.rollout(t, via, "tally"); s.GetState() != pb.UpdateState_UPDATE_STATE_PAUSED {
			return fmt.Errorf("it is %v", s.GetState())
		}
		return nil
	})
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	if s := w.rollout(t, via, "tally"); len(s.GetFailedTasks()) != 3 || !strings.Contains(s.GetMessage(), "paused") {
		t.Errorf("%d tasks failed: %s", len(s.GetFailedTasks()), s.GetMessage())
	}
	w.awaitReady(t, 5)
}

// rollout is how the update of a service stands, nil while nobody tells.
func (w *world) rollout(t *testing.T, via *cluster.Node, name string) *pb.UpdateStatus {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	c := api(t, via)
	s, err := c.Control.GetService(ctx, &pb.GetRequest{Ref: name})
	if err != nil {
		return nil
	}
	return s.UpdateStatus
}

// updated are the nodes of the tasks of the newest version that run, by the tasks' ids.
func (w *world) updated(t *testing.T, via *cluster.Node, name string) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	tasks, err := via.Tasks(ctx, name)
	if err != nil {
		return nil
	}
	nodes := map[string]string{}
	for _, task := range tasks {
		if task.SpecVersion > 1 && task.DesiredState == pb.TaskState_TASK_STATE_RUNNING && task.Status.State == pb.TaskState_TASK_STATE_RUNNING {
			nodes[task.Id] = task.NodeId
		}
	}
	return nodes
}

// oncePerSlot: the update made one task for each slot; the lost leader's own
// node may have cost another.
func (w *world) oncePerSlot(t *testing.T, via *cluster.Node, name string, lost *cluster.Node) {
	t.Helper()
	tasks, err := via.AllTasks(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	gone := idOf(t, via, lost.Name)
	made := map[uint64]int{}
	for _, task := range tasks {
		if task.SpecVersion > 1 && task.NodeId != gone {
			made[task.Slot]++
		}
	}
	for slot, n := range made {
		if n > 1 {
			t.Errorf("slot %d was updated %d times", slot, n)
		}
	}
}

// TestLostTasksAreOrphaned: the tasks of a node that stays away end in time.
func TestLostTasksAreOrphaned(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	ctl(t, via, "swarm", "update", "--orphan-time", "4s")
	w.undo(t, "swarm", "update", "--orphan-time", "24h")
	says(t, "info", ctl(t, via, "info"), "Orphan Time:", "4s")
	tasks := w.create(t, via, service{name: "astray", replicas: 5, flags: []string{"--replicas-max-per-node", "1"}})
	lost := w.Nodes()[4]
	gone := tasksOn(tasks, idOf(t, via, lost.Name))
	if len(gone) != 1 {
		t.Fatalf("%d tasks on %s", len(gone), lost.Name)
	}
	if err := lost.Cut(); err != nil {
		t.Fatal(err)
	}
	await(t, "its task is an orphan", patience, func() error {
		text := ctl(t, via, "service", "ps", "--no-trunc", "--format", "{{.ID}} {{.CurrentState}} {{.Error}}", "astray")
		if !strings.Contains(text, gone[0].Id+" Orphaned") {
			return fmt.Errorf("%s", text)
		}
		return nil
	})
	if err := lost.Heal(); err != nil {
		t.Fatal(err)
	}
	w.awaitReady(t, 5)
	await(t, "its container ends", patience, func() error {
		if _, runs := containers(lost)[gone[0].Id]; runs {
			return fmt.Errorf("it runs")
		}
		return nil
	})
	if _, err := via.AwaitRunning(t.Context(), "astray", 5, patience); err != nil {
		t.Error(err)
	}
}
