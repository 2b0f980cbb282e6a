package dispatcher

import (
	"container/heap"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// defaultPeriod is the heartbeat period of a cluster that does not set one.
	defaultPeriod = 2 * time.Second
	// missedBeats is how many heartbeats in a row a node may miss.
	missedBeats = 3
	// electionSlack is what agents need, beyond missing the old leader's
	// heartbeats, to find the new one. The election itself took a second or
	// two of their time already.
	electionSlack = time.Second
)

// heartbeatPeriod is how often agents and manager tell each other that they live.
func heartbeatPeriod(c *pb.Cluster) time.Duration {
	if p := c.GetSpec().GetHeartbeatPeriod().AsDuration(); p > 0 {
		return p
	}
	return defaultPeriod
}

// patience is how long a node may be silent: its missed heartbeats and a quarter
// period for those that come late.
func patience(period time.Duration) time.Duration { return missedBeats*period + period/4 }

// grace is how long after an election a node may take to come back: 7 s with
// the default period, so that the tasks of a lost leader's host are replaced
// within 10 s.
func grace(period time.Duration) time.Duration { return missedBeats*period + electionSlack }

// liveness knows by when each node must be heard of. A heartbeat only moves the
// node's deadline; its place in the heap is put right when it comes up, so that
// a node costs one heap operation per deadline and not one per heartbeat.
type liveness struct {
	byNode map[string]*deadline
	queue  deadlines
}

type deadline struct {
	node string
	// When the node is lost.
	at time.Time
	// Where the heap believes that it stands: never after at.
	queued time.Time
}

func newLiveness() *liveness { return &liveness{byNode: map[string]*deadline{}} }

// expect sets the deadline of a node.
func (l *liveness) expect(node string, at time.Time) {
	if d := l.byNode[node]; d != nil && !at.Before(d.queued) {
		d.at = at
		return
	}
	d := &deadline{node: node, at: at, queued: at}
	l.byNode[node] = d // an older entry still in the heap is dropped when it comes up
	heap.Push(&l.queue, d)
}

// forget drops a node.
func (l *liveness) forget(node string) { delete(l.byNode, node) }

// postpone gives every node more time.
func (l *liveness) postpone(by time.Duration) {
	for _, d := range l.byNode {
		d.at = d.at.Add(by)
	}
}

// expired removes and returns the nodes whose deadline has passed.
func (l *liveness) expired(now time.Time) []string {
	var lost []string
	for len(l.queue) > 0 && !l.queue[0].queued.After(now) {
		d := l.queue[0]
		switch {
		case l.byNode[d.node] != d:
			heap.Pop(&l.queue)
		case d.at.After(now):
			d.queued = d.at
			heap.Fix(&l.queue, 0)
		default:
			heap.Pop(&l.queue)
			delete(l.byNode, d.node)
			lost = append(lost, d.node)
		}
	}
	return lost
}

// next tells when expired should be asked again, at the latest after max.
func (l *liveness) next(now time.Time, max time.Duration) time.Duration {
	if len(l.queue) == 0 {
		return max
	}
	return min(max, l.queue[0].queued.Sub(now))
}

// deadlines is a heap by queued time.
type deadlines []*deadline

func (q deadlines) Len() int           { return len(q) }
func (q deadlines) Less(i, j int) bool { return q[i].queued.Before(q[j].queued) }
func (q deadlines) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *deadlines) Push(x any)        { *q = append(*q, x.(*deadline)) }

func (q *deadlines) Pop() any {
	last := len(*q) - 1
	d := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return d
}

const (
	// A node may open this many sessions within the window; Swarm's numbers.
	admitMost   = 3
	admitWithin = 8 * time.Second
)

// admission limits how often a node may open a session, so that an agent in a
// crash loop does not keep the leader busy with full assignment sets.
type admission map[string][]time.Time

// admit tells whether a node may open a session now and, if not, when to retry.
func (a admission) admit(node string, now time.Time) (retry time.Duration, ok bool) {
	recent := a[node]
	for len(recent) > 0 && now.Sub(recent[0]) >= admitWithin {
		recent = recent[1:]
	}
	if len(recent) >= admitMost {
		a[node] = recent
		return admitWithin - now.Sub(recent[0]), false
	}
	a[node] = append(recent, now)
	return 0, true
}
