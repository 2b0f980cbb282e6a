package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/minid/minid/agent"
	"github.com/minid/minid/fault"
	"github.com/minid/minid/manager"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
	"github.com/minid/minid/store/raftstore"
)

// control is a manager and its control port.
type control struct {
	m       *member
	addr    string
	port    net.Listener
	mux     *rpc.Mux
	server  *rpc.Server
	raft    *raftstore.Store
	manager *manager.Manager
	census  census
}

// manage runs a manager whenever the certificate says so, until ctx ends or it
// fails.
func (m *member) manage(ctx context.Context) error {
	for ctx.Err() == nil {
		if m.isManager() {
			if err := m.runControl(ctx); err != nil {
				return err
			}
			continue
		}
		// What an earlier time as a manager left must not be taken up again.
		if err := m.n.forgetRaft(); err != nil {
			return err
		}
		m.breaks("manager", nil)
		select {
		case <-ctx.Done():
		case <-m.changed:
		}
	}
	return nil
}

// runControl runs a control until it fails, or until the role or the record asks
// for another one or none.
func (m *member) runControl(ctx context.Context) error {
	c, err := newControl(m)
	if err != nil {
		return err
	}
	m.setControl(c)
	defer m.setControl(nil)
	m.breaks("manager", nil)
	scope, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- c.run(scope) }()
	for m.isManager() && !m.n.saved().Recover {
		select {
		case err := <-done:
			return errors.Join(errors.New("the manager ended"), err)
		case <-m.changed:
		}
	}
	stop()
	return <-done
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

func newControl(m *member) (*control, error) {
	addr, err := m.n.advertised()
	if err != nil {
		return nil, err
	}
	port, err := m.n.listen()
	if err != nil {
		return nil, err
	}
	c := &control{m: m, addr: addr, port: port}
	if err := c.open(); err != nil {
		return nil, errors.Join(err, port.Close())
	}
	return c, nil
}

// listen opens the control port.
func (n *Node) listen() (net.Listener, error) {
	addr := n.listenAddr()
	port, err := n.host.Listen(addr)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "cannot open the control port: %w", err).
			WithTry("stop what uses %s, or start minid with another --listen-addr", addr)
	}
	return port, nil
}

// open makes mux, raft, manager and server, which need each other.
func (c *control) open() error {
	n, rec := c.m.n, c.m.n.saved()
	founding, err := rec.founding()
	if err != nil {
		return err
	}
	// The mux serves raft, which must be open before anybody's standing is known.
	standing := func(nodeID string) pb.NodeRole {
		if c.manager == nil {
			return pb.NodeRole_NODE_ROLE_MANAGER
		}
		return c.manager.Standing()(nodeID)
	}
	keys := n.keys
	c.mux = rpc.NewMux(c.port, rpc.MuxConfig{
		TLS:      keys.ServerTLS(),
		Verify:   func(chain []*x509.Certificate) (rpc.Identity, error) { return keys.Verify(chain) },
		Standing: standing,
		Log:      n.log.With("room", "rpc"),
	})
	if err := c.openRaft(rec); err != nil {
		return err
	}
	c.manager = manager.New(manager.Config{
		NodeID: c.m.self.NodeID, Addr: c.addr, Raft: c.raft, Founding: founding, JoinRaft: c.joinRaft, Logger: n.log,
	})
	c.server = rpc.NewServer(rpc.ServerConfig{
		Self:     keys.Self,
		Standing: standing,
		Leader:   c.manager.Leader,
		TLS:      keys.ClientTLS(),
		Dial:     n.host.Dial,
		Log:      n.log.With("room", "rpc"),
	})
	c.manager.Register(c.server)
	return nil
}

func (c *control) openRaft(rec record) error {
	n := c.m.n
	cfg := raftstore.Config{
		NodeID:    c.m.self.NodeID,
		Addr:      c.addr,
		Dir:       n.raftDir(),
		Memory:    n.host.Raft,
		Stream:    &rpc.RaftLayer{Listener: c.mux.Raft(), TLS: n.keys.ClientTLS(), DialFunc: n.host.Dial},
		Bootstrap: rec.Founding != nil,
		Logger:    n.log.With("room", "raft"),

		ForceNewCluster: rec.Recover,
	}
	if cfg.Memory != nil {
		cfg.Dir = ""
	}
	raft, err := raftstore.Open(cfg)
	if err != nil {
		return err
	}
	if rec.Recover {
		err = n.update(func(r *record) { r.Recover = false })
	}
	if err != nil {
		stopped, stop := context.WithCancel(context.Background())
		stop()
		return errors.Join(err, raft.Run(stopped)) // which closes it
	}
	c.raft = raft
	return nil
}

func (c *control) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.mux.Run(ctx) })
	g.Go(func() error { return c.server.Run(ctx, c.mux.GRPC()) })
	g.Go(func() error { return c.manager.Run(ctx) })
	if c.m.n.cfg.MetricsAddr != "" {
		g.Go(func() error { return c.census.run(ctx, c.manager.State()) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("run manager: %w", err)
	}
	return nil
}

// joinRaft asks the managers for a vote; this one last, which may not know
// the leader before it has one.
func (c *control) joinRaft(ctx context.Context) error {
	addrs := slices.DeleteFunc(c.m.managers(), func(a string) bool { return a == c.addr })
	return c.m.anyOf(ctx, append(addrs, c.addr), func(conn agent.Conn) error {
		_, err := pb.NewMembershipClient(conn).JoinRaft(ctx, &pb.JoinRaftRequest{Addr: c.addr})
		return err
	})
}
