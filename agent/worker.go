package agent

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// stopSlack is what a stop may take beyond its grace period before others stop
// waiting for it.
const stopSlack = 10 * time.Second

// holdReason is shown while a returned node stops what was replaced meanwhile.
const holdReason = "waiting until this node has stopped what was replaced while it was away"

// A restarted node does not know whether its tasks were replaced meanwhile. It
// gives a manager this long to say so before it starts any on its own; those
// that run go on in any case.
const (
	restoreHold   = 5 * time.Second
	restoreReason = "waiting for a manager after a restart, 5 s at most"
)

// worker keeps one runner per task, as the assignments say.
type worker struct {
	agent *Agent
	gate  *task.Gate
	wg    sync.WaitGroup

	mu   sync.Mutex
	ctx  context.Context // of Run; set by restore
	have assignments
	// tasks with a runner, also forgotten ones that are being wiped.
	tasks    map[string]*entry
	platform *pb.Platform
	// hold is why nothing may start now, empty when it may; sets counts the
	// full sets, so that only the last one's stops end the hold.
	hold  string
	sets  int
	swept bool
}

// entry is a task with its runner. The spec stays known when the managers
// remove it together with the task: it says how to stop it.
type entry struct {
	runner *task.Runner
	spec   *pb.AssignedSpec
}

func newWorker(a *Agent) *worker {
	return &worker{agent: a, gate: task.NewGate(a.cfg.Parallel), have: newAssignments(), tasks: map[string]*entry{}}
}

// restore goes on with what was on disk. A status without its assignment is of
// a task that was forgotten and not yet wiped.
func (w *worker) restore(ctx context.Context, s saved) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ctx = ctx
	w.have = s.assignments
	w.tellNetwork()
	w.platform = w.agent.describe(ctx).GetPlatform()
	w.hold = restoreReason
	w.wg.Go(func() {
		select {
		case <-time.After(restoreHold):
			w.unhold(0)
		case <-ctx.Done():
		}
	})
	for id, st := range s.statuses {
		w.agent.statuses.restore(id, st)
	}
	for id := range s.statuses {
		if w.have.tasks[id] == nil {
			w.add(id)
		}
	}
	w.reconcile()
}

// wait returns when all runners have; they do when Run's ctx ends.
func (w *worker) wait() { w.wg.Wait() }

// replace takes a full set. What it does not want is stopped first, and nothing
// is started before that is done: the cluster has replaced it elsewhere while
// this node was away.
func (w *worker) replace(set *pb.AssignmentSet) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.have = newSet(set)
	if w.have.rest == 0 {
		w.tellNetwork()
	}
	stops, bound := w.stops()
	w.sets++
	w.hold = ""
	if len(stops) > 0 || !w.swept {
		w.hold = holdReason
		set := w.sets
		w.wg.Go(func() { w.release(set, stops, bound) })
	}
	w.reconcile()
	for id, t := range w.have.tasks {
		w.agent.statuses.compare(id, t.GetObservedState())
	}
}

// apply takes a diff, and tells whether it completed a full set. The network
// hears of it before a task can need that.
func (w *worker) apply(diff *pb.AssignmentDiff) (completed bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ofSet := w.have.rest > 0
	if err := w.have.apply(diff); err != nil {
		return false, err
	}
	completed = ofSet && w.have.rest == 0
	switch {
	case completed:
		w.tellNetwork()
	case !ofSet:
		w.tellNetworkChange(diff)
	}
	w.reconcile()
	return completed, nil
}

// tellNetwork hands the network all that it has to know. A set that comes in
// parts is told when it is complete: what is missing before is not gone.
func (w *worker) tellNetwork() {
	if n := w.agent.cfg.Network; n != nil {
		n.Replace(w.have.allForNetwork())
	}
}

func (w *worker) tellNetworkChange(diff *pb.AssignmentDiff) {
	put, remove := forNetwork(diff)
	if n := w.agent.cfg.Network; n != nil && len(put)+len(remove) > 0 {
		n.Change(put, remove)
	}
}

// networkItems are those that are the network's alone.
func (w *worker) networkItems() map[itemKey]*pb.Assignment {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.have.network)
}

// newSession makes sure that diffs follow on a full set of the same session.
func (w *worker) newSession() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.have.sequence = 0
}

// stops returns what has to end, and how long that may take.
func (w *worker) stops() (stopped []<-chan struct{}, bound time.Duration) {
	bound = task.DefaultGrace // of leftovers
	for id, e := range w.tasks {
		if t := w.have.tasks[id]; t != nil && t.GetDesiredState() <= pb.TaskState_TASK_STATE_RUNNING {
			continue
		}
		select {
		case <-e.runner.Stopped():
		default:
			stopped = append(stopped, e.runner.Stopped())
			bound = max(bound, task.Grace(e.spec.GetTask()))
		}
	}
	return stopped, bound + stopSlack
}

