package integration_test

import (
	"strings"
	"testing"
)

// TestRollback goes back by hand, and by itself when an update fails: slots
// that it did not come to keep their containers.
func TestRollback(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	const replicas = 3
	settings := []string{"--update-monitor", "1s", "--update-failure-action", "rollback", "--restart-max-attempts", "2", "--rollback-monitor", "1s"}
	old := ids(w.create(t, via, service{name: "undone", replicas: replicas, flags: settings}))
	res := try(t, via, "service", "update", "--timeout", "45s", "--args", "exit 9", "undone")
	if res.Code != 6 {
		t.Errorf("code %d, not 6", res.Code)
	}
	says(t, "the failed update", res.Stderr, "exit code 9", "undone rolling back", "Error: update of service \"undone\" was undone: rollback to version 1 completed")
	if _, err := via.AwaitRunning(t.Context(), "undone", replicas, patience); err != nil {
		t.Fatal(err)
	}
	left := 0
	for _, id := range old {
		for _, n := range w.Nodes() {
			if _, runs := containers(n)[id]; runs {
				left++
			}
		}
	}
	if left < replicas-2 {
		t.Errorf("%d containers were left alone", left)
	}
	says(t, "service history", ctl(t, via, "service", "history", "undone"), "rollback to 1", "created")

	ctl(t, via, "service", "update", "--quiet", "--image", sampleV2, "undone")
	says(t, "service diff", ctl(t, via, "service", "diff", "undone"), "+task.container.image: "+sampleV2)
	ctl(t, via, "service", "rollback", "--quiet", "undone")
	versions := ctl(t, via, "service", "ps", "-f", "desired-state=running", "--format", "{{.Image}}", "undone")
	if strings.Contains(versions, "sample:v2") || strings.Count(versions, "sample:") != replicas {
		t.Errorf("the tasks run\n%s", versions)
	}
}
