package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Metadata by which a manager names the caller whose call it passes on. Only
// holders of a manager's certificate may set it; in everybody else's calls it
// is an attempt at forgery.
const (
	metaNode = "minid-forwarded-node"
	metaRole = "minid-forwarded-role"
	metaAddr = "minid-forwarded-addr"
)

// withForwarded returns an outgoing context that names the caller.
func withForwarded(ctx context.Context, id Identity) context.Context {
	return metadata.NewOutgoingContext(ctx, metadata.Pairs(
		metaNode, id.NodeID,
		metaRole, strconv.Itoa(int(id.Role)),
		metaAddr, id.Addr,
	))
}

// forwardedFrom reads the caller that a manager names, nil if it names none.
// Whoever is behind it is never local here.
func forwardedFrom(ctx context.Context) (*Identity, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	node, role, addr := md.Get(metaNode), md.Get(metaRole), md.Get(metaAddr)
	if len(node)+len(role)+len(addr) == 0 {
		return nil, nil
	}
	bad := fault.New(fault.Denied, "bad forwarded identity")
	if len(node) != 1 || len(role) != 1 || len(addr) != 1 {
		return nil, bad
	}
	n, err := strconv.Atoi(role[0])
	_, known := pb.NodeRole_name[int32(n)]
	if err != nil || !known || (n == 0) != (node[0] == "") {
		return nil, bad
	}
	return &Identity{NodeID: node[0], Role: pb.NodeRole(n), Addr: addr[0]}, nil
}

// forwarder passes calls on to leaders. Connections are kept by address, so
// that calls in flight survive a change of leader; unused ones go idle.
type forwarder struct {
	tls  *tls.Config
	dial DialFunc

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
	done  bool
}

func newForwarder(tlsConf *tls.Config, dial DialFunc) *forwarder {
	return &forwarder{tls: tlsConf, dial: dial, conns: map[string]*grpc.ClientConn{}}
}

func (f *forwarder) conn(addr string) (*grpc.ClientConn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return nil, fault.New(fault.Unavailable, "this manager is stopping")
	}
	if c, ok := f.conns[addr]; ok {
		return c, nil
	}
	c, err := Dial(addr, f.tls, f.dial, WithUnreachable(func(cause string) *fault.Error {
		return fault.New(fault.Unavailable, "cannot reach the leader at %s: %s", addr, cause)
	}))
	if err == nil {
		f.conns[addr] = c
	}
	return c, err
}

// inReach waits, until ctx ends, for a connection to a leader to be open or to
// have failed. Nothing of a call is sent before it is open, so a call whose
// leader just died is not lost: it waits for the next one.
func (f *forwarder) inReach(ctx context.Context, addr string) bool {
	c, err := f.conn(addr)
	if err != nil {
		return false
	}
	c.Connect()
	for {
		state := c.GetState()
		switch state {
		case connectivity.Ready:
			return true
		case connectivity.TransientFailure:
			c.ResetConnectBackoff()
			return false
		case connectivity.Shutdown:
			return false
		case connectivity.Idle:
			c.Connect()
		}
		if !c.WaitForStateChange(ctx, state) {
			return false
		}
	}
}

func (f *forwarder) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = true
	for _, c := range f.conns {
		c.Close()
	}
}

// unary carries out a call at the leader for the caller in ctx.
func (f *forwarder) unary(ctx context.Context, leader, method string, req any) (any, error) {
	_, output, err := messages(method)
	if err != nil {
		return nil, err
	}
	conn, err := f.conn(leader)
	if err != nil {
		return nil, err
	}
	id, _ := IdentityFrom(ctx)
	reply := output()
	if err := conn.Invoke(withForwarded(ctx, id), method, req, reply); err != nil {
		return nil, err
	}
	return reply, nil
}

// stream joins a caller's stream to one at the leader until either ends.
func (f *forwarder) stream(ctx context.Context, leader string, info *grpc.StreamServerInfo, down grpc.ServerStream) error {
	input, output, err := messages(info.FullMethod)
	if err != nil {
		return err
	}
	conn, err := f.conn(leader)
	if err != nil {
		return err
	}
	id, _ := IdentityFrom(ctx)
	ctx, cancel := context.WithCancelCause(withForwarded(ctx, id))
	defer cancel(nil)
	desc := &grpc.StreamDesc{ClientStreams: info.IsClientStream, ServerStreams: info.IsServerStream}
	up, err := conn.NewStream(ctx, desc, info.FullMethod)
	if err != nil {
		return err
	}
	// Ends with the call: gRPC cancels down's context when its handler returns.
	go func() {
		if err := pump(down, up, input); err != nil {
			cancel(err)
			return
		}
		up.CloseSend()
	}()
	err = pump(up, down, output)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("pass on stream: %w", cause)
	}
	return err
}

type receiver interface{ RecvMsg(any) error }

type sender interface{ SendMsg(any) error }

// pump copies messages until the source ends; nil at its proper end.
func pump(from receiver, to sender, fresh func() proto.Message) error {
	for {
		m := fresh()
		if err := from.RecvMsg(m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := to.SendMsg(m); err == io.EOF {
			return nil // the other pump learns why
		} else if err != nil {
			return err
		}
	}
}

// messages returns makers of a method's request and answer.
func messages(method string) (input, output func() proto.Message, err error) {
	full := strings.Replace(strings.TrimPrefix(method, "/"), "/", ".", 1)
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(full))
	if err != nil {
		return nil, nil, fmt.Errorf("find method %s: %w", full, err)
	}
	m, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, nil, fmt.Errorf("find method %s: it is not a method", full)
	}
	if input, err = maker(m.Input()); err != nil {
		return nil, nil, err
	}
	output, err = maker(m.Output())
	return input, output, err
}

func maker(d protoreflect.MessageDescriptor) (func() proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		return nil, fmt.Errorf("find message %s: %w", d.FullName(), err)
	}
	return func() proto.Message { return t.New().Interface() }, nil
}
