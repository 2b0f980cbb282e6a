package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const (
	// coalesce is how long statuses are collected before they are sent.
	coalesce = 20 * time.Millisecond
	// saveEvery is how long statuses are collected before they are written;
	// ends are written at once.
	saveEvery = 200 * time.Millisecond
	// welcomeWithin is what a manager has for its first message.
	welcomeWithin = 5 * time.Second
	// defaultPeriod of heartbeats, when a Welcome names none.
	defaultPeriod = 2 * time.Second
	// missedBeats is how many periods of silence end a session.
	missedBeats = 3
	// describeEvery is how often a node looks at itself again.
	describeEvery  = time.Minute
	describeWithin = 5 * time.Second
	// redirects that are followed without a pause in between.
	maxRedirects = 3
)

// errSilent ends a session with a manager that does not speak.
var errSilent = fault.New(fault.Unavailable, "manager is silent")

// keepSession holds a session with the leader, again and again.
func (a *Agent) keepSession(ctx context.Context) error {
	var pause backoff
	redirects, problem := 0, ""
	for {
		addr := a.book.pick(time.Now())
		welcomed, err := a.session(ctx, addr)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if welcomed {
			pause.reset()
			redirects, problem = 0, ""
		}
		if a.cfg.OnEnd != nil {
			a.cfg.OnEnd(err)
		}
		leader, redirected := leaderOf(err)
		switch {
		case redirected:
			a.book.decline(addr)
		case !errors.Is(err, errGap):
			a.book.fail(addr, time.Now())
		}
		if redirected && leader != "" && redirects < maxRedirects {
			redirects++
			a.book.redirect(leader)
			continue
		}
		redirects = 0
		if err.Error() != problem { // once, not with every attempt
			problem = err.Error()
			a.cfg.Logger.Warn("session ended", "manager", addr, "error", err)
		}
		select {
		case <-time.After(pause.wait()):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// session is one conversation with one manager. It tells whether the manager
// welcomed this node.
type session struct {
	*Agent
	addr   string
	client pb.DispatcherClient
	stream grpc.BidiStreamingClient[pb.AgentMessage, pb.ManagerMessage]
	// silence ends the session; each message puts it off.
	silence  *time.Timer
	attaches *attaches
	wg       sync.WaitGroup
	// ready is closed when the first full set was taken: only then is it known
	// which statuses the managers lack.
	ready chan struct{}

	mu       sync.Mutex
	period   time.Duration
	welcomed bool
	retimed  chan struct{}
}

func (a *Agent) session(ctx context.Context, addr string) (welcomed bool, err error) {
	if addr == "" {
		return false, fault.New(fault.Unavailable, "no manager's address is known")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn, err := a.cfg.Dial(ctx, addr)
	if err != nil {
		return false, fmt.Errorf("dial manager %s: %w", addr, err)
	}
	defer conn.Close()

	s := &session{Agent: a, addr: addr, client: pb.NewDispatcherClient(conn), ready: make(chan struct{}), retimed: make(chan struct{}, 1)}
	s.silence = time.AfterFunc(welcomeWithin, func() { cancel(errSilent) })
	defer s.silence.Stop()
	s.attaches = newAttaches(s)
	defer s.attaches.wait()
	// In this order at the end: cancel, then wait.
	defer cancel(nil)
	err = s.run(ctx)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return s.welcomed, err
}

func (s *session) run(ctx context.Context) (err error) {
	description := s.describe(ctx)
	s.worker.newSession()
	s.statuses.newSession()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if s.stream, err = s.client.Session(ctx); err != nil {
		return err
	}
	defer s.wg.Wait()
	defer cancel(nil)
	s.wg.Go(func() {
		if err := s.send(ctx, description); err != nil {
			cancel(err)
		}
	})
	// What Recv says is why the stream ended; Send only knows that it did.
	err = s.receive(ctx)
	cancel(err)
	return err
}

// receive takes the manager's messages until the stream ends.
func (s *session) receive(ctx context.Context) error {
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return err
		}
		s.heard()
		if err := s.handle(ctx, m); err != nil {
			return err
		}
	}
}

func (s *session) handle(ctx context.Context, m *pb.ManagerMessage) error {
	switch {
	case m.GetWelcome() != nil:
		return s.welcome(m.GetWelcome())
	case m.GetAssignments() != nil:
		return s.replace(m.GetAssignments())
	case m.GetDiff() != nil:
		return s.apply(m.GetDiff())
	case m.GetAck() != nil:
		s.statuses.ack(m.GetAck().GetNumber())
	case m.GetAttach() != nil:
		s.attaches.open(ctx, m.GetAttach())
	}
	return nil
}

// heard puts off the end by silence.
func (s *session) heard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.period > 0 {
		s.silence.Reset(missedBeats * s.period)
	}
}

func (s *session) welcome(w *pb.Welcome) error {
	s.mu.Lock()
	s.welcomed = true
	s.period = cmp.Or(w.GetHeartbeatPeriod().AsDuration(), defaultPeriod)
	s.mu.Unlock()
	s.heard()
	wake(s.retimed)
	s.book.learn(w.GetManagers(), s.addr)
	if err := s.disk.saveManagers(w.GetManagers(), s.addr); err != nil {
		return fmt.Errorf("save managers: %w", err)
	}
	if s.cfg.OnWelcome != nil {
		s.cfg.OnWelcome(w)
	}
	return nil
}

// replace takes a full set. A disk that is full keeps no node from its tasks:
// what could not be written comes again with the next session.
func (s *session) replace(set *pb.AssignmentSet) error {
	if err := s.disk.saveSet(set); err != nil {
		s.cfg.Logger.Error("cannot save assignments", "error", err)
	}
	s.worker.replace(set)
	if set.GetRest() == 0 {
		s.saveNetwork()
	}
	select {
	case <-s.ready:
	default:
		close(s.ready)
	}
	return nil
}

func (s *session) apply(diff *pb.AssignmentDiff) error {
	completed, err := s.worker.apply(diff)
	if err != nil {
		return err
	}
	if err := s.disk.saveDiff(diff); err != nil {
		s.cfg.Logger.Error("cannot save assignments", "error", err)
	}
	if completed {
		s.saveNetwork()
	}
	return nil
}

// saveNetwork comes behind the tasks, which need not wait for it.
func (s *session) saveNetwork() {
	if err := s.disk.saveNetwork(s.worker.networkItems()); err != nil {
		s.cfg.Logger.Error("cannot save the network's assignments", "error", err)
	}
}

// send is the only writer of the stream.
func (s *session) send(ctx context.Context, description *pb.NodeDescription) error {
	err := s.stream.Send(&pb.AgentMessage{Kind: &pb.AgentMessage_Hello{Hello: &pb.Hello{Description: description}}})
	if err != nil {
		return err
	}
	beat := time.NewTimer(welcomeWithin)
	defer beat.Stop()
	found := make(chan *pb.NodeDescription)
	s.wg.Go(func() { s.lookAgain(ctx, found) })
	ready := s.ready
	var toSend, flush <-chan struct{}
	for err == nil {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ready:
			ready, toSend = nil, s.statuses.toSend
		case <-s.retimed:
			beat.Reset(s.nextBeat())
		case <-beat.C:
			err = s.stream.Send(&pb.AgentMessage{Kind: &pb.AgentMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
			beat.Reset(s.nextBeat())
		case now := <-found:
			if !proto.Equal(now, description) {
				description = now
				err = s.stream.Send(&pb.AgentMessage{Kind: &pb.AgentMessage_Description{Description: now}})
			}
		case <-toSend:
			toSend, flush = nil, after(coalesce)
		case <-flush:
			toSend, flush = s.statuses.toSend, nil
			err = s.sendStatuses()
		}
	}
	return err
}

// nextBeat is the heartbeat period, more or less a tenth.
func (s *session) nextBeat() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.period <= 0 {
		return welcomeWithin
	}
	return jitter(s.period, s.period/10)
}

// lookAgain describes the node beside the sending loop: heartbeats must not wait
// for a runtime that does not answer.
func (s *session) lookAgain(ctx context.Context, found chan<- *pb.NodeDescription) {
	for {
		select {
		case <-time.After(describeEvery):
		case <-ctx.Done():
			return
		}
		select {
		case found <- s.describe(ctx):
		case <-ctx.Done():
			return
		}
	}
}

func (s *session) sendStatuses() error {
	for {
		b := s.statuses.batch()
		if b == nil {
			return nil
		}
		if err := s.stream.Send(&pb.AgentMessage{Kind: &pb.AgentMessage_Statuses{Statuses: b}}); err != nil {
			return err
		}
	}
}

// after is time.After with a channel that select can share with others.
func after(d time.Duration) <-chan struct{} {
	c := make(chan struct{})
	time.AfterFunc(d, func() { close(c) })
	return c
}

// report takes a task's new status. An end is on disk when it returns.
func (a *Agent) report(id string, st *pb.TaskStatus) {
	a.statuses.put(id, st)
	if st.GetState() > pb.TaskState_TASK_STATE_RUNNING {
		if err := a.disk.saveEnd(id, st); err != nil {
			a.cfg.Logger.Error("cannot save task status", "task", id, "error", err)
		}
	}
}

// saveStatuses writes statuses as they come, many at once.
func (a *Agent) saveStatuses(ctx context.Context) error {
	for {
		select {
		case <-a.statuses.toSave:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-time.After(saveEvery):
		case <-ctx.Done():
		}
		unsaved := a.statuses.takeUnsaved()
		if err := a.disk.saveStatuses(unsaved, a.statuses.get); err != nil {
			a.cfg.Logger.Error("cannot save task statuses", "error", err)
			a.statuses.keepUnsaved(unsaved)
		}
	}
}
