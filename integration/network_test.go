package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// TestNetworkSharedAndNot: tasks on a shared network talk, by address and by
// name, wherever they are; tasks that share none do not.
func TestNetworkSharedAndNot(t *testing.T) {
	w := sharedSwarm(t)
	n := w.Nodes()[0]
	w.network(t, "blue")
	w.network(t, "green")
	a := w.create(t, n, service{name: "a", replicas: 5, global: true, flags: []string{"--network", "blue"}})
	b := w.create(t, n, service{name: "b", replicas: 2, flags: []string{"--network", "name=green,alias=bee"}})
	both := w.create(t, n, service{name: "both", replicas: 1, flags: []string{"--network", "blue", "--network", "green"}})
	for _, from := range a {
		for _, to := range append(slices.Clone(a), both...) {
			got := inTask(t, n, from.Id, "get", "http://"+addressOn(t, to, 0)+":8080/")
			if !strings.Contains(got, "hostname="+to.Id[:12]) {
				t.Errorf("from %s to %s: %q", from.Id, to.Id, got)
			}
		}
	}
	// eth0 of a task, on its node's own bridge, is no way around. Its address means
	// something on that node only.
	for _, to := range b {
		beside := a[slices.IndexFunc(a, func(task *pb.Task) bool { return task.NodeId == to.NodeId })]
		for _, addr := range []string{addressOn(t, to, 0), to.Status.Container.Address} {
			if res := try(t, n, "exec", beside.Id, "--", "sample", "get", "http://"+addr+":8080/"); res.Code == 0 {
				t.Errorf("%s is reached from a task that shares no network with it", addr)
			}
		}
	}
	for _, c := range []struct {
		from  string
		name  string
		count int // 0: must not be found
	}{
		{a[0].Id, "a", 1}, {a[0].Id, "tasks.a", 5}, {a[0].Id, "both", 1}, {a[0].Id, "b", 0}, {a[0].Id, "bee", 0},
		{both[0].Id, "a", 1}, {both[0].Id, "b", 1}, {both[0].Id, "bee", 1}, {both[0].Id, "tasks.b", 2}, {both[0].Id, "b.2", 1},
		{b[0].Id, "both", 1}, {b[0].Id, "a", 0},
	} {
		res := try(t, n, "exec", c.from, "--", "sample", "resolve", c.name)
		if got := len(strings.Fields(res.Stdout)); res.Code == 0 && got != c.count || res.Code != 0 && c.count > 0 {
			t.Errorf("%s resolves %q to %q (%d addresses wanted): %s", c.from, c.name, res.Stdout, c.count, res.Stderr)
		}
	}
}

// TestVirtualAddressSpreads: new connections to a service's address go to all
// its tasks alike, from a task of another service and from its own.
func TestVirtualAddressSpreads(t *testing.T) {
	w := sharedSwarm(t)
	n := w.Nodes()[0]
	w.network(t, "spread")
	web := w.create(t, n, service{name: "web", replicas: 5, flags: []string{"--network", "spread", "--env", "QUIET=1"}})
	client := w.create(t, n, service{name: "client", flags: []string{"--network", "spread"}, command: []string{"sleep"}})
	for _, from := range []string{client[0].Id, web[0].Id} {
		by, failed := counted(t, inTask(t, n, from, "load", "http://web:8080/", "2000", "8", "oneshot"))
		if value, limit := chiSquare(by); len(by) != 5 || failed != 0 || value > limit {
			t.Errorf("from %s: %v, %d failed, chi-square %.1f of at most %.1f", from, by, failed, value, limit)
		}
	}
	ctl(t, n, "service", "scale", "web=0")
	if res := try(t, n, "exec", client[0].Id, "--", "sample", "get", "http://web:8080/"); res.Code == 0 || !strings.Contains(res.Stderr, "refused") {
		t.Errorf("a service without tasks: %+v", res)
	}
}

