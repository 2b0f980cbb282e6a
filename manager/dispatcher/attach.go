package dispatcher

import (
	"context"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/id"
	pb "github.com/minid/minid/proto/minid/v1"
)

// waiter is an attach request that its node has not answered yet.
type waiter struct {
	node string
	// The asker's context: the stream does not outlive it.
	asker <-chan struct{}
	// Has room for one: the stream that the agent opened.
	opened chan *AttachPipe
}

// AttachPipe is a stream to an agent, for logs or an exec. One goroutine may
// receive while another sends.
type AttachPipe struct {
	stream grpc.BidiStreamingServer[pb.AttachUp, pb.AttachDown]
	closed chan struct{}
	once   sync.Once
}

// Recv returns the agent's next message, io.EOF after the last one.
func (p *AttachPipe) Recv() (*pb.AttachUp, error) {
	m, err := p.stream.Recv()
	if err == nil {
		return m, nil
	}
	select {
	case <-p.closed:
		return nil, io.EOF
	default:
		return nil, err
	}
}

// Send sends the agent a message; io.EOF when the pipe is closed.
func (p *AttachPipe) Send(m *pb.AttachDown) error {
	select {
	case <-p.closed:
		return io.EOF
	default:
		return p.stream.Send(m)
	}
}

// Close ends the pipe in both directions. It may be repeated.
func (p *AttachPipe) Close() {
	p.once.Do(func() { close(p.closed) })
}

// OpenAttach asks a node's agent for an attach stream and waits for it, at most
// 10 s. The request's id is chosen here. The pipe ends with ctx, by Close, or
// when the agent ends it. Fails with fault.Unavailable when the node has no
// session or does not answer.
func (d *Dispatcher) OpenAttach(ctx context.Context, nodeID string, req *pb.Attach) (*AttachPipe, error) {
	t, err := d.serving()
	if err != nil {
		return nil, err
	}
	t.mu.RLock()
	s := t.sessions[nodeID]
	t.mu.RUnlock()
	if s == nil {
		return nil, fault.New(fault.Unavailable, "attach to node %s: the node is not connected", nodeID)
	}
	req = proto.CloneOf(req)
	req.Id = id.New()
	w := &waiter{node: nodeID, asker: ctx.Done(), opened: make(chan *AttachPipe, 1)}
	t.expectAttach(req.Id, w)
	defer t.dropAttach(req.Id, w)
	if err := s.attach(req); err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeoutCause(ctx, openWithin,
		fault.New(fault.Unavailable, "attach to node %s: no answer within %v", nodeID, openWithin))
	defer cancel()
	select {
	case p := <-w.opened:
		return p, nil
	case <-s.done:
		return nil, fault.New(fault.Unavailable, "attach to node %s: its session ended", nodeID)
	case <-waiting.Done():
		return nil, context.Cause(waiting)
	}
}

func (t *term) expectAttach(id string, w *waiter) {
	t.attachMu.Lock()
	defer t.attachMu.Unlock()
	t.attaches[id] = w
}

// dropAttach forgets a request, and closes a stream that came too late.
func (t *term) dropAttach(id string, w *waiter) {
	t.attachMu.Lock()
	delete(t.attaches, id)
	t.attachMu.Unlock()
	select {
	case p := <-w.opened:
		p.Close()
	default:
	}
}

// claimAttach takes the request that an agent answers; only the node that was
// asked may.
func (t *term) claimAttach(id, node string, p *AttachPipe) (*waiter, error) {
	t.attachMu.Lock()
	defer t.attachMu.Unlock()
	w := t.attaches[id]
	if w == nil {
		return nil, fault.New(fault.NotFound, "open attach %s: nobody waits for it", id)
	}
	if w.node != node {
		return nil, fault.New(fault.Denied, "open attach %s: it was asked of another node", id)
	}
	delete(t.attaches, id)
	w.opened <- p
	return w, nil
}

// Attach serves a stream that an agent opens on request; it lasts until the one
// who asked closes it or the agent goes.
func (d *Dispatcher) Attach(stream grpc.BidiStreamingServer[pb.AttachUp, pb.AttachDown]) error {
	t, err := d.serving()
	if err != nil {
		return err
	}
	ctx := stream.Context()
	node, err := d.cfg.Identify(ctx)
	if err != nil {
		return err
	}
	first, err := receiveFirst(ctx, stream.Recv)
	if err != nil {
		return err
	}
	p := &AttachPipe{stream: stream, closed: make(chan struct{})}
	w, err := t.claimAttach(first.GetOpen(), node, p)
	if err != nil {
		return err
	}
	defer p.Close()
	select {
	case <-p.closed:
	case <-w.asker:
	case <-t.ended:
	case <-ctx.Done():
	}
	return nil
}
