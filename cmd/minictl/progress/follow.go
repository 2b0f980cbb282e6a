package progress

import (
	"context"
	"time"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// retryPause is the time between attempts to watch again, while a new leader
// is being elected.
const retryPause = 300 * time.Millisecond

// batch is how many events are taken in at a time at most: with thousands of
// tasks, looking at all of them after each event would take minutes.
const batch = 1024

// Open starts a watch on the service and its tasks: a snapshot, then changes.
// The function that it returns gives the next event.
type Open func(ctx context.Context) (next func() (*pb.WatchEvent, error), err error)

// Follow shows the service's progress until it is decided or ctx ends, with
// ctx's cause as the error.
func Follow(ctx context.Context, open Open, t *Tracker, d Display) (Outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() { d.Close(t, time.Now()) }()
	events, failures := make(chan *pb.WatchEvent, batch), make(chan error, 1)
	go func() { failures <- pump(ctx, open, events) }()
	for {
		outcome, left := t.Verdict(time.Now())
		if outcome != Waiting {
			return outcome, nil
		}
		wait := time.Second
		if left > 0 {
			wait = min(wait, left)
		}
		select {
		case <-ctx.Done():
			return Waiting, context.Cause(ctx)
		case err := <-failures:
			return Waiting, err
		case ev := <-events:
			now := time.Now()
			changes := take(t, ev, events, now)
			t.Settle(now)
			d.Show(t, changes, now)
		case <-time.After(wait):
			d.Show(t, nil, time.Now())
		}
	}
}

// take applies an event and those that wait behind it. nil starts over.
func take(t *Tracker, ev *pb.WatchEvent, more <-chan *pb.WatchEvent, now time.Time) []Change {
	var changes []Change
	for waiting := len(more); ; waiting-- {
		if ev == nil {
			t.Reset()
		} else {
			changes = append(changes, t.Apply(ev, now)...)
		}
		if waiting == 0 {
			return changes
		}
		ev = <-more
	}
}

// pump sends the events of one watch after the other, each watch begun with
// nil. It ends with ctx, or with an error that another attempt cannot mend.
func pump(ctx context.Context, open Open, events chan<- *pb.WatchEvent) error {
	for {
		err := pumpOne(ctx, open, events)
		switch fault.ClassOf(err) {
		case fault.NotFound, fault.Denied, fault.Invalid, fault.NotManager:
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(retryPause):
		}
	}
}

func pumpOne(ctx context.Context, open Open, events chan<- *pb.WatchEvent) error {
	next, err := open(ctx)
	if err != nil {
		return err
	}
	var ev *pb.WatchEvent
	for {
		select {
		case events <- ev:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if ev, err = next(); err != nil {
			return err
		}
	}
}
