package rpc_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/minid/minid/ca"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

// methods returns every method of minid.v1 with a message for its answers.
func methods(t *testing.T) map[string]proto.Message {
	t.Helper()
	found := map[string]proto.Message{}
	protoregistry.GlobalFiles.RangeFilesByPackage("minid.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				out, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
				if err != nil {
					t.Fatal(err)
				}
				found["/"+string(s.FullName())+"/"+string(m.Name())] = out.New().Interface()
			}
		}
		return true
	})
	if len(found) < 40 {
		t.Fatalf("found only %d methods", len(found))
	}
	return found
}

// may is the intent behind the policy, said once more and differently.
func may(who, method string) bool {
	service := strings.Split(strings.TrimPrefix(method, "/minid.v1."), "/")[0]
	worker := who == "worker" || who == "demoted manager" || who == "manager for a worker"
	manager := who == "manager" || who == "manager for a manager"
	if strings.HasPrefix(who, "forger") {
		return false
	}
	switch {
	case strings.HasSuffix(method, "CA/GetRoot"), strings.HasSuffix(method, "CA/Join"):
		return !strings.HasPrefix(who, "local")
	case service == "Control", service == "Membership":
		return manager || who == "local on a manager"
	case service == "Dispatcher", service == "CA":
		return worker || manager
	case service == "Local":
		return strings.HasPrefix(who, "local")
	}
	return false
}

func TestEveryMethodAgainstEveryCaller(t *testing.T) {
	c := newCluster(t)
	m := c.serve(t, "m1")
	for who, call := range remoteCallers(t, c) {
		t.Run(strings.ReplaceAll(who, " ", "-"), func(t *testing.T) {
			call.against(t, who, dial(t, m.addr, call.tls))
		})
	}
}

func TestEveryMethodOnTheSocket(t *testing.T) {
	c := newCluster(t)
	for who, role := range map[string]pb.NodeRole{"local on a manager": managerRole, "local on a worker": workerRole, "local without a cluster": noRole} {
		t.Run(strings.ReplaceAll(who, " ", "-"), func(t *testing.T) {
			self := rpc.Identity{}
			if role != noRole {
				self = rpc.Identity{NodeID: "m1", ClusterID: testClusterID, Role: role}
			}
			remoteCaller{}.against(t, who, serveLocal(t, self, rpc.ServerConfig{Standing: c.standing}))
		})
	}
}

