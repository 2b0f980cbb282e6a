package network

import (
	"context"
	"time"

	"github.com/minid/minid/network/gate"
	"github.com/minid/minid/network/netns"
)

const (
	// drainTime is what all nodes usually need to learn that a task gets no new
	// connections. One that is slower costs a connection a second, no more.
	drainTime = time.Second
	// A task to which somebody still connects is given more time, until nobody did
	// for quietTime, or drainLimit is over: there may be clients that chose it
	// without asking the cluster.
	quietTime  = 250 * time.Millisecond
	drainLimit = 3 * time.Second
	// queueTime is what a task gets to take the connections that wait for it, and
	// handshakeTime what those need that are half open, before it is stopped.
	queueTime     = 500 * time.Millisecond
	handshakeTime = 50 * time.Millisecond
)

// Drain takes a task out of every balancer and returns once no new connections
// are to be expected: at once, unless others had it as a place for some.
func (e *Engine) Drain(ctx context.Context, id string) error {
	reached, path := false, ""
	e.view(func(s *State) {
		if l := s.locals[id]; l != nil && !s.withdrawn[id] {
			reached = l.Running && (len(l.GetAddresses()) > 0 || s.published[l.GetServiceId()] != nil)
			path = l.Netns
		}
	})
	e.withdraw(id)
	if !reached {
		return nil
	}
	g, err := gate.Open(path)
	if err != nil {
		e.report("gate", err)
		return pause(ctx, drainTime)
	}
	defer func() { e.report("gate", g.Close()) }()
	return awaitQuiet(ctx, g.Count)
}

// awaitQuiet waits for drainTime, and on while connections come, as arrived counts
// them.
func awaitQuiet(ctx context.Context, arrived func() (uint64, error)) error {
	began := time.Now()
	if err := pause(ctx, drainTime-quietTime); err != nil {
		return err
	}
	before, _ := arrived()
	for {
		if err := pause(ctx, quietTime); err != nil {
			return err
		}
		now, err := arrived()
		if err != nil || now == before || time.Since(began) >= drainLimit {
			return err
		}
		before = now
	}
}

// Shut keeps new connections out of a task that is about to get its stop signal:
// from a node that has not heard of it yet they get no answer, are repeated, and
// go elsewhere. It returns when the task has taken those that had come. A task
// that nobody balances over refuses by itself: its clients want no other one.
func (e *Engine) Shut(ctx context.Context, id string) error {
	path := e.gated(id)
	if path == "" {
		return nil
	}
	if err := gate.Shut(path); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, queueTime)
	defer cancel()
	wait := handshakeTime
	for {
		if err := pause(ctx, wait); err != nil {
			return nil // it does not take them: its stop signal will not change that
		}
		if n, err := gate.Queued(path); err != nil || n == 0 {
			return err
		}
		wait = handshakeTime / 5
	}
}

// gated is the namespace of a task for which another could stand in; empty if
// none could.
func (e *Engine) gated(id string) (path string) {
	e.view(func(s *State) {
		if l := s.locals[id]; l != nil && l.Running && s.balanced(l) {
			path = l.Netns
		}
	})
	if path != "" && !netns.Exists(path) {
		return ""
	}
	return path
}

// balanced tells whether new connections come to a task of this node because of
// its service.
func (s *State) balanced(l *Local) bool {
	service := l.GetServiceId()
	if s.published[service] != nil {
		return true
	}
	for _, a := range l.GetAddresses() {
		if seg := s.networks[a.GetNetworkId()]; seg != nil && len(seg.services[service].GetVips()) > 0 {
			return true
		}
	}
	return false
}

// pause fails if ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
