package dispatcher

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	// openWithin bounds the wait for a stream's first message.
	openWithin = 10 * time.Second
	// sendWithin is how long an agent may take to accept a message before its
	// session is cut.
	sendWithin = 10 * time.Second
	// quiet is the least time between two diffs to one agent: what changes
	// meanwhile travels together.
	quiet = 10 * time.Millisecond
	// maxDirty bounds the tasks that are noted one by one.
	maxDirty = 4096
	// maxAttaches bounds the requests that an agent has not taken yet.
	maxAttaches = 256
)

// session is one agent's connection. The router, the reporter and whoever
// attaches only leave notes in it; its writer goroutine acts on them.
type session struct {
	node string
	addr string
	// Has room for one: the writer has something to look at.
	wake chan struct{}
	done chan struct{}

	mu    sync.Mutex
	cause error
	out   notes
	in    inbox
}

// notes are what a session's writer has to look at.
type notes struct {
	tasks []string // may repeat itself
	// Look at all of the node's tasks.
	all bool
	// items of the network; once there are most of them, they are coalesced.
	items    []*change
	most     int
	welcome  bool
	acks     []uint64
	attaches []*pb.Attach
}

func newSession(node, addr string, description *pb.NodeDescription) *session {
	return &session{
		node: node,
		addr: addr,
		wake: make(chan struct{}, 1),
		done: make(chan struct{}),
		in:   inbox{description: description, node: true},
	}
}

// end ends the session; the first cause stays.
func (s *session) end(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause == nil {
		s.cause = cause
		close(s.done)
	}
}

// note leaves something to the writer.
func (s *session) note(leave func(*notes)) {
	s.mu.Lock()
	leave(&s.out)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *session) dirtyTask(id string) {
	s.note(func(n *notes) {
		if n.tasks = append(n.tasks, id); len(n.tasks) > maxDirty {
			n.tasks, n.all = nil, true
		}
	})
}

// dirtyTasks has all of the node's tasks looked at.
func (s *session) dirtyTasks() { s.note(func(n *notes) { n.tasks, n.all = nil, true }) }

// hear takes changes of network items. An agent that is slow to take them is
// kept as many as there are items, twice over.
func (s *session) hear(changes []*change) {
	s.note(func(n *notes) {
		if n.items = append(n.items, changes...); len(n.items) > max(n.most, maxDirty) {
			n.items = coalesce(n.items)
			n.most = 2 * len(n.items)
		}
	})
}

func (s *session) dirtyWelcome() { s.note(func(n *notes) { n.welcome = true }) }
func (s *session) dirtyAll()     { s.note(func(n *notes) { n.welcome, n.all = true, true }); s.dirtyNode() }

func (s *session) ack(numbers []uint64) {
	s.note(func(n *notes) { n.acks = append(n.acks, numbers...) })
}

// attach leaves an attach request, or fails when too many wait.
func (s *session) attach(req *pb.Attach) error {
	full := false
	s.note(func(n *notes) {
		if full = len(n.attaches) >= maxAttaches; !full {
			n.attaches = append(n.attaches, req)
		}
	})
	if full {
		return fault.New(fault.Unavailable, "attach to node %s: the node does not take requests", s.node)
	}
	return nil
}

// take empties the notes.
func (s *session) take() notes {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.out
	s.out = notes{}
	return n
}

// Session serves one agent: it lasts until either side ends it, the node's
// heartbeats stop, a newer session takes its place, or leadership ends.
func (d *Dispatcher) Session(stream grpc.BidiStreamingServer[pb.AgentMessage, pb.ManagerMessage]) error {
	t, err := d.serving()
	if err != nil {
		return err
	}
	node, err := d.cfg.Identify(stream.Context())
	if err != nil {
		return err
	}
	first, err := receiveFirst(stream.Context(), stream.Recv)
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return fault.New(fault.Invalid, "open session of node %s: the first message must be a hello", node)
	}
	s, err := t.register(node, remoteHost(stream.Context()), hello.Description)
	if err != nil {
		return err
	}
	defer t.unregister(s)
	t.log.Info("session opened", "node", node, "addr", s.addr)
	go func() {
		defer t.running.Done()
		s.end(t.read(s, stream.Recv))
	}()
	go func() {
		defer t.running.Done()
		s.end(t.write(s, stream.Send))
	}()
	t.reporter.add(s)
	<-s.done
	t.log.Info("session ended", "node", node, "cause", s.cause)
	if errors.Is(s.cause, io.EOF) || stream.Context().Err() != nil {
		return nil
	}
	return s.cause
}

// receiveFirst receives a stream's first message within openWithin. The
// goroutine that it may leave ends with the stream, when the handler returns.
func receiveFirst[M any](ctx context.Context, recv func() (*M, error)) (*M, error) {
	type received struct {
		m   *M
		err error
	}
	got := make(chan received, 1)
	go func() {
		m, err := recv()
		got <- received{m, err}
	}()
	select {
	case r := <-got:
		return r.m, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(openWithin):
		return nil, fault.New(fault.Timeout, "open stream: no first message within %v", openWithin)
	}
}

