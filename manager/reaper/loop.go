package reaper

import (
	"context"
	"log/slog"
	"slices"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	// batch is how long work is gathered before it is done.
	batch = 250 * time.Millisecond
	// maxCommand bounds the ids of one proposal: about a quarter of a megabyte.
	maxCommand = 10_000
	// retry is when what was not committed is looked at again.
	retry = time.Second
	// proposeTimeout bounds the wait for one commit.
	proposeTimeout = 30 * time.Second
	// defaultLimit is Swarm's, for a cluster that does not say.
	defaultLimit = 5
)

// Proposer commits commands and returns one refusal or nil per command; its
// error means that the commit did not happen or is not known.
type Proposer func(ctx context.Context, cmds ...*pb.Command) ([]error, error)

// Config is what a Reaper needs.
type Config struct {
	State   *store.State
	Propose Proposer
	Logger  *slog.Logger
}

// Reaper deletes what is over while it runs.
type Reaper struct {
	cfg Config

	// Owned by Run: what may have something to delete.
	slots    map[place]bool
	services map[string]bool
}

// place is a slot of a service, or a node's share of a global one.
type place struct {
	service string
	slot    uint64
	node    string
}

func placeOf(t *pb.Task) place {
	if t.Slot == 0 {
		return place{service: t.ServiceId, node: t.NodeId}
	}
	return place{service: t.ServiceId, slot: t.Slot}
}

// New makes a reaper.
func New(cfg Config) *Reaper { return &Reaper{cfg: cfg} }

// Run deletes what is over until ctx ends, and returns nil then. It may be run
// again, for the next term of leadership.
func (r *Reaper) Run(ctx context.Context) error {
	kinds := []pb.Kind{pb.Kind_KIND_TASK, pb.Kind_KIND_SERVICE, pb.Kind_KIND_NODE, pb.Kind_KIND_CLUSTER}
	err := r.cfg.State.Follow(ctx, func() { r.cfg.Logger.Warn("reaper fell behind the store, starts over") }, kinds, r.session)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// session starts with everything in question. While it waits or proposes,
// changes gather.
func (r *Reaper) session(ctx context.Context, view store.View, changes <-chan []store.Change) error {
	r.slots, r.services = map[place]bool{}, map[string]bool{}
	r.noteAll(view)
	for {
		for len(r.slots)+len(r.services) > 0 {
			if err := sleep(ctx, batch); err != nil {
				return err
			}
			if r.reap(ctx) {
				continue
			}
			if err := sleep(ctx, retry); err != nil {
				return err
			}
		}
		select {
		case batch := <-changes:
			r.note(batch)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func (r *Reaper) noteAll(view store.View) {
	for t := range view.Tasks() {
		r.slots[placeOf(t)] = true
	}
	for s := range view.Services() {
		r.services[s.Id] = true
	}
}

// note marks what changes may have made superfluous.
func (r *Reaper) note(changes []store.Change) {
	for _, c := range changes {
		switch object := c.New.(type) {
		case *pb.Task:
			if object.DesiredState > pb.TaskState_TASK_STATE_RUNNING {
				r.slots[placeOf(object)] = true
			}
		case *pb.Service:
			r.noteService(object, c.Old)
		case *pb.Node:
			if object.GetStatus().GetState() == pb.NodeState_NODE_STATE_DOWN {
				r.noteNode(c.ID)
			}
		case *pb.Cluster:
			r.noteAll(r.cfg.State.View())
		default:
			r.noteGone(c)
		}
	}
}

// noteService marks a service's slots when something that bounds their
// history has changed.
func (r *Reaper) noteService(s *pb.Service, before store.Object) {
	old, _ := before.(*pb.Service)
	if s.Removing {
		r.services[s.Id] = true
	}
	if old == nil || old.Spec == s.Spec && old.GetUpdateStatus().GetState() == s.GetUpdateStatus().GetState() {
		return
	}
	for t := range r.cfg.State.View().TasksByService(s.Id) {
		r.slots[placeOf(t)] = true
	}
}

func (r *Reaper) noteNode(id string) {
	for t := range r.cfg.State.View().TasksByNode(id) {
		r.slots[placeOf(t)] = true
	}
}

func (r *Reaper) noteGone(c store.Change) {
	switch old := c.Old.(type) {
	case *pb.Task:
		r.services[old.ServiceId] = true
	case *pb.Node:
		r.noteNode(old.Id)
	}
}

// reap deletes what there is to delete, and tells whether that was committed.
// What was is forgotten; the rest stays marked.
func (r *Reaper) reap(ctx context.Context) bool {
	view := r.cfg.State.View()
	limit := int64(defaultLimit)
	if c := view.Cluster(); c != nil {
		limit = c.GetSpec().GetTaskHistoryLimit()
	}
	var ids []string
	for p := range r.slots {
		ids = append(ids, Reap(Slot{Service: view.Service(p.service), Tasks: tasksAt(view, p), Limit: limit, Node: view.Node})...)
	}
	slices.Sort(ids)
	for chunk := range slices.Chunk(ids, maxCommand) {
		if !r.propose(ctx, &pb.Command{Kind: &pb.Command_DeleteTasks{DeleteTasks: &pb.DeleteTasks{Ids: chunk}}}) {
			return false
		}
	}
	clear(r.slots)
	return r.reapServices(ctx)
}

func (r *Reaper) reapServices(ctx context.Context) bool {
	view := r.cfg.State.View()
	var cmds []*pb.Command
	for id := range r.services {
		if s := view.Service(id); s.GetRemoving() && empty(view, id) {
			cmds = append(cmds, &pb.Command{Kind: &pb.Command_DeleteService{DeleteService: &pb.DeleteService{Id: id}}})
		}
	}
	if len(cmds) > 0 && !r.propose(ctx, cmds...) {
		return false
	}
	clear(r.services)
	return true
}

func empty(view store.View, service string) bool {
	for range view.TasksByService(service) {
		return false
	}
	return true
}

func tasksAt(view store.View, p place) []*pb.Task {
	if p.slot > 0 {
		return slices.Collect(view.TasksBySlot(p.service, p.slot))
	}
	var tasks []*pb.Task
	for t := range view.TasksByNode(p.node) {
		if t.ServiceId == p.service && t.Slot == 0 {
			tasks = append(tasks, t)
		}
	}
	return tasks
}

func (r *Reaper) propose(ctx context.Context, cmds ...*pb.Command) bool {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	refused, err := r.cfg.Propose(ctx, cmds...)
	if err != nil {
		if ctx.Err() == nil {
			r.cfg.Logger.Warn("propose deletions", "commands", len(cmds), "error", err)
		}
		return false
	}
	for _, err := range refused {
		if err != nil {
			r.cfg.Logger.Debug("deletion refused", "error", err)
		}
	}
	return true
}
