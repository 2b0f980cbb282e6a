package ca

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/id"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
	"github.com/minid/minid/store"
)

// proposeTime bounds the wait for a commit on behalf of a caller.
const proposeTime = 10 * time.Second

// Proposer writes to the replicated state: one refusal per command, or an
// error when it is unknown whether they were committed.
type Proposer func(ctx context.Context, cmds ...*pb.Command) ([]error, error)

// ServerConfig is what a Server needs from its manager.
type ServerConfig struct {
	State   *store.State
	Propose Proposer
	// RemoveVoter takes a node out of the raft configuration; done before a
	// manager gets a worker's certificate. Repeats must succeed.
	RemoveVoter func(ctx context.Context, nodeID string) error
	Log         *slog.Logger
}

// Server is the certificate authority that managers offer. Join and Renew are
// for the leader; package rpc passes them on.
type Server struct {
	pb.UnimplementedCAServer
	cfg   ServerConfig
	limit *limiter
}

// NewServer returns a CA over the replicated state, where its key lives.
func NewServer(cfg ServerConfig) *Server {
	return &Server{cfg: cfg, limit: newLimiter()}
}

// GetRoot returns the root certificate, to anyone: it is no secret, and
// callers check it against their token.
func (s *Server) GetRoot(context.Context, *pb.GetRootRequest) (*pb.GetRootResponse, error) {
	c, err := clusterOf(s.cfg.State.View())
	if err != nil {
		return nil, err
	}
	return &pb.GetRootResponse{RootCaCert: c.RootCaCert}, nil
}

// Join admits whoever shows a join token, which decides the node's role.
func (s *Server) Join(ctx context.Context, req *pb.JoinRequest) (*pb.Certificate, error) {
	view := s.cfg.State.View()
	cluster, err := clusterOf(view)
	if err != nil {
		return nil, err
	}
	caller, _ := rpc.IdentityFrom(ctx)
	role, err := s.admit(cluster, req.Token, caller.Addr)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	node := newNode(role, req, now)
	cert, err := s.issue(view, node.Id, role, req.Csr)
	if err != nil {
		return nil, err
	}
	create := &pb.Command{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: node}}}
	if err := s.cfg.Propose.one(ctx, create); err != nil {
		return nil, fmt.Errorf("admit node: %w", err)
	}
	s.log("node joined", "node", node.Id, "role", role, "hostname", node.Description.GetHostname(), "from", caller.Addr)
	return cert, nil
}

func newNode(role pb.NodeRole, req *pb.JoinRequest, now time.Time) *pb.Node {
	availability := req.Availability
	if availability == pb.NodeAvailability_NODE_AVAILABILITY_UNSPECIFIED {
		availability = pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE
	}
	return &pb.Node{
		Id:          id.New(),
		Spec:        &pb.NodeSpec{Role: role, Availability: availability},
		Role:        role,
		Description: req.Description,
		Status: &pb.NodeStatus{
			State:   pb.NodeState_NODE_STATE_UNKNOWN,
			Message: "joined; its agent has not reported yet",
			Since:   timestamppb.New(now),
		},
	}
}

// admit finds the role that a token grants.
func (s *Server) admit(c *pb.Cluster, token, source string) (pb.NodeRole, error) {
	now := time.Now()
	if !s.limit.allow(source, now) {
		return 0, fault.New(fault.Denied, "join refused: too many wrong tokens from %s", hostOf(source)).
			WithTry("wait a minute, then use the output of: minictl swarm join-token worker, on a manager")
	}
	role, err := roleOfToken(c, token)
	if err != nil {
		s.limit.punish(source, now)
		s.log("join refused", "from", source, "err", err)
	}
	return role, err
}

// roleOfToken compares a token with those of the cluster, with both in any
// case.
func roleOfToken(c *pb.Cluster, token string) (pb.NodeRole, error) {
	shown, err := ParseToken(token)
	if err != nil {
		return 0, err
	}
	worker, werr := ParseToken(c.GetJoinTokens().GetWorker())
	manager, merr := ParseToken(c.GetJoinTokens().GetManager())
	isWorker, isManager := werr == nil && shown.Equal(worker), merr == nil && shown.Equal(manager)
	switch {
	case isManager:
		return pb.NodeRole_NODE_ROLE_MANAGER, nil
	case isWorker:
		return pb.NodeRole_NODE_ROLE_WORKER, nil
	}
	return 0, fault.New(fault.Denied, "join refused: the token is not valid any more, or never was").WithTry(tokenTry)
}

