package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// stopGrace is how long calls may finish when a server stops.
	stopGrace = time.Second
	// leaderWait bounds the wait for an election before a call is refused.
	leaderWait = 2 * time.Second
	leaderPoll = 25 * time.Millisecond
)

// Leader is what a manager knows of the present leader.
type Leader struct {
	// ID and Addr are empty while there is none.
	ID   string
	Addr string
	// Self: this manager leads, and its loops are ready for calls.
	Self bool
}

// ServerConfig is what a server needs from its node.
type ServerConfig struct {
	// Self is this node: on the unix socket its role is its callers' authority.
	// Asked at every call, because roles change while the server runs.
	Self func() Identity
	// Standing is the role that the cluster grants a node now, UNSPECIFIED
	// once it is removed (ca.Standing). Nil grants what certificates say.
	Standing func(nodeID string) pb.NodeRole
	// Leader tells where calls go. Nil: this node always answers itself.
	Leader func() Leader
	// TLS and Dial reach the leader, with this manager's certificate.
	TLS  *tls.Config
	Dial DialFunc
	Log  *slog.Logger
}

// Server is a gRPC server that knows its callers. Register services on it,
// then Run it.
type Server struct {
	*grpc.Server
	cfg     ServerConfig
	local   bool
	forward *forwarder
}

// NewServer returns the server of a node's TLS port; it serves what Mux.GRPC
// hands over.
func NewServer(cfg ServerConfig) *Server { return newServer(cfg, handedOver{}, false) }

// NewLocalServer returns the server of a node's unix socket, whose file mode
// is what guards it.
func NewLocalServer(cfg ServerConfig) *Server {
	return newServer(cfg, insecure.NewCredentials(), true)
}

func newServer(cfg ServerConfig, creds credentials.TransportCredentials, local bool) *Server {
	s := &Server{cfg: cfg, local: local, forward: newForwarder(cfg.TLS, cfg.Dial)}
	s.Server = grpc.NewServer(
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxHeaderListSize(16<<10),
		grpc.MaxConcurrentStreams(1024),
		grpc.ConnectionTimeout(connectTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveEvery / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveEvery, Timeout: keepaliveWait}),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)
	return s
}

// Run serves a listener until ctx ends, then lets calls finish for a moment.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	stopped := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(stopped)
		force := time.AfterFunc(stopGrace, s.Stop)
		defer force.Stop()
		s.GracefulStop()
	})
	err := s.Serve(ln)
	if cancel() {
		s.Stop()
	} else {
		<-stopped
		err = nil
	}
	s.forward.close()
	if err != nil {
		return fmt.Errorf("serve gRPC: %w", err)
	}
	return nil
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	defer s.finish(info.FullMethod, &err)
	ctx, leader, err := s.admit(ctx, info.FullMethod)
	switch {
	case err != nil:
		return nil, err
	case leader != "":
		return s.forward.unary(ctx, leader, info.FullMethod, req)
	}
	return handle(ctx, req)
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer s.finish(info.FullMethod, &err)
	ctx, leader, err := s.admit(ss.Context(), info.FullMethod)
	switch {
	case err != nil:
		return err
	case leader != "":
		return s.forward.stream(ctx, leader, info, ss)
	}
	return handle(srv, &identifiedStream{ss, ctx})
}

// finish turns panics and faults into statuses.
func (s *Server) finish(method string, err *error) {
	if p := recover(); p != nil {
		if s.cfg.Log != nil {
			s.cfg.Log.Error("call panicked", "method", shortName(method), "panic", p, "stack", string(debug.Stack()))
		}
		*err = fault.New(fault.Internal, "%s failed: a bug in minid, its log has the details", shortName(method))
	}
	*err = ToStatus(*err)
}

// admit decides whether and where a call is carried out: an empty leader
// address means here.
func (s *Server) admit(ctx context.Context, method string) (context.Context, string, error) {
	id, forwarded, err := s.identify(ctx)
	if err != nil && policy[method].allow&anyone == 0 {
		return nil, "", err
	}
	r, err := permit(method, id)
	if err != nil {
		return nil, "", err
	}
	ctx = WithIdentity(ctx, id)
	if r.route == here || s.cfg.Leader == nil {
		return ctx, "", nil
	}
	if r.route == onLeader {
		return ctx, "", s.mustLead()
	}
	leader, err := s.awaitLeader(ctx)
	switch {
	case err != nil:
		return nil, "", err
	case leader.Self:
		return ctx, "", nil
	case forwarded:
		return nil, "", fault.New(fault.Unavailable, "the leader changed while the call was passed on")
	}
	return ctx, leader.Addr, nil
}

// identify finds the caller, and whether another manager speaks for it. With
// an error, the identity is that of somebody without a certificate.
func (s *Server) identify(ctx context.Context) (id Identity, forwarded bool, err error) {
	if s.local {
		id = s.cfg.Self()
		id.Local = true
		return id, false, refuseForwarding(ctx)
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Identity{}, false, errors.New("call without a peer")
	}
	auth, ok := p.AuthInfo.(authInfo)
	if !ok {
		return Identity{}, false, errors.New("call without TLS")
	}
	stranger := Identity{Addr: p.Addr.String()}
	id, err = auth.identity(time.Now(), s.cfg.Standing)
	if err != nil {
		return stranger, false, errors.Join(err, refuseForwarding(ctx))
	}
	id.Addr = stranger.Addr
	return s.forwardedIdentity(ctx, id)
}

// mustLead refuses unless this manager leads.
func (s *Server) mustLead() error {
	leader := s.cfg.Leader()
	if leader.Self {
		return nil
	}
	where := "there is none"
	if leader.Addr != "" {
		where = "it is " + leader.Addr
	}
	detail := &pb.NotLeader{LeaderId: leader.ID, LeaderAddr: leader.Addr}
	return statusOf(fault.Unavailable, "this manager is not the leader: "+where, "", detail).Err()
}

// awaitLeader bridges elections, which take a second or two.
func (s *Server) awaitLeader(ctx context.Context) (Leader, error) {
	deadline := time.Now().Add(leaderWait)
	for {
		leader := s.cfg.Leader()
		if leader.Self || leader.Addr != "" {
			return leader, nil
		}
		if time.Now().Add(leaderPoll).After(deadline) {
			return Leader{}, fault.New(fault.Unavailable, "the cluster has no leader: more than half of the managers must be up and in reach").
				WithTry("minictl info, on each manager")
		}
		select {
		case <-ctx.Done():
			return Leader{}, ctx.Err()
		case <-time.After(leaderPoll):
		}
	}
}

// identifiedStream is a stream whose context carries the caller.
type identifiedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *identifiedStream) Context() context.Context { return s.ctx }
