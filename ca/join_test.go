package ca

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

// deadAddr is where nobody listens.
func deadAddr(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	return ln.Addr().String()
}

func TestJoinAndRenewOverTheWire(t *testing.T) {
	w := newWorld(t, time.Now())
	addr := serve(t, w.Material, w.ca)
	dir := t.TempDir()
	k := mustOpen(t, dir)
	opts := JoinOptions{Addrs: []string{deadAddr(t), addr}, Token: w.Cluster.JoinTokens.Worker, Description: &pb.NodeDescription{Hostname: "h1"}}
	got, err := Join(t.Context(), k, opts)
	if err != nil {
		t.Fatal(err)
	}
	id := mustOpen(t, dir).Self()
	if id.NodeID != got.NodeId || id.ClusterID != w.Cluster.Id || id.Role != workerRole {
		t.Errorf("stored %+v, answered %v", id, got)
	}
	if w.state.View().Node(id.NodeID).GetDescription().GetHostname() != "h1" {
		t.Errorf("the cluster knows %v", w.state.View().Node(id.NodeID))
	}
	if _, err := Join(t.Context(), k, opts); !fault.Is(err, fault.State) || fault.TryOf(err) != "minictl swarm leave" {
		t.Errorf("a second join: %v", err)
	}
	renewed, err := caAt(t, addr, k).Renew(t.Context(), &pb.RenewRequest{Csr: request(t)})
	if err != nil || renewed.NodeId != id.NodeID {
		t.Errorf("renewed %v, %v", renewed, err)
	}
}

func TestJoinRefusals(t *testing.T) {
	w, other := newWorld(t, time.Now()), newWorld(t, time.Now())
	addr, otherAddr, dead := serve(t, w.Material, w.ca), serve(t, other.Material, other.ca), deadAddr(t)
	token := w.Cluster.JoinTokens.Worker
	for name, c := range map[string]struct {
		addrs []string
		token string
		class fault.Class
		want  string
	}{
		"malformed token":  {[]string{addr}, "SWMTKN-1-a-b", fault.Invalid, "Docker Swarm"},
		"no address":       {nil, token, fault.Invalid, "no manager's address"},
		"wrong secret":     {[]string{addr, dead}, NewToken(w.Root.Cert).String(), fault.Denied, "the token is not valid"},
		"another cluster":  {[]string{otherAddr}, token, fault.Denied, "the manager at " + otherAddr + " presents another cluster's CA"},
		"nobody there":     {[]string{dead}, token, fault.Unavailable, "cannot reach manager at " + dead + ": connection refused"},
		"all for a reason": {[]string{dead, otherAddr}, token, fault.Denied, "connection refused; the manager at"},
	} {
		k := mustOpen(t, t.TempDir())
		_, err := Join(t.Context(), k, JoinOptions{Addrs: c.addrs, Token: c.token})
		if !fault.Is(err, c.class) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v %v, want %s", name, fault.ClassOf(err), err, c.want)
		}
		if _, ok := k.Identity(); ok {
			t.Errorf("%s: has an identity", name)
		}
	}
}

// relay answers GetRoot with the true root, but is not a manager of it: what a
// man in the middle can do at most. It notes the tokens that it is shown.
type relay struct {
	pb.UnimplementedCAServer
	root   []byte
	tokens []string
}

func (r *relay) GetRoot(context.Context, *pb.GetRootRequest) (*pb.GetRootResponse, error) {
	return &pb.GetRootResponse{RootCaCert: r.root}, nil
}

func (r *relay) Join(_ context.Context, req *pb.JoinRequest) (*pb.Certificate, error) {
	r.tokens = append(r.tokens, req.Token)
	return &pb.Certificate{}, nil
}

func TestManInTheMiddleGetsNoToken(t *testing.T) {
	now := time.Now()
	w := newWorld(t, now)
	impostor := mustRoot(t, w.Cluster.Id, now)
	for name, m := range map[string]Material{
		"own CA":                  issue(t, impostor, Subject{"m", w.Cluster.Id, managerRole}, time.Hour, now),
		"worker of the cluster":   issue(t, w.Root, Subject{"w", w.Cluster.Id, workerRole}, time.Hour, now),
		"manager of years past":   issue(t, mustRoot(t, w.Cluster.Id, now.Add(-48*time.Hour)), Subject{"m", w.Cluster.Id, managerRole}, time.Hour, now.Add(-24*time.Hour)),
		"own CA, its own to show": issue(t, impostor, Subject{"m", w.Cluster.Id, managerRole}, time.Hour, now),
	} {
		middle := &relay{root: w.Root.CertPEM()}
		if strings.HasSuffix(name, "to show") {
			middle.root = impostor.CertPEM()
		}
		k := mustOpen(t, t.TempDir())
		_, err := Join(t.Context(), k, JoinOptions{Addrs: []string{serve(t, m, middle)}, Token: w.Cluster.JoinTokens.Worker})
		if err == nil || len(middle.tokens) > 0 {
			t.Errorf("%s: %v, tokens %v", name, err, middle.tokens)
		}
	}
}

// careless is a CA that answers with a certificate for another key.
type careless struct {
	relay
	cert []byte
}

func (c *careless) Join(context.Context, *pb.JoinRequest) (*pb.Certificate, error) {
	return &pb.Certificate{Cert: c.cert}, nil
}

func TestJoinChecksItsCertificate(t *testing.T) {
	w := newWorld(t, time.Now())
	s := &careless{relay{root: w.Root.CertPEM()}, w.Material.Cert}
	k := mustOpen(t, t.TempDir())
	if _, err := Join(t.Context(), k, JoinOptions{Addrs: []string{serve(t, w.Material, s)}, Token: w.Cluster.JoinTokens.Worker}); err == nil {
		t.Error("took a certificate for somebody else's key")
	}
}

func TestJoinEndsWithItsContext(t *testing.T) {
	w := newWorld(t, time.Now())
	hang := func(ctx context.Context, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Join(ctx, mustOpen(t, t.TempDir()), JoinOptions{Addrs: []string{"a:1", "b:1"}, Token: w.Cluster.JoinTokens.Worker, Dial: hang})
	if !fault.Is(err, fault.Timeout) {
		t.Errorf("got %v", err)
	}
}

func TestExpiredNodesAreToldTheWayBack(t *testing.T) {
	now := time.Now()
	w := newWorld(t, now.Add(-48*time.Hour))
	manager := issue(t, w.Root, Subject{w.Node.Id, w.Cluster.Id, managerRole}, time.Hour, now)
	k := mustOpen(t, t.TempDir())
	mustStore(t, k, issue(t, w.Root, Subject{"n1", w.Cluster.Id, workerRole}, time.Hour, now.Add(-24*time.Hour)))
	_, err := caAt(t, serve(t, manager, w.ca), k).Renew(t.Context(), &pb.RenewRequest{Csr: request(t)})
	if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("got %v", err)
	}
	err = NewRenewer(RenewerConfig{Keystore: k}).Run(t.Context())
	if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "expired at") || !strings.Contains(fault.TryOf(err), "swarm leave --force, then minictl swarm join") {
		t.Errorf("got %v, try %q", err, fault.TryOf(err))
	}
	if _, ok := rpc.IdentityFrom(t.Context()); ok {
		t.Error("an identity outside of a call")
	}
}
