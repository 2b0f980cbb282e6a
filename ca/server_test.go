package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
	"github.com/minid/minid/store"
)

func TestBootstrap(t *testing.T) {
	f, err := Bootstrap(&pb.ClusterSpec{TaskHistoryLimit: 9}, noon)
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultSpec()
	want.TaskHistoryLimit = 9
	if diff := cmp.Diff(want, f.Cluster.Spec, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	root, err := ParseRoot(f.Cluster.RootCaCert, f.Cluster.RootCaKey)
	if err != nil || root.ClusterID() != f.Cluster.Id {
		t.Fatalf("root %v, %v", root, err)
	}
	for _, s := range []string{f.Cluster.JoinTokens.Worker, f.Cluster.JoinTokens.Manager} {
		if token, err := ParseToken(s); err != nil || !token.Pins(root.Cert) {
			t.Errorf("token %s: %v", s, err)
		}
	}
	k := mustOpen(t, t.TempDir())
	mustStore(t, k, f.Material)
	if id := k.Self(); id.NodeID != f.Node.Id || id.ClusterID != f.Cluster.Id || id.Role != managerRole || f.Node.Role != managerRole {
		t.Errorf("first node %+v, %v", id, f.Node)
	}
	if k.ExpiresAt() != noon.Add(2160*time.Hour) {
		t.Errorf("expires %v", k.ExpiresAt())
	}
	short := DefaultSpec()
	short.CertExpiry.Seconds = 60
	if _, err := Bootstrap(short, noon); !fault.Is(err, fault.Invalid) {
		t.Errorf("certificates of a minute: %v", err)
	}
}

func TestTheTokenDecidesTheRole(t *testing.T) {
	w := newWorld(t, time.Now())
	description := &pb.NodeDescription{Hostname: "h7"}
	for token, role := range map[string]pb.NodeRole{w.Cluster.JoinTokens.Worker: workerRole, w.Cluster.JoinTokens.Manager: managerRole} {
		got, err := w.ca.Join(from(t, rpc.Identity{Addr: "10.0.0.7:1"}), &pb.JoinRequest{
			Csr: request(t), Token: token, Availability: pb.NodeAvailability_NODE_AVAILABILITY_DRAIN, Description: description,
		})
		if err != nil {
			t.Fatal(err)
		}
		cert, err := parseCert(got.Cert)
		if err != nil {
			t.Fatal(err)
		}
		id, err := w.Root.Verify(cert, time.Now())
		if err != nil || id.Role != role || id.NodeID != got.NodeId || got.Role != role {
			t.Errorf("identity %+v, %v", id, err)
		}
		if !slices.Equal(got.ManagerAddrs, []string{"10.0.0.1:2377"}) {
			t.Errorf("managers %v", got.ManagerAddrs)
		}
		node := w.state.View().Node(got.NodeId)
		if node.GetRole() != role || node.GetSpec().GetRole() != role || node.GetSpec().GetAvailability() != pb.NodeAvailability_NODE_AVAILABILITY_DRAIN || !proto.Equal(node.GetDescription(), description) {
			t.Errorf("stored %v", node)
		}
	}
}

func TestWrongTokensAdmitNobody(t *testing.T) {
	w, other := newWorld(t, time.Now()), newWorld(t, time.Now())
	before := count(w.state)
	for name, token := range map[string]string{
		"none": "", "malformed": "MNTKN-1-x-y", "never issued": NewToken(w.Root.Cert).String(),
		"another cluster's": other.Cluster.JoinTokens.Worker,
		"digest only":       w.Cluster.JoinTokens.Worker[:59] + strings.Repeat("0", 25),
	} {
		_, err := w.ca.Join(from(t, rpc.Identity{Addr: name + ":1"}), &pb.JoinRequest{Csr: request(t), Token: token})
		if !fault.Is(err, fault.Denied) && !fault.Is(err, fault.Invalid) || !strings.Contains(fault.TryOf(err), "minictl swarm join-token worker") {
			t.Errorf("%s: %v, try %q", name, err, fault.TryOf(err))
		}
	}
	if _, err := w.ca.Join(from(t, rpc.Identity{}), &pb.JoinRequest{Csr: []byte("x"), Token: w.Cluster.JoinTokens.Worker}); !fault.Is(err, fault.Invalid) {
		t.Errorf("bad request: %v", err)
	}
	if count(w.state) != before {
		t.Error("nodes were made")
	}
}

func count(s *store.State) (n int) {
	for range s.View().Nodes() {
		n++
	}
	return n
}

func TestRotatedTokensAreDead(t *testing.T) {
	w := newWorld(t, time.Now())
	old := proto.Clone(w.Cluster.JoinTokens).(*pb.JoinTokens)
	same, err := RotateTokens(t.Context(), w.state, w.propose, false, false)
	if err != nil || !proto.Equal(same, old) {
		t.Errorf("nothing to rotate: %v, %v", same, err)
	}
	fresh, err := RotateTokens(t.Context(), w.state, w.propose, true, false)
	if err != nil || fresh.Worker == old.Worker || fresh.Manager != old.Manager || !proto.Equal(w.state.View().Cluster().JoinTokens, fresh) {
		t.Fatalf("rotated to %v, %v", fresh, err)
	}
	for token, ok := range map[string]bool{old.Worker: false, fresh.Worker: true, fresh.Manager: true} {
		_, err := w.ca.Join(from(t, rpc.Identity{}), &pb.JoinRequest{Csr: request(t), Token: token})
		if (err == nil) != ok {
			t.Errorf("token %s: %v", token, err)
		}
	}
	if _, err := RotateTokens(t.Context(), store.New(), w.propose, true, true); !fault.Is(err, fault.Unavailable) {
		t.Errorf("no cluster: %v", err)
	}
}

func TestGuessingIsSlowedBySource(t *testing.T) {
	w := newWorld(t, time.Now())
	try := func(addr, token string) error {
		_, err := w.ca.Join(from(t, rpc.Identity{Addr: addr}), &pb.JoinRequest{Csr: request(t), Token: token})
		return err
	}
	guess := NewToken(w.Root.Cert).String()
	for i := range wrongTokens {
		if err := try(fmt.Sprintf("10.0.0.9:%d", i), guess); strings.Contains(err.Error(), "too many") {
			t.Fatalf("guess %d: %v", i, err)
		}
	}
	if err := try("10.0.0.9:99", guess); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "too many wrong tokens from 10.0.0.9") {
		t.Errorf("one guess more: %v", err)
	}
	if err := try("10.0.0.8:1", w.Cluster.JoinTokens.Worker); err != nil {
		t.Errorf("another source: %v", err)
	}
}

