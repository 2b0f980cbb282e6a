package dispatcher

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	// housekeeping is how often the manager list is looked at, and the longest
	// sleep between two looks at the deadlines.
	housekeeping = time.Second
	// proposeTimeout bounds the wait for a commit before it is tried again.
	proposeTimeout = 10 * time.Second
)

// term is one stretch of leadership: everything that is lost with it.
type term struct {
	cfg      *Config
	log      *slog.Logger
	reporter *reporter
	period   atomic.Int64 // nanoseconds
	// Every goroutine of a session.
	running sync.WaitGroup
	ended   chan struct{}

	mu       sync.RWMutex
	closed   error
	sessions map[string]*session
	live     *liveness
	admitted admission
	managers []*pb.ManagerPeer
	absent   *absent

	orphans orphanage

	// index changes under its lock together with the sessions' notes about it,
	// so that who reads both sees one moment. It is taken before mu.
	indexMu sync.RWMutex
	index   *index

	attachMu sync.Mutex
	attaches map[string]*waiter
}

// watched are the kinds that sessions and network items come from.
var watched = []pb.Kind{
	pb.Kind_KIND_TASK, pb.Kind_KIND_NODE, pb.Kind_KIND_CLUSTER, pb.Kind_KIND_SERVICE, pb.Kind_KIND_NETWORK,
}

// newTerm gives every node that was up a period of grace, in memory only: a
// change of leaders writes nothing to the log about nodes that come back.
func newTerm(cfg *Config) (*term, *store.Watch) {
	view, watch := cfg.State.ViewAndWatch(watched...)
	t := &term{
		cfg:      cfg,
		log:      cfg.Logger,
		ended:    make(chan struct{}),
		sessions: map[string]*session{},
		live:     newLiveness(),
		admitted: admission{},
		managers: cfg.Managers(),
		attaches: map[string]*waiter{},
		index:    newIndex(),
	}
	t.reindex(view)
	t.reporter = newReporter(cfg)
	period := heartbeatPeriod(view.Cluster())
	t.period.Store(int64(period))
	now := time.Now()
	t.absent = newAbsent(now)
	for n := range view.Nodes() {
		switch n.GetStatus().GetState() {
		case pb.NodeState_NODE_STATE_READY:
			t.live.expect(n.Id, now.Add(grace(period)))
			t.absent.expect(n.Id)
		case pb.NodeState_NODE_STATE_UNKNOWN:
			t.live.expect(n.Id, now.Add(grace(period))) // an earlier leader doubted it
		}
	}
	t.orphans.load(view)
	return t, watch
}

// close ends every session and waits for its goroutines.
func (t *term) close(cause error) {
	t.mu.Lock()
	t.closed = cause
	for _, s := range t.sessions {
		s.end(cause)
	}
	t.mu.Unlock()
	close(t.ended)
	t.running.Wait()
}

func (t *term) heartbeat() time.Duration { return time.Duration(t.period.Load()) }

