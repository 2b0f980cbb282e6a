// Package dispatcher is where agents meet the leader: sessions, heartbeats,
// assignments down, statuses up, and streams for logs and exec on demand.
//
// It keeps nothing that the store does not have, except who was heard of when.
// One goroutine reads the store's changes and hands each to the session of the
// node that it concerns; each session works out by itself, from the newest
// view, what its agent does not know yet. So a change costs the same with five
// nodes as with five thousand, and a slow agent delays nobody else.
package dispatcher

import (
	"context"
	"log/slog"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// Proposer commits commands and returns one refusal or nil per command; its
// error means that the commit did not happen or is not known.
type Proposer func(ctx context.Context, cmds ...*pb.Command) ([]error, error)

// Config is what a Dispatcher needs.
type Config struct {
	State   *store.State
	Propose Proposer
	// Managers lists the control addresses that agents may turn to.
	Managers func() []*pb.ManagerPeer
	// Identify tells which node a caller's certificate belongs to.
	Identify func(ctx context.Context) (nodeID string, err error)
	// NotLeader makes the error for agents that come while Run does not; nil
	// means a plain fault.Unavailable.
	NotLeader func() error
	Logger    *slog.Logger
}

// Dispatcher serves agents while its Run does, that is while this manager leads.
type Dispatcher struct {
	pb.UnimplementedDispatcherServer
	cfg  Config
	term atomic.Pointer[term]
}

// New makes a dispatcher that refuses every agent until Run.
func New(cfg Config) *Dispatcher {
	if cfg.NotLeader == nil {
		cfg.NotLeader = func() error {
			return fault.New(fault.Unavailable, "serve agent: this manager is not the leader")
		}
	}
	return &Dispatcher{cfg: cfg}
}

// Run serves agents until ctx ends; then every session ends with NotLeader's
// error, so that agents look for the new leader. It may be run again, for the
// next term of leadership.
func (d *Dispatcher) Run(ctx context.Context) error {
	t, watch := newTerm(&d.cfg)
	defer watch.Close()
	d.term.Store(t)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return t.route(ctx, watch) })
	g.Go(func() error { return t.watchDeadlines(ctx) })
	g.Go(func() error { return t.reporter.run(ctx) })
	g.Go(func() error { return t.watchOrphans(ctx) })
	g.Go(func() error { return t.doubt(ctx) })
	err := g.Wait()

	d.term.Store(nil)
	t.close(d.cfg.NotLeader())
	return err
}

// serving returns the running term, or the error that sends agents elsewhere.
func (d *Dispatcher) serving() (*term, error) {
	if t := d.term.Load(); t != nil {
		return t, nil
	}
	return nil, d.cfg.NotLeader()
}
