package placement

import (
	"context"
	"slices"
	"sync"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/scheduler"
)

// loop is a session's working state, touched by its one goroutine only.
type loop struct {
	Config
	book *book

	// since is when the oldest change came that no pass has looked at, zero if none.
	since time.Time
	timer *time.Timer

	batch     []decision
	outbox    []proposal
	inFlight  int
	telling   int // proposals of explanations, queued or in flight
	results   chan result
	proposals sync.WaitGroup
}

// decision is a task's node, proposed but not seen in the store yet.
type decision struct {
	entry *entry
	node  string
}

// proposal is a command and, for assignments, the decisions in it.
type proposal struct {
	command   *pb.Command
	decisions []decision
}

type result struct {
	proposal
	err error
}

// postpone puts off the next pass until changes pause, within patience.
func (l *loop) postpone(now time.Time) {
	if l.since.IsZero() {
		l.since = now
	}
	l.timer.Reset(min(quiet, l.since.Add(patience).Sub(now)))
}

// pass places what it can: new groups first, then those that waited in vain so
// far and for which room may have been made; at last it tells the rest why.
func (l *loop) pass(ctx context.Context, now time.Time) {
	l.since = time.Time{}
	for _, g := range l.book.takeDirty(now) {
		l.place(ctx, g, now)
	}
	for _, g := range l.book.takeStuck() {
		l.retry(ctx, g, now)
	}
	l.flush(ctx)
	if l.telling == 0 {
		l.tell(ctx, now)
	}
	l.rest(now)
}

// rest sets the timer to the next pass. It is not for telling while explanations
// are on their way: their outcome brings it about.
func (l *loop) rest(now time.Time) { l.timer.Reset(l.book.rest(now, l.telling == 0)) }

// place proposes nodes for a group's tasks and keeps those that fit nowhere.
func (l *loop) place(ctx context.Context, g *group, now time.Time) {
	sg := l.book.groupOf(g)
	for _, e := range g.take() {
		w := waiting(e)
		if w.Node == "" {
			sg.Tasks = append(sg.Tasks, w)
		} else if ok, _ := l.book.set.Check(sg, w); ok {
			l.propose(ctx, e, w.Node)
		} else {
			g.put(e)
		}
	}
	placed, left := l.book.set.Place(sg, now)
	for _, w := range left {
		g.put(l.book.waiting[w.ID])
	}
	for _, d := range placed {
		l.propose(ctx, l.book.waiting[d.Task], d.Node)
	}
	l.book.tried(g, now)
}

// retry places a group that was stuck. Where tasks are all alike, one of them
// shows whether there is room for any.
func (l *loop) retry(ctx context.Context, g *group, now time.Time) {
	if i := slices.IndexFunc(g.entries, (*entry).waits); i >= 0 && !g.special {
		probe := l.book.groupOf(g)
		probe.Tasks = []scheduler.Waiting{waiting(g.entries[i])}
		placed, _ := l.book.set.Place(probe, now)
		if len(placed) == 0 {
			l.book.tried(g, now)
			return
		}
		l.propose(ctx, g.entries[i], placed[0].Node)
	}
	l.place(ctx, g, now)
}

// propose adds a decision to the batch and sends that when it is full.
func (l *loop) propose(ctx context.Context, e *entry, node string) {
	e.node = node
	l.batch = append(l.batch, decision{e, node})
	if len(l.batch) == maxBatch {
		l.flush(ctx)
	}
}

func (l *loop) flush(ctx context.Context) {
	if len(l.batch) == 0 {
		return
	}
	assign := &pb.AssignTasks{Tasks: make([]*pb.TaskAssignment, len(l.batch))}
	for i, d := range l.batch {
		assign.Tasks[i] = &pb.TaskAssignment{Id: d.entry.task.GetId(), NodeId: d.node}
	}
	command := &pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: assign}}
	l.outbox = append(l.outbox, proposal{command, l.batch})
	l.batch = nil
	l.launch(ctx)
}

// launch starts proposals as long as few enough are in flight.
func (l *loop) launch(ctx context.Context) {
	for l.inFlight < maxInFlight && len(l.outbox) > 0 {
		next := l.outbox[0]
		l.outbox = l.outbox[1:]
		l.inFlight++
		l.proposals.Go(func() {
			refused, err := l.Propose(ctx, next.command)
			for _, e := range refused {
				if err == nil && e != nil {
					err = e
				}
			}
			l.results <- result{next, err}
		})
	}
}

// settle takes back the decisions of a finished proposal that the store did
// not follow: it was not committed, or the task or node had changed meanwhile.
func (l *loop) settle(r result, now time.Time) {
	l.inFlight--
	again := false
	if r.command.GetExplainTasks() != nil {
		l.telling--
		again = l.telling == 0
		if r.err != nil {
			l.book.untold(now.Add(tellEvery))
		}
	}
	if r.err != nil {
		l.Logger.Warn("could not commit placements", "tasks", len(r.decisions), "err", r.err)
	}
	view := l.State.View()
	for _, d := range r.decisions {
		if d.entry.gone {
			continue // the watch brought the outcome already
		}
		t := view.Task(d.entry.task.GetId())
		if t.GetStatus().GetState() >= pb.TaskState_TASK_STATE_ASSIGNED || t == nil {
			continue // the watch will bring it
		}
		l.book.set.RemoveTask(t.GetId())
		l.book.retry(d.entry, now.Add(retryDelay))
		again = true
	}
	if again && l.since.IsZero() {
		l.rest(now)
	}
}
