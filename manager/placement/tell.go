package placement

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/scheduler"
)

const (
	// A group's tasks are told at once why they wait. When the reason changes
	// they are told again no sooner than after tellEvery, and twice as long after
	// each time, up to tellSlowest: a flapping cluster must not fill the log.
	tellEvery   = time.Second
	tellSlowest = 30 * time.Second
	// One pass tells some groups only, so that many of them do not keep new tasks
	// waiting: it looks at so many, explains so many, and asks so many nodes for
	// reasons. Each is a few milliseconds.
	tellScan   = 1 << 14
	tellGroups = 1 << 10
	tellNodes  = 1 << 17
	// tellBytes bounds the explanations of one proposal.
	tellBytes = 1 << 19
)

// telling is when a group's tasks are told next why they wait, and how long
// the pause after that is.
type telling struct {
	due   time.Time
	pause time.Duration
	// seen is what the scheduler's Changes were when they were told; fresh is
	// set when tasks joined since.
	seen  uint64
	fresh bool
}

// round is one way through all stuck groups, over as many passes as it takes.
type round struct {
	// at is the first group of the next pass.
	at int
	// next is when the groups that were passed are due.
	next time.Time
	// known are explanations by what the tasks require.
	known map[string]explanation
}

// explanation is why tasks wait, and what the scheduler's Changes were then.
type explanation struct {
	status *pb.TaskStatus
	seen   uint64
}

// tell goes on with the round through the stuck groups, or begins the next one
// when it is time, and proposes explanations for those that are due.
func (l *loop) tell(ctx context.Context, now time.Time) {
	b := l.book
	if b.nextTelling.After(now) {
		return
	}
	if b.round.at == 0 {
		b.round = round{next: now.Add(tellSlowest), known: map[string]explanation{}}
	}
	w := &writer{loop: l, ctx: ctx, groups: tellGroups, nodes: tellNodes}
	end := min(b.round.at+tellScan, len(b.stuck))
	for ; b.round.at < end && w.groups > 0 && w.nodes > 0; b.round.at++ {
		g := b.stuck[b.round.at]
		if g.live == 0 {
			continue
		}
		w.turn(g, now)
		b.round.next = earlier(b.round.next, g.due)
	}
	b.nextTelling = now.Add(quiet)
	if b.round.at >= len(b.stuck) {
		b.nextTelling = b.round.next
		b.round = round{}
	}
	w.flush()
}

// writer collects explanations into proposals.
type writer struct {
	*loop
	ctx context.Context
	// How many groups may still be explained, and how many nodes asked.
	groups, nodes int
	batch         []*pb.TaskStatusReport
	size          int
}

// turn tells a group's tasks why they wait, if it is time and that may have
// changed.
func (w *writer) turn(g *group, now time.Time) {
	switch {
	case g.due.After(now):
	case g.seen == w.book.set.Changes() && !g.fresh:
		g.due = now.Add(tellEvery)
	default:
		w.groups--
		if w.group(g) {
			g.pause = min(max(tellEvery, 2*g.pause), tellSlowest)
		}
		g.due = now.Add(max(tellEvery, g.pause))
		g.fresh = false
	}
}

// group explains a group's waiting tasks; it reports whether any was told
// something new.
func (w *writer) group(g *group) bool {
	sg := w.book.groupOf(g)
	told := false
	g.seen = w.book.set.Changes()
	for _, e := range g.entries {
		if !e.waits() {
			continue
		}
		why := w.why(sg, waiting(e))
		g.seen = min(g.seen, why.seen)
		if same(e.task.GetStatus(), why.status) {
			continue
		}
		told = true
		w.add(e.task.GetId(), why.status)
	}
	return told
}

// why explains a task, or finds what was said to one like it.
func (w *writer) why(g scheduler.Group, t scheduler.Waiting) explanation {
	key := g.Need.Key(g.Service) + "\x00" + t.Node
	if t.Replaces != "" || t.Node != "" {
		key += "\x00" + g.Service
	}
	if why, ok := w.book.round.known[key]; ok {
		return why
	}
	e := w.book.set.Explain(g, t)
	w.nodes -= e.Nodes + 1
	why := explanation{statusOf(e, t), w.book.set.Changes()}
	w.book.round.known[key] = why
	return why
}

func statusOf(e scheduler.Explanation, t scheduler.Waiting) *pb.TaskStatus {
	what, why := e.Told(t)
	if t.Node == "" {
		what = "waiting: " + what
	}
	return &pb.TaskStatus{
		State:   pb.TaskState_TASK_STATE_PENDING,
		Message: what,
		Error:   why,
		Refused: e.Refused,
	}
}

func same(have, want *pb.TaskStatus) bool {
	return have.GetMessage() == want.GetMessage() && have.GetError() == want.GetError()
}

func (w *writer) add(id string, why *pb.TaskStatus) {
	w.batch = append(w.batch, &pb.TaskStatusReport{Id: id, Status: why})
	w.size += len(id) + proto.Size(why) + 8
	if w.size >= tellBytes {
		w.flush()
	}
}

func (w *writer) flush() {
	if len(w.batch) == 0 {
		return
	}
	explain := &pb.ExplainTasks{Tasks: w.batch}
	w.batch, w.size = nil, 0
	w.outbox = append(w.outbox, proposal{command: &pb.Command{Kind: &pb.Command_ExplainTasks{ExplainTasks: explain}}})
	w.telling++
	w.launch(w.ctx)
}
