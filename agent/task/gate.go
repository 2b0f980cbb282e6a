package task

import (
	"context"
	"sync"
	"time"
)

// slowAfter is when work is taken to wait for something else than this
// machine's CPUs and disks, like a registry, and no longer counts.
const slowAfter = 3 * time.Second

// Gate bounds how many tasks are prepared and started at the same time. More
// at once would only make each of them slower. Stops do not pass it.
type Gate struct {
	slots chan struct{}
}

// NewGate lets n through at a time.
func NewGate(n int) *Gate { return &Gate{slots: make(chan struct{}, max(1, n))} }

// Enter waits for a free slot and returns how to give it back. A slot held for
// 3 s goes back by itself: one registry that stalls must not keep tasks waiting
// whose images are here.
func (g *Gate) Enter(ctx context.Context) (leave func(), err error) {
	select {
	case g.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var once sync.Once
	release := func() { once.Do(func() { <-g.slots }) }
	slow := time.AfterFunc(slowAfter, release)
	return func() {
		slow.Stop()
		release()
	}, nil
}
