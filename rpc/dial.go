package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/minid/minid/fault"
)

const (
	// maxMessage holds a raft batch, the largest config and a full assignment
	// set of a well-filled node.
	maxMessage = 8 << 20
	// keepaliveEvery is gRPC's own minimum for clients; a vanished peer is
	// noticed after that plus keepaliveWait at most.
	keepaliveEvery = 10 * time.Second
	keepaliveWait  = 5 * time.Second
	connectTimeout = 5 * time.Second
)

// DialOption changes how Dial reports.
type DialOption func(*link)

// WithUnreachable replaces the error for a peer that cannot be reached; cause
// says why in a few words, such as "connection refused".
func WithUnreachable(f func(cause string) *fault.Error) DialOption {
	return func(l *link) { l.unreachable = f }
}

// Dial returns a connection to a manager that is opened at the first call and
// again whenever it broke. A nil tlsConf speaks plaintext, for unix sockets; a
// nil dial uses TCP. Errors of its calls are *fault.Error.
func Dial(addr string, tlsConf *tls.Config, dial DialFunc, opts ...DialOption) (*grpc.ClientConn, error) {
	if dial == nil {
		dial = dialTCP
	}
	l := &link{addr: addr, dial: dial, unreachable: func(cause string) *fault.Error {
		return fault.New(fault.Unavailable, "cannot reach manager at %s: %s", addr, cause)
	}}
	for _, opt := range opts {
		opt(l)
	}
	creds := insecure.NewCredentials()
	if tlsConf != nil {
		creds = credentials.NewTLS(tlsConf)
	}
	// The address goes to dial alone: gRPC would read it as a URL.
	conn, err := grpc.NewClient("passthrough:///"+ManagerName,
		grpc.WithTransportCredentials(&linkCreds{creds, l}),
		grpc.WithContextDialer(l.open),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveEvery, Timeout: keepaliveWait, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithDisableServiceConfig(),
		grpc.WithUnaryInterceptor(l.unary()),
		grpc.WithStreamInterceptor(l.stream()),
	)
	if err != nil {
		return nil, fmt.Errorf("make connection to %s: %w", addr, err)
	}
	return conn, nil
}

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// link is what one connection knows about its peer, to say why it is not there.
type link struct {
	addr        string
	dial        DialFunc
	unreachable func(cause string) *fault.Error
	// failure is the last dial's or handshake's error; nil while connected.
	failure atomic.Pointer[error]
}

func (l *link) open(ctx context.Context, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := l.dial(ctx, l.addr)
	l.note(err)
	return conn, err
}

func (l *link) note(err error) {
	if err == nil {
		l.failure.Store(nil)
		return
	}
	l.failure.Store(&err)
}

// unary and stream explain the errors of calls.
func (l *link) unary() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return l.explain(invoke(ctx, method, req, reply, cc, opts...))
	}
}

func (l *link) stream() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := open(ctx, desc, cc, method, opts...)
		if err != nil {
			return nil, l.explain(err)
		}
		return &linkStream{s, l}, nil
	}
}

// explain turns a call's error into a fault, and gRPC's account of a broken
// transport into words for users.
func (l *link) explain(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok || s.Code() != codes.Unavailable || infoOf(s) != nil {
		return FromStatus(err)
	}
	why := "the connection broke"
	if last := l.failure.Load(); last != nil {
		why = causeOf(*last)
	}
	f := l.unreachable(why)
	f.Err = &remoteError{status: s}
	return f
}

// causeOf finds the few words that matter at the bottom of a network error.
func causeOf(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.Message
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return "no answer in time"
	}
	if errors.Is(err, io.EOF) {
		return "it closed the connection"
	}
	return err.Error()
}

// linkStream explains the errors of a stream.
type linkStream struct {
	grpc.ClientStream
	link *link
}

func (s *linkStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == io.EOF {
		return err
	}
	return s.link.explain(err)
}

func (s *linkStream) SendMsg(m any) error {
	err := s.ClientStream.SendMsg(m)
	if err == io.EOF { // the stream has ended; RecvMsg tells why
		return err
	}
	return s.link.explain(err)
}

// linkCreds notes why handshakes fail.
type linkCreds struct {
	credentials.TransportCredentials
	link *link
}

func (c *linkCreds) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, raw)
	c.link.note(err)
	return conn, info, err
}

func (c *linkCreds) Clone() credentials.TransportCredentials {
	return &linkCreds{c.TransportCredentials.Clone(), c.link}
}
