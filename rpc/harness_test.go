package rpc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/ca"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

const (
	noRole        = pb.NodeRole_NODE_ROLE_UNSPECIFIED
	workerRole    = pb.NodeRole_NODE_ROLE_WORKER
	managerRole   = pb.NodeRole_NODE_ROLE_MANAGER
	testClusterID = "cluster1"
)

// cluster is a root and what the cluster's state says of its nodes.
type cluster struct {
	root *ca.Root

	mu    sync.Mutex // protects nodes
	nodes map[string]pb.NodeRole
}

func newCluster(t testing.TB) *cluster {
	return &cluster{root: newRoot(t, testClusterID), nodes: map[string]pb.NodeRole{}}
}

func newRoot(t testing.TB, clusterID string) *ca.Root {
	root, err := ca.NewRoot(clusterID, time.Now().Add(-60*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func (c *cluster) set(nodeID string, role pb.NodeRole) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[nodeID] = role
}

func (c *cluster) standing(nodeID string) pb.NodeRole {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[nodeID]
}

// node returns the keystore of a new node that the cluster knows.
func (c *cluster) node(t testing.TB, nodeID string, role pb.NodeRole) *ca.Keystore {
	c.set(nodeID, role)
	return keystore(t, material(t, c.root, ca.Subject{NodeID: nodeID, ClusterID: testClusterID, Role: role}, time.Now()))
}

func material(t testing.TB, root *ca.Root, s ca.Subject, now time.Time) ca.Material {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := root.Issue(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), s, 24*time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return ca.Material{Key: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), Cert: cert, Root: root.CertPEM()}
}

func keystore(t testing.TB, m ca.Material) *ca.Keystore {
	k, err := ca.OpenKeystore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Store(m); err != nil {
		t.Fatal(err)
	}
	return k
}

// managerNode is a manager that serves on an address.
type managerNode struct {
	addr     string
	keys     *ca.Keystore
	mux      *rpc.Mux
	services *services

	mu     sync.Mutex // protects leader
	leader rpc.Leader
}

func (m *managerNode) follow(l rpc.Leader) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leader = l
}

func (m *managerNode) present() rpc.Leader {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leader
}

// serve starts a manager that leads until told otherwise.
func (c *cluster) serve(t testing.TB, nodeID string) *managerNode {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return c.serveOn(t, nodeID, ln, nil)
}

func (c *cluster) serveOn(t testing.TB, nodeID string, ln net.Listener, dial rpc.DialFunc) *managerNode {
	keys := c.node(t, nodeID, managerRole)
	m := &managerNode{addr: ln.Addr().String(), keys: keys, services: &services{}, leader: rpc.Leader{ID: nodeID, Self: true}}
	m.mux = rpc.NewMux(ln, rpc.MuxConfig{TLS: keys.ServerTLS(), Verify: keys.Verify, Standing: c.standing})
	server := rpc.NewServer(c.serverConfig(m, dial))
	m.services.register(server)
	run(t, m.mux.Run)
	run(t, func(ctx context.Context) error { return server.Run(ctx, m.mux.GRPC()) })
	return m
}

func (c *cluster) serverConfig(m *managerNode, dial rpc.DialFunc) rpc.ServerConfig {
	return rpc.ServerConfig{
		Self: m.keys.Self, Standing: c.standing, Leader: m.present,
		TLS: m.keys.ClientTLS(), Dial: dial, Log: slog.New(slog.DiscardHandler),
	}
}

// run runs a loop until the test ends and waits for it.
func run(t testing.TB, loop func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- loop(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("loop: %v", err)
		}
	})
}

func dial(t testing.TB, addr string, conf *tls.Config) *grpc.ClientConn {
	t.Helper()
	conn, err := rpc.Dial(addr, conf, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// services is every service of a node; a few methods tell who called.
type services struct {
	pb.UnimplementedControlServer
	pb.UnimplementedDispatcherServer
	pb.UnimplementedCAServer
	pb.UnimplementedMembershipServer
	pb.UnimplementedLocalServer
}

func (s *services) register(r grpc.ServiceRegistrar) {
	pb.RegisterControlServer(r, s)
	pb.RegisterDispatcherServer(r, s)
	pb.RegisterCAServer(r, s)
	pb.RegisterMembershipServer(r, s)
	pb.RegisterLocalServer(r, s)
}

// callerOf writes a caller as node/role/host.
func callerOf(ctx context.Context) string {
	id, ok := rpc.IdentityFrom(ctx)
	if !ok {
		return "nobody"
	}
	host, _, _ := net.SplitHostPort(id.Addr)
	return strings.Join([]string{id.NodeID, rpc.RoleName(id.Role), host}, "/")
}

func (s *services) GetCluster(ctx context.Context, _ *pb.GetClusterRequest) (*pb.Cluster, error) {
	return &pb.Cluster{Id: callerOf(ctx)}, nil
}

func (s *services) Join(ctx context.Context, _ *pb.JoinRequest) (*pb.Certificate, error) {
	return &pb.Certificate{NodeId: callerOf(ctx)}, nil
}

func (s *services) GetNode(_ context.Context, req *pb.GetRequest) (*pb.Node, error) {
	switch req.Ref {
	case "panic":
		panic("a bug")
	case "fault":
		return nil, fault.New(fault.Stale, "update node: it changed").WithTry("minictl node inspect")
	}
	return &pb.Node{Id: req.Ref}, nil
}

// Watch sends the caller, then as many events as from_index says, then ends,
// or waits when service_id is "hang".
func (s *services) Watch(req *pb.WatchRequest, ss grpc.ServerStreamingServer[pb.WatchEvent]) error {
	cluster := &pb.Object{Kind: &pb.Object_Cluster{Cluster: &pb.Cluster{Id: callerOf(ss.Context())}}}
	if err := ss.Send(&pb.WatchEvent{Object: cluster}); err != nil {
		return err
	}
	for i := range req.FromIndex {
		if err := ss.Send(&pb.WatchEvent{Index: i + 1}); err != nil {
			return err
		}
	}
	if req.ServiceId == "hang" {
		<-ss.Context().Done()
		return ss.Context().Err()
	}
	if req.ServiceId == "lag" {
		return fault.New(fault.Lagged, "resume watch: too old").WithTry("start over")
	}
	return nil
}

// Exec sends stdin back, with the caller first.
func (s *services) Exec(ss grpc.BidiStreamingServer[pb.ExecInput, pb.ExecOutput]) error {
	out := []byte(callerOf(ss.Context()))
	for {
		if err := ss.Send(&pb.ExecOutput{Kind: &pb.ExecOutput_Stdout{Stdout: out}}); err != nil {
			return err
		}
		in, err := ss.Recv()
		if err == io.EOF {
			return ss.Send(&pb.ExecOutput{Kind: &pb.ExecOutput_Exit{Exit: &pb.ExecExit{Code: 7}}})
		}
		if err != nil {
			return err
		}
		out = in.GetStdin()
	}
}

// call makes any call with an empty request and returns how it ended.
func call(ctx context.Context, conn *grpc.ClientConn, method string, output proto.Message) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := s.SendMsg(&pb.GetClusterRequest{}); err != nil && err != io.EOF {
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	for {
		if err := s.RecvMsg(output); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
