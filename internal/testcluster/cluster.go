// Package testcluster runs whole clusters in one process: real nodes with real
// raft, TLS and gRPC over a network in memory, whose containers are entries in
// a map. Inside a testing/synctest bubble an hour of such a cluster's life takes
// a second.
package testcluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/minid/minid/agent/faketask"
	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/client"
	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/simnet"
	"github.com/minid/minid/node"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store/raftstore"
)

// Cluster is a set of nodes.
type Cluster struct {
	t     testing.TB
	Net   *simnet.Network
	Nodes []*Node
	// Behave is how tasks behave; nil starts them at once and lets them run.
	Behave func(*task.Wanted) faketask.Behaviour
	// Log takes every node's log; nil is none.
	Log slog.Handler
	dir string
}

// Node is one simulated machine.
type Node struct {
	Name    string
	Runtime *faketask.Runtime
	// Configure, when set, changes the flags of the next Start.
	Configure func(*node.Config)

	c     *Cluster
	index int
	raft  *raftstore.Memory
	// listening is closed when the present minid's control socket is open.
	listening chan struct{}
	// stop ends the present minid, done is closed after.
	stop context.CancelFunc
	done chan error
}

// New makes an empty cluster. End it with Close inside the bubble.
func New(t testing.TB) *Cluster {
	return &Cluster{t: t, Net: simnet.New(), dir: t.TempDir()}
}

// Node adds a machine and starts its minid.
func (c *Cluster) Node() *Node {
	index := len(c.Nodes) + 1
	n := &Node{
		Name:    fmt.Sprintf("n%d", index),
		index:   index,
		Runtime: faketask.New(c.Behave),
		raft:    raftstore.NewMemory(),
		c:       c,
	}
	c.Nodes = append(c.Nodes, n)
	n.Start()
	return n
}

