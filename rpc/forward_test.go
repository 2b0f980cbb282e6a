package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

// pair is a follower of a leader.
func pair(t testing.TB, c *cluster) (follower, leader *managerNode) {
	leader, follower = c.serve(t, "m1"), c.serve(t, "m2")
	follower.follow(rpc.Leader{ID: "m1", Addr: leader.addr})
	return follower, leader
}

func TestUnaryCallsReachTheLeaderWithTheirCaller(t *testing.T) {
	c := newCluster(t)
	follower, leader := pair(t, c)
	boss := c.node(t, "m3", managerRole)
	for _, at := range []*managerNode{follower, leader} {
		conn := dial(t, at.addr, boss.ClientTLS())
		got, err := pb.NewControlClient(conn).GetCluster(t.Context(), &pb.GetClusterRequest{})
		if err != nil || got.Id != "m3/minid-manager/127.0.0.1" {
			t.Errorf("the leader saw %v, %v", got, err)
		}
		stranger := pb.NewCAClient(dial(t, at.addr, trusting()))
		joined, err := stranger.Join(t.Context(), &pb.JoinRequest{})
		if err != nil || joined.NodeId != "//127.0.0.1" {
			t.Errorf("the leader saw %v, %v of a stranger", joined, err)
		}
	}
}

func TestSocketOfAFollowerReachesTheLeader(t *testing.T) {
	c := newCluster(t)
	follower, _ := pair(t, c)
	cfg := rpc.ServerConfig{Standing: c.standing, Leader: follower.present, TLS: follower.keys.ClientTLS()}
	conn := serveLocal(t, follower.keys.Self(), cfg)
	got, err := pb.NewControlClient(conn).GetCluster(t.Context(), &pb.GetClusterRequest{})
	if err != nil || got.Id != "m2/minid-manager/" {
		t.Errorf("the leader saw %v, %v", got, err)
	}
}

func TestForwardedErrorsKeepClassAndAdvice(t *testing.T) {
	c := newCluster(t)
	follower, _ := pair(t, c)
	api := pb.NewControlClient(dial(t, follower.addr, follower.keys.ClientTLS()))
	_, err := api.GetNode(t.Context(), &pb.GetRequest{Ref: "fault"})
	if !fault.Is(err, fault.Stale) || fault.TryOf(err) != "minictl node inspect" || err.Error() != "update node: it changed" {
		t.Errorf("got %v, try %q", err, fault.TryOf(err))
	}
	if _, err = api.GetNode(t.Context(), &pb.GetRequest{Ref: "panic"}); !fault.Is(err, fault.Internal) {
		t.Errorf("a panic became %v", err)
	}
	watch, err := api.Watch(t.Context(), &pb.WatchRequest{ServiceId: "lag"})
	for err == nil {
		_, err = watch.Recv()
	}
	if !fault.Is(err, fault.Lagged) || fault.TryOf(err) != "start over" {
		t.Errorf("stream ended with %v", err)
	}
}

