package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/agent"
	"github.com/minid/minid/ca"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

var (
	// errLeft ends a membership for good.
	errLeft = errors.New("left the cluster")
	// errRestart ends it to be begun anew.
	errRestart = errors.New("starting anew")
)

// member is a node's time in one cluster: an agent, a certificate that is kept
// fresh and, while its role is manager, a control port.
type member struct {
	n       *Node
	self    rpc.Identity
	runtime Runtime
	agent   *agent.Agent
	renewer *ca.Renewer

	// role is signalled when the certificate's role changed.
	role chan struct{}
	// welcomed is closed at the first word from a leader.
	welcomed     chan struct{}
	welcomedOnce sync.Once
	// end ends the membership with a cause. ended is closed after; if the cause
	// is errLeft, departure says how the clearing up went.
	end       context.CancelCauseFunc
	ended     chan struct{}
	departure error

	mu      sync.Mutex
	control *control
}

func newMember(n *Node) (*member, error) {
	if err := n.keys.Check(time.Now()); err != nil {
		return nil, err
	}
	self := n.keys.Self()
	runtime, err := n.host.Runtime(self.NodeID)
	if err != nil {
		return nil, fmt.Errorf("open container runtime: %w", err)
	}
	m := &member{
		n: n, self: self, runtime: runtime,
		role:     make(chan struct{}, 1),
		welcomed: make(chan struct{}),
		ended:    make(chan struct{}),
	}
	m.renewer = ca.NewRenewer(ca.RenewerConfig{
		Keystore: n.keys,
		Request:  m.renew,
		OnRenew:  m.onRenew,
		Log:      n.log.With("room", "ca"),
	})
	m.agent = agent.New(agent.Config{
		NodeID:    self.NodeID,
		NodeName:  n.cfg.Name,
		DB:        filepath.Join(n.cfg.DataDir, "agent.db"),
		Runtime:   runtime,
		Logs:      runtime,
		Exec:      runtime,
		Describe:  n.host.Describe,
		Dial:      m.dial,
		Managers:  m.managers(),
		OnWelcome: m.onWelcome,
		Logger:    n.log.With("room", "agent"),
	})
	return m, nil
}

func (m *member) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.agent.Run(ctx) })
	g.Go(func() error { return m.renewer.Run(ctx) })
	g.Go(func() error { return m.manage(ctx) })
	return g.Wait()
}

// manage runs a manager whenever the certificate says so.
func (m *member) manage(ctx context.Context) error {
	for ctx.Err() == nil {
		if m.n.keys.Self().Role != pb.NodeRole_NODE_ROLE_MANAGER {
			select {
			case <-ctx.Done():
			case <-m.role:
			}
			continue
		}
		if err := m.manageUntilDemoted(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *member) manageUntilDemoted(ctx context.Context) error {
	c, err := newControl(m)
	if err != nil {
		return err
	}
	m.setControl(c)
	defer m.setControl(nil)
	scope, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- c.run(scope) }()
	for {
		select {
		case err := <-done:
			return err
		case <-m.role:
		}
		if m.n.keys.Self().Role != pb.NodeRole_NODE_ROLE_MANAGER {
			m.n.log.Info("not a manager any more")
			stop()
			return errors.Join(<-done, m.n.forgetRaft())
		}
	}
}

func (m *member) setControl(c *control) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.control = c
}

// manager returns the running manager, nil on workers.
func (m *member) manager() *control {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.control
}

// managers lists where managers were heard of, this node's own port first.
func (m *member) managers() []string {
	rec := m.n.saved()
	list := slices.Clone(rec.Managers)
	if m.n.keys.Self().Role == pb.NodeRole_NODE_ROLE_MANAGER {
		if own, err := m.n.advertised(); err == nil && !slices.Contains(list, own) {
			list = append([]string{own}, list...)
		}
	}
	return list
}

func (m *member) dial(_ context.Context, addr string) (agent.Conn, error) {
	return rpc.Dial(addr, m.n.keys.ClientTLS(), m.n.host.Dial)
}

// onWelcome takes note of what the leader says of the cluster and of this node.
func (m *member) onWelcome(w *pb.Welcome) {
	if w.Role != m.n.keys.Self().Role {
		m.renewer.Renew()
	}
	var addrs []string
	for _, p := range w.Managers {
		addrs = append(addrs, p.Addr)
	}
	slices.Sort(addrs)
	if len(addrs) > 0 && !slices.Equal(addrs, m.n.saved().Managers) {
		if err := m.n.update(func(r *record) { r.Managers = addrs }); err != nil {
			m.n.log.Warn("cannot save the managers' addresses", "err", err)
		}
	}
	m.welcomedOnce.Do(func() { close(m.welcomed) })
}

func (m *member) onRenew(before, after rpc.Identity) {
	if before.Role != after.Role {
		m.n.log.Info("certificate with another role", "role", rpc.RoleName(after.Role))
		select {
		case m.role <- struct{}{}:
		default:
		}
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

// founding are the first commands of a new cluster, none for others.
func (r record) founding() ([]*pb.Command, error) {
	var entry pb.Entry
	if err := proto.Unmarshal(r.Founding, &entry); err != nil {
		return nil, fmt.Errorf("read founding entry: %w", err)
	}
	return entry.Commands, nil
}
