package integration_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

// TestRollingUpdate replaces tasks in either order while counting what runs.
func TestRollingUpdate(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	const replicas = 4
	for _, c := range []struct {
		order       string
		parallelism int
		// At least and at most as many containers run at any time.
		least, most int
	}{
		{"stop-first", 1, replicas - 1, replicas},
		{"stop-first", 2, replicas - 2, replicas},
		{"start-first", 1, replicas, replicas + 1},
	} {
		t.Run(fmt.Sprintf("%s by %d", c.order, c.parallelism), func(t *testing.T) {
			name := fmt.Sprintf("roll-%s-%d", c.order, c.parallelism)
			w.create(t, via, service{name: name, replicas: replicas, flags: []string{"--update-order", c.order,
				"--update-parallelism", fmt.Sprint(c.parallelism), "--update-monitor", "300ms", "--update-delay", "300ms", "--stop-grace-period", "2s"}})
			stop := w.count(name)
			res := try(t, via, "service", "update", "--image", sampleV2, name)
			least, most := stop()
			if res.Code != 0 {
				t.Fatal(res.Stderr)
			}
			says(t, "progress", res.Stderr, "overall progress: 4 out of 4 tasks", "Service "+name+" converged")
			if least < c.least || most > c.most {
				t.Errorf("%d to %d containers ran, not %d to %d", least, most, c.least, c.most)
			}
			versions := ctl(t, via, "service", "ps", "-f", "desired-state=running", "--format", "{{.Image}}", name)
			if strings.Count(versions, "sample:v2") != replicas {
				t.Errorf("the tasks run\n%s", versions)
			}
			says(t, "service inspect", ctl(t, via, "service", "inspect", "--pretty", name), "completed")
		})
	}
}