// Renew gives the calling node a new certificate, with the role that its spec
// has now.
func (s *Server) Renew(ctx context.Context, req *pb.RenewRequest) (*pb.Certificate, error) {
	caller, ok := rpc.IdentityFrom(ctx)
	if !ok || caller.NodeID == "" {
		return nil, fault.New(fault.Denied, "renew certificate: the caller has none")
	}
	view := s.cfg.State.View()
	node := view.Node(caller.NodeID)
	if node == nil {
		return nil, fault.New(fault.Denied, "renew certificate: node %s was removed from the cluster", caller.NodeID).
			WithTry("minictl swarm leave --force")
	}
	role := node.GetSpec().GetRole()
	cert, err := s.issue(view, node.Id, role, req.Csr)
	if err != nil {
		return nil, err
	}
	if err := s.changeRole(ctx, node, role); err != nil {
		return nil, fmt.Errorf("change role of node %s: %w", node.Id, err)
	}
	return cert, nil
}

// changeRole makes the cluster see a node's new role before the node itself
// does. A demoted manager leaves raft first: a worker must not have a vote.
func (s *Server) changeRole(ctx context.Context, node *pb.Node, role pb.NodeRole) error {
	if role == node.Role {
		return nil
	}
	if role == pb.NodeRole_NODE_ROLE_WORKER && s.cfg.RemoveVoter != nil {
		if err := s.cfg.RemoveVoter(ctx, node.Id); err != nil {
			return fmt.Errorf("remove its vote: %w", err)
		}
	}
	set := &pb.Command{Kind: &pb.Command_SetNodeRole{SetNodeRole: &pb.SetNodeRole{Id: node.Id, Role: role}}}
	if err := s.cfg.Propose.one(ctx, set); err != nil {
		return err
	}
	s.log("node changed its role", "node", node.Id, "role", role)
	return nil
}

// issue makes the answer to Join and Renew.
func (s *Server) issue(view store.View, nodeID string, role pb.NodeRole, csr []byte) (*pb.Certificate, error) {
	c, err := clusterOf(view)
	if err != nil {
		return nil, err
	}
	root, err := ParseRoot(c.RootCaCert, c.RootCaKey)
	if err != nil {
		return nil, err
	}
	subject := Subject{NodeID: nodeID, ClusterID: c.Id, Role: role}
	cert, err := root.Issue(csr, subject, c.GetSpec().GetCertExpiry().AsDuration(), time.Now())
	if err != nil {
		return nil, err
	}
	answer := &pb.Certificate{NodeId: nodeID, Cert: cert, RootCaCert: c.RootCaCert, Role: role}
	for n := range view.Nodes() {
		if n.ManagerAddr != "" {
			answer.ManagerAddrs = append(answer.ManagerAddrs, n.ManagerAddr)
		}
	}
	return answer, nil
}

func (s *Server) log(msg string, args ...any) {
	if s.cfg.Log != nil {
		s.cfg.Log.Info(msg, args...)
	}
}

func clusterOf(view store.View) (*pb.Cluster, error) {
	if c := view.Cluster(); c != nil {
		return c, nil
	}
	return nil, fault.New(fault.Unavailable, "the cluster's state is not here yet: this manager is starting")
}

// one proposes a single command.
func (p Proposer) one(ctx context.Context, cmd *pb.Command) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTime)
	defer cancel()
	refused, err := p(ctx, cmd)
	if err != nil {
		return err
	}
	return refused[0]
}

// RotateTokens replaces the chosen join tokens and returns those in force.
// Nodes that joined with the old ones stay.
func RotateTokens(ctx context.Context, state *store.State, propose Proposer, worker, manager bool) (*pb.JoinTokens, error) {
	c, err := clusterOf(state.View())
	if err != nil {
		return nil, err
	}
	root, err := ParseRoot(c.RootCaCert, nil)
	if err != nil {
		return nil, err
	}
	tokens := &pb.JoinTokens{Worker: c.GetJoinTokens().GetWorker(), Manager: c.GetJoinTokens().GetManager()}
	if !worker && !manager {
		return tokens, nil
	}
	if worker {
		tokens.Worker = NewToken(root.Cert).String()
	}
	if manager {
		tokens.Manager = NewToken(root.Cert).String()
	}
	set := &pb.Command{Kind: &pb.Command_SetJoinTokens{SetJoinTokens: &pb.SetJoinTokens{Tokens: tokens}}}
	if err := propose.one(ctx, set); err != nil {
		return nil, fmt.Errorf("rotate join tokens: %w", err)
	}
	return tokens, nil
}

// Standing is the role that the state grants a node, UNSPECIFIED when it is
// removed, in the form that package rpc asks for. leader returns the node id of
// the leader that this manager follows or is, empty without one.
//
// While this manager follows nobody, or a leader that its state does not know
// as a manager, the state is behind, and certificates alone decide. Otherwise
// a manager that fell behind would refuse a leader that was admitted or
// promoted meanwhile, and could never catch up.
func Standing(state *store.State, leader func() string) func(nodeID string) pb.NodeRole {
	const manager = pb.NodeRole_NODE_ROLE_MANAGER
	return func(nodeID string) pb.NodeRole {
		view := state.View()
		if view.Node(leader()).GetRole() != manager {
			return manager
		}
		return view.Node(nodeID).GetRole()
	}
}
