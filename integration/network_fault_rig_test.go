package integration_test

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

// start runs a program that goes on, in the namespace that do enters. It ends
// with the test.
func start(t *testing.T, do func(func() error) error, program string, args ...string) *running {
	t.Helper()
	r := &running{cmd: exec.Command(program, args...), done: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = stream{r, &r.stdout}, stream{r, &r.stderr}
	if err := do(r.cmd.Start); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.done)
		r.cmd.Wait()
	}()
	t.Cleanup(func() {
		r.cmd.Process.Kill()
		<-r.done
	})
	return r
}

// terminate is SIGTERM. It returns all that was printed, and the exit code.
func (r *running) terminate(t *testing.T) (output string, code int) {
	t.Helper()
	r.cmd.Process.Signal(unix.SIGTERM)
	code = r.wait(t)
	stdout, stderr := r.output()
	return stdout + stderr, code
}

// loadOutside begins a load from the outside world that goes on until its end is
// asked for.
func (w *world) loadOutside(t *testing.T, url, how string) *running {
	t.Helper()
	bin, err := sampleBinary()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, w.Outside, bin, endless(url, how)...)
}

func endless(url, how string) []string { return []string{"load", url, "1000000", "2", how, "20ms"} }

// beside is the command line of the sample in a container's namespaces: unlike
// minictl exec it needs no minid.
func beside(c container, args ...string) []string {
	return append([]string{"--target", strconv.Itoa(c.pid), "--net", "--mount", "/bin/sample"}, args...)
}

func here(f func() error) error { return f() }

// startBeside starts the sample beside a container.
func startBeside(t *testing.T, c container, args ...string) *running {
	t.Helper()
	return start(t, here, "nsenter", beside(c, args...)...)
}

