package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "github.com/minid/minid/proto/minid/v1"
)

// checks are flags of a quick health check; "sample well" fails when a task's
// /tmp/state says ill.
func checks(more ...string) []string {
	return append([]string{"--health-cmd", "well /tmp/state", "--health-interval", "300ms", "--health-timeout", "10s",
		"--health-retries", "2", "--update-monitor", "300ms", "--stop-grace-period", "2s"}, more...)
}

// TestUpdateThatStaysUnhealthy: start-first, to a version that never gets
// healthy. All old tasks go on serving, and the user hears why.
func TestUpdateThatStaysUnhealthy(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	old := ids(w.create(t, via, service{name: "sick", replicas: 3, flags: checks("--publish", "18094:8080", "--update-order", "start-first")}))
	says(t, "service ps", ctl(t, via, "service", "ps", "sick"), "Running (healthy)")
	stop := w.count("sick")
	res := try(t, via, "service", "update", "--timeout", "40s", "--image", sampleV2, "--health-cmd", "stat /nothing", "sick")
	if least, _ := stop(); least < 3 {
		t.Errorf("only %d containers ran", least)
	}
	if res.Code == 0 {
		t.Error("the update succeeded")
	}
	says(t, "the failed update", res.Stderr, "unhealthy: 2 health checks failed in a row", "/nothing")
	for _, id := range old {
		task := ctl(t, via, "task", "inspect", "--format", "{{.Status.State}}", id)
		if !strings.Contains(strings.ToLower(task), "running") {
			t.Errorf("old task %s: %s", id, task)
		}
	}
	for range 12 {
		out, err := w.outside(t, "get", fmt.Sprintf("http://%s:18094/", w.Nodes()[4].Addr))
		if err != nil || !strings.Contains(out, "version=v1") {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// TestUnreadyLeavesAndReturns: a task that is ill loses its traffic on all
// nodes, its own included, and not its life; well again, it is back.
func TestUnreadyLeavesAndReturns(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	tasks := w.create(t, via, service{name: "moody", replicas: 2, flags: checks("--publish", "18095:8080", "--health-action", "unready")})
	// answers of every node, by the hosts that gave them.
	answers := func() (hosts []string) {
		for _, entry := range w.Nodes() {
			for range 4 {
				out, err := w.outside(t, "get", fmt.Sprintf("http://%s:18095/", entry.Addr))
				if err != nil {
					t.Fatalf("through %s: %v: %s", entry.Name, err, out)
				}
				hosts = append(hosts, readAnswer(out).host)
			}
		}
		return hosts
	}
	ill := tasks[0].Id
	both := func() error {
		hosts := answers()
		for _, task := range tasks {
			if !slices.Contains(hosts, task.Id[:12]) {
				return fmt.Errorf("task %s does not answer", task.Id)
			}
		}
		return nil
	}
	await(t, "both answer", patience, both)
	inTask(t, via, ill, "write", "/tmp/state", "ill")
	await(t, "the ill one is out", patience, func() error {
		if slices.Contains(answers(), ill[:12]) {
			return fmt.Errorf("task %s answers", ill)
		}
		return nil
	})
	says(t, "service ps", ctl(t, via, "service", "ps", "--no-trunc", "moody"), "Running (unhealthy)", "Running (healthy)", "feeling ill")
	says(t, "task inspect", ctl(t, via, "task", "inspect", ill), "feeling ill", "unready")
	inTask(t, via, ill, "write", "/tmp/state", "well")
	await(t, "both answer again", patience, both)
	now, err := via.AwaitRunning(t.Context(), "moody", 2, patience)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(now, func(task *pb.Task) bool { return task.Id == ill }) {
		t.Error("the ill task was replaced")
	}
}
