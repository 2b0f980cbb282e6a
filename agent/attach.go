package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/grpc"
)

const (
	// maxAttaches bounds the streams that are open at a time.
	maxAttaches = 256
	// stdinQueue is how many messages of stdin may wait for the process, so
	// that a signal behind them still gets through.
	stdinQueue = 16
	// goodbye is what the peer has to take the last message.
	goodbye = 5 * time.Second
)

// attaches are the Attach streams of one session.
type attaches struct {
	*session
	wg    sync.WaitGroup
	slots chan struct{}
}

func newAttaches(s *session) *attaches {
	return &attaches{session: s, slots: make(chan struct{}, maxAttaches)}
}

// wait returns when all streams have ended; they do with the session's ctx.
func (a *attaches) wait() { a.wg.Wait() }

// open answers an Attach with a stream of its own.
func (a *attaches) open(ctx context.Context, req *pb.Attach) {
	a.wg.Go(func() {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := a.client.Attach(ctx)
		if err != nil {
			a.cfg.Logger.Warn("cannot open attach stream", "error", err)
			return
		}
		c := &attach{stream: stream}
		if err := c.send(&pb.AttachUp{Kind: &pb.AttachUp_Open{Open: req.GetId()}}); err != nil {
			return
		}
		gone := make(chan struct{})
		in := newExecInput()
		a.wg.Go(func() {
			defer close(gone)
			defer cancel()
			in.receive(ctx, stream)
		})
		if err := a.serve(ctx, req, c, in); err != nil && ctx.Err() == nil {
			c.send(&pb.AttachUp{Kind: &pb.AttachUp_Error{Error: err.Error()}}) // fails only when the peer has gone
		}
		stream.CloseSend()
		select {
		case <-gone:
		case <-time.After(goodbye):
		}
	})
}

func (a *attaches) serve(ctx context.Context, req *pb.Attach, c *attach, in *execInput) error {
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	default:
		return fault.New(fault.Unavailable, "node %s: %d logs, execs, probes and measurements are open already", a.cfg.NodeName, maxAttaches)
	}
	switch {
	case req.GetLogs() != nil:
		return a.cfg.Logs.Logs(ctx, req.GetLogs().GetTaskId(), req.GetLogs(), c.emit)
	case req.GetExec() != nil:
		return a.exec(ctx, req.GetExec(), c, in)
	case req.GetProbe() != nil && a.cfg.Network != nil:
		return a.cfg.Network.Probe(ctx, req.GetProbe(), c.probed)
	case req.GetUsage() != nil:
		return a.usage(ctx, req.GetUsage(), c)
	default:
		return fault.New(fault.Invalid, "node %s: does not know this kind of attach", a.cfg.NodeName)
	}
}

func (a *attaches) exec(ctx context.Context, req *pb.ExecAttach, c *attach, in *execInput) error {
	if !a.worker.assigned(req.GetTaskId()) {
		return fault.New(fault.NotFound, "task %s: is not on node %s", req.GetTaskId(), a.cfg.NodeName)
	}
	code, err := a.cfg.Exec.Exec(ctx, req.GetTaskId(), req.GetStart(), ExecIO{
		Stdin:   in.stdin,
		Stdout:  writer(func(p []byte) error { return c.output(&pb.ExecOutput{Kind: &pb.ExecOutput_Stdout{Stdout: p}}) }),
		Stderr:  writer(func(p []byte) error { return c.output(&pb.ExecOutput{Kind: &pb.ExecOutput_Stderr{Stderr: p}}) }),
		Resize:  in.resize,
		Signals: in.signals,
	})
	if err != nil && code == 0 {
		return err
	}
	exit := &pb.ExecExit{Code: code}
	if err != nil {
		exit.Error = err.Error()
	}
	return c.output(&pb.ExecOutput{Kind: &pb.ExecOutput_Exit{Exit: exit}})
}

// attach serialises what stdout, stderr and the end write to one stream.
type attach struct {
	mu     sync.Mutex
	stream grpc.BidiStreamingClient[pb.AttachUp, pb.AttachDown]
}

func (c *attach) send(m *pb.AttachUp) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stream.Send(m); err != nil {
		return fmt.Errorf("send to manager: %w", err)
	}
	return nil
}

func (c *attach) emit(b *pb.LogBatch) error {
	return c.send(&pb.AttachUp{Kind: &pb.AttachUp_Logs{Logs: b}})
}

func (c *attach) probed(r *pb.ProbeResult) error {
	return c.send(&pb.AttachUp{Kind: &pb.AttachUp_Probe{Probe: r}})
}

func (c *attach) output(out *pb.ExecOutput) error {
	return c.send(&pb.AttachUp{Kind: &pb.AttachUp_Exec{Exec: out}})
}

// writer makes an io.Writer of a function that sends. The stream has encoded
// the bytes when it returns, so the caller may use its buffer again.
type writer func([]byte) error

// Write implements io.Writer.
func (w writer) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := w(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// execInput splits what comes down an Attach stream.
type execInput struct {
	stdin   *io.PipeReader
	pipe    *io.PipeWriter
	queue   chan []byte
	resize  chan *pb.WindowSize
	signals chan uint32
}

func newExecInput() *execInput {
	r, w := io.Pipe()
	return &execInput{
		stdin: r, pipe: w,
		queue:   make(chan []byte, stdinQueue),
		resize:  make(chan *pb.WindowSize, 1),
		signals: make(chan uint32, stdinQueue),
	}
}

// receive returns when the peer or ctx ended. For logs nothing ever comes.
func (in *execInput) receive(ctx context.Context, stream grpc.BidiStreamingClient[pb.AttachUp, pb.AttachDown]) {
	var wg sync.WaitGroup
	defer wg.Wait()
	// Lets a write end that no process reads.
	defer in.stdin.CloseWithError(errors.New("exec ended"))
	queue := in.queue
	defer func() {
		if queue != nil {
			close(queue)
		}
	}()
	wg.Go(in.pump)
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		switch input := m.GetExec(); {
		case input.GetStdin() != nil && queue != nil:
			select {
			case queue <- input.GetStdin():
			case <-ctx.Done():
			}
		case input.GetCloseStdin() && queue != nil:
			close(queue)
			queue = nil
		case input.GetResize() != nil:
			in.resizeTo(input.GetResize())
		case input.GetSignal() != 0:
			select {
			case in.signals <- input.GetSignal():
			default: // a process that takes no signals has enough of them
			}
		}
	}
}

// resizeTo replaces a size that was not taken yet.
func (in *execInput) resizeTo(size *pb.WindowSize) {
	select {
	case <-in.resize:
	default:
	}
	in.resize <- size
}

// pump feeds the process; what it does not read any more is dropped.
func (in *execInput) pump() {
	for data := range in.queue {
		in.pipe.Write(data)
	}
	in.pipe.Close()
}
