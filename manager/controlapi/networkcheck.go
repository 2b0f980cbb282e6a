package controlapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	// checkTimeout bounds a check; nodes that have not finished by then failed.
	checkTimeout = 60 * time.Second
	// probersAtOnce bounds the nodes that probe at the same time.
	probersAtOnce = 16
)

// CheckNetwork lets the chosen nodes probe one another, a lone one all that are
// ready, and sends each finding. A node that cannot be reached, or does not
// finish, is a finding too.
func (s *Server) CheckNetwork(req *pb.CheckNetworkRequest, stream grpc.ServerStreamingServer[pb.ProbeResult]) error {
	view := s.cfg.State.View()
	from, to, err := probers(view, req.GetNodes())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(stream.Context(), checkTimeout, fmt.Errorf("the node has not finished within %v", checkTimeout))
	c := &networkCheck{attacher: s.cfg.Attacher, view: view, targets: to, findings: make(chan *pb.ProbeResult), over: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.run(ctx, from)
	}()
	defer func() { <-done }()
	defer cancel()
	defer close(c.over)
	for {
		select {
		case r := <-c.findings:
			if err := stream.Send(r); err != nil {
				return err
			}
		case <-done:
			return nil
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		}
	}
}

// probers are the nodes that probe and those that are probed, all by id.
func probers(view store.View, refs []string) (from, to []string, err error) {
	var all []string
	for n := range view.Nodes() {
		if isReady(n) {
			all = append(all, n.Id)
		}
	}
	if len(refs) == 0 {
		return all, all, nil
	}
	ids, err := idsOf(view, refs, findNode)
	if err != nil {
		return nil, nil, err
	}
	from = slices.Sorted(maps.Keys(ids))
	if len(from) == 1 {
		return from, all, nil
	}
	return from, from, nil
}

func isReady(n *pb.Node) bool { return n.GetStatus().GetState() == pb.NodeState_NODE_STATE_READY }

// networkCheck is one CheckNetwork call.
type networkCheck struct {
	attacher Attacher
	view     store.View
	targets  []string
	findings chan *pb.ProbeResult
	// Closed when nobody takes findings any more.
	over chan struct{}
}

// run lets nodes probe, a few at a time.
func (c *networkCheck) run(ctx context.Context, nodes []string) {
	slots := make(chan struct{}, probersAtOnce)
	var probing sync.WaitGroup
	defer probing.Wait()
	for _, node := range nodes {
		slots <- struct{}{}
		probing.Go(func() {
			defer func() { <-slots }()
			if err := c.probe(ctx, node); err != nil {
				c.tell(&pb.ProbeResult{FromId: node, FromName: c.nameOf(node), What: "probe", Detail: err.Error()})
			}
		})
	}
}

// probe lets one node probe.
func (c *networkCheck) probe(ctx context.Context, node string) error {
	if n := c.view.Node(node); !isReady(n) {
		return fmt.Errorf("the node is not ready: %s", n.GetStatus().GetMessage())
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	stream, err := c.attacher.Attach(ctx, node, &pb.Attach{Kind: &pb.Attach_Probe{Probe: &pb.ProbeAttach{NodeIds: c.targets}}})
	if err != nil {
		return err
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, stream.Close)()
	for {
		up, err := stream.Recv()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fault.New(fault.Unavailable, "connection to the node lost: %w", err)
		case up.GetError() != "":
			return errors.New(up.GetError())
		case up.GetProbe() != nil:
			c.tell(c.named(node, up.GetProbe()))
		}
	}
}

// named fills in who found it, and the names of both ends.
func (c *networkCheck) named(from string, found *pb.ProbeResult) *pb.ProbeResult {
	r := proto.CloneOf(found)
	r.FromId, r.FromName, r.ToName = from, c.nameOf(from), c.nameOf(r.ToId)
	return r
}

func (c *networkCheck) nameOf(node string) string {
	return c.view.Node(node).GetDescription().GetHostname()
}

// tell hands a finding on, unless the call is over.
func (c *networkCheck) tell(r *pb.ProbeResult) {
	select {
	case c.findings <- r:
	case <-c.over:
	}
}
