package orchestrator

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	// settle is how long changes are collected before they are looked at.
	settle = 2 * time.Millisecond
	// retry is when a service is looked at again after something was proposed
	// for it, should nothing come of that.
	retry = 500 * time.Millisecond
)

// Config is what an Orchestrator needs.
type Config struct {
	State   *store.State
	Propose Proposer
	// Fits is the scheduler's answer when nil.
	Fits Fits
	// NewID names new tasks.
	NewID  func() string
	Logger *slog.Logger
}

// Orchestrator reconciles all services with their tasks while it runs.
type Orchestrator struct {
	cfg Config

	// Owned by Run.
	services map[string]*tracked
	dirty    map[string]*tracked
	global   map[string]*tracked
	timers   alarms[string]
	joins
}

// tracked is a service, and where its working set may be behind the store.
type tracked struct {
	id     string
	set    workingSet
	places map[place]bool
	at     time.Time // when its timer goes off; zero is never
}

// workingSet is what is kept of one service between its reconciles: the set of
// a service that runs for good, or the jobSet of a job.
type workingSet interface {
	// turnTo takes note of the service and the nodes as they are now.
	turnTo(service *pb.Service, nodes Nodes)
	// load replaces all tasks, put those of one place.
	load(tasks []*pb.Task)
	put(p place, tasks []*pb.Task)
	reconcile(now time.Time) Plan
}

func newWorkingSet(spec *pb.ServiceSpec, fits Fits, newID func() string) workingSet {
	if store.IsJob(spec) {
		return newJobSet(fits, newID)
	}
	return newSet(fits, newID)
}

// New makes an orchestrator. Only Fits may be left out.
func New(cfg Config) *Orchestrator { return &Orchestrator{cfg: cfg} }

// Run reconciles until ctx ends, and returns nil then. It may be run again,
// for the next term of leadership.
func (o *Orchestrator) Run(ctx context.Context) error {
	kinds := []pb.Kind{pb.Kind_KIND_SERVICE, pb.Kind_KIND_TASK, pb.Kind_KIND_NODE}
	err := o.cfg.State.Follow(ctx, func() { o.cfg.Logger.Warn("orchestrator fell behind the store, starts over") }, kinds, o.session)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// session starts with everything dirty.
func (o *Orchestrator) session(ctx context.Context, view store.View, changes <-chan []store.Change) error {
	o.services, o.dirty, o.global, o.timers = map[string]*tracked{}, map[string]*tracked{}, map[string]*tracked{}, nil
	o.joins = joins{balancing: map[string]*tracked{}}
	for s := range view.Services() {
		o.track(s.Id)
	}
	for n := range view.Nodes() {
		o.noteJoin(n)
	}
	for {
		o.reconcile(ctx)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-o.nextTimer():
		case batch := <-changes:
			o.note(batch)
			o.collect(ctx, changes)
		}
	}
}

// nextTimer fires when a service is due, never if none waits.
func (o *Orchestrator) nextTimer() <-chan time.Time {
	at := o.timers.next()
	if at.IsZero() {
		return nil
	}
	return time.After(time.Until(at))
}

// collect takes in what else happens at about the same time.
func (o *Orchestrator) collect(ctx context.Context, changes <-chan []store.Change) {
	end := time.After(settle)
	for {
		select {
		case <-ctx.Done():
			return
		case <-end:
			return
		case batch := <-changes:
			o.note(batch)
		}
	}
}

// track returns the service's entry and marks it dirty.
func (o *Orchestrator) track(id string) *tracked {
	t := o.services[id]
	if t == nil {
		t = &tracked{id: id, places: map[place]bool{}}
		o.services[id] = t
	}
	o.dirty[id] = t
	return t
}

// note marks what changes touch.
func (o *Orchestrator) note(changes []store.Change) {
	for _, c := range changes {
		switch c.Kind {
		case pb.Kind_KIND_SERVICE:
			o.track(c.ID)
		case pb.Kind_KIND_TASK:
			for _, object := range [...]store.Object{c.Old, c.New} {
				if t, ok := object.(*pb.Task); ok && t != nil {
					o.track(t.ServiceId).places[placeOf(t)] = true
				}
			}
		case pb.Kind_KIND_NODE:
			o.noteNode(c)
		}
	}
}

