package main

import (
	"context"
	"time"

	"github.com/minid/minid/client"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// callTimeout bounds what does not stream: longer than the managers' own limit
// for a commit, so that theirs is the error that users see.
const callTimeout = time.Minute

// api is the connection to a node.
type api struct {
	client  *client.Client
	control pb.ControlClient
	local   pb.LocalClient
}

// connect returns the connection, made at the first use.
func (c *cli) connect() (*api, error) {
	if c.api != nil {
		return c.api, nil
	}
	conn, err := client.Dial(c.host, client.Options{CertFile: c.identity, KeyFile: c.identity, RootFile: c.identity})
	if err != nil {
		return nil, err
	}
	c.api = &api{client: conn, control: conn.Control, local: conn.Local}
	return c.api, nil
}

func (a *api) close() {
	if a != nil {
		a.client.Close()
	}
}

// bounded limits calls that do not stream.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, callTimeout, fault.New(fault.Timeout, "no answer within %v", callTimeout))
}

// overdue says that a bounded call took too long in place of what gRPC says.
func overdue(ctx context.Context, err error) error {
	if err != nil && fault.Is(err, fault.Timeout) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
