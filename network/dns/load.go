package dns

import "sync"

const (
	// ownLoad is how many questions each task may have under way to other name
	// servers whatever the others do, and sharedLoad how many all may have
	// together beyond that. A task alone gets up to maxLoad.
	ownLoad    = 16
	maxLoad    = 256
	sharedLoad = 2048
)

// gate bounds what tasks make the server wait for. What exceeds a task's own part
// is taken from what all share, so that a flood of some fills that at most.
type gate struct {
	mu     sync.Mutex
	shared int
	tasks  map[string]int
}

// enter tells whether a task may have one more question under way; leave ends it.
func (g *gate) enter(task string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.tasks[task]
	if n >= maxLoad || n >= ownLoad && g.shared >= sharedLoad {
		return false
	}
	if n >= ownLoad {
		g.shared++
	}
	if g.tasks == nil {
		g.tasks = make(map[string]int)
	}
	g.tasks[task] = n + 1
	return true
}

func (g *gate) leave(task string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.tasks[task] - 1
	if n >= ownLoad {
		g.shared--
	}
	if n <= 0 {
		delete(g.tasks, task)
		return
	}
	g.tasks[task] = n
}
