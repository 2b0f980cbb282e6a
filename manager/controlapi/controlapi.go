// Package controlapi is the desired state's front door: it validates what users
// ask for, proposes it, and answers with what the store then holds. Nothing it
// answers carries a secret's data, a key, a token or registry credentials.
//
// Every call is served by the leader; package rpc has checked the caller's role
// before a call gets here.
package controlapi

import (
	"context"
	"log/slog"
	"time"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// proposeTimeout bounds the wait for a commit.
const proposeTimeout = 20 * time.Second

// Proposer commits commands and returns one refusal or nil per command; its
// error means that the commit did not happen or is not known.
type Proposer func(ctx context.Context, cmds ...*pb.Command) ([]error, error)

// Attacher opens a stream to a node for logs, an exec, a probe or samples. It
// fails with fault.Unavailable when the node is not in reach.
type Attacher interface {
	Attach(ctx context.Context, nodeID string, req *pb.Attach) (AttachStream, error)
}

// AttachStream is one open attachment. One goroutine may receive while another
// sends; Recv ends with io.EOF. Close ends both at once; it may be repeated and
// come from any goroutine.
type AttachStream interface {
	Recv() (*pb.AttachUp, error)
	Send(*pb.AttachDown) error
	Close()
}

// Config is what a Server needs.
type Config struct {
	State    *store.State
	Propose  Proposer
	Attacher Attacher
	// RotateTokens replaces the tokens that are named and returns both; with
	// neither named it only returns them.
	RotateTokens func(ctx context.Context, worker, manager bool) (*pb.JoinTokens, error)
	// Managers tells how the leader sees each raft voter, by node id.
	Managers func() map[string]*pb.ManagerStatus
	Logger   *slog.Logger
}

// Server answers the control API.
type Server struct {
	pb.UnimplementedControlServer
	cfg Config
	log *slog.Logger
}

// New makes a server. All fields of the configuration are needed.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, log: cfg.Logger}
}

// propose commits one command.
func (s *Server) propose(ctx context.Context, cmd *pb.Command) error {
	refused, err := s.proposeAll(ctx, cmd)
	if err != nil {
		return err
	}
	return refused[0]
}

// proposeAll commits commands and returns the refusals.
func (s *Server) proposeAll(ctx context.Context, cmds ...*pb.Command) ([]error, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, proposeTimeout,
		fault.New(fault.Timeout, "commit change: no majority of the managers answered within %v", proposeTimeout).
			WithTry("minictl node ls"))
	defer cancel()
	refused, err := s.cfg.Propose(ctx, cmds...)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return refused, err
}