// noteNode marks the slots that have tasks on a node, and the node's place in
// every global service.
func (o *Orchestrator) noteNode(c store.Change) {
	before, _ := c.Old.(*pb.Node)
	after, _ := c.New.(*pb.Node)
	if before != nil && after != nil && sameForTasks(before, after) {
		return
	}
	for t := range o.cfg.State.View().TasksByNode(c.ID) {
		o.track(t.ServiceId).places[placeOf(t)] = true
	}
	for id := range o.global {
		o.track(id).places[place{node: c.ID}] = true
	}
	o.noteSpread(after)
}

// reconcile brings every dirty or due service forward.
func (o *Orchestrator) reconcile(ctx context.Context) {
	now := time.Now()
	for _, due := range o.timers.due(now) {
		if t := o.services[due.key]; t != nil && t.at.Equal(due.at) {
			o.dirty[t.id] = t
		}
	}
	view := o.cfg.State.View()
	o.welcome(view)
	var work proposals
	for _, id := range slices.Sorted(maps.Keys(o.dirty)) {
		o.reconcileOne(o.dirty[id], view, now, &work)
	}
	clear(o.dirty)
	o.fresh = false
	work.carryOut(ctx, o.cfg.Propose, o.cfg.Logger)
}

func (o *Orchestrator) reconcileOne(t *tracked, view store.View, now time.Time, work *proposals) {
	service := view.Service(t.id)
	if service == nil {
		delete(o.services, t.id)
		delete(o.global, t.id)
		delete(o.balancing, t.id)
		return
	}
	t.refresh(service, view, &o.cfg)
	if store.PerNode(service.Spec) {
		o.global[t.id] = t
	}
	o.tellJoin(t, service)
	plan := t.set.reconcile(now)
	next := plan.Next
	if !plan.Empty() {
		work.add(service, plan)
		t.distrust(plan, view)
		next = earliest(next, now.Add(retry))
	}
	if !next.IsZero() && !next.Equal(t.at) {
		o.timers.set(t.id, next)
	}
	t.at = next
}

// sameForTasks tells whether two forms of a node differ in nothing that
// matters to the tasks on it.
func sameForTasks(a, b *pb.Node) bool {
	return a.GetStatus().GetState() == b.GetStatus().GetState() && a.GetStatus().GetAddr() == b.GetStatus().GetAddr() &&
		a.Role == b.Role &&
		proto.Equal(a.Spec, b.Spec) && proto.Equal(a.Description, b.Description)
}

// refresh brings the working set up to a view.
func (t *tracked) refresh(service *pb.Service, view store.View, cfg *Config) {
	if t.set == nil {
		t.set = newWorkingSet(service.Spec, cfg.Fits, cfg.NewID)
		t.set.turnTo(service, view)
		t.set.load(slices.Collect(view.TasksByService(t.id)))
	} else {
		t.set.turnTo(service, view)
		for p := range t.places {
			t.set.put(p, tasksAt(view, t.id, p))
		}
	}
	clear(t.places)
}

func tasksAt(view store.View, service string, p place) []*pb.Task {
	if p.slot > 0 {
		return slices.Collect(view.TasksBySlot(service, p.slot))
	}
	var tasks []*pb.Task
	for t := range view.TasksByNode(p.node) {
		if t.ServiceId == service && t.Slot == 0 {
			tasks = append(tasks, t)
		}
	}
	return tasks
}

// distrust marks the slots that a plan changes, so that the next reconcile
// reads them anew whatever became of it.
func (t *tracked) distrust(plan Plan, view store.View) {
	for _, d := range plan.Desired {
		if task := view.Task(d.Id); task != nil {
			t.places[placeOf(task)] = true
		}
	}
	for _, task := range plan.Create {
		t.places[placeOf(task)] = true
	}
}
