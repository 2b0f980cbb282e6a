package simnet

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// window is how many bytes may be under way before a writer waits.
const window = 1 << 20

// Conn is one end of a connection.
type Conn struct {
	n        *Network
	from, to string
	in, out  *half
}

// half carries the bytes of one direction.
type half struct {
	n        *Network
	from, to string
	changed  *sync.Cond // its lock is the network's
	chunks   []chunk
	size     int
	closed   bool
	readBy   time.Time
	writeBy  time.Time
}

// chunk is one write, which arrives later.
type chunk struct {
	data []byte
	at   time.Time
}

func (n *Network) pipe(from, to string) (client, server *Conn) {
	there, back := n.half(from, to), n.half(to, from)
	client = &Conn{n: n, from: from, to: to, in: back, out: there}
	server = &Conn{n: n, from: to, to: from, in: there, out: back}
	n.conns[client], n.conns[server] = struct{}{}, struct{}{}
	return client, server
}

func (n *Network) half(from, to string) *half {
	return &half{n: n, from: from, to: to, changed: sync.NewCond(&n.mu)}
}

// Read returns what has arrived; io.EOF after the peer closed.
func (c *Conn) Read(p []byte) (int, error) {
	h := c.in
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	for {
		now := time.Now()
		arrived := len(h.chunks) > 0 && !h.chunks[0].at.After(now) && !h.n.isCut(h.from, h.to)
		switch {
		case passed(h.readBy, now):
			return 0, os.ErrDeadlineExceeded
		case arrived:
			return h.take(p), nil
		case h.closed && (len(h.chunks) == 0 || h.n.isCut(h.from, h.to)):
			return 0, io.EOF
		}
		h.await(h.nextArrival(now))
	}
}

// take copies the first chunk out.
func (h *half) take(p []byte) int {
	k := copy(p, h.chunks[0].data)
	if h.chunks[0].data = h.chunks[0].data[k:]; len(h.chunks[0].data) == 0 {
		h.chunks = h.chunks[1:]
	}
	h.size -= k
	h.changed.Broadcast()
	return k
}

// nextArrival is when bytes under way arrive, zero if none are.
func (h *half) nextArrival(now time.Time) time.Time {
	if len(h.chunks) > 0 && h.chunks[0].at.After(now) {
		return h.chunks[0].at
	}
	return time.Time{}
}

// await waits for a change, until a time if it is set.
func (h *half) await(until time.Time) {
	if !until.IsZero() {
		timer := time.AfterFunc(time.Until(until), h.wake)
		defer timer.Stop()
	}
	h.changed.Wait()
}

func (h *half) wake() {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.changed.Broadcast()
}

// Write sends bytes on their way; it waits while too many are under way.
func (c *Conn) Write(p []byte) (int, error) {
	h := c.out
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	for {
		now := time.Now()
		switch {
		case h.closed:
			return 0, io.ErrClosedPipe
		case passed(h.writeBy, now):
			return 0, os.ErrDeadlineExceeded
		case h.size < window:
			h.chunks = append(h.chunks, chunk{append([]byte(nil), p...), now.Add(h.n.Latency)})
			h.size += len(p)
			h.changed.Broadcast()
			return len(p), nil
		}
		h.await(time.Time{})
	}
}

func passed(deadline, now time.Time) bool { return !deadline.IsZero() && !now.Before(deadline) }

// Close ends both directions.
func (c *Conn) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.close()
	return nil
}

func (c *Conn) close() {
	delete(c.n.conns, c)
	for _, h := range []*half{c.in, c.out} {
		h.closed = true
		h.changed.Broadcast()
	}
}

// LocalAddr is the host of this end.
func (c *Conn) LocalAddr() net.Addr { return Addr(c.from + ":0") }

// RemoteAddr is the host of the other end.
func (c *Conn) RemoteAddr() net.Addr { return Addr(c.to + ":0") }

// SetDeadline bounds reads and writes.
func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline bounds present and later reads.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.deadline(func() { c.in.readBy = t }, t)
	return nil
}

// SetWriteDeadline bounds present and later writes.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.deadline(func() { c.out.writeBy = t }, t)
	return nil
}

func (h *half) deadline(set func(), t time.Time) {
	h.n.mu.Lock()
	set()
	h.changed.Broadcast()
	h.n.mu.Unlock()
	if !t.IsZero() && time.Until(t) > 0 {
		// Not stopped: a wake-up too many harms nobody.
		time.AfterFunc(time.Until(t), h.wake)
	}
}
