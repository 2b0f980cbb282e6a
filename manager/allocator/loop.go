package allocator

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// loop is a session's working state, touched by its one goroutine only.
type loop struct {
	Config
	book *book

	// since is when the oldest change came that no pass has looked at, zero if none.
	since time.Time
	timer *time.Timer

	outbox    [][]*pb.Command
	size      int // of the last entry of the outbox
	inFlight  int
	results   chan result
	proposals sync.WaitGroup
}

// result is what became of a proposal.
type result struct {
	commands []*pb.Command
	refused  []error
	err      error
}

// postpone puts off the next pass until changes pause, within patience.
func (l *loop) postpone(now time.Time) {
	if l.since.IsZero() {
		l.since = now
	}
	l.timer.Reset(min(quiet, l.since.Add(patience).Sub(now)))
}

// pass makes commands of what changed and starts to propose them.
func (l *loop) pass(ctx context.Context, now time.Time) {
	l.since = time.Time{}
	l.book.pass(l.State.View(), now, l.Random, func(c *pb.Command) { l.propose(ctx, c) })
	l.launch(ctx)
	l.rest(now, 0)
}

// rest sets the timer to the next pass that is due without any change.
func (l *loop) rest(now time.Time, least time.Duration) {
	switch {
	case l.book.stirred():
		l.timer.Reset(least)
	default:
		l.timer.Reset(max(least, l.book.nextKey.Sub(now)))
	}
}

// propose adds a command to the last entry, or to a new one if that is full,
// which starts the one before.
func (l *loop) propose(ctx context.Context, c *pb.Command) {
	size := proto.Size(c)
	if len(l.outbox) == 0 || l.size+size > maxEntry {
		l.launch(ctx)
		l.outbox, l.size = append(l.outbox, nil), 0
	}
	last := len(l.outbox) - 1
	l.outbox[last] = append(l.outbox[last], c)
	l.size += size
}

// launch starts proposals as long as few enough are in flight.
func (l *loop) launch(ctx context.Context) {
	for l.inFlight < maxInFlight && len(l.outbox) > 0 {
		commands := l.outbox[0]
		l.outbox = l.outbox[1:]
		l.inFlight++
		l.proposals.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
			defer cancel()
			refused, err := l.Propose(ctx, commands...)
			l.results <- result{commands, refused, err}
		})
	}
}

// settle finds out what a finished proposal came to; what it did not give is
// tried again after a while.
func (l *loop) settle(r result, now time.Time) {
	l.inFlight--
	if r.err != nil {
		l.Logger.Warn("could not commit allocations", "commands", len(r.commands), "err", r.err)
	}
	for _, err := range r.refused {
		if err != nil {
			l.Logger.Debug("allocation refused", "err", err)
		}
	}
	view := l.State.View()
	for _, c := range r.commands {
		l.book.settle(view, c)
	}
	if l.book.stirred() && l.since.IsZero() {
		l.rest(now, retryDelay)
	}
}

// pass makes commands of what changed since the last one.
func (b *book) pass(view store.View, now time.Time, random func([]byte), emit func(*pb.Command)) {
	b.rotate(view, now, random, emit)
	b.number(view, emit)
	b.allocateNetworks(view, emit)
	b.services(view, emit)
	b.tasks(view, emit)
}

// stirred tells whether there is anything for a pass to look at.
func (b *book) stirred() bool {
	return len(b.fresh) > 0 || len(b.untold) > 0 || len(b.eased) > 0 || len(b.dirtyNetworks) > 0 || len(b.dirtyServices) > 0 || b.renumber || b.rekey
}

// settle takes note that a command is not in flight any more, and marks what it
// did not bring about.
func (b *book) settle(view store.View, c *pb.Command) {
	switch k := c.Kind.(type) {
	case *pb.Command_AllocateTasks:
		b.settleTasks(view, k.AllocateTasks)
	case *pb.Command_AllocateService:
		id := k.AllocateService.Id
		delete(b.flying, object{pb.Kind_KIND_SERVICE, id})
		b.settleService(view, k.AllocateService)
		b.dirtyServices[id] = true
	case *pb.Command_AllocateNetwork:
		id := k.AllocateNetwork.Id
		delete(b.flying, object{pb.Kind_KIND_NETWORK, id})
		if n, o := b.networks[id], view.Network(id); n != nil && o != nil {
			b.hold(n, subnetsOf(o))
			b.dirtyNetworks[id] = true
		}
	case *pb.Command_AllocateNode:
		id := k.AllocateNode.Id
		delete(b.flying, object{pb.Kind_KIND_NODE, id})
		if n := b.nodes[id]; n != nil {
			n.number = view.Node(id).GetMeshNumber()
			b.renumber = true
		}
	case *pb.Command_SetNetworkKeys:
		delete(b.flying, object{kind: pb.Kind_KIND_CLUSTER})
		b.rekey = true
	}
}
