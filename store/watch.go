package store

import (
	"context"
	"errors"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// maxHistory is how many changes are kept for watches that fall behind: some
// seconds of a busy cluster of a million tasks, in tens of megabytes at worst.
const maxHistory = 1 << 18

// ErrWatchClosed is what Next returns after Close.
var ErrWatchClosed = errors.New("watch is closed")

// history is the recent past. The writer replaces it whole; readers load it
// without a lock and keep only the number of the next batch they want, so a
// slow or forgotten reader holds nothing back and nobody waits for it.
type history struct {
	mu    sync.Mutex // held by the writer, and to pair a view with a position
	limit int        // of changes kept
	past  atomic.Pointer[past]
}

// past is immutable, but for elements of the array behind batches that no
// reader of it sees.
type past struct {
	batches []batch
	first   uint64        // number of batches[0]
	changes int           // in all batches
	floor   uint64        // changes up to this raft index are gone
	grown   chan struct{} // closed when there is a newer past
}

// batch is what one entry changed.
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
	h := &history{limit: limit}
	h.past.Store(&past{grown: make(chan struct{})})
	return h
}

// end is the number of the batch that comes next.
func (p *past) end() uint64 { return p.first + uint64(len(p.batches)) }

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
	old := h.past.Load()
	p := *old
	p.batches = append(p.batches, batch{index, kinds, slices.Clip(changes)})
	p.changes += len(changes)
	drop := 0
	for ; p.changes > h.limit && drop < len(p.batches)-1; drop++ {
		p.changes -= len(p.batches[drop].changes)
		p.floor = p.batches[drop].index
	}
	p.batches = p.batches[drop:] // the array's next growth frees what is dropped
	p.first += uint64(drop)
	h.replace(old, &p)
}

// forget drops everything: the state jumped to index, and every reader lags.
func (h *history) forget(index uint64) {
	old := h.past.Load()
	h.replace(old, &past{first: old.end() + 1, floor: index})
}

func (h *history) replace(old, p *past) {
	p.grown = make(chan struct{})
	h.past.Store(p)
	close(old.grown)
}

// position is the number of the first batch after a raft index; a number that
// is gone already if batches after the index are.
func (p *past) position(index uint64) uint64 {
	if index < p.floor {
		return p.first - 1
	}
	i := sort.Search(len(p.batches), func(i int) bool { return p.batches[i].index > index })
	return p.first + uint64(i)
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
	p := w.history.past.Load()
	if w.next < p.first {
		return nil, nil, fault.New(fault.Lagged, "watch changes: those before index %d are not kept any more", p.floor+1)
	}
	batches := p.batches[w.next-p.first:]
	w.next = p.end()
	return batches, p.grown, nil
}

// collect picks the changes that the watch is for.
func (w *Watch) collect(batches []batch) []Change {
	if len(batches) == 1 && batches[0].index > w.after && batches[0].kinds&^w.kinds == 0 {
		return batches[0].changes
	}
	total := 0
	for _, b := range batches {
		if w.wants(b) {
			total += len(b.changes)
		}
	}
	if total == 0 {
		return nil
	}
	changes := make([]Change, 0, total)
	for _, b := range batches {
		if !w.wants(b) {
			continue
		}
		for _, c := range b.changes {
			if w.kinds.has(c.Kind) {
				changes = append(changes, c)
			}
		}
	}
	return changes
}

func (w *Watch) wants(b batch) bool { return b.index > w.after && b.kinds&w.kinds != 0 }
