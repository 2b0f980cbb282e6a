package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/minid/minid/agent"
	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/ca"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
	"github.com/minid/minid/store/raftstore"
)

// Runtime is what a node runs tasks with.
type Runtime interface {
	task.Runtime
	agent.Logs
	agent.Exec
}

// Host is what a node stands on: a real machine, or a simulated one.
type Host struct {
	// Listen opens the control port, ListenLocal the control socket.
	Listen      func(addr string) (net.Listener, error)
	ListenLocal func() (net.Listener, error)
	Dial        rpc.DialFunc
	// Runtime opens the container runtime for a node of a cluster.
	Runtime func(nodeID string) (Runtime, error)
	// Describe finds out what the machine is.
	Describe func(ctx context.Context) *pb.NodeDescription
	// Local answers the calls that are about the machine and not the cluster:
	// images.
	Local pb.LocalServer
	// Raft is the memory that raft writes to in simulations; nil is the disk.
	Raft *raftstore.Memory
	// Background is work that lasts as long as the node, such as watching over
	// containerd; it may be nil.
	Background func(ctx context.Context) error
}

// Node is one minid.
type Node struct {
	cfg  Config
	host Host
	log  *slog.Logger
	keys *ca.Keystore

	// joined wakes life when the node became part of a cluster.
	joined chan struct{}
	// changing lets only one init, join or leave happen at a time.
	changing sync.Mutex

	mu     sync.Mutex
	record record
	member *member
	// failed is why the last membership ended, for Info.
	failed error
}

// New opens a node's state. Run sets it going.
func New(cfg Config, host Host) (*Node, error) {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	rec, err := loadRecord(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, host: host, log: cfg.Logger, record: rec, joined: make(chan struct{}, 1)}
	if !rec.Member {
		// An init or join that did not get to its end left nothing that counts.
		if err := wipe(cfg.DataDir); err != nil {
			return nil, err
		}
	}
	n.keys, err = ca.OpenKeystore(filepath.Join(cfg.DataDir, "certificates"))
	if err != nil {
		return nil, fmt.Errorf("open certificates: %w", err)
	}
	return n, nil
}

// Run works until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	local, err := n.host.ListenLocal()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.localServer().Run(ctx, local) })
	g.Go(func() error { return n.life(ctx) })
	if n.host.Background != nil {
		g.Go(func() error { return n.host.Background(ctx) })
	}
	return g.Wait()
}

// life is one membership after the other.
func (n *Node) life(ctx context.Context) error {
	for {
		if !n.isMember() {
			n.log.Info("in no cluster: waiting for minictl swarm init or join")
			select {
			case <-ctx.Done():
				return nil
			case <-n.joined:
			}
		}
		err := n.live(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errLeft) || errors.Is(err, errRestart) {
			continue
		}
		if err == nil {
			err = errors.New("the membership ended without a reason")
		}
		return err
	}
}

// live is one membership: from join or start to leave or stop.
func (n *Node) live(ctx context.Context) error {
	m, err := newMember(n)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	m.end = end
	defer close(m.ended)
	n.setMember(m)
	defer n.setMember(nil)
	err = m.run(ctx)
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errLeft):
		m.departure = m.depart()
		return cause
	case cause != nil:
		return cause
	}
	return err
}

func (n *Node) isMember() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.record.Member
}

func (n *Node) setMember(m *member) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.member = m
}

// present returns the running membership.
func (n *Node) present() (*member, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.member == nil {
		return nil, fault.New(fault.NotManager, "this node is not part of a cluster").
			WithTry("minictl swarm init, or minictl swarm join")
	}
	return n.member, nil
}

// update changes the record, on disk first.
func (n *Node) update(change func(*record)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := n.record
	change(&next)
	if err := next.save(n.cfg.DataDir); err != nil {
		return fmt.Errorf("save node record: %w", err)
	}
	n.record = next
	return nil
}

func (n *Node) saved() record {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.record
}
