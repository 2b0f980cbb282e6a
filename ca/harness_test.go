package ca

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
	"github.com/minid/minid/store"
)

const (
	noRole      = pb.NodeRole_NODE_ROLE_UNSPECIFIED
	workerRole  = pb.NodeRole_NODE_ROLE_WORKER
	managerRole = pb.NodeRole_NODE_ROLE_MANAGER
)

// world is a cluster of one manager: its state, written without raft, and its
// CA.
type world struct {
	*Founding
	state *store.State
	ca    *Server
	// voters removed, in order.
	removed []string

	mu    sync.Mutex // protects index
	index uint64
}

func newWorld(t testing.TB, now time.Time) *world {
	t.Helper()
	f, err := Bootstrap(nil, now)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Founding: f, state: store.New()}
	w.must(t,
		&pb.Command{Kind: &pb.Command_CreateCluster{CreateCluster: &pb.CreateCluster{Cluster: f.Cluster}}},
		&pb.Command{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: f.Node}}},
		&pb.Command{Kind: &pb.Command_SetManagerAddr{SetManagerAddr: &pb.SetManagerAddr{Id: f.Node.Id, Addr: "10.0.0.1:2377"}}},
	)
	w.ca = NewServer(ServerConfig{State: w.state, Propose: w.propose, RemoveVoter: func(_ context.Context, nodeID string) error {
		w.removed = append(w.removed, nodeID)
		return nil
	}})
	return w
}

func (w *world) propose(_ context.Context, cmds ...*pb.Command) ([]error, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	return w.state.Apply(w.index, &pb.Entry{Commands: cmds, At: timestamppb.Now()}), nil
}

func (w *world) must(t testing.TB, cmds ...*pb.Command) {
	t.Helper()
	refused, err := w.propose(t.Context(), cmds...)
	for _, e := range append(refused, err) {
		if e != nil {
			t.Fatal(e)
		}
	}
}

// want sets the role that a node should have.
func (w *world) want(t testing.TB, nodeID string, role pb.NodeRole) {
	t.Helper()
	w.must(t, &pb.Command{Kind: &pb.Command_UpdateNodeSpec{UpdateNodeSpec: &pb.UpdateNodeSpec{
		Id: nodeID, Spec: &pb.NodeSpec{Role: role, Availability: pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE},
	}}})
}

func (w *world) remove(t testing.TB, nodeID string) {
	t.Helper()
	w.must(t, &pb.Command{Kind: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Id: nodeID, Force: true}}})
}

// from is a call's context.
func from(t testing.TB, id rpc.Identity) context.Context { return rpc.WithIdentity(t.Context(), id) }

// request makes a certificate request.
func request(t testing.TB) []byte {
	t.Helper()
	_, csr, err := newRequest()
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func mustRoot(t testing.TB, clusterID string, now time.Time) *Root {
	t.Helper()
	root, err := NewRoot(clusterID, now)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// issue makes a node's material.
func issue(t testing.TB, root *Root, s Subject, life time.Duration, now time.Time) Material {
	t.Helper()
	key, csr, err := newRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := root.Issue(csr, s, life, now)
	if err != nil {
		t.Fatal(err)
	}
	return Material{Key: keyPEM(key), Cert: cert, Root: root.CertPEM()}
}

func mustOpen(t testing.TB, dir string) *Keystore {
	t.Helper()
	k, err := OpenKeystore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustStore(t testing.TB, k *Keystore, m Material) {
	t.Helper()
	if err := k.Store(m); err != nil {
		t.Fatal(err)
	}
}

// serve offers a CA on a real port with a manager's identity.
func serve(t testing.TB, m Material, authority pb.CAServer) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := mustOpen(t, t.TempDir())
	mustStore(t, k, m)
	mux := rpc.NewMux(ln, rpc.MuxConfig{TLS: k.ServerTLS(), Verify: k.Verify})
	server := rpc.NewServer(rpc.ServerConfig{Self: k.Self})
	pb.RegisterCAServer(server, authority)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { mux.Run(ctx) })
	wg.Go(func() { server.Run(ctx, mux.GRPC()) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return ln.Addr().String()
}

// caAt is a client with a node's certificate.
func caAt(t testing.TB, addr string, k *Keystore) pb.CAClient {
	t.Helper()
	conn, err := rpc.Dial(addr, k.ClientTLS(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeConn(conn) })
	return pb.NewCAClient(conn)
}

func closeConn(c *grpc.ClientConn) {
	if err := c.Close(); err != nil {
		panic(fmt.Sprint("close twice: ", err))
	}
}