// count watches the number of a service's containers until stop.
func (w *world) count(name string) (stop func() (least, most int)) {
	var watching sync.WaitGroup
	end := make(chan struct{})
	least, most := len(w.allContainers(name)), 0
	watching.Go(func() {
		for {
			n := len(w.allContainers(name))
			least, most = min(least, n), max(most, n)
			select {
			case <-end:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	return func() (int, int) {
		close(end)
		watching.Wait()
		return least, most
	}
}

// TestBadUpdatePauses updates to what cannot run: what runs goes on.
func TestBadUpdatePauses(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	for name, c := range map[string]struct {
		flags []string
		words []string
		// left is how many old tasks must still run.
		left int
	}{
		"bad-image":   {[]string{"--image", registryHost + "/nothing:1"}, []string{"nothing:1"}, 3},
		"bad-command": {[]string{"--entrypoint", "/no/such/program"}, []string{"/no/such/program"}, 3},
		"bad-process": {[]string{"--args", "exit 9"}, []string{"exit code 9"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			old := ids(w.create(t, via, service{name: name, replicas: 3, flags: []string{"--update-monitor", "1s", "--restart-max-attempts", "2"}}))
			args := append([]string{"service", "update", "--timeout", "45s"}, append(c.flags, name)...)
			res := try(t, via, args...)
			if res.Code != 6 {
				t.Errorf("code %d, not 6", res.Code)
			}
			says(t, "the failed update", res.Stderr, append(c.words, "Error: update of service \""+name+"\" paused", "Try: minictl service ps "+name)...)
			left := 0
			for _, id := range old {
				for _, n := range w.Nodes() {
					if _, runs := containers(n)[id]; runs {
						left++
					}
				}
			}
			if left != c.left {
				t.Errorf("%d old tasks run, not %d", left, c.left)
			}
			says(t, "service inspect", ctl(t, via, "service", "inspect", "--pretty", name), "paused")
			ctl(t, via, "service", "update", "--quiet", "--image", sampleV2, "--entrypoint", "sample", "--args", "serve", name)
			if _, err := via.AwaitRunning(t.Context(), name, 3, patience); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRestartPolicy shows which ends are followed by a new start.
func TestRestartPolicy(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	for name, c := range map[string]struct {
		flags []string
		code  string
		tasks int
	}{
		"never":      {[]string{"--restart-condition", "none"}, "1", 1},
		"on-success": {[]string{"--restart-condition", "on-failure"}, "0", 1},
		"on-failure": {[]string{"--restart-condition", "on-failure", "--restart-max-attempts", "2"}, "1", 3},
		"any":        {[]string{"--restart-condition", "any", "--restart-max-attempts", "1"}, "0", 2},
	} {
		w.submit(t, via, service{name: "restart-" + name, replicas: 1, flags: c.flags, command: []string{"exit", c.code}})
		await(t, "ends of "+name, patience, func() error {
			tasks, err := via.AllTasks(t.Context(), "restart-"+name)
			if err != nil {
				return err
			}
			for _, task := range tasks {
				if task.GetStatus().GetState() <= pb.TaskState_TASK_STATE_RUNNING {
					return errors.New("a task goes on")
				}
			}
			if len(tasks) != c.tasks {
				return fmt.Errorf("%d tasks, not %d", len(tasks), c.tasks)
			}
			return nil
		})
	}
}

// TestGlobal runs one task on each node that fits, also on those that come to fit.
func TestGlobal(t *testing.T) {
	w := sharedSwarm(t)
	_, via, worker := w.names(t)
	w.create(t, via, service{name: "everywhere", global: true, replicas: 5})
	if on := nodesOf(t, via, "everywhere"); len(on) != 5 {
		t.Errorf("tasks are on %v", on)
	}
	refused(t, via, 2, []string{"mode replicated"}, "service", "scale", "everywhere=3")
	w.submit(t, via, service{name: "chosen", global: true, flags: []string{"--constraint", "node.labels.chosen==yes"}})
	ctl(t, via, "node", "update", "--label-add", "chosen=yes", worker.Name)
	if _, err := via.AwaitRunning(t.Context(), "chosen", 1, patience); err != nil {
		t.Error(err)
	}
	ctl(t, via, "node", "update", "--label-rm", "chosen", worker.Name)
	if _, err := via.AwaitRunning(t.Context(), "chosen", 0, patience); err != nil {
		t.Error(err)
	}
}

// nodesOf counts a service's tasks by node name.
func nodesOf(t *testing.T, via *cluster.Node, service string) map[string]int {
	t.Helper()
	on := map[string]int{}
	for name := range strings.FieldsSeq(ctl(t, via, "service", "ps", "-f", "desired-state=running", "--format", "{{.Node}}", service)) {
		on[name]++
	}
	return on
}

// TestPlacement spreads over labels, keeps to constraints and limits.
func TestPlacement(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	zones := map[string]string{"n1": "a", "n2": "a", "n3": "a", "n4": "a", "n5": "b"}
	for node, zone := range zones {
		ctl(t, via, "node", "update", "--label-add", "zone="+zone, node)
		w.undo(t, "node", "update", "--label-rm", "zone", node)
	}
	w.create(t, via, service{name: "spread", replicas: 4, flags: []string{"--placement-pref", "spread=node.labels.zone"}})
	if on := nodesOf(t, via, "spread"); on["n5"] != 2 {
		t.Errorf("of two zones, the one with a single node has %d of 4 tasks: %v", on["n5"], on)
	}
	w.create(t, via, service{name: "bound", replicas: 3, flags: []string{"--constraint", "node.labels.zone!=b", "--constraint", "node.role==worker"}})
	if on := nodesOf(t, via, "bound"); on["n4"] != 3 {
		t.Errorf("constraints leave n4, and the tasks are on %v", on)
	}
	w.submit(t, via, service{name: "few", replicas: 3, flags: []string{"--constraint", "node.role==worker", "--replicas-max-per-node", "1"}})
	await(t, "a replica too many", patience, func() error {
		on, list := nodesOf(t, via, "few"), ctl(t, via, "service", "ls")
		if on["n4"] != 1 || on["n5"] != 1 || !strings.Contains(list, "2/3 (max 1 per node)") {
			return fmt.Errorf("tasks are on %v:\n%s", on, list)
		}
		return nil
	})
}

// TestWhy explains per node why a task waits, and hints at what helps.
func TestWhy(t *testing.T) {
	w := sharedSwarm(t)
	_, via, worker := w.names(t)
	for name, c := range map[string]struct {
		flag, value string
		words       []string
	}{
		"constraint": {"--constraint", "node.labels.disk==ssd", []string{"lacks label disk=ssd", "Try: minictl node update --label-add disk=ssd"}},
		"memory":     {"--reserve-memory", "4000g", []string{"resources", "more memory", "Try: minictl service update --reserve-memory"}},
		"cpu":        {"--reserve-cpu", "999", []string{"resources", "CPU", "Try: minictl service update --reserve-cpu"}},
	} {
		service := "why-" + name
		res := try(t, via, "service", "create", "--name", service, "--timeout", "1s", c.flag, c.value, sampleV1)
		w.drop(t, service)
		if res.Code != 5 {
			t.Errorf("%s: code %d, not 5", name, res.Code)
		}
		says(t, "create", res.Stderr, service+".1 pending", "cannot place all tasks of service", "Try: minictl task why "+service+".1")
		why := ctl(t, via, "task", "why", service+".1")
		says(t, "task why", why, append(c.words, "0 of 5 nodes fit")...)
		if strings.Count(why, "refused") != 5 {
			t.Errorf("not one row for each node:\n%s", why)
		}
	}
	ctl(t, via, "node", "update", "--label-add", "disk=ssd", worker.Name)
	w.undo(t, "node", "update", "--label-rm", "disk", worker.Name)
	if _, err := via.AwaitRunning(t.Context(), "why-constraint", 1, patience); err != nil {
		t.Error(err)
	}
	says(t, "task why", ctl(t, via, "task", "why", "why-constraint.1"), "chosen", "1 of 5 nodes fit")
}

// TestWaiting ends the wait for a service in every way.
func TestWaiting(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	began := time.Now()
	w.submit(t, via, service{name: "detached", replicas: 1, flags: []string{"--constraint", "node.labels.none==1"}})
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("--detach took %v", took)
	}
	res := try(t, via, "service", "create", "--name", "loops", "--timeout", "3s", "--restart-delay", "200ms", sampleV1, "exit", "5")
	w.drop(t, "loops")
	if res.Code != 7 {
		t.Errorf("code %d, not 7", res.Code)
	}
	says(t, "timeout", res.Stderr, `Error: service "loops" did not converge within 3s`, "exit code 5", "the work goes on", "Try: minictl service ps loops")

	r := background(t, via, "service", "create", "--name", "interrupted", "--constraint", "node.labels.none==1", sampleV1)
	w.drop(t, "interrupted")
	r.awaitOutput(t, "interrupted.1 pending: ", "try: minictl task why interrupted.1")
	if code := r.interrupt(t); code != 130 {
		t.Errorf("interrupted: code %d, not 130", code)
	}
	_, stderr := r.output()
	says(t, "interruption", stderr, "Operation continuing in background.", "Try: minictl service ps interrupted")

	watch := background(t, via, "service", "ls", "--watch", "-f", "name=interrupted", "--format", "{{.Name}} {{.Replicas}}")
	watch.awaitOutput(t, "interrupted 0/1\n")
	ctl(t, via, "service", "scale", "--detach", "interrupted=2")
	watch.awaitOutput(t, "interrupted 0/2\n")
	if code := watch.interrupt(t); code != 130 {
		t.Errorf("interrupted watch: code %d", code)
	}
	quiet := try(t, via, "service", "update", "--quiet", "--constraint-rm", "node.labels.none==1", "detached")
	if quiet.Code != 0 || quiet.Stderr != "" || quiet.Stdout != "detached\n" {
		t.Errorf("quiet update: %+v", quiet)
	}
	lines := try(t, via, "service", "scale", "--progress", "json", "detached=2")
	for line := range strings.Lines(lines.Stderr) {
		if !strings.HasPrefix(line, "{") {
			t.Errorf("--progress json writes %q", line)
		}
	}
}
