package store

import (
	"context"
	"slices"
	"sort"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store/events"
)

const (
	// maxEvents is how many events are kept: days of a quiet cluster, minutes of
	// one that moves ten thousand tasks, and some 3 MB on every manager.
	maxEvents = 10_000
	// maxEventBytes bounds them where reasons are long, and with that the head of
	// every snapshot.
	maxEventBytes = 8 << 20
	// eventOverhead is about what an event needs besides its own texts, in bytes.
	eventOverhead = 256
	// An event's index is its entry's shifted by eventBits, and its place among
	// the entry's events from 1; more than maxEvents of an entry are never kept.
	eventBits = 16
)

// chronicle is the kept events. It is immutable, but for elements of the array
// behind the last that no reader of it sees.
type chronicle struct {
	events []*pb.Event // oldest first
	bytes  int
	floor  uint64 // events up to this index are gone
}

// chronicled returns the chronicle with what the changes of an entry mean.
func (tx *txn) chronicled() chronicle {
	entry := events.NewEntry(tx.at)
	for i := range tx.changes {
		entry.Tell(tx.changes[i].Old, tx.changes[i].New)
	}
	return tx.chronicle.with(tx.index, entry.Events())
}

// with appends the events of an entry, which it takes over, and drops the oldest.
func (c chronicle) with(index uint64, more []*pb.Event) chronicle {
	if len(more) == 0 {
		return c
	}
	base := index << eventBits
	if drop := len(more) - maxEvents; drop > 0 {
		more, c = more[drop:], chronicle{floor: base}
	}
	for i, e := range more {
		e.Index = base + uint64(i) + 1
		c.bytes += eventSize(e)
	}
	c.events = append(c.events, more...)
	drop := 0
	for ; len(c.events)-drop > maxEvents || c.bytes > maxEventBytes; drop++ {
		c.bytes -= eventSize(c.events[drop])
		c.floor = c.events[drop].Index
	}
	c.events = c.events[drop:] // the array's next growth frees what is dropped
	return c
}

func eventSize(e *pb.Event) int { return eventOverhead + len(e.Name) + len(e.Reason) }

// restoredChronicle is that of a snapshot.
func restoredChronicle(head *pb.Snapshot) chronicle {
	c := chronicle{events: slices.Clip(head.GetEvents()), floor: head.GetEventsFloor()}
	for _, e := range c.events {
		c.bytes += eventSize(e)
	}
	return c
}

// after are the events after an index. fault.Lagged: some are gone; 0 is all
// that there are, whatever is gone.
func (c chronicle) after(index uint64) ([]*pb.Event, error) {
	if index != 0 && index < c.floor {
		return nil, fault.New(fault.Lagged, "read events: those up to index %d are not kept any more", c.floor).
			WithTry("the same without an index, for all that are kept")
	}
	from := sort.Search(len(c.events), func(i int) bool { return c.events[i].Index > index })
	return c.events[from:], nil
}

// Events returns the kept events after an index, 0 for all, oldest first. It
// fails with fault.Lagged when some after that index are kept no longer.
func (v View) Events(after uint64) ([]*pb.Event, error) { return v.t.chronicle.after(after) }

// WatchEvents follows the events after an index; 0 begins with all that are kept.
func (s *State) WatchEvents(after uint64) *EventWatch { return &EventWatch{state: s, last: after} }

// EventWatch reads events in order. It holds nothing back and needs no end.
type EventWatch struct {
	state *State
	last  uint64
}

// Next blocks until there are events and returns all of them. It fails with
// ctx's cause or, when the reader was too slow, with fault.Lagged.
func (w *EventWatch) Next(ctx context.Context) ([]*pb.Event, error) {
	for {
		grown := w.state.history.past.Load().grown // before the view, so that nothing comes in between
		more, err := w.state.View().Events(w.last)
		if err != nil {
			return nil, err
		}
		if n := len(more); n > 0 {
			w.last = more[n-1].Index
			return more, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