// remoteHost is the caller's address without its port, which changes with
// every connection and would be written to the log each time.
func remoteHost(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return host
}

// read takes what the agent says until the stream ends. Every message counts
// as a heartbeat.
func (t *term) read(s *session, recv func() (*pb.AgentMessage, error)) error {
	for {
		m, err := recv()
		if err != nil {
			return err
		}
		t.beat(s)
		switch kind := m.Kind.(type) {
		case *pb.AgentMessage_Statuses:
			s.report(kind.Statuses)
			t.reporter.add(s)
		case *pb.AgentMessage_Description:
			s.describe(kind.Description)
			t.reporter.add(s)
		}
	}
}

// write tells the agent what it has to know until the session or a send ends.
func (t *term) write(s *session, send func(*pb.ManagerMessage) error) error {
	w := &writer{
		s:     s,
		send:  send,
		stall: time.AfterFunc(time.Hour, func() { s.end(stalledError(s.node)) }),
		told:  assignments{node: s.node},
	}
	w.stall.Stop()
	defer w.stall.Stop()
	beat := time.NewTimer(t.heartbeat())
	defer beat.Stop()

	err := w.greet(t)
	for err == nil {
		select {
		case <-s.done:
			return s.cause
		case <-beat.C:
			beat.Reset(t.heartbeat())
			err = w.transmit(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
		case <-s.wake:
			if err = w.flush(t); err == nil {
				pauseUnless(s.done, quiet)
			}
		}
	}
	return err
}

func stalledError(node string) error {
	return fault.New(fault.Unavailable, "session of node %s: the agent took no message for %v", node, sendWithin)
}

// pauseUnless sleeps, but not beyond done.
func pauseUnless(done <-chan struct{}, d time.Duration) {
	select {
	case <-done:
	case <-time.After(d):
	}
}

// writer is the sending half of a session.
type writer struct {
	s       *session
	send    func(*pb.ManagerMessage) error
	stall   *time.Timer
	told    assignments
	welcome *pb.Welcome
}

// transmit sends one message; if the agent does not take it, the stall timer
// ends the session, whose handler then returns and so ends the send.
func (w *writer) transmit(m *pb.ManagerMessage) error {
	w.stall.Reset(sendWithin)
	defer w.stall.Stop()
	return w.send(m)
}

// greet sends the welcome and the full assignment set. The session is already
// known to the router, so nothing falls between the view and the first change.
func (w *writer) greet(t *term) error {
	if err := w.sendWelcome(t); err != nil {
		return err
	}
	view, items := t.begin(w.s)
	set, rest := w.told.full(view, items)
	if err := w.transmit(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Assignments{Assignments: set}}); err != nil {
		return err
	}
	return w.sendDiffs(rest)
}

func (w *writer) sendDiffs(diffs []*pb.AssignmentDiff) error {
	for _, diff := range diffs {
		if err := w.transmit(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Diff{Diff: diff}}); err != nil {
			return err
		}
	}
	return nil
}

// flush acts on the notes that were left since the last time.
func (w *writer) flush(t *term) error {
	n, view := t.take(w.s)
	if n.welcome {
		if err := w.sendWelcome(t); err != nil {
			return err
		}
	}
	if n.all {
		n.tasks = w.told.candidates(view)
	}
	if err := w.sendDiffs(w.told.update(view, n.tasks, n.items)); err != nil {
		return err
	}
	for _, number := range n.acks {
		err := w.transmit(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Ack{Ack: &pb.StatusAck{Number: number}}})
		if err != nil {
			return err
		}
	}
	for _, req := range n.attaches {
		if err := w.transmit(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Attach{Attach: req}}); err != nil {
			return err
		}
	}
	return nil
}

// sendWelcome sends the welcome unless the agent has the same already.
func (w *writer) sendWelcome(t *term) error {
	t.mu.RLock()
	managers := t.managers
	t.mu.RUnlock()
	welcome := welcomeFor(t.cfg.State.View(), w.s.node, managers)
	if proto.Equal(welcome, w.welcome) {
		return nil
	}
	w.welcome = welcome
	return w.transmit(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Welcome{Welcome: welcome}})
}

// welcomeFor is what a node has to know besides its assignments.
func welcomeFor(view store.View, node string, managers []*pb.ManagerPeer) *pb.Welcome {
	cluster := view.Cluster()
	return &pb.Welcome{
		HeartbeatPeriod: durationpb.New(heartbeatPeriod(cluster)),
		Managers:        managers,
		Role:            view.Node(node).GetSpec().GetRole(),
		RootCaCert:      cluster.GetRootCaCert(),
		CertExpiry:      cluster.GetSpec().GetCertExpiry(),
	}
}
