package rpc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

func TestOnePortServesGRPCAndRaft(t *testing.T) {
	c := newCluster(t)
	m := c.serve(t, "m1")
	peer := c.node(t, "m2", managerRole)
	layer := &rpc.RaftLayer{Listener: m.mux.Raft(), TLS: peer.ClientTLS()}
	out, err := layer.Dial(m.addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := layer.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	talk(t, out, in)
	talk(t, in, out)
	if _, err := pb.NewControlClient(dial(t, m.addr, peer.ClientTLS())).GetCluster(t.Context(), &pb.GetClusterRequest{}); err != nil {
		t.Errorf("gRPC beside raft: %v", err)
	}
}

func talk(t *testing.T, from, to net.Conn) {
	t.Helper()
	go fmt.Fprint(from, "hello")
	got := make([]byte, 5)
	if _, err := io.ReadFull(to, got); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestRaftIsForManagersOfTheCluster(t *testing.T) {
	c := newCluster(t)
	m := c.serve(t, "m1")
	callers := remoteCallers(t, c)
	for _, who := range []string{"nobody", "expired", "impostor", "other cluster", "other cluster by ours", "removed", "worker", "demoted manager"} {
		conf := callers[who].tls.Clone()
		conf.NextProtos = []string{rpc.ProtoRaft}
		conn, err := tls.Dial("tcp", m.addr, conf)
		if err != nil {
			continue
		}
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("%s has a raft connection: %v", who, err)
		}
		conn.Close()
	}
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

func TestRaftDialerWantsAManagerOfTheCluster(t *testing.T) {
	ours, theirs := newCluster(t), newCluster(t)
	m := theirs.serve(t, "m1")
	_, err := rpc.DialRaft(t.Context(), m.addr, ours.node(t, "m2", managerRole).ClientTLS(), nil)
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "another cluster's CA") {
		t.Errorf("got %v", err)
	}
	impostor := theirs.node(t, "w1", workerRole) // a worker that listens as if it were a manager
	ln, err := tls.Listen("tcp", "127.0.0.1:0", impostor.ServerTLS())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			c.(*tls.Conn).HandshakeContext(context.Background())
		}
	}()
	_, err = rpc.DialRaft(t.Context(), ln.Addr().String(), m.keys.ClientTLS(), nil)
	if err == nil || !strings.Contains(err.Error(), "not a manager") {
		t.Errorf("a worker passed for a manager: %v", err)
	}
}

func TestOldTLSAndForeignProtocolsAreRefused(t *testing.T) {
	c := newCluster(t)
	m := c.serve(t, "m1")
	for name, conf := range map[string]*tls.Config{
		"TLS 1.2":  {InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}},
		"HTTP/1.1": {InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}},
		"no ALPN":  {InsecureSkipVerify: true},
	} {
		conn, err := tls.Dial("tcp", m.addr, conf)
		if err != nil {
			continue
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprint(conn, "GET / HTTP/1.1\r\n\r\n")
		if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("%s was served: %v", name, err)
		}
		conn.Close()
	}
}

// closedAfter waits until the peer closes and returns how long it took.
func closedAfter(conn net.Conn) time.Duration {
	start := time.Now()
	io.Copy(io.Discard, conn)
	return time.Since(start)
}

func TestSlowHandshakesEnd(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *cluster, m *managerNode, dial rpc.DialFunc) {
		silent, err := dial(t.Context(), "m1")
		if err != nil {
			t.Fatal(err)
		}
		dripping, err := dial(t.Context(), "m1")
		if err != nil {
			t.Fatal(err)
		}
		go func() { // the start of a ClientHello, a byte per second
			for _, b := range []byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3} {
				dripping.Write([]byte{b})
				time.Sleep(time.Second)
			}
		}()
		for _, conn := range []net.Conn{silent, dripping} {
			if took := closedAfter(conn); took > 5*time.Second {
				t.Errorf("closed after %v", took)
			}
		}
		synctest.Wait()
		time.Sleep(time.Minute) // lets the dripping end
	})
}

func TestStrangersConnectionsEnd(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *cluster, m *managerNode, dial rpc.DialFunc) {
		idle := stranger(t, dial)
		if took := closedAfter(idle); took > time.Minute {
			t.Errorf("an idle stranger was closed after %v", took)
		}
		greedy := stranger(t, dial)
		sent := 0
		for {
			n, err := greedy.Write(make([]byte, 16<<10))
			if sent += n; err != nil || sent > 4<<20 {
				break
			}
		}
		if sent > 1<<20+128<<10 {
			t.Errorf("a stranger could send %d bytes", sent)
		}
		greedy.Close()
	})
}

