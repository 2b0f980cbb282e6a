package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/miekg/dns"

	"github.com/minid/minid/network/netns"
)

const (
	// firstPort is above the ports that kernels give to outgoing connections and
	// those that programs are known by, so that a task's own are free.
	firstPort = 61053
	// tries are the ports from firstPort on that may be taken.
	tries = 100
	// maxQuestion is the largest message read over UDP.
	maxQuestion = 4096
	// maxConns is how many TCP connections a task may have open.
	maxConns = 32
	// idle is how long a TCP connection waits for a question (RFC 7766).
	idle = 10 * time.Second
)

// listener has the sockets in one task's namespace.
type listener struct {
	id    string
	task  atomic.Pointer[Task]
	ports wanted
	// inode is the namespace's, which tells it from a later one at the same path.
	inode uint64
	udp   *net.UDPConn
	tcp   *net.TCPListener

	mu    sync.Mutex
	conns map[net.Conn]bool // nil once closed
}

// listen opens the sockets of a task.
func listen(t Task) (*listener, error) {
	l := &listener{id: t.ID, conns: make(map[net.Conn]bool)}
	l.task.Store(&t)
	var err error
	if l.inode, err = inode(t.Netns); err != nil {
		return nil, fmt.Errorf("find network namespace: %w", err)
	}
	err = netns.Do(t.Netns, func() error {
		l.udp, err = firstFree(func(p uint16) (*net.UDPConn, error) {
			return net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(Address, p)))
		})
		if err != nil {
			return err
		}
		l.tcp, err = firstFree(func(p uint16) (*net.TCPListener, error) {
			return net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(Address, p)))
		})
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open sockets: %w", err), l.close())
	}
	l.ports = wanted{UDP: portOf(l.udp.LocalAddr()), TCP: portOf(l.tcp.Addr())}
	return l, nil
}

func portOf(a net.Addr) uint16 {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return 0
	}
	return p.Port()
}

// firstFree opens a socket at the first port that the task does not use itself.
func firstFree[T any](open func(port uint16) (T, error)) (socket T, err error) {
	for p := range uint16(tries) {
		if socket, err = open(firstPort + p); !errors.Is(err, unix.EADDRINUSE) {
			return socket, err
		}
	}
	return socket, err
}

// inode of the namespace at path; an empty path is the caller's own.
func inode(path string) (uint64, error) {
	if path == "" {
		path = "/proc/thread-self/ns/net"
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("%s has no inode", path)
	}
	return st.Ino, nil
}

// in tells whether the sockets are in the namespace that is at path now.
func (l *listener) in(path string) bool {
	now, err := inode(path)
	return err == nil && now == l.inode
}

// close ends serving. It may be repeated.
func (l *listener) close() error {
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	for c := range conns {
		_ = c.Close()
	}
	var errs []error
	if l.udp != nil {
		errs = append(errs, l.udp.Close())
	}
	if l.tcp != nil {
		errs = append(errs, l.tcp.Close())
	}
	return errors.Join(errs...)
}

// track keeps a connection to be closed with the listener; there may be maxConns.
func (l *listener) track(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil || len(l.conns) >= maxConns {
		return false
	}
	l.conns[c] = true
	return true
}

func (l *listener) untrack(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	_ = c.Close()
}

// serveUDP answers the cluster's names one after another, and has the others
// asked for beside that.
func (s *Server) serveUDP(ctx context.Context, l *listener) {
	in, out := make([]byte, maxQuestion), make([]byte, maxUDP)
	for {
		n, from, err := l.udp.ReadFromUDPAddrPort(in)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.logger.Debug("question is not read", "task", l.id, "error", err)
			if !pause(ctx) {
				return
			}
			continue
		}
		q, reply, forward := s.local(in[:n], l.task.Load())
		if reply == nil {
			continue
		}
		if !forward {
			s.sendUDP(l, from, limited{reply, limit(q, false)}, out)
			continue
		}
		if !s.forward.gate.enter(l.id) {
			reply.Rcode = wire.RcodeServerFailure
			s.sendUDP(l, from, limited{reply, limit(q, false)}, out)
			continue
		}
		s.serve.Go(func() {
			defer s.forward.gate.leave(l.id)
			reply := s.forward.ask(ctx, l.task.Load(), q, reply)
			s.sendUDP(l, from, limited{reply, limit(q, false)}, nil)
		})
	}
}

// pause waits a moment after an error that is about to come again.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(10 * time.Millisecond):
		return true
	}
}

// local answers a message as far as that needs no other name server.
func (s *Server) local(packet []byte, t *Task) (q, reply *wire.Msg, forward bool) {
	q = new(wire.Msg)
	if err := q.Unpack(packet); err != nil {
		return q, malformed(packet), false
	}
	s.names.RLock()
	defer s.names.RUnlock()
	reply, forward = respond(q, t, s.zones, s.turn.Add(1))
	return q, reply, forward
}

// limited is a reply and its largest size.
type limited struct {
	*wire.Msg
	size int
}

func (s *Server) sendUDP(l *listener, to netip.AddrPort, reply limited, buf []byte) {
	packet, err := pack(reply.Msg, reply.size, buf)
	if err == nil {
		_, err = l.udp.WriteToUDPAddrPort(packet, to)
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		s.logger.Debug("answer is not sent", "task", l.id, "error", err)
	}
}

func (s *Server) serveTCP(ctx context.Context, l *listener) {
	for {
		c, err := l.tcp.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.logger.Debug("connection is not accepted", "task", l.id, "error", err)
			if !pause(ctx) {
				return
			}
			continue
		}
		if !l.track(c) {
			_ = c.Close()
			continue
		}
		s.serve.Go(func() {
			defer l.untrack(c)
			s.converse(ctx, l, c)
		})
	}
}

// converse answers the questions of one connection in turn, until it is closed
// or idle.
func (s *Server) converse(ctx context.Context, l *listener, c net.Conn) {
	for ctx.Err() == nil {
		if c.SetDeadline(time.Now().Add(idle)) != nil {
			return
		}
		packet, err := readFrame(c)
		if err != nil {
			return
		}
		q, reply, forward := s.local(packet, l.task.Load())
		if reply == nil {
			return
		}
		if forward {
			if s.forward.gate.enter(l.id) {
				reply = s.forward.ask(ctx, l.task.Load(), q, reply)
				s.forward.gate.leave(l.id)
			} else {
				reply.Rcode = wire.RcodeServerFailure
			}
		}
		if err := writeFrame(c, reply); err != nil {
			s.logger.Debug("answer is not sent", "task", l.id, "error", err)
			return
		}
	}
}

func readFrame(c io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	packet := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err := io.ReadFull(c, packet)
	return packet, err
}

func writeFrame(c io.Writer, reply *wire.Msg) error {
	packet, err := pack(reply, wire.MaxMsgSize, nil)
	if err != nil {
		return err
	}
	_, err = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...))
	return err
}
