package integration_test

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/minid/minid/internal/realtest"
)

// TestRealClient: wrk, which knows nothing of minid, is spread evenly over tasks
// on all nodes when each request is a connection: from a task through the virtual
// address, and from outside through the published port of a node. Nothing fails.
func TestRealClient(t *testing.T) {
	wrk := realtest.NeedProgram(t, "wrk")
	script, err := filepath.Abs("testdata/spread.lua")
	if err != nil {
		t.Fatal(err)
	}
	w := sharedSwarm(t)
	f := w.fixture(t, fixture{name: "spread", network: "spread", port: 18103, replicas: 5})
	tasks, err := w.Nodes()[0].AwaitRunning(t.Context(), f.name, 5, patience)
	if err != nil {
		t.Fatal(err)
	}
	nodes := map[string]bool{}
	for _, task := range tasks {
		nodes[task.NodeId] = true
	}
	if len(nodes) != 5 {
		t.Fatalf("the tasks are on %d nodes", len(nodes))
	}
	load := []string{wrk, "-t1", "-c8", "-d4s", "--timeout", "5s", "-H", "Connection: close", "-s", script}
	inside := append([]string{"nsenter", "--target", strconv.Itoa(f.caller(w.Nodes()[3]).pid), "--net"}, load...)
	vip, err := runBeside(f.caller(w.Nodes()[3]), "resolve", f.name)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		do   func(func() error) error
		args []string
	}{
		"from a task":  {here, append(inside, "http://"+vip+":8080/")},
		"from outside": {w.Outside, append(load, f.published(w.Nodes()[4]))},
	} {
		var out []byte
		err := c.do(func() (err error) {
			out, err = exec.CommandContext(t.Context(), c.args[0], c.args[1:]...).CombinedOutput()
			return err
		})
		_, counts, done := strings.Cut(string(out), "-- spread --\n")
		if err != nil || !done {
			t.Fatalf("%s: %v: %s", what, err, out)
		}
		by, failed := counted(t, counts)
		value, limit := chiSquare(by)
		t.Logf("%s: %v, chi-square %.1f of at most %.1f", what, by, value, limit)
		if len(by) != 5 || failed != 0 || value > limit {
			t.Errorf("%s: %d of 5 tasks answered:\n%s", what, len(by), out)
		}
	}
}