// release ends the hold when the stops of a full set are done or overdue.
func (w *worker) release(set int, stops []<-chan struct{}, bound time.Duration) {
	ctx, cancel := context.WithTimeout(w.ctx, bound)
	defer cancel()
	w.sweep(ctx)
	for _, stopped := range stops {
		select {
		case <-stopped:
		case <-ctx.Done():
		}
	}
	w.unhold(set)
}

// unhold lets tasks start, unless a later full set holds them.
func (w *worker) unhold(set int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sets == set && w.ctx.Err() == nil {
		w.hold = ""
		w.reconcile()
	}
}

// reconcile gives every runner its input, and every new task a runner.
func (w *worker) reconcile() {
	for _, id := range w.have.taskIDs() {
		if w.tasks[id] == nil {
			w.add(id)
		}
	}
	for id, e := range w.tasks {
		if spec := w.have.spec(w.have.tasks[id]); spec != nil {
			e.spec = spec
		}
		e.runner.Set(w.input(id))
	}
}

func (w *worker) input(id string) task.Input {
	t := w.have.tasks[id]
	if t == nil {
		return task.Input{Desired: pb.TaskState_TASK_STATE_REMOVE, Forgotten: true}
	}
	return task.Input{Desired: t.GetDesiredState(), Missing: w.have.missing(t), Hold: w.hold}
}

func (w *worker) add(id string) {
	st := w.agent.statuses.get(id)
	if st == nil {
		st = &pb.TaskStatus{State: max(pb.TaskState_TASK_STATE_ASSIGNED, w.have.tasks[id].GetObservedState())}
	}
	e := &entry{spec: w.have.spec(w.have.tasks[id])}
	e.runner = task.NewRunner(task.Config{
		ID:      id,
		Runtime: w.agent.cfg.Runtime,
		Gate:    w.gate,
		Status:  st,
		Spec:    func() *pb.TaskSpec { return w.spec(e).GetTask() },
		Wanted:  func() (*task.Wanted, error) { return w.wanted(id) },
		Report:  func(st *pb.TaskStatus) { w.agent.report(id, st) },
		Logger:  w.agent.cfg.Logger,
	}, w.input(id))
	w.tasks[id] = e
	ctx := w.ctx
	w.wg.Go(func() {
		if e.runner.Run(ctx) == nil {
			w.forget(id)
		}
	})
}

func (w *worker) spec(e *entry) *pb.AssignedSpec {
	w.mu.Lock()
	defer w.mu.Unlock()
	return e.spec
}

// forget drops a task of which nothing is left.
func (w *worker) forget(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.tasks, id)
	w.agent.statuses.drop(id)
	if w.have.tasks[id] != nil {
		w.add(id) // assigned again in the meantime
	}
}

// wanted collects what Prepare needs, templates expanded.
func (w *worker) wanted(id string) (*task.Wanted, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.have.tasks[id]
	spec := w.have.spec(t)
	if spec == nil {
		return nil, fault.New(fault.Unavailable, "task %s: its spec is not here", id)
	}
	wanted := &task.Wanted{
		ID: id, ServiceID: t.GetServiceId(), ServiceName: spec.GetServiceName(), Slot: t.GetSlot(),
		NodeID: w.agent.cfg.NodeID, NodeName: w.agent.cfg.NodeName, Addresses: t.GetAddresses(),
		Secrets: map[string]*pb.Secret{}, Configs: map[string]*pb.Config{},
	}
	for _, ref := range spec.GetTask().GetContainer().GetSecrets() {
		wanted.Secrets[ref.GetId()] = w.have.secrets[ref.GetId()]
	}
	for _, ref := range spec.GetTask().GetContainer().GetConfigs() {
		wanted.Configs[ref.GetId()] = w.have.configs[ref.GetId()]
	}
	var err error
	wanted.Spec, err = task.Expand(spec.GetTask(), task.NewVars(wanted, spec.GetServiceLabels(), w.platform))
	return wanted, err
}

// assigned tells whether a task is this node's.
func (w *worker) assigned(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.have.tasks[id] != nil
}

// sweep removes, once and after a full set, the containers that no assignment
// knows.
func (w *worker) sweep(ctx context.Context) {
	w.mu.Lock()
	done := w.swept
	w.mu.Unlock()
	if done {
		return
	}
	ids, err := w.agent.cfg.Runtime.List(ctx)
	if err != nil {
		w.agent.cfg.Logger.Warn("cannot list containers", "error", err)
		return
	}
	w.mu.Lock()
	leftovers := slices.DeleteFunc(ids, func(id string) bool { return w.tasks[id] != nil })
	w.swept = true
	w.mu.Unlock()
	if err := destroy(ctx, w.agent.cfg.Runtime, leftovers); err != nil {
		w.agent.cfg.Logger.Warn("cannot remove leftover containers", "error", err)
	}
}
