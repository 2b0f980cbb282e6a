package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/minid/minid/agent"
	"github.com/minid/minid/ca"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

const (
	// What failed is tried again after a second at first, a minute at last.
	retryFirst, retryLast = time.Second, time.Minute
	// departTime bounds the removal of tasks when their node leaves.
	departTime = time.Minute
)

// member is a node's time in one cluster: an agent, a certificate that is kept
// fresh and, while its role is manager, a control port.
type member struct {
	n    *Node
	self rpc.Identity

	// changed is signalled when the role or the record asks for another look at
	// whether and how a manager should run.
	changed chan struct{}
	// welcomed is closed at the first word from a leader.
	welcomed     chan struct{}
	welcomedOnce sync.Once
	// broke is sent the first failure to work.
	broke chan error
	// leave ends the membership for good: leaving ends. ended is closed after
	// it, and departure says how the clearing up went.
	leaving   context.Context
	leave     context.CancelFunc
	ended     chan struct{}
	departure error

	mu      sync.Mutex
	agent   *agent.Agent // nil while it cannot work
	control *control     // nil while it is no manager, or cannot be one
	// broken is why agent or manager do not work, apart says why there is no
	// session with a leader; both pass.
	broken map[string]error
	apart  error
}

func newMember(n *Node) *member {
	m := &member{
		n: n, self: n.keys.Self(),
		changed:  make(chan struct{}, 1),
		welcomed: make(chan struct{}),
		broke:    make(chan error, 1),
		ended:    make(chan struct{}),
		broken:   map[string]error{},
		apart:    errors.New("no manager has answered yet"),
	}
	m.leaving, m.leave = context.WithCancel(context.Background())
	return m
}

// run works until ctx ends. The two halves fail apart from each other: a
// manager whose port is taken runs its tasks, one whose runtime is gone leads.
func (m *member) run(ctx context.Context) {
	var halves sync.WaitGroup
	halves.Go(func() { m.persist(ctx, "agent", m.work) })
	halves.Go(func() { m.persist(ctx, "manager", m.manage) })
	halves.Wait()
}

// persist repeats a half's work until ctx ends, less and less often while it fails.
func (m *member) persist(ctx context.Context, half string, work func(context.Context) error) {
	for wait := retryFirst; ; wait = min(2*wait, retryLast) {
		began := time.Now()
		err := work(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > retryLast {
			wait = retryFirst
		}
		m.breaks(half, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// breaks takes note of why a half does not work; nil when it does.
func (m *member) breaks(half string, err error) {
	m.mu.Lock()
	before := m.broken[half]
	m.broken[half] = err
	m.mu.Unlock()
	if err == nil || before != nil && before.Error() == err.Error() {
		return
	}
	m.n.log.Error("cannot work; it is tried again", "half", half, "err", err, "try", fault.TryOf(err))
	select {
	case m.broke <- err:
	default:
	}
}

// problem is why the node does not do its work, nil when it does.
func (m *member) problem() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, half := range []string{"agent", "manager"} {
		if err := m.broken[half]; err != nil {
			return err
		}
	}
	if m.apart != nil {
		return fmt.Errorf("no session with a leader: %w", m.apart)
	}
	return nil
}

// work runs agent and renewal until ctx ends, one of them fails, or the cluster
// does not know this node any more.
func (m *member) work(ctx context.Context) error {
	if err := m.n.keys.Check(time.Now()); err != nil {
		return err
	}
	if network := m.n.host.Network; network != nil {
		network.Join(m.self.NodeID)
	}
	runtime, err := m.n.host.Runtime(m.self.NodeID)
	if err != nil {
		return fmt.Errorf("open container runtime: %w", err)
	}
	if !m.wasRemoved() {
		m.breaks("agent", nil)
	}
	scope, end := context.WithCancelCause(ctx)
	defer end(nil)
	renewer := ca.NewRenewer(ca.RenewerConfig{
		Keystore: m.n.keys,
		Request:  m.renew,
		OnRenew:  m.onRenew,
		Log:      m.n.log.With("room", "ca"),
	})
	a := m.newAgent(runtime, renewer, end)
	m.setAgent(a)
	defer m.setAgent(nil)
	g, together := errgroup.WithContext(scope)
	g.Go(func() error { return a.Run(together) })
	g.Go(func() error { return renewer.Run(together) })
	err = g.Wait()
	if cause := context.Cause(scope); fault.Is(cause, fault.NotFound) {
		return errors.Join(m.removed(cause), m.clear(runtime))
	}
	return err
}

func (m *member) newAgent(runtime Runtime, renewer *ca.Renewer, end context.CancelCauseFunc) *agent.Agent {
	n := m.n
	return agent.New(agent.Config{
		NodeID:    m.self.NodeID,
		NodeName:  n.cfg.Name,
		DB:        filepath.Join(n.cfg.DataDir, agentFile),
		Runtime:   runtime,
		Network:   n.network(),
		Logs:      runtime,
		Exec:      runtime,
		Usage:     runtime,
		Describe:  n.describe,
		Dial:      m.dial,
		Managers:  m.managers(),
		OnWelcome: func(w *pb.Welcome) { m.onWelcome(w, renewer) },
		OnEnd: func(err error) {
			m.setApart(err)
			if fault.Is(err, fault.NotFound) {
				end(err)
			}
		},
		Logger: n.log.With("room", "agent"),
	})
}

// removed words what the leader said of a node that it does not know.
func (m *member) removed(cause error) error {
	return fault.New(fault.NotFound, "this node was removed from its cluster, its tasks are ended: %w", cause).
		WithTry("minictl swarm leave --force, then minictl swarm join")
}

func (m *member) wasRemoved() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fault.Is(m.broken["agent"], fault.NotFound)
}

// clear ends all tasks and forgets them: the cluster has replaced them, or never
// wants to hear of them again.
func (m *member) clear(runtime Runtime) error {
	ctx, cancel := context.WithTimeout(context.Background(), departTime)
	defer cancel()
	return errors.Join(agent.Clear(ctx, runtime), os.RemoveAll(filepath.Join(m.n.cfg.DataDir, agentFile)))
}

// depart ends what a membership leaves behind: its containers, its identity and
// its part of the cluster's state.
func (m *member) depart() error {
	runtime, err := m.n.host.Runtime(m.self.NodeID)
	if err == nil {
		err = m.clear(runtime)
	}
	if err != nil {
		m.n.log.Warn("cannot remove all containers", "err", err)
	}
	m.disconnect()
	return m.n.forget()
}

// disconnect takes the network away with the last task.
func (m *member) disconnect() {
	if m.n.host.Network == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), departTime)
	defer cancel()
	if err := m.n.host.Network.Destroy(ctx); err != nil {
		m.n.log.Warn("cannot remove all of the network", "err", err)
	}
}