// TestPublishedPortOnEveryNode: every node answers, whoever asks from wherever,
// and tasks see the client's own address.
func TestPublishedPortOnEveryNode(t *testing.T) {
	w := sharedSwarm(t)
	n := w.Nodes()[0]
	tasks := w.create(t, n, service{name: "pub", replicas: 2, flags: []string{"--publish", "18080:8080"}})
	hosts := map[string]bool{}
	for _, task := range tasks {
		hosts[task.Id[:12]] = true
	}
	for _, entry := range w.Nodes() {
		url := fmt.Sprintf("http://%s:18080/", entry.Addr)
		seen := map[string]bool{}
		await(t, "all tasks answer at "+entry.Name, patience, func() error {
			out, err := w.outside(t, "get", url)
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			got := readAnswer(out)
			if got.from != w.HubAddr() {
				t.Errorf("through %s the task saw %s and not the client %s", entry.Name, got.from, w.HubAddr())
			}
			if seen[got.host] = true; len(seen) < len(hosts) {
				return fmt.Errorf("only %v answered", seen)
			}
			return nil
		})
		for _, from := range []string{url, "http://127.0.0.1:18080/"} {
			if out, err := sampleIn(t, entry.Do, "get", from); err != nil || !hosts[readAnswer(out).host] {
				t.Errorf("on %s itself, %s: %v: %s", entry.Name, from, err, out)
			}
		}
		if got := readAnswer(inTask(t, n, tasks[0].Id, "get", url)); !hosts[got.host] {
			t.Errorf("from a task through %s: %+v", entry.Name, got)
		}
	}
	if res := try(t, n, "service", "create", "--name", "thief", "-p", "18080:80", sampleV1); res.Code != 4 || !strings.Contains(res.Stderr, "pub") {
		t.Errorf("a published port given twice: %+v", res)
	}
	ctl(t, n, "service", "update", "--publish-rm", "8080", "pub")
	await(t, "the port is closed", patience, func() error {
		if out, err := w.outside(t, "get", fmt.Sprintf("http://%s:18080/", w.Nodes()[4].Addr)); err == nil {
			return fmt.Errorf("it answers: %s", out)
		}
		return nil
	})
}

// TestNoRequestLost: while a service is updated and scaled under steady load,
// from outside through the mesh and from inside through its virtual address,
// with connections kept and new for each request, not one of 50,000 fails.
func TestNoRequestLost(t *testing.T) {
	w := sharedSwarm(t)
	n := w.Nodes()[0]
	w.network(t, "steady")
	w.create(t, n, service{name: "steady", replicas: 4, flags: []string{
		"--network", "steady", "--publish", "18081:8080", "--env", "QUIET=1", "--update-parallelism", "1", "--update-monitor", "1s"}})
	client := w.create(t, n, service{name: "caller", flags: []string{"--network", "steady"}, command: []string{"sleep"}})
	const each, workers, pause = "12500", "4", "25ms"
	type result struct{ what, out string }
	results := make(chan result, 4)
	url := fmt.Sprintf("http://%s:18081/", w.Nodes()[4].Addr)
	for _, how := range []string{"oneshot", "keepalive"} {
		go func() {
			out, _ := w.outside(t, "load", url, each, workers, how, pause)
			results <- result{"outside " + how, out}
		}()
		go func() {
			res, _ := n.Ctl(t.Context(), "exec", client[0].Id, "--", "sample", "load", "http://steady:8080/", each, workers, how, pause)
			results <- result{"inside " + how, res.Stdout + res.Stderr}
		}()
	}
	time.Sleep(2 * time.Second)
	for _, change := range [][]string{
		{"service", "update", "--env-add", "ROUND=2", "steady"},
		{"service", "scale", "steady=2"},
		{"service", "scale", "steady=4"},
		{"service", "update", "--update-order", "start-first", "--env-add", "ROUND=3", "steady"},
	} {
		if res := try(t, n, change...); res.Code != 0 {
			t.Errorf("%v: %s", change, res.Stderr)
		}
		if len(results) > 0 {
			t.Errorf("the load ended before %v", change)
		}
	}
	for range 4 {
		r := <-results
		by, failed := counted(t, r.out)
		t.Logf("%s: %v", r.what, by)
		if failed != 0 {
			t.Errorf("%s: %d failed:\n%s", r.what, failed, r.out)
		}
	}
}
