package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	ready = pb.NodeState_NODE_STATE_READY
	down  = pb.NodeState_NODE_STATE_DOWN
)

func TestWorkerLosesPower(t *testing.T) {
	w := sharedSwarm(t)
	via, victim := w.Nodes()[0], w.Nodes()[4]
	tasks := w.makeService(t, via, "spare", 10)
	lost := idOf(t, via, victim.Name)
	if len(tasksOn(tasks, lost)) == 0 {
		t.Fatalf("no task on %s", victim.Name)
	}
	victim.PowerOff()
	began := time.Now()
	moved := awaitReplaced(t, via, "spare", 10, lost, 20*time.Second)
	t.Logf("lost worker's tasks replaced after %v (budget 8 s)", time.Since(began).Round(10*time.Millisecond))

	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, via, victim.Name, ready, 20*time.Second)
	await(t, "stale containers gone", 20*time.Second, func() error {
		if left := containers(victim); len(left) > 0 {
			return fmt.Errorf("%s still runs %v", victim.Name, left)
		}
		return nil
	})
	nothingMoves(t, via, "spare", moved)
}

// nothingMoves looks for three seconds whether a service's tasks stay.
func nothingMoves(t *testing.T, via *cluster.Node, service string, before []*pb.Task) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		now, err := via.Tasks(t.Context(), service)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprint(ids(now)), fmt.Sprint(ids(before)); got != want {
			t.Fatalf("tasks moved from %s to %s", want, got)
		}
	}
}

func TestLeaderKilled(t *testing.T) {
	w := sharedSwarm(t)
	leader := leaderOf(t, w)
	w.makeService(t, leader, "calm", 10)
	before := w.allContainers("calm")
	via := others(w, leader)[0]
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	took := awaitWrite(t, via, 10*time.Second)
	t.Logf("leader killed: writes accepted again after %v (budget 2 s)", took.Round(10*time.Millisecond))
	// Agents have found the new leader when what it wants happens on their nodes.
	for _, n := range w.Nodes() {
		if n != leader {
			awaitNode(t, via, n.Name, ready, 15*time.Second)
		}
	}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, via, leader.Name, ready, 20*time.Second)
	sameContainers(t, "leader killed and back", before, w.allContainers("calm"))
	if info, err := leader.Info(t.Context()); err != nil || info.Leader {
		t.Errorf("the old leader came back as a leader: %v, %v", info.GetLeader(), err)
	}
	awaitWrite(t, leader, 10*time.Second)
	// It took its containers over: it can end them.
	ctl(t, leader, "service", "scale", "--detach", "calm=5")
	await(t, "scaled in", 20*time.Second, func() error {
		if now := w.allContainers("calm"); len(now) != 5 {
			return fmt.Errorf("%d containers", len(now))
		}
		return nil
	})
}

func TestLeaderLosesPower(t *testing.T) {
	w := sharedSwarm(t)
	leader := leaderOf(t, w)
	tasks := w.makeService(t, leader, "orphaned", 10)
	via, lost := others(w, leader)[0], idOf(t, leader, leader.Name)
	if len(tasksOn(tasks, lost)) == 0 {
		t.Fatalf("no task on the leader")
	}
	leader.PowerOff()
	began := time.Now()
	awaitReplaced(t, via, "orphaned", 10, lost, 25*time.Second)
	t.Logf("lost leader's tasks replaced after %v (budget 10 s)", time.Since(began).Round(10*time.Millisecond))
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, via, leader.Name, ready, 20*time.Second)
	await(t, "stale containers gone", 20*time.Second, func() error {
		if left := containers(leader); len(left) > 0 {
			return fmt.Errorf("%s still runs %v", leader.Name, left)
		}
		return nil
	})
}