func (m *member) setAgent(a *agent.Agent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.agent = a
}

// running counts the node's running tasks.
func (m *member) running() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.agent == nil {
		return 0
	}
	return m.agent.Running()
}

func (m *member) hasSession() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.apart == nil
}

func (m *member) setApart(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.apart = err
}

// managers lists where managers were heard of: on a manager its own port first,
// and last those that raft knows, from which it may have been away for long.
func (m *member) managers() []string {
	var list []string
	add := func(addrs ...string) {
		for _, addr := range addrs {
			if !slices.Contains(list, addr) {
				list = append(list, addr)
			}
		}
	}
	if own, err := m.n.advertised(); err == nil && m.isManager() {
		add(own)
	}
	add(m.n.saved().Managers...)
	if c := m.manager(); c != nil {
		for _, voter := range c.raft.Voters() {
			add(voter.Addr)
		}
	}
	return list
}

// isManager says what the certificate says.
func (m *member) isManager() bool {
	return m.n.keys.Self().Role == pb.NodeRole_NODE_ROLE_MANAGER
}

func (m *member) dial(_ context.Context, addr string) (agent.Conn, error) {
	return rpc.Dial(addr, m.n.keys.ClientTLS(), m.n.host.Dial)
}

// onWelcome takes note of what the leader says of the cluster and of this node.
func (m *member) onWelcome(w *pb.Welcome, renewer *ca.Renewer) {
	if w.Role != m.n.keys.Self().Role {
		renewer.Renew()
	}
	var addrs []string
	for _, p := range w.Managers {
		addrs = append(addrs, p.Addr)
	}
	slices.Sort(addrs)
	rec := m.n.saved()
	if len(addrs) > 0 && !slices.Equal(addrs, rec.Managers) || rec.Founding != nil {
		// A leader that speaks has committed the founding.
		if err := m.n.update(func(r *record) { r.Managers, r.Founding = addrs, nil }); err != nil {
			m.n.log.Warn("cannot save the managers' addresses", "err", err)
		}
	}
	m.setApart(nil)
	m.breaks("agent", nil)
	m.welcomedOnce.Do(func() { close(m.welcomed) })
}

func (m *member) onRenew(before, after rpc.Identity) {
	if before.Role != after.Role {
		m.n.log.Info("certificate with another role", "role", rpc.RoleName(after.Role))
		m.lookAgain()
	}
}

// lookAgain lets manage see that role or record changed.
func (m *member) lookAgain() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// renew asks any manager for a new certificate.
func (m *member) renew(ctx context.Context, csr []byte) (*pb.Certificate, error) {
	var cert *pb.Certificate
	err := m.anyOf(ctx, m.managers(), func(conn agent.Conn) (err error) {
		cert, err = pb.NewCAClient(conn).Renew(ctx, &pb.RenewRequest{Csr: csr})
		return err
	})
	return cert, err
}

// leaveRaft gives the vote back.
func (m *member) leaveRaft(ctx context.Context) error {
	return m.anyOf(ctx, m.managers(), func(conn agent.Conn) error {
		_, err := pb.NewMembershipClient(conn).LeaveRaft(ctx, &pb.LeaveRaftRequest{Force: true})
		return err
	})
}

// anyOf makes a call at one manager after the other until one succeeds.
func (m *member) anyOf(ctx context.Context, addrs []string, call func(agent.Conn) error) error {
	err := error(fault.New(fault.Unavailable, "no manager is known"))
	for _, addr := range addrs {
		conn, dialErr := m.dial(ctx, addr)
		if dialErr != nil {
			err = dialErr
			continue
		}
		err = call(conn)
		conn.Close()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}
