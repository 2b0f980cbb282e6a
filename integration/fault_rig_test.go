package integration_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/client"
	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

// container is a process of the sample image that runs, as the kernel knows it:
// what minid and containerd say is not asked.
type container struct {
	task string
	pid  int
	// started is in clock ticks since the host's boot; pid and started name a
	// process for good.
	started uint64
	// slot is SERVICE.SLOT, if the service was made by makeService.
	slot string
}

// containers lists a node's running containers by task.
func containers(n *cluster.Node) map[string]container {
	found := map[string]container{}
	files, _ := filepath.Glob(filepath.Join(n.RunDir(), "containerd/state/io.containerd.runtime.v2.task/minid/*/init.pid"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			continue
		}
		// A container that was created and not started is still runc's.
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || strings.TrimSpace(string(comm)) != "sample" {
			continue
		}
		c := container{task: filepath.Base(filepath.Dir(file)), pid: pid, started: startOf(pid), slot: slotOf(pid)}
		if c.started != 0 {
			found[c.task] = c
		}
	}
	return found
}

// startOf returns when a living process began, 0 if there is none.
func startOf(pid int) uint64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0
	}
	started, _ := strconv.ParseUint(fields[19], 10, 64)
	return started
}

func slotOf(pid int) string {
	env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	for _, kv := range strings.Split(string(env), "\x00") {
		if slot, ok := strings.CutPrefix(kv, "SLOT="); ok {
			return slot
		}
	}
	return ""
}

// allContainers lists the containers of a service on all nodes by task.
func (w *world) allContainers(service string) map[string]container {
	all := map[string]container{}
	for _, n := range w.Nodes() {
		for id, c := range containers(n) {
			if strings.HasPrefix(c.slot, service+".") {
				all[id] = c
			}
		}
	}
	return all
}