// register makes a session the node's only one.
func (t *term) register(node, addr string, description *pb.NodeDescription) (*session, error) {
	if t.cfg.State.View().Node(node) == nil {
		return nil, removedError(node)
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed != nil {
		return nil, t.closed
	}
	if retry, ok := t.admitted.admit(node, now); !ok {
		return nil, fault.New(fault.Unavailable, "open session of node %s: %d sessions within %v; try again in %v",
			node, admitMost, admitWithin, retry.Round(time.Millisecond))
	}
	if old := t.sessions[node]; old != nil {
		old.end(fault.New(fault.State, "session of node %s: a newer session took its place", node))
	}
	s := newSession(node, addr, description)
	t.sessions[node] = s
	t.live.expect(node, now.Add(patience(t.heartbeat())))
	t.absent.came(node, now)
	t.running.Add(2) // released by the session's reader and writer
	return s, nil
}

// unregister forgets a session unless a newer one took its place. The node
// keeps its state until its deadline.
func (t *term) unregister(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[s.node] == s {
		delete(t.sessions, s.node)
	}
}

// beat notes that a node was heard of.
func (t *term) beat(s *session) {
	at := time.Now().Add(patience(t.heartbeat()))
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[s.node] == s {
		t.live.expect(s.node, at)
	}
}

func removedError(node string) error {
	return fault.New(fault.NotFound, "session of node %s: the node was removed from the cluster", node).
		WithTry("minictl swarm leave --force, then join again")
}

// watchDeadlines reports the nodes that miss theirs and keeps the managers'
// addresses that sessions were told up to date.
func (t *term) watchDeadlines(ctx context.Context) error {
	due := time.Now()
	for {
		now := time.Now()
		t.mu.Lock()
		if late := now.Sub(due); late > housekeeping {
			t.live.postpone(late) // this process stood still: it could hear nobody
		}
		lost := t.live.expired(now)
		ended := t.cut(lost)
		t.mu.Unlock()
		for _, s := range ended {
			s.end(fault.New(fault.Unavailable, "session of node %s: missed %d heartbeats", s.node, missedBeats))
		}
		if len(lost) > 0 {
			t.reportDown(ctx, lost)
		}
		t.refreshManagers()
		now = time.Now()
		t.mu.RLock()
		pause := t.live.next(now, housekeeping)
		t.mu.RUnlock()
		due = now.Add(pause)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// cut takes lost nodes' sessions out of the map. The caller holds t.mu.
func (t *term) cut(lost []string) []*session {
	var ended []*session
	for _, node := range lost {
		if s := t.sessions[node]; s != nil {
			delete(t.sessions, node)
			ended = append(ended, s)
		}
	}
	return ended
}

// reportDown proposes that nodes are down and, if that fails, has them come up
// again soon.
func (t *term) reportDown(ctx context.Context, lost []string) {
	cmds := downCommands(t.cfg.State.View(), lost, time.Now())
	if len(cmds) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	_, err := t.cfg.Propose(ctx, cmds...)
	if err == nil {
		t.log.Info("nodes down", "nodes", lost)
		return
	}
	t.log.Warn("report nodes down", "nodes", lost, "error", err)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, node := range lost {
		if t.live.byNode[node] == nil {
			t.live.expect(node, time.Now().Add(housekeeping))
		}
	}
}

// downCommands reports those of the lost nodes down that are not yet.
func downCommands(view store.View, lost []string, now time.Time) []*pb.Command {
	var cmds []*pb.Command
	for _, id := range lost {
		n := view.Node(id)
		if n == nil || n.GetStatus().GetState() == pb.NodeState_NODE_STATE_DOWN {
			continue
		}
		cmds = append(cmds, reportCommand(n, pb.NodeState_NODE_STATE_DOWN, "heartbeats missed", now))
	}
	return cmds
}

// reportCommand reports a node to be in another state from now on.
func reportCommand(n *pb.Node, state pb.NodeState, message string, now time.Time) *pb.Command {
	return &pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{
		Id:     n.Id,
		Status: &pb.NodeStatus{State: state, Message: message, Addr: n.GetStatus().GetAddr(), Since: timestamppb.New(now)},
	}}}
}

// refreshManagers tells all sessions when the list of managers changed.
func (t *term) refreshManagers() {
	managers := t.cfg.Managers()
	same := func(x, y *pb.ManagerPeer) bool { return proto.Equal(x, y) }
	t.mu.Lock()
	changed := !slices.EqualFunc(managers, t.managers, same)
	t.managers = managers
	t.mu.Unlock()
	if changed {
		t.everySession((*session).dirtyWelcome)
	}
}

func (t *term) everySession(do func(*session)) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, s := range t.sessions {
		do(s)
	}
}

