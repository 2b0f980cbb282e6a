package node

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/minid/minid/agent"
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
	manager *manager.Manager
}

// advertised is the address that peers dial.
func (n *Node) advertised() (string, error) {
	rec := n.saved()
	advertise, listen := rec.AdvertiseAddr, rec.ListenAddr
	if advertise == "" {
		advertise = n.cfg.AdvertiseAddr
	}
	if listen == "" {
		listen = n.cfg.ListenAddr
	}
	return advertised(advertise, listen)
}

func (n *Node) listenAddr() string {
	if rec := n.saved(); rec.ListenAddr != "" {
		return rec.ListenAddr
	}
	return n.cfg.ListenAddr
}

func (n *Node) raftDir() string { return filepath.Join(n.cfg.DataDir, "raft") }

// forgetRaft removes the replicated state from a node that is no manager any more.
func (n *Node) forgetRaft() error {
	return removeAll(n.raftDir())
}

func newControl(m *member) (*control, error) {
	n := m.n
	addr, err := n.advertised()
	if err != nil {
		return nil, err
	}
	port, err := n.host.Listen(n.listenAddr())
	if err != nil {
		return nil, fmt.Errorf("open control port: %w", err)
	}
	c := &control{m: m, addr: addr, port: port}
	if err := c.open(); err != nil {
		port.Close()
		return nil, err
	}
	return c, nil
}

// open makes mux, raft, manager and server, which need each other.
func (c *control) open() error {
	n, rec := c.m.n, c.m.n.saved()
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
	founding, err := rec.founding()
	if err != nil {
		return err
	}
	raft, err := raftstore.Open(c.raftConfig(rec))
	if err != nil {
		return err
	}
	if rec.Recover {
		if err := n.update(func(r *record) { r.Recover = false }); err != nil {
			return err
		}
	}
	c.manager = manager.New(manager.Config{
		NodeID: c.m.self.NodeID, Addr: c.addr, Raft: raft, Founding: founding, JoinRaft: c.joinRaft, Logger: n.log,
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

func (c *control) raftConfig(rec record) raftstore.Config {
	n := c.m.n
	cfg := raftstore.Config{
		NodeID:    c.m.self.NodeID,
		Addr:      c.addr,
		Dir:       n.raftDir(),
		Memory:    n.host.Raft,
		Stream:    &rpc.RaftLayer{Listener: c.mux.Raft(), TLS: n.keys.ClientTLS(), DialFunc: n.host.Dial},
		Bootstrap: rec.Founder,
		Logger:    n.log.With("room", "raft"),

		ForceNewCluster: rec.Recover,
	}
	if cfg.Memory != nil {
		cfg.Dir = ""
	}
	return cfg
}

func (c *control) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.mux.Run(ctx) })
	g.Go(func() error { return c.server.Run(ctx, c.mux.GRPC()) })
	g.Go(func() error { return c.manager.Run(ctx) })
	return g.Wait()
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

// leaveRaft gives the vote back.
func (c *control) leaveRaft(ctx context.Context, force bool) error {
	return c.m.anyOf(ctx, c.m.managers(), func(conn agent.Conn) error {
		_, err := pb.NewMembershipClient(conn).LeaveRaft(ctx, &pb.LeaveRaftRequest{Force: force})
		return err
	})
}
