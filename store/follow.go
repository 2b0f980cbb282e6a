package store

import (
	"context"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Session works on a snapshot and on every later change, batch by batch, with no
// gap and no repeat. What it does not take gathers without holding anybody up.
// It returns the cause of ctx when that ends, which it also does when changes
// were lost, and must have ended all that it started.
type Session func(ctx context.Context, view View, changes <-chan []Change) error

// Follow runs a session over changes of some kinds (none is all) until ctx ends
// or the session fails, and returns the cause. Whenever the session has fallen
// so far behind that changes are lost (fault.Lagged), lagged is told and a new
// one starts from a new snapshot.
func (s *State) Follow(ctx context.Context, lagged func(), kinds []pb.Kind, session Session) error {
	for {
		err := s.followOnce(ctx, kinds, session)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !fault.Is(err, fault.Lagged):
			return err
		}
		lagged()
	}
}

func (s *State) followOnce(ctx context.Context, kinds []pb.Kind, session Session) error {
	view, watch := s.ViewAndWatch(kinds...)
	defer watch.Close()
	ctx, stop := context.WithCancelCause(ctx)
	changes := make(chan []Change)
	done := make(chan struct{})
	go func() {
		defer close(done)
		stop(pass(ctx, watch, changes))
	}()
	defer func() { stop(nil); <-done }()
	return session(ctx, view, changes)
}

// pass hands changes on until the watch or ctx ends.
func pass(ctx context.Context, watch *Watch, changes chan<- []Change) error {
	for {
		batch, err := watch.Next(ctx)
		if err != nil {
			return err
		}
		select {
		case changes <- batch:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