// runBeside runs the sample beside a container and returns what it prints.
func runBeside(c container, args ...string) (string, error) {
	out, err := exec.Command("nsenter", beside(c, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

// shell runs commands on a node, as its administrator would.
func shell(t *testing.T, n *cluster.Node, script string) string {
	t.Helper()
	var out []byte
	err := n.Do(func() (err error) {
		out, err = exec.Command("sh", "-ec", script).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("on %s: %s: %v: %s", n.Name, script, err, out)
	}
	return string(out)
}

// onHub runs commands where the nodes' cables end.
func (w *world) onHub(script string) (out []byte, err error) {
	_ = w.Outside(func() error {
		out, err = exec.Command("sh", "-ec", script).CombinedOutput()
		return err
	})
	return out, err
}

// containerOf finds the container of a task.
func (w *world) containerOf(t *testing.T, task *pb.Task) (found container) {
	t.Helper()
	await(t, "container of task "+task.Id, patience, func() error {
		for _, n := range w.Nodes() {
			if c, ok := containers(n)[task.Id]; ok {
				found = c
				return nil
			}
		}
		return errors.New("no process")
	})
	return found
}

// fixture is a service behind a virtual address and a published port, and a
// client on each node that does nothing but wait to be used.
type fixture struct {
	*world
	name, network string
	port          int
	replicas      int
	callers       []container // by node
	// networkID is as the nodes know it.
	networkID string
}

// fixture makes them; they are removed with the test.
func (w *world) fixture(t *testing.T, f fixture, flags ...string) *fixture {
	t.Helper()
	f.world = w
	n := w.Nodes()[0]
	w.network(t, f.network, flags...)
	f.networkID = ctl(t, n, "network", "inspect", "-f", "{{.ID}}", f.network)
	w.create(t, n, service{name: f.name, replicas: f.replicas, flags: []string{"--network", f.network,
		"--publish", fmt.Sprintf("%d:8080", f.port), "--env", "QUIET=1"}})
	w.create(t, n, service{name: f.name + "-caller", replicas: 5, global: true,
		flags: []string{"--network", f.network, "--stop-grace-period", "1s"}, command: []string{"sleep"}})
	if err := f.findCallers(t, n); err != nil {
		t.Fatal(err)
	}
	return &f
}

// findCallers finds the client on each node, which is another one after its node
// was down.
func (f *fixture) findCallers(t *testing.T, via *cluster.Node) error {
	t.Helper()
	tasks, err := via.AwaitRunning(t.Context(), f.name+"-caller", 5, time.Millisecond)
	if err != nil {
		return err
	}
	f.callers = make([]container, len(f.Nodes()))
	for i, n := range f.Nodes() {
		node, err := nodeOf(t.Context(), via, n.Name)
		if err != nil {
			return err
		}
		on := tasksOn(tasks, node.Id)
		if len(on) != 1 {
			return fmt.Errorf("%d callers on %s", len(on), n.Name)
		}
		c, ok := containers(n)[on[0].Id]
		if !ok {
			return fmt.Errorf("the caller on %s has no process", n.Name)
		}
		f.callers[i] = c
	}
	return nil
}

// caller is the client on a node.
func (f *fixture) caller(n *cluster.Node) container { return f.callers[slices.Index(f.Nodes(), n)] }

func (f *fixture) virtual() string { return fmt.Sprintf("http://%s:8080/", f.name) }

func (f *fixture) published(n *cluster.Node) string {
	return fmt.Sprintf("http://%s:%d/", n.Addr, f.port)
}

// awaitWhole waits until every client reaches every task of the service, by its
// address and through the virtual one, and every node answers on the port.
func (f *fixture) awaitWhole(t *testing.T, when string) {
	t.Helper()
	took := await(t, "all reach all "+when, patience, func() error { return f.whole(t) })
	t.Logf("all reach all %s after %v", when, took.Round(10*time.Millisecond))
}

func (f *fixture) whole(t *testing.T) error {
	n, err := f.manager()
	if err != nil {
		return err
	}
	tasks, err := n.AwaitRunning(t.Context(), f.name, f.replicas, time.Millisecond)
	if err != nil {
		return err
	}
	if err := f.findCallers(t, n); err != nil {
		return err
	}
	for i, caller := range f.callers {
		urls := []string{f.virtual()}
		for _, task := range tasks {
			urls = append(urls, fmt.Sprintf("http://%s:8080/", addressOn(t, task, 0)))
		}
		for _, url := range urls {
			if _, err := runBeside(caller, "load", url, "1", "1", "oneshot"); err != nil {
				return fmt.Errorf("from %s: %w", f.Nodes()[i].Name, err)
			}
		}
	}
	for _, n := range f.Nodes() {
		url := f.published(n)
		if out, err := f.outside(t, "load", url, strconv.Itoa(2*f.replicas), "2", "oneshot"); err != nil {
			return fmt.Errorf("from outside to %s: %w: %s", url, err, out)
		}
	}
	return nil
}

// traffic is what goes on during a fault.
type traffic struct {
	what  string
	loads []*running
	holds []*running
}

// traffic begins requests from a client through the virtual address and from
// outside through the published port of a node, over new connections and over
// one that lasts.
func (f *fixture) traffic(t *testing.T, from, entry *cluster.Node) *traffic {
	t.Helper()
	bin, err := sampleBinary()
	if err != nil {
		t.Fatal(err)
	}
	c := f.caller(from)
	tr := &traffic{
		what:  fmt.Sprintf("from %s and through %s", from.Name, entry.Name),
		loads: []*running{startBeside(t, c, endless(f.virtual(), "oneshot")...), f.loadOutside(t, f.published(entry), "oneshot")},
		holds: []*running{startBeside(t, c, "hold", f.virtual()), start(t, f.Outside, bin, "hold", f.published(entry))},
	}
	for _, h := range tr.holds {
		h.awaitOutput(t, "holding")
	}
	return tr
}

// end ends the traffic, of which nothing may have failed.
func (tr *traffic) end(t *testing.T) {
	t.Helper()
	for _, l := range tr.loads {
		out, _ := l.terminate(t)
		by, failed := counted(t, out)
		if failed != 0 || len(by) == 0 {
			t.Errorf("%s: %d requests failed:\n%s", tr.what, failed, out)
		}
	}
	for _, h := range tr.holds {
		if out, code := h.terminate(t); code != 0 || !strings.Contains(out, "held=") {
			t.Errorf("%s: a connection did not last: %s", tr.what, out)
		}
	}
}
