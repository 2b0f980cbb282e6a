package raftstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// network is an in-memory network whose nodes can be cut off from each other.
type network struct {
	mu        sync.Mutex
	listeners map[string]*listener
	cut       map[[2]string]bool
	conns     map[*link]bool
}

// link is one connection, known by its ends.
type link struct {
	from, to string
	near     net.Conn
	far      net.Conn
}

func newNetwork() *network {
	return &network{listeners: map[string]*listener{}, cut: map[[2]string]bool{}, conns: map[*link]bool{}}
}

// listener is one node's end of the network.
type listener struct {
	net    *network
	addr   string
	queue  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (n *network) listen(addr string) *listener {
	l := &listener{net: n, addr: addr, queue: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[addr] = l
	return l
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return advertised(l.addr) }

func (l *listener) Dial(address string, timeout time.Duration) (net.Conn, error) {
	l.net.mu.Lock()
	to, cut := l.net.listeners[address], l.net.cut[[2]string{l.addr, address}]
	l.net.mu.Unlock()
	if to == nil {
		return nil, syscall.ECONNREFUSED
	}
	if cut {
		time.Sleep(timeout)
		return nil, syscall.ETIMEDOUT
	}
	near, far := net.Pipe()
	select {
	case to.queue <- far:
	case <-to.closed:
		return nil, syscall.ECONNREFUSED
	case <-time.After(timeout):
		return nil, syscall.ETIMEDOUT
	}
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if l.net.cut[[2]string{l.addr, address}] { // meanwhile
		return nil, errors.Join(syscall.ECONNRESET, far.Close())
	}
	l.net.conns[&link{l.addr, address, near, far}] = true
	return near, nil
}

// partition lets only the nodes of one side talk to each other; no sides heals.
func (n *network) partition(sides ...[]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	side := map[string]int{}
	for i, nodes := range sides {
		for _, addr := range nodes {
			side[addr] = i + 1
		}
	}
	clear(n.cut)
	for a := range n.listeners {
		for b := range n.listeners {
			if side[a] != side[b] {
				n.cut[[2]string{a, b}] = true
			}
		}
	}
	for c := range n.conns {
		if n.cut[[2]string{c.from, c.to}] {
			c.near.Close()
			c.far.Close()
			delete(n.conns, c)
		}
	}
}

// member is one manager of a test cluster; its memory survives its kills.
type member struct {
	*Store
	id     string
	memory *Memory
	cancel context.CancelFunc
	done   chan error
}

type cluster struct {
	t       testing.TB
	net     *network
	members map[string]*member
	tune    func(*Config)
}

// newCluster starts a cluster of n managers, named n1 and so on, and waits for
// all of them to be voters.
func newCluster(t testing.TB, n int, tune func(*Config)) *cluster {
	c := &cluster{t: t, net: newNetwork(), members: map[string]*member{}, tune: tune}
	t.Cleanup(c.stop)
	c.start("n1", func(cfg *Config) { cfg.Bootstrap = true })
	for i := 2; i <= n; i++ {
		id := fmt.Sprintf("n%d", i)
		c.start(id, nil)
		c.join(id)
	}
	c.awaitVoters(n)
	return c
}

// awaitVoters waits until every member knows all n. One that does not refuses
// its vote to those it does not know: without the leader that added them, no
// other could be elected.
func (c *cluster) awaitVoters(n int) {
	c.t.Helper()
	for range 3000 {
		behind := func(m *member) bool { return len(m.Voters()) != n }
		if !slices.ContainsFunc(slices.Collect(maps.Values(c.members)), behind) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Fatalf("not every member knows all %d", n)
}

// start starts a member, with the memory that it had before if it is not new.
func (c *cluster) start(id string, tune func(*Config)) *member {
	c.t.Helper()
	m := &member{id: id, memory: NewMemory(), done: make(chan error, 1)}
	if old := c.members[id]; old != nil {
		m.memory = old.memory
	}
	cfg := Config{NodeID: id, Addr: id, Memory: m.memory, Stream: c.net.listen(id)}
	for _, f := range []func(*Config){c.tune, tune} {
		if f != nil {
			f(&cfg)
		}
	}
	s, err := Open(cfg)
	if err != nil {
		c.t.Fatalf("open %s: %v", id, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.Store, m.cancel = s, cancel
	go func() { m.done <- s.Run(ctx) }()
	c.members[id] = m
	return m
}

// kill stops a member at once. Nothing is handed over.
func (c *cluster) kill(m *member) {
	c.t.Helper()
	m.cancel()
	if err := <-m.done; err != nil {
		c.t.Errorf("run %s: %v", m.id, err)
	}
	m.done <- nil
}

func (c *cluster) stop() {
	for _, m := range c.members {
		c.kill(m)
	}
}

func (c *cluster) join(id string) {
	c.t.Helper()
	c.retry("add "+id, func(leader *member) error {
		return leader.AddVoter(context.Background(), id, id)
	})
}

// leader waits for a leader that a majority confirms.
func (c *cluster) leader() *member {
	c.t.Helper()
	for range 3000 {
		for _, m := range c.members {
			if m.IsLeader() && m.VerifyLeader(context.Background()) == nil {
				return m
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	for id, m := range c.members {
		c.t.Logf("%s: %v", id, m.raft.Stats())
	}
	c.t.Fatal("no leader within 30 s")
	return nil
}

// retry does something through the leader until it succeeds.
func (c *cluster) retry(what string, do func(leader *member) error) {
	c.t.Helper()
	var err error
	for range 50 {
		if err = do(c.leader()); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.t.Fatalf("%s: %v", what, err)
}

func node(id string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: &pb.Node{Id: id, Spec: &pb.NodeSpec{}}}}}
}

func setLabel(id, value string, ifVersion uint64) *pb.Command {
	return &pb.Command{Kind: &pb.Command_UpdateNodeSpec{UpdateNodeSpec: &pb.UpdateNodeSpec{
		Id: id, IfVersion: ifVersion, Spec: &pb.NodeSpec{Labels: map[string]string{"v": value}},
	}}}
}

// mustPropose proposes through whoever leads and fails on any refusal.
func (c *cluster) mustPropose(cmds ...*pb.Command) {
	c.t.Helper()
	c.retry("propose", func(leader *member) error {
		refusals, err := leader.Propose(context.Background(), cmds...)
		return errors.Join(append(refusals, err)...)
	})
}

// awaitNode waits until a member's own state has a node.
func (c *cluster) awaitNode(m *member, id string) {
	c.t.Helper()
	for range 3000 {
		if m.State().View().Node(id) != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Fatalf("%s never learned of node %s", m.id, id)
}

func TestProposalReachesEveryManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		c.mustPropose(node("a"), node("b"))
		for _, m := range c.members {
			c.awaitNode(m, "b")
		}
	})
}
