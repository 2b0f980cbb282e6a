package integration_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

// patience is how long a busy machine may take for one step.
const patience = 60 * time.Second

// service is what create makes.
type service struct {
	name  string
	flags []string
	image string // the sample if empty
	// command replaces the image's "serve".
	command []string
	// replicas as create waits for them, 1 if not given. A global service
	// says how many nodes it is for.
	replicas int
	global   bool
}

// create makes a service, waits until its tasks run, and
// has it removed with the test.
func (w *world) create(t *testing.T, via *cluster.Node, s service) []*pb.Task {
	t.Helper()
	s.replicas = max(s.replicas, 1)
	w.submit(t, via, s)
	tasks, err := via.AwaitRunning(t.Context(), s.name, s.replicas, patience)
	if err != nil {
		t.Fatal(err)
	}
	return tasks
}

// submit is create without waiting.
func (w *world) submit(t *testing.T, via *cluster.Node, s service) {
	t.Helper()
	mode := []string{"--replicas", fmt.Sprint(s.replicas)}
	if s.global {
		mode = []string{"--mode", "global"}
	}
	args := append([]string{"service", "create", "--name", s.name, "--detach",
		"--env", "SLOT={{.Service.Name}}.{{.Task.Slot}}", "--restart-delay", "100ms"}, mode...)
	args = append(append(args, s.flags...), cmp.Or(s.image, sampleV1))
	ctl(t, via, append(args, s.command...)...)
	w.drop(t, s.name)
}

// drop has a service removed with the test, and waits until nobody sees it.
func (w *world) drop(t *testing.T, name string) {
	t.Helper()
	t.Cleanup(func() {
		w.removeService(t, name)
		if t.Failed() {
			return
		}
		// The test's own context has ended by now.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, n := range w.Nodes()[:3] {
			err := cluster.Await(ctx, patience, func() error {
				if res, err := n.Ctl(ctx, "service", "inspect", name); res.Code != 3 {
					return fmt.Errorf("%s knows service %s: %v", n.Name, name, err)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// names returns the managers that lead and follow, and a worker.
func (w *world) names(t *testing.T) (leader, follower, worker *cluster.Node) {
	t.Helper()
	leader, err := w.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range w.Nodes()[:3] {
		if n != leader {
			follower = n
		}
	}
	return leader, follower, w.Nodes()[3]
}

// node finds a node by its name or, as tasks know it, by its id.
func (w *world) node(t *testing.T, ref string) *cluster.Node {
	t.Helper()
	for _, n := range w.Nodes() {
		if n.Name == ref {
			return n
		}
		if info, err := n.Info(t.Context()); err == nil && info.NodeId == ref {
			return n
		}
	}
	t.Fatalf("no node is %q", ref)
	return nil
}

// try runs minictl, whatever comes of it.
func try(t *testing.T, n *cluster.Node, args ...string) cluster.Result {
	t.Helper()
	return tryInput(t, n, "", args...)
}

// tryInput is try with something on standard input.
func tryInput(t *testing.T, n *cluster.Node, input string, args ...string) cluster.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := n.CtlInput(ctx, input, args...)
	if ctx.Err() != nil {
		t.Fatalf("minictl %s did not end: %v", strings.Join(args, " "), err)
	}
	return res
}

// undo runs minictl on a manager when the test ends, however it ends.
func (w *world) undo(t *testing.T, args ...string) {
	t.Helper()
	t.Cleanup(func() {
		// The test's own context has ended by now.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		n, err := w.manager()
		if err == nil {
			_, err = n.Ctl(ctx, args...)
		}
		if err != nil && !t.Failed() {
			t.Errorf("undo: %v", err)
		}
	})
}

// says fails the test where a text lacks one of the words.
func says(t *testing.T, what, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%s does not say %q:\n%s", what, word, text)
		}
	}
}

// inTask runs the sample in a task and returns what it prints.
func inTask(t *testing.T, n *cluster.Node, task string, args ...string) string {
	t.Helper()
	return ctl(t, n, append([]string{"exec", task, "--", "sample"}, args...)...)
}

// running is a minictl that goes on.
type running struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu             sync.Mutex
	stdout, stderr bytes.Buffer
}

// stream is one of its outputs.
type stream struct {
	r   *running
	buf *bytes.Buffer
}

func (s stream) Write(p []byte) (int, error) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return s.buf.Write(p)
}

// background starts minictl; it ends with the test.
func background(t *testing.T, n *cluster.Node, args ...string) *running {
	t.Helper()
	bin, err := filepath.Abs("../bin/minictl")
	if err != nil {
		t.Fatal(err)
	}
	r := &running{cmd: exec.Command(bin, append([]string{"-H", n.Socket()}, args...)...), done: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = stream{r, &r.stdout}, stream{r, &r.stderr}
	if err := n.Do(r.cmd.Start); err != nil {
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

// output is what it printed so far.
func (r *running) output() (stdout, stderr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stdout.String(), r.stderr.String()
}

// awaitOutput waits until it printed all of the words on one of its outputs.
func (r *running) awaitOutput(t *testing.T, words ...string) {
	t.Helper()
	await(t, "output", patience, func() error {
		stdout, stderr := r.output()
		for _, word := range words {
			if !strings.Contains(stdout+stderr, word) {
				return fmt.Errorf("%q is not in:\n%s%s", word, stdout, stderr)
			}
		}
		return nil
	})
}

// interrupt is Ctrl-C. It returns the exit code.
func (r *running) interrupt(t *testing.T) int {
	t.Helper()
	r.cmd.Process.Signal(unix.SIGINT)
	return r.wait(t)
}

func (r *running) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-r.done:
		return r.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("minictl %v did not end", r.cmd.Args)
		return 0
	}
}

// awaitGone waits until a container's process has ended.
func awaitGone(t *testing.T, c container) time.Duration {
	t.Helper()
	return await(t, "container of "+c.slot+" ends", patience, func() error {
		if startOf(c.pid) == c.started {
			return errors.New("it runs")
		}
		return nil
	})
}

// pick returns the only container of a service.
func (w *world) pick(t *testing.T, service string) (only container) {
	t.Helper()
	await(t, "container of "+service, patience, func() error {
		all := w.allContainers(service)
		for _, only = range all {
			if len(all) == 1 {
				return nil
			}
		}
		return fmt.Errorf("%d containers of %s run, not one", len(all), service)
	})
	return only
}
