package integration_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/minid/minid/integration/cluster"
)

// onWorkers keeps a service's tasks on n4 and n5.
var onWorkers = []string{"--constraint", "node.role==worker", "--stop-grace-period", "2s", "--update-parallelism", "1"}

// drain empties a node and waits for it; the node is active again after the test.
func (w *world) drain(t *testing.T, via, n *cluster.Node, flags ...string) cluster.Result {
	t.Helper()
	w.undo(t, "node", "update", "--availability", "active", "--drain-deadline", "10m", n.Name)
	return try(t, via, append(append([]string{"node", "update", "--availability", "drain", "--wait", "--timeout", "50s"}, flags...), n.Name)...)
}

// TestDrainLosesNoRequest: start-first, under load from outside through the
// mesh: of all nodes and of the one that drains.
func TestDrainLosesNoRequest(t *testing.T) {
	w := sharedSwarm(t)
	_, via, worker := w.names(t)
	w.create(t, via, service{name: "mover", replicas: 5, flags: []string{"--publish", "18096:8080", "--update-order", "start-first", "--stop-grace-period", "5s"}})
	url := func(n *cluster.Node) string { return fmt.Sprintf("http://%s:18096/", n.Addr) }
	for _, n := range w.Nodes() {
		await(t, "port of "+n.Name, patience, func() error {
			_, err := w.outside(t, "get", url(n))
			return err
		})
	}
	loads := []*running{w.loadOutside(t, url(w.Nodes()[4]), "oneshot"), w.loadOutside(t, url(worker), "oneshot")}
	stop := w.count("mover")
	res := w.drain(t, via, worker)
	time.Sleep(time.Second) // what is wrong now would show
	if least, _ := stop(); least < 5 {
		t.Errorf("only %d containers ran", least)
	}
	if res.Code != 0 || strings.TrimSpace(res.Stdout) != worker.Name+"\nnode/"+worker.Name+" drained" {
		t.Errorf("drain: %+v", res)
	}
	for _, l := range loads {
		out, _ := l.terminate(t)
		if by, failed := counted(t, out); failed != 0 || len(by) == 0 {
			t.Errorf("%d requests failed:\n%s", failed, out)
		}
	}
	if on := nodesOf(t, via, "mover"); on[worker.Name] != 0 || len(containers(worker)) != 0 {
		t.Errorf("tasks are on %v", on)
	}
}

// TestDrainKeepsTheMinimum: stop-first, one at a time, of four three always run.
func TestDrainKeepsTheMinimum(t *testing.T) {
	w := sharedSwarm(t)
	_, via, worker := w.names(t)
	w.create(t, via, service{name: "frugal", replicas: 4, flags: onWorkers})
	if on := nodesOf(t, via, "frugal"); on[worker.Name] != 2 {
		t.Fatalf("tasks are on %v", on)
	}
	doubles, stop := w.witness(t, "frugal"), w.count("frugal")
	res := w.drain(t, via, worker)
	if _, err := via.AwaitRunning(t.Context(), "frugal", 4, patience); err != nil {
		t.Error(err)
	}
	if least, most := stop(); least < 3 || most > 4 {
		t.Errorf("%d to %d containers ran", least, most)
	}
	doubles.none(t)
	if res.Code != 0 {
		t.Error(res.Stderr)
	}
	says(t, "progress", res.Stderr, "of 2 tasks moved")
	says(t, "node ps", ctl(t, via, "node", "ps", "--format", "{{.Name}} {{.DesiredState}}: {{.Reason}}", worker.Name), "Shutdown: its node is draining")
}