// Start starts minid with what an earlier one left on disk.
func (n *Node) Start() {
	c := n.c
	cfg := node.Defaults()
	cfg.DataDir = filepath.Join(c.dir, n.Name)
	cfg.RunDir = cfg.DataDir
	cfg.Name = n.Name
	cfg.ListenAddr = n.addr()
	cfg.AdvertiseAddr = n.addr()
	if c.Log != nil {
		cfg.Logger = slog.New(c.Log).With("node", n.Name)
	}
	if n.Configure != nil {
		n.Configure(&cfg)
	}
	c.Net.Revive(n.ip())
	n.listening = make(chan struct{})
	minid, err := node.New(cfg, n.host())
	if err != nil {
		c.t.Fatalf("start %s: %v", n.Name, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	n.stop, n.done = stop, make(chan error, 1)
	go func() { n.done <- minid.Run(ctx) }()
	select {
	case <-n.listening:
	case err := <-n.done: // Kill will report it
		n.done <- err
	}
}

// addr is an address that node.Config takes for one: simulated hosts have
// names, and those are resolved by the simulated network.
func (n *Node) addr() string {
	return net.JoinHostPort(n.ip(), fmt.Sprint(node.DefaultPort))
}

func (n *Node) ip() string {
	return fmt.Sprintf("10.0.0.%d", n.index)
}

func (n *Node) host() node.Host {
	listening := n.listening
	return node.Host{
		Listen: func(addr string) (net.Listener, error) { return n.c.Net.Listen(addr) },
		ListenLocal: func() (net.Listener, error) {
			defer close(listening)
			return n.c.Net.Listen(net.JoinHostPort(n.ip(), "local"))
		},
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			return n.c.Net.Dial(ctx, n.ip(), addr)
		},
		Runtime: func(string) (node.Runtime, error) { return n.Runtime, nil },
		Describe: func(_ context.Context, path string) *pb.NodeDescription {
			return &pb.NodeDescription{
				DataPathAddr: path,
				Hostname:     n.Name,
				Platform:     &pb.Platform{Os: "linux", Architecture: "amd64"},
				Resources:    &pb.Resources{NanoCpus: 4e9, MemoryBytes: 8 << 30},
			}
		},
		Local: pb.UnimplementedLocalServer{},
		Raft:  n.raft,
	}
}

// Kill ends minid as SIGKILL does: peers see broken connections. Containers go on.
func (n *Node) Kill() {
	if n.stop == nil {
		return
	}
	n.stop()
	n.c.Net.Die(n.ip())
	if err := <-n.done; err != nil {
		n.c.t.Errorf("%s ended with: %v", n.Name, err)
	}
	n.stop = nil
}

// PowerOff ends minid and all containers.
func (n *Node) PowerOff() {
	n.Kill()
	n.Runtime.PowerOff()
}

// Up reports whether minid runs.
func (n *Node) Up() bool { return n.stop != nil }

// Isolate cuts the node off from all others, Rejoin heals it.
func (n *Node) Isolate() { n.links(n.c.Net.Cut) }

// Rejoin undoes Isolate.
func (n *Node) Rejoin() { n.links(n.c.Net.Heal) }

func (n *Node) links(set func(a, b string)) {
	for _, other := range n.c.Nodes {
		if other != n {
			set(n.ip(), other.ip())
		}
	}
}

// Client returns a client of the node's control socket.
func (n *Node) Client() *client.Client {
	c, err := client.Dial("unix:///"+n.Name, client.Options{Dial: func(ctx context.Context, _ string) (net.Conn, error) {
		return n.c.Net.Dial(ctx, n.ip(), net.JoinHostPort(n.ip(), "local"))
	}})
	if err != nil {
		n.c.t.Fatalf("dial %s: %v", n.Name, err)
	}
	return c
}

// Form starts nodes and joins them: the first ones as managers.
func (c *Cluster) Form(ctx context.Context, managers, workers int) {
	c.t.Helper()
	first := c.Node()
	if err := first.call(func(api *client.Client) error {
		_, err := api.Local.Init(ctx, &pb.InitRequest{})
		return err
	}); err != nil {
		c.t.Fatalf("init: %v", err)
	}
	var tokens *pb.JoinTokens
	if err := first.call(func(api *client.Client) (err error) {
		tokens, err = api.Control.RotateJoinToken(ctx, &pb.RotateJoinTokenRequest{})
		return err
	}); err != nil {
		c.t.Fatalf("read join tokens: %v", err)
	}
	for i := 1; i < managers+workers; i++ {
		token := tokens.Manager
		if i >= managers {
			token = tokens.Worker
		}
		if err := c.Node().Join(ctx, first, token); err != nil {
			c.t.Fatalf("join: %v", err)
		}
	}
}

// Join makes the node part of the cluster.
func (n *Node) Join(ctx context.Context, via *Node, token string) error {
	return n.call(func(api *client.Client) error {
		_, err := api.Local.JoinCluster(ctx, &pb.JoinClusterRequest{Addrs: []string{via.addr()}, Token: token})
		return err
	})
}

func (n *Node) call(do func(*client.Client) error) error {
	api := n.Client()
	defer api.Close()
	return do(api)
}

// Control makes a call at any manager that answers, for at most a minute.
func (c *Cluster) Control(ctx context.Context, do func(ctx context.Context, api pb.ControlClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var err error
	for ctx.Err() == nil {
		for _, n := range c.Nodes {
			if !n.Up() {
				continue
			}
			once, cancel := context.WithTimeout(ctx, 5*time.Second)
			err = n.call(func(api *client.Client) error { return do(once, api.Control) })
			cancel()
			if !retry(err) {
				return err
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("no manager answers: %w", err)
}

// retry tells errors of the way from answers.
func retry(err error) bool {
	switch fault.ClassOf(err) {
	case fault.Unavailable, fault.NotManager, fault.Timeout:
		return err != nil
	}
	return false
}

// Close ends every node. In a bubble, time stands still after the test's end:
// what is under way must have arrived before.
func (c *Cluster) Close() {
	for _, n := range c.Nodes {
		n.Kill()
	}
	time.Sleep(time.Minute)
}
