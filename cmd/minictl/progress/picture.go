package progress

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	pb "github.com/minid/minid/proto/minid/v1"
)

// maxLines is how many slots get a line of their own, as in Swarm.
const maxLines = 20

// steps are the states on the way to running, each one mark of a bar.
var steps = [...]pb.TaskState{
	pb.TaskState_TASK_STATE_NEW, pb.TaskState_TASK_STATE_PENDING, pb.TaskState_TASK_STATE_ASSIGNED,
	pb.TaskState_TASK_STATE_ACCEPTED, pb.TaskState_TASK_STATE_PREPARING, pb.TaskState_TASK_STATE_READY,
	pb.TaskState_TASK_STATE_STARTING, pb.TaskState_TASK_STATE_RUNNING,
}

// Counts is how far a service is.
type Counts struct {
	// Good slots run the present version or, of a job's run, have completed.
	Good, Wanted int
	// Job tells that a run is counted.
	Job bool
	// Others counts the remaining slots by state.
	Others map[string]int
}

// Counts returns how far the service is.
func (t *Tracker) Counts() Counts {
	if t.job != nil {
		return t.runCounts()
	}
	c := Counts{Others: map[string]int{}}
	slots := t.slots()
	for _, slot := range slots {
		task := slot.current
		switch {
		case live(task) && running(task) && upToDate(t.service, task):
			c.Good++
		case running(task):
			c.Others["to update"]++
		default:
			c.Others[StateName(task.GetStatus().GetState())]++
		}
	}
	var replicated bool
	if c.Wanted, replicated = t.wanted(); !replicated {
		c.Wanted = len(slots)
	}
	return c
}

// Overall is the line that sums up: "overall progress: 2 out of 3 tasks". Of a
// job's tasks those that run and that failed are always told, for neither are
// among the good ones.
func (c Counts) Overall(detailed bool) string {
	line := fmt.Sprintf("overall progress: %d out of %d tasks", c.Good, c.Wanted)
	if c.Job {
		line = fmt.Sprintf("job progress: %d out of %d complete", c.Good, c.Wanted)
	}
	var parts []string
	for state, n := range c.Others {
		if detailed || c.Job && (state == "running" || state == "failed") {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	if len(parts) == 0 {
		return line
	}
	slices.Sort(parts)
	return line + " (" + strings.Join(parts, ", ") + ")"
}

// Picture is the block that a terminal shows: the overall line, then a line
// per slot, or counts where there are too many. No line is wider than width.
func (t *Tracker) Picture(now time.Time, width int) []string {
	slots, counts := t.slots(), t.Counts()
	many := len(slots) > maxLines
	lines := []string{counts.Overall(many)}
	if t.job != nil {
		lines = append(lines, t.job.head(now))
	}
	if t.undone() {
		lines = append(lines, "rolling back: "+t.rollbackReason())
	}
	if t.Nowhere() {
		lines = append(lines, "waiting: no node fits yet")
	}
	waiting := t.Waiting()
	if many {
		if waiting != nil {
			lines = append(lines, "no place: "+Reason(waiting))
		}
		if task := t.Failed(); task != nil {
			lines = append(lines, fmt.Sprintf("failed: %s.%s: %s", task.ServiceName, slotLabel(task, t.nodes), Reason(task)))
		}
	} else {
		for _, slot := range slots {
			lines = append(lines, t.slotLine(slot, counts.Wanted, now))
		}
	}
	lines = append(lines, loopLines(t.Loops(now), many, now)...)
	if waiting != nil {
		lines = append(lines, "try: minictl task why "+Ref(waiting))
	}
	if left := t.verifying(now); left > 0 {
		lines = append(lines, fmt.Sprintf("verify: all tasks must keep running for %.1fs", left.Seconds()))
	}
	for i := range lines {
		lines[i] = fit(lines[i], width)
	}
	return lines
}

func (t *Tracker) verifying(now time.Time) time.Duration {
	outcome, left := t.Verdict(now)
	if outcome != Waiting {
		return 0
	}
	return left
}

func (t *Tracker) slotLine(s slot, wanted int, now time.Time) string {
	task := s.current
	label := s.label
	if task.Slot > 0 {
		label = fmt.Sprintf("%d/%d", task.Slot, wanted)
	}
	state := StateName(task.GetStatus().GetState())
	if running(task) && !upToDate(t.service, task) {
		state = "to update"
	}
	var elapsed string
	if since := task.GetMeta().GetCreatedAt(); since != nil && !running(task) {
		elapsed = now.Sub(since.AsTime()).Truncate(time.Second).String()
	}
	reason := Reason(task)
	if l, ok := t.findLoop(placeOf(task), now); ok {
		reason = l.Text(now)
	}
	line := fmt.Sprintf("%-8s %-10s %s %-12s %5s  %s", label+":", state, bar(task), t.nodes[task.NodeId], elapsed, reason)
	return strings.TrimRight(line, " ")
}

// bar is one mark per state reached.
func bar(task *pb.Task) string {
	state := task.GetStatus().GetState()
	if state > pb.TaskState_TASK_STATE_RUNNING {
		return "[" + strings.Repeat("x", len(steps)) + "]"
	}
	reached := 0
	for _, step := range steps {
		if step <= state {
			reached++
		}
	}
	text := strings.Repeat("=", reached-1) + ">"
	return "[" + text + strings.Repeat(" ", len(steps)-reached) + "]"
}

// fit cuts a line to a width and takes control characters out of it.
func fit(s string, width int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if width <= 0 || utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(0, width-1)]) + "…"
}
