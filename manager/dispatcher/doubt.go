package dispatcher

import (
	"context"
	"slices"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	// doubtAfter is how long after an election nodes are not doubted: the time
	// in which agents find a new leader whose predecessor's end they saw.
	doubtAfter = 2 * time.Second
	// doubtQuiet is how long no node came back before those that are missing
	// are doubted.
	doubtQuiet = time.Second
	// doubtPace is how often that is looked at.
	doubtPace = 250 * time.Millisecond
)

// absent knows the nodes that were up before the election and were not heard
// of since.
type absent struct {
	since, lastCame time.Time
	total           int
	nodes           map[string]bool
}

func newAbsent(now time.Time) *absent {
	return &absent{since: now, lastCame: now, nodes: map[string]bool{}}
}

func (a *absent) expect(node string) {
	a.nodes[node] = true
	a.total++
}

// came takes note of a node that was heard of.
func (a *absent) came(node string, now time.Time) {
	if a.nodes[node] {
		delete(a.nodes, node)
		a.lastCame = now
	}
}

// doubtful returns the nodes that nothing new should be placed on, once: when
// most have come and the others have not followed. If most are missing, they
// have not noticed yet that the old leader is gone, and writing all of them
// down would cost more than it saves.
func (a *absent) doubtful(now time.Time) (nodes []string, done bool) {
	switch {
	case len(a.nodes) == 0:
		return nil, true
	case now.Sub(a.since) < doubtAfter, now.Sub(a.lastCame) < doubtQuiet, 2*len(a.nodes) > a.total:
		return nil, false
	}
	for node := range a.nodes {
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	return nodes, true
}

// doubt reports, after an election, the few nodes UNKNOWN that did not come
// back with the others. They keep their tasks and get no new ones, until they
// come or are found to be DOWN.
func (t *term) doubt(ctx context.Context) error {
	for {
		now := time.Now()
		t.mu.Lock()
		nodes, done := t.absent.doubtful(now)
		t.mu.Unlock()
		if cmds := unknownCommands(t.cfg.State.View(), nodes, now); len(cmds) > 0 {
			attempt, cancel := context.WithTimeout(ctx, proposeTimeout)
			_, err := t.cfg.Propose(attempt, cmds...)
			cancel()
			if err != nil && ctx.Err() == nil {
				t.log.Warn("report nodes unknown", "nodes", nodes, "error", err) // their deadlines will do
			}
		}
		if done {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(doubtPace):
		}
	}
}

// unknownCommands reports those of the nodes unknown that still count as ready.
// One that comes back meanwhile is reported again.
func unknownCommands(view store.View, nodes []string, now time.Time) []*pb.Command {
	var cmds []*pb.Command
	for _, id := range nodes {
		n := view.Node(id)
		if n.GetStatus().GetState() != pb.NodeState_NODE_STATE_READY {
			continue
		}
		cmds = append(cmds, reportCommand(n, pb.NodeState_NODE_STATE_UNKNOWN, "not heard of since the election", now))
	}
	return cmds
}
