package progress

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/minid/minid/internal/restarts"
	pb "github.com/minid/minid/proto/minid/v1"
)

// place is a slot, or a global service's node; of jobs, in one run.
type place struct {
	slot, run uint64
	node      string
}

func placeOf(t *pb.Task) place {
	if t.Slot == 0 {
		return place{run: t.JobRun, node: t.NodeId}
	}
	return place{slot: t.Slot, run: t.JobRun}
}

// Loop is a slot whose tasks end again and again, or are not restarted any
// more.
type Loop struct {
	restarts.Loop
	// Name is the slot's: "web.1".
	Name string
	// text is what was told of it last, at which count and why.
	text  string
	count uint64
	why   string
	// quote is the end of a task's log.
	quote []string
}

// Told is what was said of the loop last. It changes seldom.
func (l *Loop) Told() string { return l.Name + " " + l.text }

// Loops returns the slots that are in a loop, in order.
func (t *Tracker) Loops(now time.Time) []*Loop {
	var loops []*Loop
	for p, l := range t.loops {
		if found, ok := t.findLoop(p, now); ok && t.job.has(found.Newest) {
			l.Loop = found
			loops = append(loops, l)
		}
	}
	slices.SortFunc(loops, func(a, b *Loop) int {
		return cmp.Or(cmp.Compare(a.Last.Slot, b.Last.Slot), cmp.Compare(a.Name, b.Name))
	})
	return loops
}

func (t *Tracker) findLoop(p place, now time.Time) (restarts.Loop, bool) {
	return restarts.Find(t.service, slices.Collect(maps.Values(t.places[p])), now)
}

// tellLoop stands in for the steps of a slot that is in a loop: it is told of
// when it begins, when it ends otherwise than before, and whenever its count
// has doubled.
func (t *Tracker) tellLoop(task *pb.Task, now time.Time) (changes []Change, looping bool) {
	p := placeOf(task)
	found, ok := t.findLoop(p, now)
	if !ok {
		delete(t.loops, p)
		return nil, false
	}
	l := t.loops[p]
	if l == nil {
		l = &Loop{Name: task.ServiceName + "." + slotLabel(task, t.nodes)}
	}
	l.Loop = found
	why, count := restarts.Why(found.Last), found.Restarts()
	between := !found.GivenUp() && !live(found.Newest)
	if between || l.text != "" && why == l.why && count < 2*l.count && !found.GivenUp() {
		return nil, t.loops[p] != nil
	}
	text := found.Text(now)
	if text == l.text {
		return nil, true
	}
	l.text, l.why, l.count = text, why, count
	t.loops[p] = l
	c := Change{At: now, Service: task.ServiceName, Slot: slotLabel(task, t.nodes), Task: found.Last.Id,
		Node: t.nodes[found.Last.NodeId], State: StateName(found.Last.GetStatus().GetState()), Reason: why, Failed: true, Loop: text}
	c.Repeats = t.loopsTold[why] >= count
	t.loopsTold[why] = max(t.loopsTold[why], count)
	return []Change{c}, true
}

// Quote adds the end of a task's log to what was told of its loop.
func (t *Tracker) Quote(of Change, lines []string, now time.Time) Change {
	for _, l := range t.loops {
		if l.Last.Id == of.Task {
			l.quote = lines
		}
	}
	return Change{At: now, Service: of.Service, Slot: of.Slot, Task: of.Task, Node: of.Node, State: of.State, Log: lines}
}

// loopLines are those of a picture: how many slots beyond the first are in a
// loop, and the end of a log.
func loopLines(loops []*Loop, many bool, now time.Time) []string {
	if len(loops) == 0 {
		return nil
	}
	var lines []string
	if many {
		lines = append(lines, loops[0].Name+" "+loops[0].Text(now))
	}
	if many && len(loops) > 1 {
		lines = append(lines, fmt.Sprintf("and so do %d more", len(loops)-1))
	}
	for _, line := range loops[0].quote {
		lines = append(lines, "    "+line)
	}
	return lines
}
