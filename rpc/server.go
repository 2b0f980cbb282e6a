package rpc

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// stopGrace is how long calls may finish when a server stops.
const stopGrace = time.Second

// Leader is what a manager knows of the present leader.
type Leader struct {
	// ID and Addr are empty while there is none.
	ID   string
	Addr string
	// Self: this manager leads, and its loops are ready for calls.
	Self bool
	// Trouble is why this manager cannot lead while there is none; nil if it
	// knows nothing that hinders itself.
	Trouble error
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
		grpc.UnknownServiceHandler(elsewhere),
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
	}
	s.forward.close()
	if err != nil && ctx.Err() == nil { // whoever made ln may close it at the end of ctx, too
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

// elsewhere answers calls of services that this port does not have.
func elsewhere(_ any, ss grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(ss)
	return fault.New(fault.Denied, "%s is answered on a node's own control socket only", shortName(method)).
		WithTry("run minictl on that node, without -H https://…")
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

// identifiedStream is a stream whose context carries the caller.
type identifiedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *identifiedStream) Context() context.Context { return s.ctx }
