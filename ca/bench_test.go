package ca

import (
	"testing"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

// BenchmarkJoin is a join at the leader without network and raft.
func BenchmarkJoin(b *testing.B) {
	w := newWorld(b, time.Now())
	ctx := rpc.WithIdentity(b.Context(), rpc.Identity{Addr: "10.0.0.7:1"})
	req := &pb.JoinRequest{Csr: request(b), Token: w.Cluster.JoinTokens.Worker}
	for b.Loop() {
		if _, err := w.ca.Join(ctx, req); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerify is what each new connection costs beyond its handshake.
func BenchmarkVerify(b *testing.B) {
	root := mustRoot(b, "c1", noon)
	cert, err := parseCert(issue(b, root, Subject{"n1", "c1", workerRole}, time.Hour, noon).Cert)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := root.Verify(cert, noon); err != nil {
			b.Fatal(err)
		}
	}
}
