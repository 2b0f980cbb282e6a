package rpc

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// What those who have not shown a certificate may cost. A join takes one
// connection, a few KiB and well under a second; hundreds may come from behind
// one address.
const (
	maxHandshakes          = 1024
	maxHandshakesPerSource = 256
	maxStrangers           = 1024
	maxStrangersPerSource  = 256
	strangerLife           = 30 * time.Second
	strangerBytes          = 64 << 10
)

// gate bounds how many may be inside, in all and per source address.
type gate struct {
	max, maxPerSource int

	mu     sync.Mutex // protects the following
	inside int
	from   map[string]int
}

func newGate(total, perSource int) *gate {
	return &gate{max: total, maxPerSource: perSource, from: map[string]int{}}
}

// enter lets one more in, unless it is full for its source; leave once.
func (g *gate) enter(addr net.Addr) (leave func(), ok bool) {
	source := sourceOf(addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside >= g.max || g.from[source] >= g.maxPerSource {
		return nil, false
	}
	g.inside++
	g.from[source]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.inside--
		if g.from[source]--; g.from[source] == 0 {
			delete(g.from, source)
		}
	}, true
}

// sourceOf returns an address without its port.
func sourceOf(addr net.Addr) string {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	return host
}

// conn is a connection after its handshake. Close may be called repeatedly.
type conn struct {
	net.Conn          // with TLS
	raw      net.Conn // below it
	mux      *Mux
	auth     authInfo
	// role is what the peer counted as when it connected.
	role pb.NodeRole
	// limited connections end at a deadline and after left bytes.
	limited bool
	left    atomic.Int64
	expiry  *time.Timer
	leave   func()
	once    sync.Once
}

// limit subjects a stranger's connection to the bounds; false if there are
// too many.
func (c *conn) limit(g *gate) bool {
	leave, ok := g.enter(c.RemoteAddr())
	if !ok {
		return false
	}
	c.limited, c.leave = true, leave
	c.left.Store(strangerBytes)
	c.expiry = time.AfterFunc(strangerLife, c.abort)
	return true
}

// Read fails once a stranger has sent more than a join needs.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.limited && c.left.Add(int64(-n)) < 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

func (c *conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		if c.limited {
			c.expiry.Stop()
			c.leave()
		}
		c.mux.forget(c)
		err = c.Conn.Close()
	})
	return err
}

// abort closes without TLS's farewell, for which the peer would have to read.
func (c *conn) abort() {
	c.raw.Close()
	c.Close()
}

// side is one of the listeners behind a Mux.
type side struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newSide(addr net.Addr) *side {
	return &side{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// hand gives a connection to whoever accepts; false if nobody did in time.
func (s *side) hand(ctx context.Context, c net.Conn) bool {
	select {
	case s.conns <- c:
		return true
	case <-s.closed:
	case <-ctx.Done():
	}
	return false
}

func (s *side) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *side) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *side) Addr() net.Addr { return s.addr }
