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
	// tellNodes bounds how many nodes one pass asks for reasons: some 100 ms.
	tellNodes = 1 << 20
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

// tell proposes explanations for the stuck groups that are due.
func (l *loop) tell(ctx context.Context, now time.Time) {
	if l.book.nextTelling.After(now) {
		return
	}
	next := now.Add(tellSlowest)
	w := &writer{loop: l, ctx: ctx, known: map[string]*pb.TaskStatus{}, budget: tellNodes}
	for _, g := range l.book.stuck {
		if g.live == 0 {
			continue
		}
		switch {
		case g.due.After(now):
		case g.seen == w.book.set.Changes() && !g.fresh:
			g.due = now.Add(tellEvery)
		case w.budget <= 0:
			g.due = now.Add(retryDelay)
		default:
			if w.group(g) {
				g.pause = min(max(tellEvery, 2*g.pause), tellSlowest)
			}
			g.due = now.Add(max(tellEvery, g.pause))
			g.seen, g.fresh = w.book.set.Changes(), false
		}
		next = earlier(next, g.due)
	}
	l.book.nextTelling = next
	w.flush()
}

// writer collects explanations into proposals.
type writer struct {
	*loop
	ctx context.Context
	// known are explanations by what the tasks require.
	known  map[string]*pb.TaskStatus
	budget int
	batch  []*pb.TaskStatusReport
	size   int
}

// group explains a group's waiting tasks; it reports whether any was told
// something new.
func (w *writer) group(g *group) bool {
	sg := w.book.groupOf(g)
	told := false
	for _, e := range g.entries {
		if !e.waits() {
			continue
		}
		why := w.why(sg, waiting(e))
		if same(e.task.GetStatus(), why) {
			continue
		}
		told = true
		w.add(e.task.GetId(), why)
	}
	return told
}

// why explains a task, or finds what was said to one like it.
func (w *writer) why(g scheduler.Group, t scheduler.Waiting) *pb.TaskStatus {
	key := g.Need.Key(g.Service) + "\x00" + t.Node
	if t.Replaces != "" || t.Node != "" {
		key += "\x00" + g.Service
	}
	if why := w.known[key]; why != nil {
		return why
	}
	e := w.book.set.Explain(g, t)
	w.budget -= e.Nodes + 1
	why := statusOf(e, t)
	w.known[key] = why
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
