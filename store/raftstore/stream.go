package raftstore

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Stream carries connections between managers. It authenticates both ends.
type Stream interface {
	net.Listener
	// Dial connects to the manager at HOST:PORT.
	Dial(address string, timeout time.Duration) (net.Conn, error)
}

// stream adapts a Stream to raft: it shows the advertised address, and closing
// it closes what it accepted, which raft would leave open.
type stream struct {
	Stream
	addr advertised

	mu       sync.Mutex
	accepted map[net.Conn]struct{} // nil when closed
}

func newStream(s Stream, addr string) *stream {
	return &stream{Stream: s, addr: advertised(addr), accepted: map[net.Conn]struct{}{}}
}

// advertised is an address that peers dial, whatever the listener is bound to.
type advertised string

func (advertised) Network() string  { return "raft" }
func (a advertised) String() string { return string(a) }

func (s *stream) Addr() net.Addr { return s.addr }

func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.Stream.Dial(string(address), timeout)
}

func (s *stream) Accept() (net.Conn, error) {
	conn, err := s.Stream.Accept()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accepted == nil {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	s.accepted[conn] = struct{}{}
	return acceptedConn{conn, s}, nil
}

func (s *stream) Close() error {
	err := s.Stream.Close()
	s.mu.Lock()
	conns := s.accepted
	s.accepted = nil
	s.mu.Unlock()
	for conn := range conns {
		err = errors.Join(err, conn.Close())
	}
	if errors.Is(err, net.ErrClosed) {
		return nil // the other side of a race closed it first
	}
	return err
}

type acceptedConn struct {
	net.Conn
	stream *stream
}

func (c acceptedConn) Close() error {
	c.stream.mu.Lock()
	delete(c.stream.accepted, c.Conn)
	c.stream.mu.Unlock()
	return c.Conn.Close()
}
