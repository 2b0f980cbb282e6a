package controlapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	// defaultRound and leastRound are between two rounds of samples.
	defaultRound = 2 * time.Second
	leastRound   = time.Second
	// silence is how long after its time a sample may come before its attachment
	// is given up, and another one tried.
	silence = 10 * time.Second
)

// Usage sends rounds of samples, each with one of every chosen node. A node that
// gives none has its reason in it and does not hold up the others for longer
// than roundGrace, once. Without a choice it is the nodes that are ready, and
// from then on also those that fail.
func (s *Server) Usage(req *pb.UsageRequest, stream grpc.ServerStreamingServer[pb.NodeUsage]) error {
	c, err := s.newUsageCall(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer c.reading.Wait()
	defer cancel()
	for sent := uint32(0); req.GetRounds() == 0 || sent < req.GetRounds(); sent++ {
		if err := c.choose(ctx, s.cfg.State.View()); err != nil {
			return err
		}
		if err := c.gather(ctx); err != nil {
			return err
		}
		if err := c.send(stream); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) newUsageCall(req *pb.UsageRequest) (*usageCall, error) {
	every := defaultRound
	if req.GetInterval() != nil {
		every = req.GetInterval().AsDuration()
	}
	if every < leastRound {
		return nil, fault.New(fault.Invalid, "measure usage: an interval of %v is too short: it is at least %v", every, leastRound)
	}
	view := s.cfg.State.View()
	nodes, err := idsOf(view, req.GetNodes(), findNode)
	if err != nil {
		return nil, err
	}
	services, err := idsOf(view, req.GetServices(), findService)
	if err != nil {
		return nil, err
	}
	return &usageCall{
		server: s, leader: s.leader(), nodes: nodes, services: services, every: every,
		round: newUsageRound(every, time.Now()), told: make(chan measurement),
		readers: map[string]context.CancelFunc{}, opening: make(chan struct{}, openAtOnce),
	}, nil
}

// leader is the id of the node that leads, empty when none does.
func (s *Server) leader() string {
	for id, status := range s.cfg.Managers() {
		if status.GetLeader() {
			return id
		}
	}
	return ""
}

// usageCall is one Usage call: a goroutine reads each node's samples, one makes
// rounds of them.
type usageCall struct {
	server *Server
	// leader is the node that serves the call.
	leader string
	// nodes and services that are chosen; none is all.
	nodes, services map[string]bool
	every           time.Duration
	round           *usageRound
	told            chan measurement
	// readers of nodes, by id, with what ends them.
	readers map[string]context.CancelFunc
	reading sync.WaitGroup
	opening chan struct{}
}

// measurement is a node's sample, or why there is none.
type measurement struct {
	node   string
	sample *pb.NodeUsage
	err    error
}

// choose keeps a reader for each of the chosen nodes, or for those that are or
// were ready, as long as the cluster has them. Only the leader reaches nodes, so
// the call ends with its lead.
func (c *usageCall) choose(ctx context.Context, view store.View) error {
	if c.leader != c.server.leader() {
		return fault.New(fault.Unavailable, "measure usage: another manager leads the cluster now, or none")
	}
	for id, stop := range c.readers {
		if view.Node(id) == nil {
			stop()
			delete(c.readers, id)
			c.round.drop(id)
		}
	}
	for n := range view.Nodes() {
		wanted := c.nodes[n.Id] || len(c.nodes) == 0 && isReady(n)
		if !wanted || c.readers[n.Id] != nil {
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		c.readers[n.Id] = stop
		c.round.expect(n.Id)
		c.reading.Go(func() { c.read(ctx, n.Id) })
	}
	if len(c.readers) == 0 {
		return fault.New(fault.State, "measure usage: no node is ready").WithTry("minictl node ls")
	}
	return nil
}

// gather waits until the round is complete or its time is over.
func (c *usageCall) gather(ctx context.Context) error {
	late := time.After(time.Until(c.round.deadline))
	for !c.round.complete() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late:
			return nil
		case m := <-c.told:
			if c.readers[m.node] != nil {
				c.round.take(m)
			}
		}
	}
	return nil
}

// send sends what a round brought, but of nodes that were removed.
func (c *usageCall) send(stream grpc.ServerStreamingServer[pb.NodeUsage]) error {
	view, results := c.server.cfg.State.View(), c.round.finish(time.Now())
	results = slices.DeleteFunc(results, func(result *pb.NodeUsage) bool { return view.Node(result.NodeId) == nil })
	for i, result := range results {
		out := c.named(view, result)
		out.Last = i == len(results)-1
		if err := stream.Send(out); err != nil {
			return err
		}
	}
	return nil
}

// read tells of a node's samples. An attachment that ends is opened again.
func (c *usageCall) read(ctx context.Context, node string) {
	for {
		err := c.readOnce(ctx, node)
		if !c.tell(ctx, measurement{node: node, err: err}) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(reattachAfter):
		}
	}
}

// readOnce tells of samples over one attachment and returns why it ended.
func (c *usageCall) readOnce(ctx context.Context, node string) error {
	if n := c.server.cfg.State.View().Node(node); !isReady(n) {
		return errors.New(notReady(n))
	}
	stream, err := c.attach(ctx, node)
	if err != nil {
		return err
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, stream.Close)()
	patience := time.AfterFunc(c.every+silence, stream.Close)
	defer patience.Stop()
	for {
		up, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("it gives no more samples")
		case err != nil:
			return fmt.Errorf("connection lost: %w", err)
		case up.GetError() != "":
			return errors.New(up.GetError())
		case up.GetUsage() == nil:
			continue
		}
		patience.Reset(c.every + silence)
		sample := up.GetUsage()
		sample.NodeId = node // whatever it says itself
		if !c.tell(ctx, measurement{node: node, sample: sample}) {
			return context.Cause(ctx)
		}
	}
}

// notReady says what a node is in place of ready, and why.
func notReady(n *pb.Node) string {
	text := "it is " + strings.ToLower(strings.TrimPrefix(n.GetStatus().GetState().String(), "NODE_STATE_"))
	if why := n.GetStatus().GetMessage(); why != "" {
		text += ": " + why
	}
	return text
}

// attach opens an attachment, few at a time.
func (c *usageCall) attach(ctx context.Context, node string) (AttachStream, error) {
	select {
	case c.opening <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-c.opening }()
	return c.server.cfg.Attacher.Attach(ctx, node, &pb.Attach{Kind: &pb.Attach_Usage{
		Usage: &pb.UsageAttach{Interval: durationpb.New(c.every)},
	}})
}

// tell hands a measurement on, unless the call is over.
func (c *usageCall) tell(ctx context.Context, m measurement) bool {
	select {
	case c.told <- m:
		return true
	case <-ctx.Done():
		return false
	}
}

// named fills in the names of a sample's node and tasks. Tasks that the cluster
// has forgotten, or that are not of the chosen services, are left out.
func (c *usageCall) named(view store.View, sample *pb.NodeUsage) *pb.NodeUsage {
	node := view.Node(sample.NodeId)
	out := &pb.NodeUsage{NodeId: sample.NodeId, NodeName: node.GetDescription().GetHostname(), At: sample.At, Total: sample.Total, Error: sample.Error}
	for _, used := range sample.Tasks {
		t := view.Task(used.TaskId)
		if t == nil || t.NodeId != sample.NodeId || len(c.services) > 0 && !c.services[t.ServiceId] {
			continue
		}
		out.Tasks = append(out.Tasks, &pb.TaskUsage{TaskId: t.Id, Usage: used.Usage, ServiceName: t.ServiceName, Slot: t.Slot})
	}
	return out
}
