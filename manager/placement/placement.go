// Package placement gives waiting tasks their nodes. It is the leader's loop
// around package scheduler: it keeps the scheduler's set in step with the
// store, lets groups of equal tasks form, proposes what the scheduler decides
// without waiting for earlier proposals to commit, and tells tasks that fit
// nowhere what they wait for.
package placement

import (
	"context"
	"log/slog"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	// quiet is how long nothing may change before a pass, so that groups form;
	// patience is how long a pass waits at most while changes go on.
	quiet    = 2 * time.Millisecond
	patience = 50 * time.Millisecond
	// maxBatch bounds the assignments of a proposal, to some 250 KiB: large
	// enough to be cheap, small enough that one is applied while the next is made.
	maxBatch = 4096
	// maxInFlight bounds the proposals that are not committed yet.
	maxInFlight = 8
	// retryDelay passes before what could not be committed is tried again.
	retryDelay = 100 * time.Millisecond
)

// Proposer commits commands. It returns one refusal per command, or an error
// when it is unknown whether they were committed.
type Proposer func(ctx context.Context, cmds ...*pb.Command) ([]error, error)

// Config is what placement needs.
type Config struct {
	State   *store.State
	Propose Proposer
	Logger  *slog.Logger
}

// Placement is the loop. It runs on the leader only.
type Placement struct {
	Config
}

// New returns a loop that Run starts.
func New(c Config) *Placement { return &Placement{c} }

// Run places tasks until ctx ends, and returns its cause.
func (p *Placement) Run(ctx context.Context) error {
	kinds := []pb.Kind{pb.Kind_KIND_CLUSTER, pb.Kind_KIND_NODE, pb.Kind_KIND_SERVICE, pb.Kind_KIND_TASK}
	return p.State.Follow(ctx, func() { p.Logger.Warn("placement fell behind and starts over") }, kinds, p.session)
}

// session returns when all its proposals have.
func (p *Placement) session(ctx context.Context, view store.View, changes <-chan []store.Change) error {
	l := &loop{
		Config:  p.Config,
		book:    newBook(view, p.State.View),
		results: make(chan result, maxInFlight),
		timer:   time.NewTimer(0),
	}
	defer l.timer.Stop()
	defer l.proposals.Wait()
	for {
		select {
		case batch := <-changes:
			l.book.observe(batch)
			l.postpone(time.Now())
		case r := <-l.results:
			l.settle(r, time.Now())
			l.launch(ctx)
		case <-l.timer.C:
			l.pass(ctx, time.Now())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
