package integration_test

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/minid/minid/integration/sample/image"
	"github.com/minid/minid/internal/realtest"
	pb "github.com/minid/minid/proto/minid/v1"
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

// TestRedisClient: so is redis-benchmark over real Redis servers, each of which
// says how many connections it took.
func TestRedisClient(t *testing.T) {
	const connections = 10_000
	images, err := sampleRegistry()
	if err != nil {
		t.Fatal(err)
	}
	// Debian has the server's program under this name, too, without its service.
	server, err := image.FromHost(t.Context(), realtest.NeedProgram(t, "redis-check-rdb"), "/bin/redis-server")
	if err != nil {
		t.Fatal(err)
	}
	if err := offer(t.Context(), images, "redis:v1", server); err != nil {
		t.Fatal(err)
	}
	w := sharedSwarm(t)
	f := w.fixture(t, fixture{name: "redis-beside", network: "redis", port: 18104, replicas: 1})
	tasks := w.create(t, w.Nodes()[0], service{name: "redis", replicas: 5, image: registryHost + "/redis:v1",
		flags:   []string{"--network", f.network, "--replicas-max-per-node", "1"},
		command: []string{"--protected-mode", "no", "--save", ""}})
	on := f.caller(w.Nodes()[3])
	ask := func(program, host string, args ...string) string {
		t.Helper()
		args = append([]string{"--target", strconv.Itoa(on.pid), "--net", realtest.NeedProgram(t, program), "-h", host}, args...)
		out, err := exec.CommandContext(t.Context(), "nsenter", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", program, err, out)
		}
		return string(out)
	}
	taken := func(task *pb.Task) int {
		t.Helper()
		_, after, _ := strings.Cut(ask("redis-cli", addressOn(t, task, 0), "info", "stats"), "total_connections_received:")
		n, err := strconv.Atoi(strings.Fields(after + " nothing")[0])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := map[string]int{}
	for _, task := range tasks {
		before[task.Id] = taken(task)
	}
	vip, err := runBeside(on, "resolve", "redis")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(strings.TrimSpace(ask("redis-benchmark", vip, "-k", "0", "-c", "8", "-n", strconv.Itoa(connections), "-t", "ping_mbulk", "-q")))
	by, total := map[string]int{}, 0
	for _, task := range tasks {
		by[task.NodeId] = taken(task) - before[task.Id] - 1 // this question was one
		total += by[task.NodeId]
	}
	value, limit := chiSquare(by)
	t.Logf("%v, chi-square %.1f of at most %.1f", by, value, limit)
	if len(by) != 5 || total < connections || value > limit {
		t.Errorf("%d connections reached %d of 5 nodes", total, len(by))
	}
}
