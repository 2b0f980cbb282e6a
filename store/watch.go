package store

import (
	"context"
	"errors"
	"slices"
	"sort"
	"sync"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// maxHistory is how many changes are kept for watches that fall behind: some
// seconds of a busy cluster of a million tasks, in tens of megabytes at worst.
const maxHistory = 1 << 18

// ErrWatchClosed is what Next returns after Close.
var ErrWatchClosed = errors.New("watch is closed")

// history is the recent past: one batch per entry that changed something.
// Batches are numbered; a reader keeps the number of the next one it wants, so
// a slow or forgotten reader holds nothing back.
type history struct {
	mu      sync.Mutex // held for moments only, by the writer and by readers
	limit   int        // of changes kept
	batches []batch
	first   uint64        // number of batches[0]
	changes int           // in all batches
	floor   uint64        // changes up to this raft index are gone
	grown   chan struct{} // closed at the next append
}

type batch struct {
	index   uint64
	kinds   kindSet
	changes []Change
}

// kindSet is a bit per pb.Kind.
type kindSet uint64

func setOf(kinds ...pb.Kind) (set kindSet) {
	for _, k := range kinds {
		set |= 1 << k
	}
	return set
}

func (s kindSet) has(k pb.Kind) bool { return s&(1<<k) != 0 }

func newHistory(limit int) *history {
	return &history{limit: limit, grown: make(chan struct{})}
}

// end is the number of the batch that comes next.
func (h *history) end() uint64 { return h.first + uint64(len(h.batches)) }

// append adds the changes of one entry and wakes all readers at once. The last
// batch always stays, however large.
func (h *history) append(index uint64, changes []Change) {
	if len(changes) == 0 {
		return
	}
	var kinds kindSet
	for i := range changes {
		kinds |= setOf(changes[i].Kind)
	}
	h.batches = append(h.batches, batch{index, kinds, slices.Clip(changes)})
	h.changes += len(changes)
	drop := 0
	for ; h.changes > h.limit && drop < len(h.batches)-1; drop++ {
		h.changes -= len(h.batches[drop].changes)
		h.floor = h.batches[drop].index
	}
	clear(h.batches[:drop])
	h.batches = h.batches[drop:]
	h.first += uint64(drop)
	h.wake()
}

// forget drops everything: the state jumped to index, and every reader lags.
func (h *history) forget(index uint64) {
	h.first = h.end() + 1
	h.batches, h.changes, h.floor = nil, 0, index
	h.wake()
}

func (h *history) wake() {
	close(h.grown)
	h.grown = make(chan struct{})
}

// position is the number of the first batch after a raft index; a number that
// is gone already if batches after the index are.
func (h *history) position(index uint64) uint64 {
	if index < h.floor {
		return h.first - 1
	}
	i := sort.Search(len(h.batches), func(i int) bool { return h.batches[i].index > index })
	return h.first + uint64(i)
}

func (h *history) watch(next, after uint64, kinds []pb.Kind) *Watch {
	w := &Watch{history: h, next: next, after: after, kinds: ^kindSet(0), closed: make(chan struct{})}
	if len(kinds) > 0 {
		w.kinds = setOf(kinds...)
	}
	return w
}

// Watch reads changes in order. Next is for one goroutine at a time.
type Watch struct {
	history *history
	kinds   kindSet
	after   uint64 // raft index; nothing up to it is delivered
	next    uint64 // number of the batch to read next
	closed  chan struct{}
	once    sync.Once
}

// Next blocks until there are changes and returns all of them, oldest first;
// those of one entry are never divided. It fails with ctx's cause, with
// ErrWatchClosed or, when the reader was too slow, with fault.Lagged: then a
// new ViewAndWatch is the way on. The changes are shared and must not be changed.
func (w *Watch) Next(ctx context.Context) ([]Change, error) {
	for {
		if err := w.ended(ctx); err != nil {
			return nil, err
		}
		batches, grown, err := w.take()
		if err != nil {
			return nil, err
		}
		if changes := w.collect(batches); len(changes) > 0 {
			return changes, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
		case <-w.closed:
		}
	}
}

// Close ends the watch; a pending Next returns.
func (w *Watch) Close() { w.once.Do(func() { close(w.closed) }) }

func (w *Watch) ended(ctx context.Context) error {
	select {
	case <-w.closed:
		return ErrWatchClosed
	default:
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// take moves past all batches there are and returns them, and what to wait for
// if they do not help.
func (w *Watch) take() ([]batch, <-chan struct{}, error) {
	h := w.history
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.next < h.first {
		return nil, nil, fault.New(fault.Lagged, "watch changes: those before index %d are not kept any more", h.floor+1)
	}
	// Copied, because append drops the head in place.
	batches := slices.Clone(h.batches[w.next-h.first:])
	w.next = h.end()
	return batches, h.grown, nil
}

// collect picks the changes that the watch is for.
func (w *Watch) collect(batches []batch) []Change {
	wanted := batches[:0]
	total := 0
	for _, b := range batches {
		if b.index > w.after && b.kinds&w.kinds != 0 {
			wanted = append(wanted, b)
			total += len(b.changes)
		}
	}
	if len(wanted) == 1 && wanted[0].kinds&^w.kinds == 0 {
		return wanted[0].changes
	}
	changes := make([]Change, 0, total)
	for _, b := range wanted {
		for _, c := range b.changes {
			if w.kinds.has(c.Kind) {
				changes = append(changes, c)
			}
		}
	}
	return changes
}
