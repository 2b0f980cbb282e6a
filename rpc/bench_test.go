package rpc_test

import (
	"testing"

	"google.golang.org/grpc"

	pb "github.com/minid/minid/proto/minid/v1"
)

func BenchmarkUnary(b *testing.B) {
	c := newCluster(b)
	m := c.serve(b, "m1")
	roundTrips(b, dial(b, m.addr, m.keys.ClientTLS()))
}

func BenchmarkUnaryForwarded(b *testing.B) {
	c := newCluster(b)
	follower, _ := pair(b, c)
	roundTrips(b, dial(b, follower.addr, follower.keys.ClientTLS()))
}

func roundTrips(b *testing.B, conn *grpc.ClientConn) {
	api := pb.NewControlClient(conn)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := api.GetCluster(b.Context(), &pb.GetClusterRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConnect is dial, handshake and first call.
func BenchmarkConnect(b *testing.B) {
	c := newCluster(b)
	m := c.serve(b, "m1")
	for b.Loop() {
		conn := dial(b, m.addr, m.keys.ClientTLS())
		if _, err := pb.NewControlClient(conn).GetCluster(b.Context(), &pb.GetClusterRequest{}); err != nil {
			b.Fatal(err)
		}
		conn.Close()
	}
}
