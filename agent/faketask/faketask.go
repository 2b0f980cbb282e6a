// Package faketask runs tasks that are nothing but entries in a map, for tests
// and the simulated cluster. It keeps to the contract of task.Runtime (package
// tasktest checks it), fails on demand, and remembers what ran when, so that a
// checker can prove what must never happen.
package faketask

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Behaviour is how the tasks of one image behave. The zero value starts at
// once, runs for ever, and ends at once when told to stop.
type Behaviour struct {
	PrepareFor time.Duration
	StartFor   time.Duration
	// Progress messages of Prepare, spread evenly over PrepareFor.
	Progress []string
	// PrepareErr and StartErr fail the nth try, from 1; nil or a nil result succeeds.
	PrepareErr func(try int) error
	StartErr   func(try int) error
	// CannotRun ends the task instead of starting it, with ExitCode and this error.
	CannotRun string
	// RunFor is the time until it ends by itself; 0 is never.
	RunFor    time.Duration
	ExitCode  int32
	OOMKilled bool
	// StopFor is the time from stop signal to end; beyond the grace period it
	// is killed.
	StopFor time.Duration
	// Health is the check of the image; ProbeErr fails the nth test, from 1, and
	// its text is the test's output. A test takes ProbeFor.
	Health   *pb.HealthConfig
	ProbeErr func(try int) error
	ProbeFor time.Duration
	// Log lines written at the start.
	Log []string
}

// Run is one stay of a process in the world.
type Run struct {
	TaskID, ServiceID, NodeID string
	Slot                      uint64
	Started                   time.Time
	// Ended is zero while it runs.
	Ended    time.Time
	ExitCode int32
}

// Call is one call of a method, for tests of order.
type Call struct {
	Method, TaskID string
}

// Runtime is a task.Runtime in memory. It outlives the agents that use it, as
// containerd does.
type Runtime struct {
	behave func(*task.Wanted) Behaviour

	mu         sync.Mutex
	containers map[string]*container
	logs       map[string][]*pb.LogEntry
	tries      map[string]int
	runs       []*Run
	calls      []Call
	prepared   map[string]*task.Wanted
	followers  int
	measured   int
}

type container struct {
	wanted    *task.Wanted
	behaviour Behaviour
	obs       task.Observation
	run       *Run
	timer     *time.Timer
	// open is whether new connections are let to it.
	open bool
	// ended is closed when the process has ended.
	ended chan struct{}
}

// New makes a runtime; behave may be nil.
func New(behave func(*task.Wanted) Behaviour) *Runtime {
	if behave == nil {
		behave = func(*task.Wanted) Behaviour { return Behaviour{} }
	}
	return &Runtime{
		behave:     behave,
		containers: map[string]*container{},
		logs:       map[string][]*pb.LogEntry{},
		tries:      map[string]int{},
		prepared:   map[string]*task.Wanted{},
	}
}

// ByImage makes a behave function for New of a table.
func ByImage(images map[string]Behaviour) func(*task.Wanted) Behaviour {
	return func(w *task.Wanted) Behaviour { return images[w.Spec.GetContainer().GetImage()] }
}

// Prepare implements task.Runtime.
func (r *Runtime) Prepare(ctx context.Context, w *task.Wanted, progress func(string)) error {
	b := r.behave(w)
	if r.begin("prepare", w.ID) != nil {
		return nil
	}
	for _, message := range b.Progress {
		progress(message)
		if err := sleep(ctx, b.PrepareFor/time.Duration(len(b.Progress))); err != nil {
			return err
		}
	}
	if len(b.Progress) == 0 {
		if err := sleep(ctx, b.PrepareFor); err != nil {
			return err
		}
	}
	if err := r.try("prepare", w.ID, b.PrepareErr); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.containers[w.ID] == nil {
		r.prepared[w.ID] = w
		r.containers[w.ID] = &container{
			wanted:    w,
			behaviour: b,
			obs: task.Observation{
				Phase: task.Created, Address: "172.30.0.2", ImageDigest: "sha256:fake", Ports: w.Spec.GetPorts(),
				Health: task.HealthOf(b.Health, w.Spec.GetContainer().GetHealth()),
			},
			ended: make(chan struct{}),
		}
	}
	return nil
}

// Start implements task.Runtime.
func (r *Runtime) Start(ctx context.Context, id string) error {
	c := r.begin("start", id)
	if c == nil {
		return notFound(id)
	}
	if err := sleep(ctx, c.behaviour.StartFor); err != nil {
		return err
	}
	if err := r.try("start", id, c.behaviour.StartErr); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case c.obs.Phase == task.Running:
		return nil
	case c.obs.Phase == task.Exited:
		return fault.New(fault.State, "start task %s: it has ended", id)
	case c.behaviour.CannotRun != "":
		r.end(c, task.Observation{ExitCode: c.behaviour.ExitCode, Error: c.behaviour.CannotRun})
		return nil
	}
	now := time.Now()
	c.open = c.obs.Health == nil
	c.obs.Phase, c.obs.Pid = task.Running, uint32(1000+len(r.runs))
	c.run = &Run{TaskID: id, ServiceID: c.wanted.ServiceID, NodeID: c.wanted.NodeID, Slot: c.wanted.Slot, Started: now}
	r.runs = append(r.runs, c.run)
	for _, line := range c.behaviour.Log {
		r.write(id, now, line)
	}
	if c.behaviour.RunFor > 0 {
		c.timer = time.AfterFunc(c.behaviour.RunFor, func() { r.exit(c, c.behaviour.ExitCode) })
	}
	return nil
}