// TestDrainDeadline: what finds no other place stays, says why, and is stopped
// when its time is over.
func TestDrainDeadline(t *testing.T) {
	w := sharedSwarm(t)
	_, via, worker := w.names(t)
	w.create(t, via, service{name: "tied", flags: []string{"--constraint", "node.hostname==" + worker.Name, "--stop-grace-period", "2s"}})
	res := w.drain(t, via, worker, "--drain-deadline", "8s", "--timeout", "2500ms")
	if res.Code != 7 {
		t.Errorf("code %d, not 7: %s", res.Code, res.Stderr)
	}
	const why = "stays: its replacement waits: 0 of 5 nodes fit"
	says(t, "the wait", res.Stderr, "0 of 1 tasks moved; tied.1 "+why, "the work goes on", "Try: minictl node ps")
	says(t, "node ps", ctl(t, via, "node", "ps", "--no-trunc", worker.Name), why)
	says(t, "service ps", ctl(t, via, "service", "ps", "--no-trunc", "tied"), why, "1 is draining")
	says(t, "node inspect", ctl(t, via, "node", "inspect", "--pretty", worker.Name), "Tasks left", "tied.1", why)
	if n := len(w.allContainers("tied")); n != 1 {
		t.Errorf("%d containers run before the deadline", n)
	}
	ctl(t, via, "wait", "--timeout", "40s", "--for=drained", "node/"+worker.Name)
	if n := len(w.allContainers("tied")); n != 0 {
		t.Errorf("%d containers run after the deadline", n)
	}
}

// TestDrainGoesOnUnderANewLeader: the leader dies when the first of three tasks
// has moved; each takes two seconds to stop.
func TestDrainGoesOnUnderANewLeader(t *testing.T) {
	w := sharedSwarm(t)
	leader, via, worker := w.names(t)
	w.create(t, via, service{name: "steady", replicas: 6, flags: onWorkers, command: []string{"stubborn"}})
	doubles, stop := w.witness(t, "steady"), w.count("steady")
	w.undo(t, "node", "update", "--availability", "active", worker.Name)
	ctl(t, leader, "node", "update", "--availability", "drain", worker.Name)
	await(t, "first task moved", patience, func() error {
		if n := len(containers(worker)); n != 2 {
			return fmt.Errorf("%d of three are there", n)
		}
		return nil
	})
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // others need it as well
		if leader.Pid() == 0 {
			leader.Start()
		}
	})
	if res := try(t, via, "wait", "--timeout", "55s", "--for=drained", "node/"+worker.Name); res.Code != 0 {
		t.Errorf("the drain does not go on: %+v", res)
	}
	if _, err := via.AwaitRunning(t.Context(), "steady", 6, patience); err != nil {
		t.Error(err)
	}
	least, most := stop()
	if least < 5 || most > 6 {
		t.Errorf("%d to %d containers ran", least, most)
	}
	doubles.none(t)
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, via, leader.Name, ready, patience)
}

// TestRebalanceAfterANodeReturns: tasks move to the node that was away, one
// after the other, and none is lost.
func TestRebalanceAfterANodeReturns(t *testing.T) {
	w := sharedSwarm(t)
	_, via, worker := w.names(t)
	w.create(t, via, service{name: "even", replicas: 6, flags: onWorkers})
	lost := idOf(t, via, worker.Name)
	worker.PowerOff()
	awaitReplaced(t, via, "even", 6, lost, patience)
	says(t, "node ps", ctl(t, via, "node", "ps", "--no-trunc", worker.Name), "its node is down")
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, via, worker.Name, ready, patience)
	if on := nodesOf(t, via, "even"); on[worker.Name] != 0 {
		t.Fatalf("tasks are on %v", on)
	}
	doubles, stop := w.witness(t, "even"), w.count("even")
	res := try(t, via, "service", "rebalance", "--timeout", "55s", "even")
	if res.Code != 0 {
		t.Error(res.Stderr)
	}
	says(t, "progress", res.Stderr, "Service even rebalanced: 3 moved")
	if least, most := stop(); least < 5 || most > 6 {
		t.Errorf("%d to %d containers ran", least, most)
	}
	doubles.none(t)
	if on := nodesOf(t, via, "even"); on[worker.Name] != 3 {
		t.Errorf("tasks are on %v", on)
	}
	if res := try(t, via, "service", "rebalance", "even"); res.Code != 0 || !strings.Contains(res.Stderr, "nothing to move") {
		t.Errorf("a second time: %+v", res)
	}
}
