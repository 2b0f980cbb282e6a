package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/progress"
	"github.com/minid/minid/internal/restarts"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// loopLines is how much of the log of a task in a crash loop is shown.
	loopLines = 3
	// maxLoops is how many crash loops are told of at a time: the others are
	// like them as a rule.
	maxLoops = 3
)

// lastLog returns the end of a task's log, as far as it can be had.
func (a *api) lastLog(ctx context.Context, task string, lines int64) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, lastLinesTimeout)
	defer cancel()
	stream, err := a.control.Logs(ctx, &pb.LogsRequest{Ref: task, Tail: lines})
	if err != nil {
		return nil, err
	}
	var text []string
	for {
		line, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF), err != nil && ctx.Err() != nil:
			return text, nil
		case err != nil:
			return text, err
		case !line.Warning: // a log that is gone is no part of the story
			text = append(text, print.Clean(string(line.Text)))
		}
	}
}

// loopsOf finds the slots of a service that are in a crash loop. It is a note
// beside what was asked for: what cannot be had is left out.
func (a *api) loopsOf(ctx context.Context, service string, now time.Time) []restarts.Loop {
	ctx, cancel := bounded(ctx)
	defer cancel()
	s, err := a.control.GetService(ctx, &pb.GetRequest{Ref: service})
	if err != nil {
		return nil // a task may outlive its service
	}
	resp, err := a.control.ListTasks(ctx, &pb.ListTasksRequest{Services: []string{service}})
	if err != nil {
		return nil
	}
	return restarts.Loops(s, resp.Tasks, now)
}

// tellLoops writes of the first crash loops a line each, and the end of the
// last task's log below it.
func (c *cli) tellLoops(ctx context.Context, a *api, w io.Writer, loops []restarts.Loop) {
	if len(loops) == 0 {
		return
	}
	nodes, err := a.nodeNames(ctx)
	if err != nil {
		nodes = nil // ids will do
	}
	for _, l := range loops[:min(len(loops), maxLoops)] {
		fmt.Fprintf(w, "%s %s\n", loopName(l, nodes), print.Clean(l.Text(c.now())))
		lines, _ := a.lastLog(ctx, l.Last.Id, loopLines) // without them the line above still helps
		for _, line := range lines {
			fmt.Fprintf(w, "    %s\n", line)
		}
	}
	if more := len(loops) - maxLoops; more > 0 {
		fmt.Fprintf(w, "and %d more do the like\n", more)
	}
}

// loopName is web.1, or web.node1 of a global service.
func loopName(l restarts.Loop, nodes map[string]string) string {
	if l.Last.Slot > 0 {
		return progress.Ref(l.Last)
	}
	return print.Clean(l.Last.ServiceName + "." + cmp.Or(nodes[l.Last.NodeId], l.Last.NodeId))
}

// tellLoopsOf tells of the crash loops of services that were listed.
func (c *cli) tellLoopsOf(ctx context.Context, a *api, services []string) {
	for _, id := range services {
		c.tellLoops(ctx, a, c.stderr, a.loopsOf(ctx, id, c.now()))
	}
}

// tellLoopOf tells of the crash loop that a task's slot is in.
func (c *cli) tellLoopOf(ctx context.Context, a *api, w io.Writer, t *pb.Task) {
	loops := a.loopsOf(ctx, t.ServiceId, c.now())
	c.tellLoops(ctx, a, w, slices.DeleteFunc(loops, func(l restarts.Loop) bool {
		return l.Last.Slot != t.Slot || t.Slot == 0 && l.Last.NodeId != t.NodeId
	}))
}

// loopsCell tells of a service's worst crash loop.
func (c *cli) loopsCell(ctx context.Context, a *api, s *pb.Service) string {
	loops := a.loopsOf(ctx, s.Id, c.now())
	if len(loops) == 0 {
		return ""
	}
	worst := slices.MaxFunc(loops, func(a, b restarts.Loop) int { return cmp.Compare(a.Restarts(), b.Restarts()) })
	text := loopName(worst, nil) + " " + print.Clean(worst.Text(c.now()))
	if len(loops) > 1 {
		text += fmt.Sprintf(" (and %d more)", len(loops)-1)
	}
	return text
}

// maxQuotes is how many ends of logs one wait shows.
const maxQuotes = 6

// quoting is a display that also shows the last lines of tasks that end again
// and again. They are fetched in the background.
type quoting struct {
	progress.Display
	fetch func(task string) ([]string, error)

	asked   int
	fetches sync.WaitGroup
	quotes  chan quote
}

type quote struct {
	of    progress.Change
	lines []string
}

func newQuoting(d progress.Display, fetch func(task string) ([]string, error)) *quoting {
	return &quoting{Display: d, fetch: fetch, quotes: make(chan quote, maxQuotes)}
}

// Show is progress.Display's.
func (q *quoting) Show(t *progress.Tracker, changes []progress.Change, now time.Time) {
	for _, c := range changes {
		if c.Loop == "" || c.Repeats || q.asked == maxQuotes {
			continue
		}
		q.asked++
		q.fetches.Go(func() {
			if lines, _ := q.fetch(c.Task); len(lines) > 0 {
				q.quotes <- quote{c, lines}
			}
		})
	}
	for {
		select {
		case found := <-q.quotes:
			changes = append(changes, t.Quote(found.of, found.lines, now))
			continue
		default:
		}
		break
	}
	q.Display.Show(t, changes, now)
}

// Close is progress.Display's.
func (q *quoting) Close(t *progress.Tracker, now time.Time) {
	q.Display.Close(t, now)
	q.fetches.Wait()
}
