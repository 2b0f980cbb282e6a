package main

import (
	"context"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

// callTimeout bounds one call that does not stream: longer than the managers'
// own limit for a commit, so that theirs is the error that users see.
const callTimeout = 30 * time.Second

// api is the connection to a node.
type api struct {
	conn    *grpc.ClientConn
	control pb.ControlClient
	local   pb.LocalClient
}

// connect returns the connection, made at the first use.
func (c *cli) connect() (*api, error) {
	if c.api != nil {
		return c.api, nil
	}
	path, ok := strings.CutPrefix(c.host, "unix://")
	if !ok || path == "" {
		return nil, fault.New(fault.Invalid, "invalid host %q: expected unix:///PATH", c.host).WithTry("minictl -H %s info", defaultHost)
	}
	conn, err := rpc.Dial("localhost", nil, func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}, rpc.WithUnreachable(func(cause string) *fault.Error {
		return fault.New(fault.Unavailable, "cannot reach minid at %s: %s", c.host, cause).
			WithTry("start minid on this host, or name another socket with -H")
	}))
	if err != nil {
		return nil, err
	}
	within := deadlines{conn}
	c.api = &api{conn: conn, control: pb.NewControlClient(within), local: pb.NewLocalClient(within)}
	return c.api, nil
}

func (a *api) close() {
	if a != nil {
		a.conn.Close()
	}
}

// deadlines gives every call that does not stream a time limit.
type deadlines struct{ *grpc.ClientConn }

// Invoke makes a call.
func (d deadlines) Invoke(ctx context.Context, method string, req, reply any, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, fault.New(fault.Timeout, "no answer within %v", callTimeout))
	defer cancel()
	return d.ClientConn.Invoke(ctx, method, req, reply, opts...)
}
