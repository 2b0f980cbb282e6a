package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestKilledContainerIsReplaced(t *testing.T) {
	w := sharedSwarm(t)
	via := w.Nodes()[0]
	w.makeService(t, via, "mortal", 3)
	before := w.allContainers("mortal")
	if len(before) != 3 {
		t.Fatalf("%d containers run, not 3: %v", len(before), before)
	}
	doubles := w.witness(t, "mortal")
	var victim container
	for _, victim = range before {
		break
	}
	sigkill(t, victim.pid)
	took := await(t, "replacement", 20*time.Second, func() error {
		if _, err := via.AwaitRunning(t.Context(), "mortal", 3, time.Millisecond); err != nil {
			return err
		}
		if now := w.allContainers("mortal"); len(now) != 3 || now[victim.task].pid != 0 {
			return fmt.Errorf("containers: %v", now)
		}
		return nil
	})
	t.Logf("killed container replaced after %v (restart delay 100 ms)", took.Round(10*time.Millisecond))
	doubles.none(t)
	after := w.allContainers("mortal")
	for id, was := range before {
		if id != victim.task && after[id] != was {
			t.Errorf("task %s was touched", id)
		}
	}
	if ps := ctl(t, via, "service", "ps", "--no-trunc", "mortal"); !strings.Contains(ps, "137") {
		t.Errorf("service ps does not tell the exit code of the killed task:\n%s", ps)
	}
}

func TestContainerdKilled(t *testing.T) {
	w := sharedSwarm(t)
	via := w.Nodes()[0]
	w.makeService(t, via, "steady", 5)
	before := w.allContainers("steady")
	for _, n := range w.Nodes() {
		sigkill(t, containerdPid(t, n))
	}
	for _, n := range w.Nodes() {
		await(t, "new containerd on "+n.Name, 20*time.Second, func() error {
			_, err := readContainerdPid(n)
			return err
		})
	}
	// New tasks start, through the containerds that came back.
	ctl(t, via, "service", "scale", "--detach", "steady=10")
	if _, err := via.AwaitRunning(t.Context(), "steady", 10, 60*time.Second); err != nil {
		t.Fatal(err)
	}
	after := w.allContainers("steady")
	for id, was := range before {
		if after[id] != was {
			t.Errorf("task %s (%s) was restarted: pid %d, then %d", id, was.slot, was.pid, after[id].pid)
		}
	}
	// The end of a container that began under the old containerd is noticed.
	for id, was := range before {
		sigkill(t, was.pid)
		await(t, "end of an old container noticed", 20*time.Second, func() error {
			task, err := api(t, via).Control.GetTask(t.Context(), &pb.GetRequest{Ref: id})
			if err == nil && task.GetStatus().GetState() <= pb.TaskState_TASK_STATE_RUNNING {
				err = fmt.Errorf("task %s is %v", id, task.GetStatus().GetState())
			}
			return err
		})
		break
	}
	if _, err := via.AwaitRunning(t.Context(), "steady", 10, 30*time.Second); err != nil {
		t.Fatal(err)
	}
}

// TestNodesDaemonsKilledTogether kills minid and containerd of one node.
func TestNodesDaemonsKilledTogether(t *testing.T) {
	w := sharedSwarm(t)
	via, n := w.Nodes()[0], w.Nodes()[3]
	w.makeService(t, via, "tough", 5)
	before := w.allContainers("tough")
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	sigkill(t, containerdPid(t, n))
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	ctl(t, via, "service", "scale", "--detach", "tough=10")
	if _, err := via.AwaitRunning(t.Context(), "tough", 10, 60*time.Second); err != nil {
		t.Fatal(err)
	}
	after := w.allContainers("tough")
	for id, was := range before {
		if after[id] != was {
			t.Errorf("task %s (%s) was restarted: pid %d, then %d", id, was.slot, was.pid, after[id].pid)
		}
	}
	awaitNode(t, via, n.Name, pb.NodeState_NODE_STATE_READY, 20*time.Second)
}

// TestShimKilled kills the parent of a container. The container cannot be
// watched any more, so it must end and be replaced, in this order.
func TestShimKilled(t *testing.T) {
	w := sharedSwarm(t)
	via := w.Nodes()[0]
	w.makeService(t, via, "halved", 3)
	doubles := w.witness(t, "halved")
	for _, victim := range w.allContainers("halved") {
		shim := parentOf(t, victim.pid)
		sigkill(t, shim)
		took := await(t, "replacement", 30*time.Second, func() error {
			if startOf(victim.pid) == victim.started {
				return fmt.Errorf("container %d outlives its shim %d", victim.pid, shim)
			}
			_, err := via.AwaitRunning(t.Context(), "halved", 3, time.Millisecond)
			if now := w.allContainers("halved"); err == nil && len(now) != 3 {
				err = fmt.Errorf("containers: %v", now)
			}
			return err
		})
		t.Logf("container with a killed shim replaced after %v", took.Round(10*time.Millisecond))
		break
	}
	doubles.none(t)
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "PPid:")
	ppid, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil || ppid <= 1 {
		t.Fatalf("process %d has no parent: %v", pid, err)
	}
	return ppid
}

// readContainerdPid returns the pid of a node's living containerd.
func readContainerdPid(n *cluster.Node) (int, error) {
	text, err := os.ReadFile(filepath.Join(n.RunDir(), "containerd/pid"))
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, err
	}
	if startOf(pid) == 0 {
		return 0, fmt.Errorf("containerd %d of %s does not run", pid, n.Name)
	}
	return pid, nil
}

func containerdPid(t *testing.T, n *cluster.Node) int {
	t.Helper()
	pid, err := readContainerdPid(n)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}