func TestServerStreamIsPassedOn(t *testing.T) {
	c := newCluster(t)
	follower, _ := pair(t, c)
	api := pb.NewControlClient(dial(t, follower.addr, c.node(t, "m3", managerRole).ClientTLS()))
	watch, err := api.Watch(t.Context(), &pb.WatchRequest{FromIndex: 500})
	if err != nil {
		t.Fatal(err)
	}
	first, err := watch.Recv()
	if err != nil || first.GetObject().GetCluster().GetId() != "m3/minid-manager/127.0.0.1" {
		t.Fatalf("the leader saw %v, %v", first, err)
	}
	for want := range uint64(500) {
		if e, err := watch.Recv(); err != nil || e.Index != want+1 {
			t.Fatalf("event %v, %v; want index %d", e, err, want+1)
		}
	}
	if _, err := watch.Recv(); err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestBidiStreamIsPassedOn(t *testing.T) {
	c := newCluster(t)
	follower, _ := pair(t, c)
	api := pb.NewControlClient(dial(t, follower.addr, c.node(t, "m3", managerRole).ClientTLS()))
	exec, err := api.Exec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expect := "m3/minid-manager/127.0.0.1"
	for _, in := range []string{"one", "two", "three"} {
		if out, err := exec.Recv(); err != nil || string(out.GetStdout()) != expect {
			t.Fatalf("got %v, %v; want %s", out, err, expect)
		}
		if err := exec.Send(&pb.ExecInput{Kind: &pb.ExecInput_Stdin{Stdin: []byte(in)}}); err != nil {
			t.Fatal(err)
		}
		expect = in
	}
	exec.CloseSend()
	exec.Recv() // three
	if out, err := exec.Recv(); err != nil || out.GetExit().GetCode() != 7 {
		t.Errorf("after the end of stdin: %v, %v", out, err)
	}
	if _, err := exec.Recv(); err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestCallerGoesAwayFromAForwardedStream(t *testing.T) {
	c := newCluster(t)
	follower, _ := pair(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	api := pb.NewControlClient(dial(t, follower.addr, follower.keys.ClientTLS()))
	watch, err := api.Watch(ctx, &pb.WatchRequest{ServiceId: "hang"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := watch.Recv(); !errors.Is(err, context.Canceled) {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestCallsDoNotGoRoundInCircles(t *testing.T) {
	c := newCluster(t)
	a, b := c.serve(t, "m1"), c.serve(t, "m2")
	a.follow(rpc.Leader{ID: "m2", Addr: b.addr})
	b.follow(rpc.Leader{ID: "m1", Addr: a.addr})
	_, err := pb.NewControlClient(dial(t, a.addr, a.keys.ClientTLS())).GetCluster(t.Context(), &pb.GetClusterRequest{})
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "leader changed") {
		t.Errorf("got %v", err)
	}
}

func TestLeaderIsGone(t *testing.T) {
	c := newCluster(t)
	follower := c.serve(t, "m2")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	follower.follow(rpc.Leader{ID: "m1", Addr: ln.Addr().String()})
	_, err = pb.NewControlClient(dial(t, follower.addr, follower.keys.ClientTLS())).GetCluster(t.Context(), &pb.GetClusterRequest{})
	if want := "cannot reach the leader at " + ln.Addr().String() + ": connection refused"; !fault.Is(err, fault.Unavailable) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestManagerKnowsWhyItCannotLead(t *testing.T) {
	c := newCluster(t)
	lone := c.serve(t, "m1")
	lone.follow(rpc.Leader{Trouble: fmt.Errorf("its disk refuses to write: %w", syscall.ENOSPC)})
	_, err := pb.NewControlClient(dial(t, lone.addr, lone.keys.ClientTLS())).GetCluster(t.Context(), &pb.GetClusterRequest{})
	const want = "the cluster has no leader, and this manager cannot lead: its disk refuses to write: no space left on device"
	if !fault.Is(err, fault.Unavailable) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestDispatcherNamesTheLeader(t *testing.T) {
	c := newCluster(t)
	follower, leader := pair(t, c)
	api := pb.NewDispatcherClient(dial(t, follower.addr, c.node(t, "w1", workerRole).ClientTLS()))
	session, err := api.Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = session.Recv()
	if got, ok := rpc.NotLeaderFrom(err); !ok || got.LeaderAddr != leader.addr || got.LeaderId != "m1" {
		t.Errorf("%v names %v", err, got)
	}
}

// inMemory runs f with a manager m1 over bufconn, in virtual time.
func inMemory(t *testing.T, f func(t *testing.T, c *cluster, m *managerNode, dial rpc.DialFunc)) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		ln := bufconn.Listen(1 << 20)
		dial := func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }
		f(t, c, c.serveOn(t, "m1", ln, dial), dial)
	})
}

func TestCallsWaitForAnElectionButNotForEver(t *testing.T) {
	inMemory(t, func(t *testing.T, c *cluster, m *managerNode, dial rpc.DialFunc) {
		conn, err := rpc.Dial("m1", m.keys.ClientTLS(), dial)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		api := pb.NewControlClient(conn)
		m.follow(rpc.Leader{})
		start := time.Now()
		_, err = api.GetCluster(t.Context(), &pb.GetClusterRequest{})
		if took := time.Since(start); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "no leader") || took > 2*time.Second || took < time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		time.AfterFunc(1500*time.Millisecond, func() { m.follow(rpc.Leader{ID: "m1", Self: true}) })
		if _, err := api.GetCluster(t.Context(), &pb.GetClusterRequest{}); err != nil {
			t.Errorf("an election of 1.5 s failed a call: %v", err)
		}
	})
}

func TestForwardingMetadataOfACallerIsNotPassedOn(t *testing.T) {
	c := newCluster(t)
	follower, _ := pair(t, c)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "minid-forwarded-node", "m1", "minid-forwarded-role", "2", "minid-forwarded-addr", "x")
	conn := dial(t, follower.addr, c.node(t, "w1", workerRole).ClientTLS())
	if _, err := pb.NewCAClient(conn).Renew(ctx, &pb.RenewRequest{}); !fault.Is(err, fault.Denied) {
		t.Errorf("a worker that speaks for a manager got %v", err)
	}
}