// makeService creates a service of the sample image, waits until it runs, and
// has it removed with the test. Its containers carry their slot.
func (w *world) makeService(t *testing.T, via *cluster.Node, name string, replicas int, flags ...string) []*pb.Task {
	t.Helper()
	args := append([]string{"service", "create", "--name", name, "--replicas", strconv.Itoa(replicas), "--detach", "--quiet",
		"--env", "SLOT={{.Service.Name}}.{{.Task.Slot}}", "--restart-delay", "100ms", "--stop-grace-period", "2s"}, flags...)
	ctl(t, via, append(args, sampleV1, "sleep")...)
	t.Cleanup(func() { w.removeService(t, name) })
	tasks, err := via.AwaitRunning(t.Context(), name, replicas, 90*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return tasks
}

// removeService ends a service and waits until its containers are gone.
func (w *world) removeService(t *testing.T, name string) {
	t.Helper()
	// The test's own context has ended in its clean-up.
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	n, err := w.manager()
	if err == nil {
		err = cluster.Await(ctx, 20*time.Second, func() error {
			_, err := n.Ctl(ctx, "service", "rm", name)
			return err
		})
	}
	if err == nil {
		err = cluster.Await(ctx, 30*time.Second, func() error {
			if left := w.allContainers(name); len(left) > 0 {
				return fmt.Errorf("containers of %s are left: %v", name, left)
			}
			return nil
		})
	}
	if err == nil {
		err = cluster.Await(ctx, 30*time.Second, func() error {
			if res, err := n.Ctl(ctx, "service", "inspect", name); err == nil || res.Code != 3 {
				return fmt.Errorf("service %s is still there: %w", name, err)
			}
			return nil
		})
	}
	if err != nil && !t.Failed() {
		t.Errorf("remove service %s: %v", name, err)
	}
}

// ctl runs minictl and fails the test if that fails.
func ctl(t *testing.T, n *cluster.Node, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	res, err := n.Ctl(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(res.Stdout)
}

// refused runs minictl, which must fail with the code and say the words.
func refused(t *testing.T, n *cluster.Node, code int, words []string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	res, err := n.Ctl(ctx, args...)
	if err == nil {
		t.Errorf("minictl %s succeeded: %s", strings.Join(args, " "), res.Stdout)
		return
	}
	if res.Code != code {
		t.Errorf("minictl %s: exit code %d, not %d: %s", strings.Join(args, " "), res.Code, code, res.Stderr)
	}
	for _, word := range words {
		if !strings.Contains(res.Stderr, word) {
			t.Errorf("minictl %s does not say %q: %s", strings.Join(args, " "), word, res.Stderr)
		}
	}
}

// await fails the test when the condition does not come true, and returns how
// long it took.
func await(t *testing.T, what string, within time.Duration, ask func() error) time.Duration {
	t.Helper()
	began := time.Now()
	if err := cluster.Await(t.Context(), within, ask); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return time.Since(began)
}

// api opens a client that is closed with the test.
func api(t *testing.T, n *cluster.Node) *client.Client {
	t.Helper()
	c, err := n.API()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// nodeOf finds a node's object by its name, through a manager.
func nodeOf(ctx context.Context, via *cluster.Node, name string) (*pb.Node, error) {
	c, err := via.API()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Control.GetNode(ctx, &pb.GetRequest{Ref: name})
}

// idOf returns a node's id.
func idOf(t *testing.T, via *cluster.Node, name string) string {
	t.Helper()
	node, err := nodeOf(t.Context(), via, name)
	if err != nil {
		t.Fatal(err)
	}
	return node.Id
}

// awaitNode waits until a manager sees a node in a state.
func awaitNode(t *testing.T, via *cluster.Node, name string, want pb.NodeState, within time.Duration) {
	t.Helper()
	await(t, name+" "+want.String(), within, func() error {
		node, err := nodeOf(t.Context(), via, name)
		if err != nil {
			return err
		}
		if got := node.GetStatus().GetState(); got != want {
			return fmt.Errorf("%s is %v", name, got)
		}
		return nil
	})
}

// awaitWrite waits until a write through a manager is accepted, and returns how
// long that took.
func awaitWrite(t *testing.T, via *cluster.Node, within time.Duration) time.Duration {
	t.Helper()
	c := api(t, via)
	return await(t, "write through "+via.Name, within, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		config, err := c.Control.CreateConfig(ctx, &pb.CreateConfigRequest{Spec: &pb.ConfigSpec{Name: "probe", Data: []byte("x")}})
		if err != nil && !strings.Contains(err.Error(), "exists") {
			return err
		}
		_, err = c.Control.RemoveConfig(t.Context(), &pb.RemoveRequest{Ref: cmp.Or(config.GetId(), "probe")})
		return err
	})
}

// awaitReplaced waits until a service runs whole without the tasks of a node.
func awaitReplaced(t *testing.T, via *cluster.Node, service string, want int, lost string, within time.Duration) []*pb.Task {
	t.Helper()
	var tasks []*pb.Task
	await(t, service+" whole again", within, func() (err error) {
		if tasks, err = via.AwaitRunning(t.Context(), service, want, time.Millisecond); err != nil {
			return err
		}
		if slices.ContainsFunc(tasks, func(task *pb.Task) bool { return task.NodeId == lost }) {
			return errors.New("a task is still on the lost node")
		}
		return nil
	})
	return tasks
}

func others(w *world, not *cluster.Node) []*cluster.Node {
	return slices.DeleteFunc(w.Nodes()[:3], func(n *cluster.Node) bool { return n == not })
}

func tasksOn(tasks []*pb.Task, nodeID string) []*pb.Task {
	return slices.DeleteFunc(slices.Clone(tasks), func(task *pb.Task) bool { return task.NodeId != nodeID })
}

func ids(tasks []*pb.Task) []string {
	var list []string
	for _, task := range tasks {
		list = append(list, task.Id)
	}
	slices.Sort(list)
	return list
}

// sameContainers compares what runs with what ran before a control-plane event.
func sameContainers(t *testing.T, when string, before, after map[string]container) {
	t.Helper()
	for id, was := range before {
		if is, ok := after[id]; !ok || is != was {
			t.Errorf("%s: container of task %s (%s) was pid %d, is pid %d", when, id, was.slot, was.pid, is.pid)
		}
	}
	for id, is := range after {
		if _, ok := before[id]; !ok {
			t.Errorf("%s: task %s (%s) is new", when, id, is.slot)
		}
	}
}

// witness looks at the processes of a service all the time and remembers when
// two of one slot ran at once.
type witness struct {
	stop    context.CancelFunc
	stopped sync.WaitGroup
	mu      sync.Mutex
	looks   int
	doubles map[string]double
}

// double is a slot's overlap.
type double struct {
	slot        string
	first, last time.Time
}

func (w *world) witness(t *testing.T, service string) *witness {
	ctx, stop := context.WithCancel(t.Context())
	s := &witness{stop: stop, doubles: map[string]double{}}
	s.stopped.Go(func() {
		for ctx.Err() == nil {
			s.look(w.allContainers(service), time.Now())
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() { s.end() })
	return s
}

func (s *witness) look(all map[string]container, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	bySlot := map[string][]string{}
	for id, c := range all {
		bySlot[c.slot] = append(bySlot[c.slot], id)
	}
	for slot, tasks := range bySlot {
		if len(tasks) < 2 {
			continue
		}
		slices.Sort(tasks)
		key := strings.Join(tasks, "+")
		d, ok := s.doubles[key]
		if !ok {
			d = double{slot: slot, first: now}
		}
		d.last = now
		s.doubles[key] = d
	}
}

// end stops looking and returns the overlaps.
func (s *witness) end() []double {
	s.stop()
	s.stopped.Wait()
	return slices.Collect(maps.Values(s.doubles))
}

// none requires that no slot was ever doubled.
func (s *witness) none(t *testing.T) {
	t.Helper()
	for _, d := range s.end() {
		t.Errorf("two tasks ran in slot %s for %v", d.slot, d.last.Sub(d.first))
	}
	t.Logf("no double in %d looks", s.looks)
}

// noneAfter requires that no slot was doubled after the fence.
func (s *witness) noneAfter(t *testing.T, fence time.Time) {
	t.Helper()
	var past time.Duration
	for _, d := range s.end() {
		past = max(past, d.last.Sub(fence))
	}
	if past > 0 {
		t.Errorf("two tasks ran in one slot until %v after the fence", past)
	}
}

func sigkill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
