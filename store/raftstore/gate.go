package raftstore

import (
	"context"
	"errors"
	"sync"

	"github.com/hashicorp/raft"
)

// errStopping answers what was not put to raft any more.
var errStopping = errors.New("the raft store stops")

// gate counts the questions that raft has not answered. Raft forgets those
// that are queued when it is shut down, so Run closes the gate first and waits
// until it is empty.
type gate struct {
	mu     sync.Mutex
	closed bool
	inside int
	empty  chan struct{}
}

func newGate() *gate { return &gate{empty: make(chan struct{})} }

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.closed && g.inside == 0 {
		close(g.empty)
	}
}

// close lets nobody in any more; the channel is closed when all have left.
func (g *gate) close() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed && g.inside == 0 {
		close(g.empty)
	}
	g.closed = true
	return g.empty
}

// ask puts a question to raft and waits for the answer or the end of ctx; in
// that case the answer is still awaited, but by nobody who cares.
func ask[F raft.Future](ctx context.Context, g *gate, question func() F) (F, error) {
	type answer struct {
		future F
		err    error
	}
	answered := make(chan answer, 1)
	if !g.enter() {
		var none F
		return none, errStopping
	}
	go func() {
		defer g.leave()
		future := question() // may block until raft has a moment
		answered <- answer{future, future.Error()}
	}()
	select {
	case a := <-answered:
		return a.future, a.err
	case <-ctx.Done():
		var none F
		return none, context.Cause(ctx)
	}
}
