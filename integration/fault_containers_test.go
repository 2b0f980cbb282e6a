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