// leaderOf returns the leader.
func leaderOf(t *testing.T, w *world) *cluster.Node {
	t.Helper()
	n, err := w.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// settle is how long a node that returns may take to stop what was replaced.
const settle = 10 * time.Second

func TestLeaderPausedAndResumed(t *testing.T) {
	w := sharedSwarm(t)
	leader := leaderOf(t, w)
	tasks := w.makeService(t, leader, "twin", 10)
	via, lost := others(w, leader)[0], idOf(t, leader, leader.Name)
	stale := tasksOn(tasks, lost)
	doubles := w.witness(t, "twin")
	if err := leader.Pause(); err != nil {
		t.Fatal(err)
	}
	paused := time.Now()
	t.Cleanup(func() { leader.Resume() })
	took := awaitWrite(t, via, 15*time.Second)
	t.Logf("leader paused: writes accepted again after %v", took.Round(10*time.Millisecond))
	awaitReplaced(t, via, "twin", 10, lost, 25*time.Second)
	// A write by the new leader that the old one must not undo.
	ctl(t, via, "service", "scale", "--detach", "twin=12")
	if _, err := via.AwaitRunning(t.Context(), "twin", 12, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	// The pause itself is the story: thirty seconds are beyond every timeout.
	time.Sleep(time.Until(paused.Add(30 * time.Second)))
	if err := leader.Resume(); err != nil {
		t.Fatal(err)
	}
	fence := time.Now()
	awaitStopped(t, leader, stale)
	t.Logf("resumed leader's stale containers stopped after %v", time.Since(fence).Round(10*time.Millisecond))
	after, err := via.AwaitRunning(t.Context(), "twin", 12, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	awaitNode(t, via, leader.Name, ready, 20*time.Second)
	nothingMoves(t, via, "twin", after)
	nothingMoves(t, leader, "twin", after)
	doubles.noneAfter(t, fence.Add(settle))
	if now := w.allContainers("twin"); len(now) != 12 {
		t.Errorf("%d containers run, not 12: %v", len(now), now)
	}
	if info, err := leader.Info(t.Context()); err != nil || info.Leader {
		t.Errorf("the resumed leader still leads: %v, %v", info.GetLeader(), err)
	}
}

// awaitStopped waits until none of the tasks runs on a node.
func awaitStopped(t *testing.T, n *cluster.Node, stale []*pb.Task) {
	t.Helper()
	await(t, "stale containers stopped", settle, func() error {
		now := containers(n)
		for _, task := range stale {
			if _, ok := now[task.Id]; ok {
				return fmt.Errorf("task %s still runs on %s", task.Id, n.Name)
			}
		}
		return nil
	})
}

func TestWorkerCutOffAndHealed(t *testing.T) {
	w := sharedSwarm(t)
	via, victim := w.Nodes()[0], w.Nodes()[3]
	tasks := w.makeService(t, via, "fenced", 10)
	lost := idOf(t, via, victim.Name)
	stale := tasksOn(tasks, lost)
	doubles := w.witness(t, "fenced")
	if err := victim.Cut(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { victim.Heal() })
	awaitReplaced(t, via, "fenced", 10, lost, 20*time.Second)
	// Work that waits for the node's return: it must not start beside the old.
	ctl(t, via, "service", "create", "--quiet", "--detach", "--name", "late", "--constraint", "node.hostname=="+victim.Name,
		"--env", "SLOT=late.{{.Task.Slot}}", "--restart-delay", "100ms", sampleV1, "sleep")
	t.Cleanup(func() { w.removeService(t, "late") })
	order := watchOrder(t, victim, stale)
	if err := victim.Heal(); err != nil {
		t.Fatal(err)
	}
	fence := time.Now()
	awaitStopped(t, victim, stale)
	t.Logf("returned worker's stale containers stopped after %v", time.Since(fence).Round(10*time.Millisecond))
	if _, err := via.AwaitRunning(t.Context(), "late", 1, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	order()
	after, err := via.AwaitRunning(t.Context(), "fenced", 10, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	nothingMoves(t, via, "fenced", after)
	doubles.noneAfter(t, fence.Add(settle))
}

// watchOrder watches a node until the returned function is called, which fails
// the test if something new ran while something stale still did.
func watchOrder(t *testing.T, n *cluster.Node, stale []*pb.Task) (check func()) {
	old := containers(n)
	if len(old) < len(stale) {
		t.Fatalf("the cut off %s should go on with its %d tasks, and has %v", n.Name, len(stale), old)
	}
	ctx, stop := context.WithCancel(t.Context())
	wrong := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			var before, fresh []string
			for id := range containers(n) {
				if _, known := old[id]; known {
					before = append(before, id)
				} else {
					fresh = append(fresh, id)
				}
			}
			if len(before) > 0 && len(fresh) > 0 {
				select {
				case wrong <- fmt.Sprintf("%v began on %s while %v still ran", fresh, n.Name, before):
				default:
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() {
		t.Helper()
		stop()
		<-done
		select {
		case text := <-wrong:
			t.Error(text)
		default:
		}
	}
}