// route hands every change to the session of the node that it concerns.
func (t *term) route(ctx context.Context, watch *store.Watch) error {
	defer func() { watch.Close() }()
	for {
		changes, err := watch.Next(ctx)
		switch {
		case err == nil:
			t.deliver(changes)
		case fault.Is(err, fault.Lagged):
			watch.Close()
			watch = t.resync()
		default:
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// resync starts over after changes were missed.
func (t *term) resync() *store.Watch {
	view, watch := t.cfg.State.ViewAndWatch(watched...)
	t.period.Store(int64(heartbeatPeriod(view.Cluster())))
	t.reindex(view)
	t.orphans.load(view)
	t.everySession(func(s *session) {
		if view.Node(s.node) == nil {
			s.end(removedError(s.node))
			return
		}
		s.dirtyAll()
		t.reporter.add(s)
	})
	return watch
}

// deliver works with the newest view, which may be ahead of the changes: what it
// is ahead by is looked at once more when it comes.
func (t *term) deliver(changes []store.Change) {
	t.indexMu.Lock()
	defer t.indexMu.Unlock()
	t.mu.RLock()
	defer t.mu.RUnlock()
	var d stale
	for i := range changes {
		c := &changes[i]
		switch c.Kind {
		case pb.Kind_KIND_TASK:
			if t.deliverTask(c) {
				d.tasks = append(d.tasks, c.ID)
			}
		case pb.Kind_KIND_NODE:
			t.deliverNode(c)
			d.nodes = append(d.nodes, c.ID)
		case pb.Kind_KIND_CLUSTER:
			t.deliverCluster(c)
			d.cluster = true
		case pb.Kind_KIND_SERVICE:
			d.services = append(d.services, c.ID)
		case pb.Kind_KIND_NETWORK:
			d.networks = append(d.networks, c.ID)
		}
	}
	t.index.update(t.cfg.State.View(), d)
	t.publish()
}

// reindex compares the whole index with a view.
func (t *term) reindex(view store.View) {
	t.indexMu.Lock()
	defer t.indexMu.Unlock()
	t.mu.RLock()
	defer t.mu.RUnlock()
	t.index.update(view, t.index.everything(view))
	t.publish()
}

// publish tells the sessions what the index found. The caller holds both locks.
func (t *term) publish() {
	t.index.publish(func(node string, changes []*change) {
		if s := t.sessions[node]; s != nil {
			s.hear(changes)
		}
	}, func(changes []*change) {
		for _, s := range t.sessions {
			s.hear(changes)
		}
	})
}

// begin returns all that a session's agent has to know of the network, and the
// view to go with it; changes up to there are no news.
func (t *term) begin(s *session) (store.View, []*pb.Assignment) {
	t.indexMu.RLock()
	defer t.indexMu.RUnlock()
	s.note(func(n *notes) { n.items = nil })
	return t.index.view, t.index.snapshot(s.node)
}

// take empties a session's notes and returns the view that they are about.
func (t *term) take(s *session) (notes, store.View) {
	t.indexMu.RLock()
	defer t.indexMu.RUnlock()
	return s.take(), t.index.view
}

// deliverTask finds the node of a task; a task never moves, so one is enough.
// What the agent itself reported is no news to it. It tells whether others have
// to hear of the task, too.
func (t *term) deliverTask(c *store.Change) bool {
	before, _ := c.Old.(*pb.Task)
	after, _ := c.New.(*pb.Task)
	node := before.GetNodeId()
	if after != nil {
		node = after.NodeId
	}
	others := ended(before) != ended(after) || assignable(before, node) != assignable(after, node) ||
		isServing(before, false) != isServing(after, false)
	if s := t.sessions[node]; s != nil && (others || before.GetDesiredState() != after.GetDesiredState()) {
		s.dirtyTask(c.ID)
	}
	return others
}

// deliverNode ends the session of a removed node, repeats a report that was
// overtaken, and passes on a new role.
func (t *term) deliverNode(c *store.Change) {
	node, _ := c.New.(*pb.Node)
	t.orphans.note(c.ID, node)
	s := t.sessions[c.ID]
	if s == nil {
		return
	}
	if node == nil {
		s.end(removedError(c.ID))
		return
	}
	s.dirtyWelcome()
	if before, _ := c.Old.(*pb.Node); isDown(before) != isDown(node) {
		s.dirtyTasks()
	}
	if node.GetStatus().GetState() != pb.NodeState_NODE_STATE_READY {
		s.dirtyNode()
		t.reporter.add(s)
	}
}

func (t *term) deliverCluster(c *store.Change) {
	cluster, _ := c.New.(*pb.Cluster)
	t.period.Store(int64(heartbeatPeriod(cluster)))
	t.orphans.retime(t.cfg.State.View())
	for _, s := range t.sessions {
		s.dirtyWelcome()
	}
}