// stranger is a TLS connection without a certificate that has sent the HTTP/2
// preface.
func stranger(t *testing.T, dial rpc.DialFunc) net.Conn {
	t.Helper()
	raw, err := dial(t.Context(), "m1")
	if err != nil {
		t.Fatal(err)
	}
	conf := trusting()
	conf.NextProtos = []string{rpc.ProtoGRPC}
	conn := tls.Client(raw, conf)
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	return conn
}

func TestManyHandshakesFromOneSourceLeaveRoomForOthers(t *testing.T) {
	c := newCluster(t)
	m := c.serve(t, "m1")
	var open []net.Conn
	defer func() {
		for _, conn := range open {
			conn.Close()
		}
	}()
	for range 600 {
		conn, err := net.Dial("tcp", m.addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	// 127.0.0.2 is another source.
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	conn, err := rpc.Dial(m.addr, m.keys.ClientTLS(), func(ctx context.Context, addr string) (net.Conn, error) {
		return from.DialContext(ctx, "tcp", addr)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := pb.NewControlClient(conn).GetCluster(t.Context(), &pb.GetClusterRequest{}); err != nil {
		t.Errorf("another source was locked out: %v", err)
	}
}

func TestConnectionsOfRemovedAndDemotedNodesEnd(t *testing.T) {
	for name, change := range map[string]func(c *cluster){
		"removed": func(c *cluster) { c.set("m2", noRole) },
		"demoted": func(c *cluster) { c.set("m2", workerRole) },
		"expired": func(c *cluster) { time.Sleep(25 * time.Hour) },
	} {
		inMemory(t, func(t *testing.T, c *cluster, m *managerNode, dial rpc.DialFunc) {
			peer := c.node(t, "m2", managerRole)
			raft, err := rpc.DialRaft(t.Context(), "m1", peer.ClientTLS(), dial)
			if err != nil {
				t.Fatal(err)
			}
			in, err := m.mux.Raft().Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			conn, err := rpc.Dial("m1", peer.ClientTLS(), dial)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			watch, err := pb.NewControlClient(conn).Watch(t.Context(), &pb.WatchRequest{ServiceId: "hang"})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			watch.Recv()
			change(c)
			if took := closedAfter(raft); took > 10*time.Second {
				t.Errorf("%s: raft went on for %v", name, took)
			}
			if _, err := watch.Recv(); !fault.Is(err, fault.Unavailable) {
				t.Errorf("%s: watch ended with %v", name, err)
			}
		})
	}
}

func TestServerStopsWithStreamsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		ln := bufconn.Listen(1 << 20)
		keys := c.node(t, "m1", managerRole)
		mux := rpc.NewMux(ln, rpc.MuxConfig{TLS: keys.ServerTLS(), Verify: keys.Verify})
		server := rpc.NewServer(rpc.ServerConfig{Self: keys.Self})
		new(services).register(server)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		go func() { ended <- mux.Run(ctx) }()
		go func() { ended <- server.Run(ctx, mux.GRPC()) }()
		conn, err := rpc.Dial("m1", keys.ClientTLS(), func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) })
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		watch, err := pb.NewControlClient(conn).Watch(t.Context(), &pb.WatchRequest{ServiceId: "hang"})
		if err != nil {
			t.Fatal(err)
		}
		watch.Recv()
		stop()
		start := time.Now()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("a stop is no error: %v", err)
			}
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("stopping took %v", took)
		}
	})
}

// ended is a context whose end has not reached all who wait for it.
type ended struct{ context.Context }

func (ended) Err() error { return context.Canceled }

// A mux closes its listeners at the end of the same ctx, maybe before the server
// hears of it.
func TestServersListenerEndsFirst(t *testing.T) {
	for _, c := range []struct {
		ctx   context.Context
		fails bool
	}{{ended{t.Context()}, false}, {t.Context(), true}} {
		ln := bufconn.Listen(1)
		ln.Close()
		if err := rpc.NewLocalServer(rpc.ServerConfig{}).Run(c.ctx, ln); (err != nil) != c.fails {
			t.Errorf("Run of %T: %v", c.ctx, err)
		}
	}
}
