package network

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
)

// flowsAtOnce is how many namespaces are rid of stale flows at a time. The kernel
// walks through the connections of all namespaces for each, which costs it some
// ten milliseconds.
const flowsAtOnce = 2

// forget has the connections to tasks of a network that ended ended too.
func (e *Engine) forget(network string, addrs []netip.Addr) {
	for _, id := range e.localsOn(network) {
		if b := e.balancers[id]; b != nil {
			b.Forget(addrs)
		}
	}
	e.flowsChanged()
}

// flowsChanged says that some flows may be stale now.
func (e *Engine) flowsChanged() {
	select {
	case e.stale <- struct{}{}:
	default:
	}
}

// clearFlows deletes stale flows until ctx ends: after the change that made them
// stale is in every task's namespace, and beside the next one.
func (e *Engine) clearFlows(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.stale:
			e.clearFlowsOnce()
		}
	}
}

func (e *Engine) clearFlowsOnce() {
	e.kernel.Lock()
	ids := slices.Collect(maps.Keys(e.balancers))
	if len(e.ended) > 0 {
		e.note(partMesh, e.mesh.Forget(e.ended))
		e.ended = nil
	}
	e.kernel.Unlock()
	slots := make(chan struct{}, flowsAtOnce)
	var running sync.WaitGroup
	for _, id := range ids {
		work := e.staleFlows(id)
		if work == nil {
			continue
		}
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			if err := work(); err != nil {
				e.kernel.Lock()
				defer e.kernel.Unlock()
				e.note(id, err)
			}
		})
	}
	running.Wait()
}

// staleFlows holds the kernel for one task only, as there may be many.
func (e *Engine) staleFlows(id string) func() error {
	e.kernel.Lock()
	defer e.kernel.Unlock()
	if b := e.balancers[id]; b != nil {
		return b.Stale()
	}
	return nil
}