func TestLimiterForgivesAndStaysSmall(t *testing.T) {
	l := newLimiter()
	for range 3 * wrongTokens {
		if l.allow("a:1", noon) {
			l.punish("a:1", noon)
		}
	}
	if l.allow("a:2", noon) || !l.allow("a:2", noon.Add(wrongTokenPeriod)) || !l.allow("b:1", noon) {
		t.Error("the limit does not hold, or holds for ever, or for all")
	}
	for i := range 3 * maxSources {
		l.punish(fmt.Sprintf("s%d:1", i), noon.Add(time.Duration(i)*time.Millisecond))
	}
	if len(l.clear) > maxSources {
		t.Errorf("%d sources are kept", len(l.clear))
	}
}

func TestRenewFollowsTheWantedRole(t *testing.T) {
	w := newWorld(t, time.Now())
	joined, err := w.ca.Join(from(t, rpc.Identity{}), &pb.JoinRequest{Csr: request(t), Token: w.Cluster.JoinTokens.Worker})
	if err != nil {
		t.Fatal(err)
	}
	self := rpc.Identity{NodeID: joined.NodeId, ClusterID: w.Cluster.Id, Role: workerRole}
	before := workerRole
	for _, role := range []pb.NodeRole{workerRole, managerRole, managerRole, workerRole, workerRole} {
		w.want(t, self.NodeID, role)
		w.removed = nil
		got, err := w.ca.Renew(from(t, self), &pb.RenewRequest{Csr: request(t)})
		if err != nil || got.Role != role || got.NodeId != self.NodeID {
			t.Fatalf("renewed as %v, %v", got, err)
		}
		if stored := w.state.View().Node(self.NodeID).Role; stored != role {
			t.Errorf("the state says %v, want %v", stored, role)
		}
		if voteTaken := len(w.removed) > 0; voteTaken != (before == managerRole && role == workerRole) {
			t.Errorf("from %v to %v: vote taken is %v", before, role, voteTaken)
		}
		before = role
	}
	w.remove(t, self.NodeID)
	for name, id := range map[string]rpc.Identity{"removed": self, "stranger": {}} {
		if _, err := w.ca.Renew(from(t, id), &pb.RenewRequest{Csr: request(t)}); !fault.Is(err, fault.Denied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDemotionWaitsForTheVote(t *testing.T) {
	w := newWorld(t, time.Now())
	joined, err := w.ca.Join(from(t, rpc.Identity{}), &pb.JoinRequest{Csr: request(t), Token: w.Cluster.JoinTokens.Manager})
	if err != nil {
		t.Fatal(err)
	}
	w.want(t, joined.NodeId, workerRole)
	noQuorum := errors.New("no quorum")
	w.ca.cfg.RemoveVoter = func(context.Context, string) error { return noQuorum }
	id := rpc.Identity{NodeID: joined.NodeId, Role: managerRole}
	if _, err := w.ca.Renew(from(t, id), &pb.RenewRequest{Csr: request(t)}); !errors.Is(err, noQuorum) {
		t.Errorf("got %v", err)
	}
	if role := w.state.View().Node(joined.NodeId).Role; role != managerRole {
		t.Errorf("the state says %v while the node votes", role)
	}
}

func TestCAOfAManagerThatStarts(t *testing.T) {
	s := NewServer(ServerConfig{State: store.New()})
	if _, err := s.GetRoot(t.Context(), nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("root: %v", err)
	}
	if _, err := s.Join(t.Context(), &pb.JoinRequest{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("join: %v", err)
	}
}

func TestRefusedProposalsReachTheCaller(t *testing.T) {
	w := newWorld(t, time.Now())
	lost := fault.New(fault.Unavailable, "leadership lost")
	w.ca.cfg.Propose = func(context.Context, ...*pb.Command) ([]error, error) { return nil, lost }
	if _, err := w.ca.Join(from(t, rpc.Identity{}), &pb.JoinRequest{Csr: request(t), Token: w.Cluster.JoinTokens.Worker}); !errors.Is(err, lost) {
		t.Errorf("got %v", err)
	}
}

func TestStanding(t *testing.T) {
	w := newWorld(t, time.Now())
	joined, err := w.ca.Join(from(t, rpc.Identity{}), &pb.JoinRequest{Csr: request(t), Token: w.Cluster.JoinTokens.Worker})
	if err != nil {
		t.Fatal(err)
	}
	for leader, want := range map[string][3]pb.NodeRole{
		w.Node.Id:     {managerRole, workerRole, noRole},
		"":            {managerRole, managerRole, managerRole},
		"stranger":    {managerRole, managerRole, managerRole}, // elected while we were away
		joined.NodeId: {managerRole, managerRole, managerRole}, // promoted while we were away
	} {
		standing := Standing(w.state, func() string { return leader })
		got := [3]pb.NodeRole{standing(w.Node.Id), standing(joined.NodeId), standing("gone")}
		if got != want {
			t.Errorf("with leader %q: %v, want %v", leader, got, want)
		}
	}
}
