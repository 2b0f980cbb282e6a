package integration_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEventsOfALife follows the events of a service that fails, is updated and
// scaled, and loses its leader: what the follower saw is all there was, once.
func TestEventsOfALife(t *testing.T) {
	w := sharedSwarm(t)
	leader, via, _ := w.names(t)
	tasks := w.create(t, via, service{name: "story", replicas: 2, flags: []string{"--update-monitor", "300ms", "--stop-grace-period", "2s"}})
	const watched = `{{.Index}} {{.Object}} {{.Action}} {{.Reason}}`
	watch := background(t, via, "events", "--watch", "--filter", "service=story", "--format", watched)

	victim := tasks[0]
	unix.Kill(w.containerOf(t, victim).pid, unix.SIGKILL)
	watch.awaitOutput(t, fmt.Sprintf("task/story.%d failed killed by SIGKILL (exit code 137)", victim.Slot))
	await(t, "it runs again", patience, func() error {
		now, err := via.AwaitRunning(t.Context(), "story", 2, patience)
		if err == nil && slices.Contains(ids(now), victim.Id) {
			return errors.New("the dead task is seen to run")
		}
		return err
	})
	ctl(t, via, "service", "update", "--quiet", "--image", sampleV2, "story")
	watch.awaitOutput(t, "service/story update completed")

	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	retry(t, w, "service", "scale", "--detach", "story=3")
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	watch.awaitOutput(t, "service/story updated replicas 2 → 3", "task/story.3 running")
	w.awaitReady(t, 5)
	if _, err := via.AwaitRunning(t.Context(), "story", 3, patience); err != nil {
		t.Fatal(err)
	}
	w.sameEvents(t, watch, watched)

	says(t, "service events", ctl(t, via, "service", "events", "story"), "TIME", "service/story", "created", "image "+strings.Split(sampleV1, "@")[0],
		"→ "+strings.Split(sampleV2, "@")[0], "shutdown", "updated")
	says(t, "task events", ctl(t, via, "task", "events", victim.Id), "assigned", "running", "failed", "killed by SIGKILL (exit code 137)")
	life := ctl(t, via, "task", "inspect", "--pretty", victim.Id)
	says(t, "the life line", life, "Reason:              killed by SIGKILL (exit code 137)", "TIME", "AFTER", "pending", "assigned", "running", "failed", w.node(t, victim.NodeId).Name)
	t.Logf("a life:\n%s\n%s", life, ctl(t, via, "service", "events", "story"))
}

// sameEvents compares what a watch printed with what every manager keeps, once
// nothing more happens.
func (w *world) sameEvents(t *testing.T, watch *running, format string) {
	t.Helper()
	for _, n := range w.Nodes()[:3] {
		await(t, "the watch has all events of "+n.Name, patience, func() error {
			all := ctl(t, n, "events", "--filter", "service=story", "--format", format)
			seen, _ := watch.output()
			if strings.TrimSpace(seen) != all {
				return fmt.Errorf("the watch has\n%s\nof\n%s", seen, all)
			}
			return nil
		})
	}
	if _, complaints := watch.output(); strings.Contains(complaints, "missed") {
		t.Error(complaints)
	}
}
