package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

// TestDaemonsKilledWhileTasksMove kills minid on one node after the other, of
// each role, while a service is scaled out and then updated.
func TestDaemonsKilledWhileTasksMove(t *testing.T) {
	w := sharedSwarm(t)
	nodes := w.Nodes()
	via := nodes[0]
	w.makeService(t, via, "anvil", 10)
	w.makeService(t, via, "bystander", 5)
	before := w.allContainers("bystander")
	doubles := w.witness(t, "anvil")

	storm := func(what string, change ...string) {
		kills, stop := hammer(t, nodes)
		retry(t, w, change...)
		kills.Wait()
		stop()
		took := await(t, what, stormPatience, func() error {
			n, err := w.manager()
			if err != nil {
				return err
			}
			_, err = n.AwaitRunning(t.Context(), "anvil", 20, time.Millisecond)
			return err
		})
		t.Logf("%s: converged %v after the last kill", what, took.Round(10*time.Millisecond))
	}
	storm("scale-up", "service", "scale", "--detach", "anvil=20")
	storm("rolling update", "service", "update", "--detach", "--quiet", "--image", sampleV2, "--update-parallelism", "4",
		"--update-monitor", "100ms", "anvil")
	await(t, "every task updated", stormPatience, func() error {
		tasks, err := via.AwaitRunning(t.Context(), "anvil", 20, time.Millisecond)
		if err != nil {
			return err
		}
		service, err := api(t, via).Control.GetService(t.Context(), &pb.GetRequest{Ref: "anvil"})
		if err != nil {
			return err
		}
		for _, task := range tasks {
			if task.SpecVersion != service.SpecVersion {
				return fmt.Errorf("slot %d runs version %d, not %d; update is %v", task.Slot, task.SpecVersion, service.SpecVersion, service.UpdateStatus)
			}
		}
		return nil
	})
	sameContainers(t, "minid killed everywhere", before, w.allContainers("bystander"))
	doubles.none(t)
	if now := w.allContainers("anvil"); len(now) != 20 {
		t.Errorf("%d containers run, not 20", len(now))
	}
}

// stormPatience is longer than a task that was cut short while it was prepared
// may keep a slot waiting: its preparation is tried again for two minutes.
const stormPatience = 4 * time.Minute

// hammer kills and restarts the minid of every node once, in random order and
// at random moments, two of them never at the same time.
func hammer(t *testing.T, nodes []*cluster.Node) (kills *sync.WaitGroup, stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	kills = new(sync.WaitGroup)
	kills.Go(func() {
		for _, i := range rand.Perm(len(nodes)) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Duration(rand.IntN(1000)) * time.Millisecond):
			}
			if err := nodes[i].Kill(); err != nil {
				t.Error(err)
			}
			if err := nodes[i].Start(); err != nil {
				t.Error(err)
			}
		}
	})
	return kills, cancel
}

// retry runs minictl against the managers in turn until one accepts.
func retry(t *testing.T, w *world, args ...string) {
	t.Helper()
	i := 0
	await(t, "minictl "+args[0]+" "+args[1], 30*time.Second, func() error {
		i++
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := w.Nodes()[i%3].Ctl(ctx, args...)
		return err
	})
}

func TestAllManagersDown(t *testing.T) {
	w := sharedSwarm(t)
	nodes := w.Nodes()
	managers := nodes[:3]
	w.makeService(t, nodes[0], "lonely", 10)
	before := w.allContainers("lonely")
	for _, n := range managers {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	// A worker's minid that is restarted meanwhile has nobody to ask.
	if err := nodes[3].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := nodes[3].Start(); err != nil {
		t.Fatal(err)
	}
	// Longer than any heartbeat may be missed.
	time.Sleep(9 * time.Second)
	sameContainers(t, "without managers", before, w.allContainers("lonely"))
	var starts sync.WaitGroup
	for _, n := range managers {
		starts.Go(func() {
			if err := n.Start(); err != nil {
				t.Error(err)
			}
		})
	}
	starts.Wait()
	awaitWrite(t, nodes[0], 20*time.Second)
	w.awaitReady(t, 5)
	tasks, err := nodes[0].AwaitRunning(t.Context(), "lonely", 10, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	nothingMoves(t, nodes[0], "lonely", tasks)
	sameContainers(t, "managers back", before, w.allContainers("lonely"))
}

// TestMajorityLost shows what a cluster does that cannot decide.
func TestMajorityLost(t *testing.T) {
	w := sharedSwarm(t)
	nodes := w.Nodes()
	w.makeService(t, nodes[0], "hung", 5)
	before := w.allContainers("hung")
	for _, n := range nodes[1:3] {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "refusal", 20*time.Second, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		res, err := nodes[0].Ctl(ctx, "service", "scale", "--detach", "hung=6")
		if err == nil {
			return fmt.Errorf("accepted without a majority: %s", res.Stdout)
		}
		if res.Code != 8 {
			return fmt.Errorf("exit code %d, not 8: %s", res.Code, res.Stderr)
		}
		t.Logf("without a majority: %s", res.Stderr)
		return nil
	})
	for _, n := range nodes[1:3] {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	awaitWrite(t, nodes[0], 20*time.Second)
	w.awaitReady(t, 5)
	after := w.allContainers("hung")
	for id, was := range before {
		if after[id] != was {
			t.Errorf("task %s (%s) was restarted", id, was.slot)
		}
	}
}
