package rpc_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

func TestUnreachableManagersAreExplained(t *testing.T) {
	c := newCluster(t)
	ours := c.node(t, "m2", managerRole).ClientTLS()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // closes what it accepts
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	go func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	foreign := newCluster(t).serve(t, "x1")
	for addr, why := range map[string]string{
		closed.Addr().String(): "connection refused",
		silent.Addr().String(): "it closed the connection|connection reset by peer|broken pipe",
		foreign.addr:           "bad certificate of node x1: another cluster's CA issued it",
	} {
		_, err := pb.NewControlClient(dial(t, addr, ours)).GetCluster(t.Context(), &pb.GetClusterRequest{})
		ok := false
		for reason := range strings.SplitSeq(why, "|") {
			ok = ok || err != nil && err.Error() == "cannot reach manager at "+addr+": "+reason
		}
		if !ok || !fault.Is(err, fault.Unavailable) {
			t.Errorf("got %v, want reason %q", err, why)
		}
	}
}

func TestDeadlineOfACallIsATimeout(t *testing.T) {
	c := newCluster(t)
	hang := func(ctx context.Context, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	conn, err := rpc.Dial("m1:2377", c.node(t, "m2", managerRole).ClientTLS(), hang)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := pb.NewControlClient(conn).GetCluster(ctx, &pb.GetClusterRequest{}); !fault.Is(err, fault.Timeout) {
		t.Errorf("got %v", err)
	}
}

func TestConnectionComesBack(t *testing.T) {
	c := newCluster(t)
	m := c.serve(t, "m1")
	var last net.Conn
	conn, err := rpc.Dial(m.addr, m.keys.ClientTLS(), func(ctx context.Context, addr string) (net.Conn, error) {
		var err error
		last, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
		return last, err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	api := pb.NewControlClient(conn)
	for range 3 {
		deadline := time.Now().Add(20 * time.Second)
		for {
			_, err := api.GetCluster(t.Context(), &pb.GetClusterRequest{})
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		last.Close()
	}
}
