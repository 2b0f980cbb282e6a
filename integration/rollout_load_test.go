package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

// TestRolloutLosesNothing updates a service with health checks again and again
// while 50,000 requests come from outside, through a node with a task and one
// without: stop-first with two replicas, and start-first with one.
func TestRolloutLosesNothing(t *testing.T) {
	w := sharedSwarm(t)
	for _, c := range []struct {
		order          string
		replicas, port int
	}{
		{"stop-first", 2, 18110},
		{"start-first", 1, 18111},
	} {
		t.Run(c.order, func(t *testing.T) { w.rolloutUnderLoad(t, c.order, c.replicas, c.port) })
	}
}

func (w *world) rolloutUnderLoad(t *testing.T, order string, replicas, port int) {
	const each, callers = 12_500, "2"
	_, via, _ := w.names(t)
	name := "loaded-" + order
	w.create(t, via, service{name: name, replicas: replicas, flags: []string{
		"--publish", fmt.Sprintf("%d:8080", port), "--env", "QUIET=1", "--update-order", order, "--update-parallelism", "1", "--update-monitor", "500ms",
		"--health-cmd", "get http://127.0.0.1:8080/", "--health-interval", "500ms", "--health-timeout", "10s", "--health-start-interval", "200ms", "--health-start-period", "30s"}})

	done := make(chan string, 4)
	for _, entry := range []*cluster.Node{w.Nodes()[0], w.Nodes()[4]} {
		for _, how := range []string{"oneshot", "keepalive"} {
			go func() {
				out, _ := w.outside(t, "load", fmt.Sprintf("http://%s:%d/", entry.Addr, port), fmt.Sprint(each), callers, how, "4ms")
				done <- fmt.Sprintf("%s through %s:\n%s", how, entry.Name, out)
			}()
		}
	}
	rollouts, hosts, answered := 0, map[string]bool{}, 0
	began := time.Now()
	for loads := 0; loads < 4; {
		select {
		case out := <-done:
			loads++
			by, failed := counted(t, out[strings.Index(out, "\n")+1:])
			for host, n := range by {
				hosts[host] = true
				answered += n
			}
			if failed != 0 {
				t.Errorf("%d requests failed, %s", failed, out)
			}
		default:
			rollouts++
			image := []string{sampleV1, sampleV2}[rollouts%2]
			if res := try(t, via, "service", "update", "--quiet", "--image", image, name); res.Code != 0 {
				t.Fatalf("rollout %d: %s", rollouts, res.Stderr)
			}
		}
	}
	t.Logf("%s: %d requests in %v, answered by %d tasks of %d rollouts", order, answered, time.Since(began).Round(time.Second), len(hosts), rollouts)
	if answered != 4*each || rollouts < 3 || len(hosts) <= 2*replicas {
		t.Errorf("%d requests were answered by %d tasks, over %d rollouts", answered, len(hosts), rollouts)
	}
	w.eachTaskServed(t, via, name, hosts)
}

// eachTaskServed: no task ran for nothing.
func (w *world) eachTaskServed(t *testing.T, via *cluster.Node, name string, hosts map[string]bool) {
	t.Helper()
	tasks, err := via.AllTasks(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	// The newest may have come after the last request.
	tasks = slices.DeleteFunc(byAge(tasks), func(task *pb.Task) bool { return task.DesiredState <= pb.TaskState_TASK_STATE_RUNNING })
	for _, task := range tasks {
		if !hosts[task.Id[:12]] {
			t.Errorf("task %s of slot %d answered nobody", task.Id, task.Slot)
		}
	}
}
