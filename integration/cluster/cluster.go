// Package cluster runs real minid nodes on one host, each in a network
// namespace of its own with its own containerd, and can do to them what
// happens to machines: kill, pause, cut off, lose power.
//
// It is the engine of the integration tests, of `make demo` and of `make
// versus`. It needs root.
package cluster

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Options of a cluster.
type Options struct {
	// Bin holds minid, minictl, containerd and its shim.
	Bin string
	// Keep leaves the directory with logs behind.
	Keep bool
	// Flags are given to every minid.
	Flags []string
	// Log takes a line for each thing done to the cluster; nil is none.
	Log io.Writer
}

// Cluster is a set of nodes around a hub namespace, which plays the outside
// world: clients and the registry live there.
type Cluster struct {
	opts  Options
	dir   string
	hub   *namespace
	mu    sync.Mutex
	nodes []*Node
}

// New makes an empty cluster: its directory and its hub.
func New(opts Options) (*Cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("make cluster: network namespaces need root: run it with sudo")
	}
	for _, name := range []string{"minid", "minictl", "containerd", "containerd-shim-runc-v2"} {
		if !exists(filepath.Join(opts.Bin, name)) {
			return nil, fmt.Errorf("make cluster: %s is not built: run make build", filepath.Join(opts.Bin, name))
		}
	}
	// Short, for the 107 bytes of a unix socket's path.
	dir, err := os.MkdirTemp("/tmp", "mn")
	if err != nil {
		return nil, err
	}
	c := &Cluster{opts: opts, dir: dir}
	if c.hub, err = newNamespace(filepath.Join(dir, "hub.ns")); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	if err := makeHub(c.hub); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Dir holds the nodes' data, sockets and logs.
func (c *Cluster) Dir() string { return c.dir }

// HubAddr is the address of the outside world as nodes see it.
func (c *Cluster) HubAddr() string { return hubAddr }

// Outside runs fn in the hub's namespace.
func (c *Cluster) Outside(fn func() error) error { return c.hub.Do(fn) }

// Listen opens a TCP listener in the hub's namespace.
func (c *Cluster) Listen(port int) (net.Listener, error) {
	var l net.Listener
	err := c.hub.Do(func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprintf("%s:%d", hubAddr, port))
		return err
	})
	return l, err
}

// DialOutside connects from the hub's namespace.
func (c *Cluster) DialOutside(addr string, timeout time.Duration) (net.Conn, error) {
	var conn net.Conn
	err := c.hub.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp4", addr, timeout)
		return err
	})
	return conn, err
}

// Node makes the next node, n1, n2, …, and starts its minid.
func (c *Cluster) Node(flags ...string) (*Node, error) {
	n, err := c.Prepare(flags...)
	if err != nil {
		return nil, err
	}
	return n, n.Start()
}

// Prepare makes the next node and does not start it.
func (c *Cluster) Prepare(flags ...string) (*Node, error) {
	c.mu.Lock()
	i := len(c.nodes) + 1
	n := &Node{c: c, index: i, Name: fmt.Sprintf("n%d", i), Addr: nodeAddr(i), flags: flags}
	c.nodes = append(c.nodes, n)
	c.mu.Unlock()
	if err := n.setUp(); err != nil {
		return nil, fmt.Errorf("set up %s: %w", n.Name, err)
	}
	return n, nil
}

// Nodes lists the nodes made so far.
func (c *Cluster) Nodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Node(nil), c.nodes...)
}

// Close ends every process of every node and removes all that the cluster made.
func (c *Cluster) Close() {
	var all sync.WaitGroup
	for _, n := range c.Nodes() {
		all.Go(n.destroy)
	}
	all.Wait()
	if c.hub != nil {
		c.hub.close()
	}
	unmountBelow(c.dir)
	if !c.opts.Keep {
		os.RemoveAll(c.dir)
	}
}

func (c *Cluster) logf(format string, args ...any) {
	if c.opts.Log != nil {
		fmt.Fprintf(c.opts.Log, format+"\n", args...)
	}
}
