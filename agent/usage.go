package agent

import (
	"context"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// defaultMeasuring and leastMeasuring are between two samples of usage: what
	// is taken when nothing is asked for, and what the load may not exceed.
	defaultMeasuring = 2 * time.Second
	leastMeasuring   = time.Second
)

// usage sends a sample at once and then one per interval, until the peer goes.
func (a *attaches) usage(ctx context.Context, req *pb.UsageAttach, c *attach) error {
	every := defaultMeasuring
	if req.GetInterval() != nil {
		every = max(req.GetInterval().AsDuration(), leastMeasuring)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		sample, err := a.cfg.Usage.Usage(ctx)
		if err != nil {
			return err
		}
		if err := c.send(&pb.AttachUp{Kind: &pb.AttachUp_Usage{Usage: sample}}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
