// Package simnet is a network in memory, for whole clusters in one process and
// in virtual time: hosts that listen and dial, that can be cut off from each
// other, and whose connections break when they die.
//
// A cut link behaves like a network that loses packets: nothing is closed,
// bytes wait until the link is healed, and dialling waits for its context.
// Everything blocks on sync.Cond or channels, so a testing/synctest bubble can
// advance its clock.
package simnet

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Network connects hosts by name. Addresses are HOST:PORT; a host may listen on
// any port.
type Network struct {
	// Latency of every link, one way. Set it before the first Dial.
	Latency time.Duration

	mu        sync.Mutex
	changed   *sync.Cond
	listeners map[string]*Listener
	cut       map[[2]string]bool
	dead      map[string]bool
	conns     map[*Conn]struct{}
}

// New makes a network without hosts.
func New() *Network {
	n := &Network{listeners: map[string]*Listener{}, cut: map[[2]string]bool{}, dead: map[string]bool{}, conns: map[*Conn]struct{}{}}
	n.changed = sync.NewCond(&n.mu)
	return n
}

// Listen opens an address.
func (n *Network) Listen(addr string) (*Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return nil, fmt.Errorf("listen %s: address already in use", addr)
	}
	l := &Listener{n: n, addr: addr, backlog: make(chan *Conn, 64), closed: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// Dial connects host from to an address. It waits while the link is cut.
func (n *Network) Dial(ctx context.Context, from, addr string) (net.Conn, error) {
	to, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, n.wake)
	defer stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.isCut(from, to) && ctx.Err() == nil {
		n.changed.Wait()
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, context.Cause(ctx))
	}
	l := n.listeners[addr]
	if l == nil || n.dead[from] {
		return nil, fmt.Errorf("dial %s: connection refused", addr)
	}
	client, server := n.pipe(from, to)
	select {
	case l.backlog <- server:
		return client, nil
	default:
		client.close()
		return nil, fmt.Errorf("dial %s: too many connections wait to be accepted", addr)
	}
}

// Cut stops all traffic between two hosts, Heal lets it flow again.
func (n *Network) Cut(a, b string) { n.set(a, b, true) }

// Heal undoes Cut.
func (n *Network) Heal(a, b string) { n.set(a, b, false) }

func (n *Network) set(a, b string, cut bool) {
	n.mu.Lock()
	n.cut[link(a, b)] = cut
	n.mu.Unlock()
	n.wake()
}

// Die closes all listeners and breaks all connections of a host, and lets it
// make no new ones until Revive: goroutines of a dead process that still end
// reach nobody.
func (n *Network) Die(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dead[host] = true
	for addr, l := range n.listeners {
		if h, _, _ := net.SplitHostPort(addr); h == host {
			l.close()
		}
	}
	for c := range n.conns {
		if c.from == host || c.to == host {
			c.close()
		}
	}
}

// Revive undoes Die.
func (n *Network) Revive(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.dead, host)
}

// wake lets everybody who waits look again.
func (n *Network) wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changed.Broadcast()
	for c := range n.conns {
		c.in.changed.Broadcast()
	}
}

func (n *Network) isCut(a, b string) bool { return a != b && n.cut[link(a, b)] }

func link(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

// Listener is an open address.
type Listener struct {
	n       *Network
	addr    string
	backlog chan *Conn
	closed  chan struct{}
}

// Accept returns the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close frees the address; connections stay.
func (l *Listener) Close() error {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	l.close()
	return nil
}

func (l *Listener) close() {
	if l.n.listeners[l.addr] != l {
		return
	}
	delete(l.n.listeners, l.addr)
	close(l.closed)
	for {
		select {
		case c := <-l.backlog:
			c.close()
		default:
			return
		}
	}
}

// Addr is what the listener was opened with.
func (l *Listener) Addr() net.Addr { return Addr(l.addr) }

// Addr is an address of the network.
type Addr string

// Network is "sim".
func (a Addr) Network() string { return "sim" }

func (a Addr) String() string { return string(a) }
