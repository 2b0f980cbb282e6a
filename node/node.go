// Package node is the composition root: one process that is an agent and, on
// some nodes, a manager.
//
// A node's time is a row of memberships: it waits for init or join, is a member
// until it leaves, and waits again. What goes wrong within a membership is told
// (log, Info, /readyz) and tried again; only leaving ends it.
//
//	Node     the process: record, control socket, health
//	member   its time in one cluster: certificate and agent
//	control  while it is a manager: control port, raft, manager
//	Host     what it stands on: a machine, or a simulated one
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
	agent.Usage
}

// Network connects the tasks of a node.
type Network interface {
	agent.Network
	// Join begins the membership of the node with this id.
	Join(nodeID string)
	// Destroy ends it: nothing of the network stays on the machine.
	Destroy(ctx context.Context) error
}

// Host is what a node stands on: a real machine, or a simulated one.
type Host struct {
	// Listen opens the control port and the metrics port, ListenLocal the
	// control socket.
	Listen      func(addr string) (net.Listener, error)
	ListenLocal func() (net.Listener, error)
	Dial        rpc.DialFunc
	// Runtime opens the container runtime for a node of a cluster. What was
	// opened before is done with.
	Runtime func(nodeID string) (Runtime, error)
	// Network connects the tasks of a node of a cluster; nil in simulations.
	Network Network
	// Describe finds out what the machine is, with the address that other nodes
	// send the overlays' traffic to.
	Describe func(ctx context.Context, dataPath string) *pb.NodeDescription
	// Local answers the calls that are about the machine and not the cluster:
	// images.
	Local pb.LocalServer
	// Raft is the memory that raft writes to in simulations; nil is the disk.
	Raft *raftstore.Memory
	// Background is work that lasts as long as the node, such as watching over
	// containerd; it may be nil.
	Background func(ctx context.Context) error
	// Notify tells the service manager of the machine how the node is, in the
	// form of sd_notify; it may be nil.
	Notify Notifier
}

// Node is one minid.
type Node struct {
	cfg  Config
	host Host
	log  *slog.Logger
	keys *ca.Keystore

	// joined hands a new membership to life.
	joined chan *member
	// changing lets only one init, join or leave happen at a time.
	changing sync.Mutex

	mu     sync.Mutex
	record record
	member *member
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
	n := &Node{cfg: cfg, host: host, log: cfg.Logger, record: rec, joined: make(chan *member)}
	if !rec.Member {
		// An init, join or leave that did not get to its end left nothing that counts.
		if err := errors.Join(n.forgetRaft(), wipe(cfg.DataDir)); err != nil {
			return nil, err
		}
	}
	n.keys, err = ca.OpenKeystore(filepath.Join(cfg.DataDir, keysDir))
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
	g.Go(func() error { return n.serveMetrics(ctx) })
	if n.host.Background != nil {
		g.Go(func() error { return n.host.Background(ctx) })
	}
	if n.host.Notify != nil {
		g.Go(func() error { return n.notify(ctx) })
	}
	return g.Wait()
}

// life is one membership after the other.
func (n *Node) life(ctx context.Context) error {
	for {
		m := n.returning()
		if m == nil {
			n.log.Info("in no cluster: waiting for minictl swarm init or join")
			select {
			case <-ctx.Done():
				return nil
			case m = <-n.joined:
			}
		}
		n.live(ctx, m)
		if ctx.Err() != nil {
			return nil
		}
	}
}

// returning is the membership to go on with, nil without one.
func (n *Node) returning() *member {
	if !n.saved().Member {
		return nil
	}
	return newMember(n)
}

// live is one membership: from join or start to leave or stop.
func (n *Node) live(ctx context.Context, m *member) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(m.leaving, stop)()
	n.setMember(m)
	m.run(ctx)
	if m.leaving.Err() != nil {
		m.departure = m.depart()
	}
	n.setMember(nil)
	close(m.ended)
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

// forget wipes the cluster from disk and memory.
func (n *Node) forget() error {
	n.mu.Lock()
	n.record = record{}
	n.mu.Unlock()
	return errors.Join(wipe(n.cfg.DataDir), n.keys.Remove(), n.forgetRaft())
}

// listenAddr and advertiseAddr are what is in force: from init or join, or the flags.
func (n *Node) listenAddr() string { return n.saved().Listen.over(n.cfg.ListenAddr) }

func (n *Node) advertiseAddr() string { return n.saved().Advertise.over(n.cfg.AdvertiseAddr) }

// advertised is the address that peers dial.
func (n *Node) advertised() (string, error) {
	return advertised(n.advertiseAddr(), n.listenAddr())
}

// network is the agent's, nil where there is none.
func (n *Node) network() agent.Network {
	if n.host.Network == nil {
		return nil
	}
	return n.host.Network
}

// describe tells what this node is.
func (n *Node) describe(ctx context.Context) *pb.NodeDescription {
	addr, err := n.dataPathAddr()
	if err != nil {
		n.log.Warn("the address of the data path is not known", "err", err)
	}
	return n.host.Describe(ctx, addr)
}

// dataPathAddr is the IP address that other nodes send the overlays' traffic to.
func (n *Node) dataPathAddr() (string, error) {
	return dataPath(n.saved().DataPath.over(n.cfg.DataPathAddr), n.advertiseAddr(), n.listenAddr())
}

func (n *Node) raftDir() string { return filepath.Join(n.cfg.DataDir, raftDir) }

// forgetRaft removes the replicated state from a node that is no manager (any more).
func (n *Node) forgetRaft() error {
	if n.host.Raft != nil {
		n.host.Raft.Forget()
	}
	return removeAll(n.raftDir())
}
