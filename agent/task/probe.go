package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// probe makes one test and judges it, unless the process has ended meanwhile
// or the test says nothing of it.
func (r *Runner) probe(ctx context.Context) error {
	cfg, began := r.obs.Health, time.Now()
	var made *pb.HealthProbe
	err := r.interruptible(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, cfg.Timeout.AsDuration())
		defer cancel()
		code, output, err := r.cfg.Runtime.Probe(ctx, r.cfg.ID, testCommand(cfg))
		switch {
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			code, output = -1, fmt.Sprintf("no result within %v", cfg.Timeout.AsDuration())
		case ctx.Err() != nil, fault.Is(err, fault.Unavailable):
			return err
		case err != nil:
			code, output = -1, err.Error()
		}
		made = outcome(began, time.Now(), code, output)
		return nil
	})
	r.state.Health.Tested = time.Now() // also of a test that could not be made
	r.probed = made
	return err
}

// judge takes in the test just made, if the process outlived it.
func (r *Runner) judge() {
	made := r.probed
	r.probed = nil
	if made != nil && r.obs.Phase == Running && r.obs.Health != nil {
		r.state.Health = r.state.Health.after(r.obs.Health, made, time.Now())
	}
}

// lead lets new connections to the task, or keeps them from it. A network that
// cannot is no reason to stop the tests: the managers tell all nodes as well.
func (r *Runner) lead(ctx context.Context, a Action) error {
	to, call := Open, r.cfg.Runtime.Serve
	if a == Withhold {
		to, call = Closed, r.cfg.Runtime.Withhold
	}
	r.state.Traffic = to
	return r.guard(func() error {
		ctx, cancel := context.WithTimeout(ctx, leadTimeout)
		defer cancel()
		return call(ctx, r.cfg.ID)
	})
}