// Inspect implements task.Runtime.
func (r *Runtime) Inspect(ctx context.Context, id string) (task.Observation, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		return c.obs, ctx.Err()
	}
	return task.Observation{}, ctx.Err()
}

// Wait implements task.Runtime.
func (r *Runtime) Wait(ctx context.Context, id string) (task.Observation, error) {
	c := r.begin("wait", id)
	if c == nil {
		return task.Observation{}, nil
	}
	select {
	case <-c.ended:
		return r.Inspect(ctx, id)
	case <-ctx.Done():
		return task.Observation{}, ctx.Err()
	}
}

// Stop implements task.Runtime.
func (r *Runtime) Stop(ctx context.Context, id, _ string, grace time.Duration) error {
	c := r.begin("stop", id)
	if c == nil || r.phase(c) != task.Running {
		return nil
	}
	code := int32(143)
	if c.behaviour.StopFor > grace {
		code = 137
	}
	select {
	case <-c.ended:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(min(c.behaviour.StopFor, grace)):
		r.exit(c, code)
	}
	return nil
}

// Remove implements task.Runtime.
func (r *Runtime) Remove(_ context.Context, id string, keepLog bool) error {
	c := r.begin("remove", id)
	if c != nil {
		r.exit(c, 137)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, id)
	if !keepLog {
		delete(r.logs, id)
	}
	return nil
}

// List implements task.Runtime.
func (r *Runtime) List(context.Context) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.containers)), nil
}

// Exit ends a task's process as if by itself.
func (r *Runtime) Exit(id string, code int32) error {
	r.mu.Lock()
	c := r.containers[id]
	r.mu.Unlock()
	if c == nil {
		return notFound(id)
	}
	r.exit(c, code)
	return nil
}

// PowerOff ends all processes and loses all containers, as a host does that
// loses power with its containerd's disk.
func (r *Runtime) PowerOff() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		r.end(c, task.Observation{ExitCode: 255, Error: "the host lost power"})
	}
	clear(r.containers)
}

// History returns what ran and runs, in the order of starts.
func (r *Runtime) History() []Run {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Run, len(r.runs))
	for i, run := range r.runs {
		out[i] = *run
	}
	return out
}

// Calls returns all calls that change something, in order.
func (r *Runtime) Calls() []Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// Wanted returns what a task was last prepared from, nil if it never was.
func (r *Runtime) Wanted(id string) *task.Wanted {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.prepared[id]
}

// Followers counts those who follow logs.
func (r *Runtime) Followers() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.followers
}

func (r *Runtime) follow(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.followers += n
}

// begin notes a call and returns the container, nil when there is none.
func (r *Runtime) begin(method, id string) *container {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, Call{Method: method, TaskID: id})
	return r.containers[id]
}

func (r *Runtime) try(method, id string, fail func(int) error) error {
	r.mu.Lock()
	r.tries[method+id]++
	n := r.tries[method+id]
	r.mu.Unlock()
	if fail == nil {
		return nil
	}
	return fail(n)
}

func (r *Runtime) phase(c *container) task.Phase {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.obs.Phase
}

func (r *Runtime) exit(c *container, code int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.obs.Phase == task.Running {
		r.end(c, task.Observation{ExitCode: code, OOMKilled: c.behaviour.OOMKilled && code == c.behaviour.ExitCode})
	}
}

func (r *Runtime) end(c *container, how task.Observation) {
	if c.obs.Phase == task.Exited {
		return
	}
	now := time.Now()
	c.obs.Phase, c.obs.Pid, c.obs.At = task.Exited, 0, now
	c.obs.ExitCode, c.obs.OOMKilled, c.obs.Error = how.ExitCode, how.OOMKilled, how.Error
	if c.run != nil {
		c.run.Ended, c.run.ExitCode = now, how.ExitCode
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	close(c.ended)
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func notFound(id string) error { return fault.New(fault.NotFound, "task %s: has no container", id) }

// Overlaps finds tasks of one slot that ran at the same time, with what fenced
// allows left out: the time of each pair's overlap is judged by the caller.
// Global tasks (slot 0) are judged per node.
func Overlaps(history []Run, now time.Time) []Overlap {
	type slot struct {
		service, node string
		slot          uint64
	}
	bySlot := map[slot][]Run{}
	for _, run := range history {
		key := slot{service: run.ServiceID, slot: run.Slot}
		if run.Slot == 0 {
			key.node = run.NodeID
		}
		bySlot[key] = append(bySlot[key], run)
	}
	var out []Overlap
	for _, runs := range bySlot {
		slices.SortFunc(runs, func(a, b Run) int { return a.Started.Compare(b.Started) })
		for i, a := range runs {
			for _, b := range runs[i+1:] {
				if until := earlier(a.end(now), b.end(now)); b.Started.Before(until) {
					out = append(out, Overlap{First: a, Second: b, From: b.Started, Until: until})
				}
			}
		}
	}
	return out
}

// Overlap is two tasks of one slot that ran at the same time.
type Overlap struct {
	First, Second Run
	From, Until   time.Time
}

// String tells what a checker's report needs.
func (o Overlap) String() string {
	return fmt.Sprintf("service %s slot %d: %s on %s and %s on %s for %v from %s", o.First.ServiceID, o.First.Slot,
		o.First.TaskID, o.First.NodeID, o.Second.TaskID, o.Second.NodeID, o.Until.Sub(o.From), o.From.Format(time.RFC3339Nano))
}

func (r Run) end(now time.Time) time.Time {
	if r.Ended.IsZero() {
		return now
	}
	return r.Ended
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// ErrRegistry is a failure that a retry mends, for tables of behaviour.
var ErrRegistry = errors.New("pull image: registry does not answer")
