// Package allocator gives out what only one may have: subnets and VXLAN ids to
// networks, virtual addresses and published ports to services, addresses to
// tasks, numbers in the routing mesh to nodes; and it renews the key of
// encrypted networks.
//
// It is the leader's loop around a book of all that is given (book.go), which
// is read from one view when leadership begins and follows the store's changes
// from then on. A pass looks at what changed and makes commands; they are
// proposed several at a time, and what they give counts as given until their
// outcome is known. The store refuses to give anything twice, so the book may
// be wrong for a moment, but never the cluster.
//
// What cannot be given waits in the queue of the network that lacks it and says
// why; it is looked at again when something becomes free there.
//
// The files: pool.go is the circle of a subnet's addresses, prefixes.go a set
// of subnets, networks.go, services.go, tasks.go and nodes.go say what each of
// them gets.
package allocator

import (
	"context"
	"log/slog"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	// quiet is how long nothing may change before a pass, so that tasks gather;
	// patience is how long a pass waits at most while changes go on.
	quiet    = 2 * time.Millisecond
	patience = 50 * time.Millisecond
	// maxEntry bounds the commands of a proposal, in bytes.
	maxEntry = 1 << 19
	// maxInFlight bounds the proposals that are not committed yet.
	maxInFlight = 8
	// proposeTimeout bounds the wait for one.
	proposeTimeout = 30 * time.Second
	// retryDelay passes before what could not be committed is tried again.
	retryDelay = 100 * time.Millisecond
)

// Proposer commits commands. It returns one refusal per command, or an error
// when it is unknown whether they were committed.
type Proposer func(ctx context.Context, cmds ...*pb.Command) ([]error, error)

// Config is what an Allocator needs.
type Config struct {
	State   *store.State
	Propose Proposer
	// Random fills a slice with bytes that nobody can guess.
	Random func([]byte)
	Logger *slog.Logger
}

// Allocator is the loop. It runs on the leader only.
type Allocator struct {
	Config
}

// New returns a loop that Run starts.
func New(c Config) *Allocator { return &Allocator{c} }

// Run allocates until ctx ends, and returns its cause.
func (a *Allocator) Run(ctx context.Context) error {
	kinds := []pb.Kind{pb.Kind_KIND_CLUSTER, pb.Kind_KIND_NODE, pb.Kind_KIND_NETWORK, pb.Kind_KIND_SERVICE, pb.Kind_KIND_TASK}
	return a.State.Follow(ctx, func() { a.Logger.Warn("allocator fell behind and starts over") }, kinds, a.session)
}

// session returns when all its proposals have.
func (a *Allocator) session(ctx context.Context, view store.View, changes <-chan []store.Change) error {
	l := &loop{
		Config:  a.Config,
		book:    newBook(view),
		results: make(chan result, maxInFlight),
		timer:   time.NewTimer(0),
	}
	defer l.timer.Stop()
	defer l.proposals.Wait()
	for {
		select {
		case batch := <-changes:
			l.book.observe(batch)
			if l.book.stirred() {
				l.postpone(time.Now())
			}
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