func serveLocal(t *testing.T, self rpc.Identity, cfg rpc.ServerConfig) *grpc.ClientConn {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Self = func() rpc.Identity { return self }
	server := rpc.NewLocalServer(cfg)
	new(services).register(server)
	run(t, func(ctx context.Context) error { return server.Run(ctx, ln) })
	conn, err := rpc.Dial(path, nil, func(ctx context.Context, addr string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", addr)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// remoteCaller is a certificate and what is sent along with it.
type remoteCaller struct {
	tls *tls.Config
	md  []string
}

func (r remoteCaller) against(t *testing.T, who string, conn *grpc.ClientConn) {
	ctx := metadata.AppendToOutgoingContext(t.Context(), r.md...)
	for method, output := range methods(t) {
		// The socket never serves the CA and others to strangers, so there
		// only Control and Local are of interest.
		if strings.HasPrefix(who, "local") && !strings.Contains(method, "Control") && !strings.Contains(method, "Local") {
			continue
		}
		err := call(ctx, conn, method, output)
		refused := fault.Is(err, fault.Denied) || fault.Is(err, fault.NotManager) ||
			fault.Is(err, fault.NotFound) && strings.Contains(err.Error(), "it was removed")
		if refused == may(who, method) {
			t.Errorf("%s calling %s: refused is %v, err %v", who, method, refused, err)
		}
		if fault.Is(err, fault.Unavailable) || fault.Is(err, fault.Timeout) || fault.Is(err, fault.Internal) && err != nil {
			t.Errorf("%s calling %s: %v", who, method, err)
		}
	}
}

func remoteCallers(t *testing.T, c *cluster) map[string]remoteCaller {
	now := time.Now()
	cert := func(root *ca.Root, nodeID string, role pb.NodeRole, at time.Time) *tls.Config {
		m := material(t, root, ca.Subject{NodeID: nodeID, ClusterID: root.ClusterID(), Role: role}, at)
		pair, err := tls.X509KeyPair(m.Cert, m.Key)
		if err != nil {
			t.Fatal(err)
		}
		return trusting(pair)
	}
	for id, role := range map[string]pb.NodeRole{"w1": workerRole, "m2": managerRole, "d1": workerRole} {
		c.set(id, role)
	}
	claim := func(node, role string) []string {
		return []string{"minid-forwarded-node", node, "minid-forwarded-role", role, "minid-forwarded-addr", "10.9.9.9:1"}
	}
	own := func(nodeID string, role pb.NodeRole) *tls.Config { return cert(c.root, nodeID, role, now) }
	return map[string]remoteCaller{
		"nobody":                {tls: trusting()},
		"expired":               {tls: cert(c.root, "m2", managerRole, now.Add(-48*time.Hour))},
		"not yet valid":         {tls: cert(c.root, "m2", managerRole, now.Add(48*time.Hour))},
		"impostor":              {tls: cert(newRoot(t, testClusterID), "m2", managerRole, now)},
		"other cluster":         {tls: cert(newRoot(t, "cluster2"), "m2", managerRole, now)},
		"other cluster by ours": {tls: trusting(handMade(t, c.root, "cluster2", rpc.ManagerName))},
		"unknown role":          {tls: trusting(handMade(t, c.root, testClusterID, "minid-emperor"))},
		"removed":               {tls: own("gone", managerRole)},
		"worker":                {tls: own("w1", workerRole)},
		"manager":               {tls: own("m2", managerRole)},
		"demoted manager":       {tls: own("d1", managerRole)},

		"manager for a manager":      {tls: own("m2", managerRole), md: claim("m2", "2")},
		"manager for a worker":       {tls: own("m2", managerRole), md: claim("w1", "1")},
		"manager for a removed node": {tls: own("m2", managerRole), md: claim("gone", "2")},
		"manager for a stranger":     {tls: own("m2", managerRole), md: claim("", "0")},
		"forger, worker":             {tls: own("w1", workerRole), md: claim("m2", "2")},
		"forger, nobody":             {tls: trusting(), md: claim("m2", "2")},
		"forger, expired":            {tls: cert(c.root, "m2", managerRole, now.Add(-48*time.Hour)), md: claim("m2", "2")},
		"forger, partly":             {tls: own("w1", workerRole), md: []string{"minid-forwarded-role", "2"}},
		"forger, malformed":          {tls: own("m2", managerRole), md: claim("", "2")},
		"forger, unknown role":       {tls: own("m2", managerRole), md: claim("m2", "9")},
		"forger, twice":              {tls: own("m2", managerRole), md: append(claim("w1", "1"), claim("m2", "2")...)},
	}
}

func trusting(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, ServerName: rpc.ManagerName, Certificates: certs}
}

// handMade is a certificate that a careless root would have issued.
func handMade(t *testing.T, root *ca.Root, clusterID, role string) tls.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{Organization: []string{clusterID}, OrganizationalUnit: []string{role}, CommonName: "m2"},
		DNSNames:     []string{role},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, root.Cert, root.Key.Public(), root.Key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: root.Key}
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	c := newCluster(t)
	m := c.serve(t, "m1")
	callers := remoteCallers(t, c)
	for who, want := range map[string][2]string{
		"expired":       {"expired at", ""},
		"removed":       {"it was removed", "minictl swarm leave --force"},
		"worker":        {"node w1 is not a manager", "minictl node promote w1"},
		"other cluster": {"another cluster's CA", "minictl swarm leave --force"},
		"nobody":        {"no certificate of this cluster", ""},
	} {
		_, err := pb.NewControlClient(dial(t, m.addr, callers[who].tls)).GetCluster(t.Context(), &pb.GetClusterRequest{})
		if err == nil || !strings.Contains(err.Error(), want[0]) || !strings.Contains(fault.TryOf(err), want[1]) {
			t.Errorf("%s: %v, try %q", who, err, fault.TryOf(err))
		}
	}
}

func TestSocketOfNoManagerSaysWhatToDo(t *testing.T) {
	for _, self := range []rpc.Identity{{}, {NodeID: "w1", ClusterID: testClusterID, Role: workerRole}} {
		_, err := pb.NewControlClient(serveLocal(t, self, rpc.ServerConfig{})).GetCluster(t.Context(), &pb.GetClusterRequest{})
		if !fault.Is(err, fault.NotManager) || !strings.Contains(err.Error(), "this node is not a manager") || fault.TryOf(err) == "" {
			t.Errorf("%+v: %v, try %q", self, err, fault.TryOf(err))
		}
	}
}
