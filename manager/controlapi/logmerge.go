package controlapi

import (
	"container/heap"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// maxHold is how long a line waits for slower sources. It also bounds what a
// node whose clock is behind, or which stopped answering, can hold up.
const maxHold = 10 * time.Second

// maxQueued is how many lines of one source wait before no more are asked for.
const maxQueued = 4096

// logMerge merges the logs of tasks in time order. Each source delivers its
// lines in order, with watermarks: no older line will follow. A line is ready
// when every source's watermark has passed it, or when it waited for maxHold.
// Lines of one source never change their order, whatever their clock does.
type logMerge struct {
	sources map[string]*logSource
	heads   sourceHeap
}

// logSource is the log of one task.
type logSource struct {
	id        string
	watermark time.Time
	lines     []heldLine
	// Of the newest line delivered.
	last time.Time
	// When it last said anything.
	heard time.Time
	// It holds nobody up until it speaks again.
	silent bool
	// Position in the heap, -1 outside of it.
	position int
}

// heldLine is a line that waits.
type heldLine struct {
	entry *pb.LogEntry
	// Its place in time: never before the line in front of it.
	at      time.Time
	arrived time.Time
}

// mergedLine is a line whose turn has come.
type mergedLine struct {
	source string
	entry  *pb.LogEntry
}

func newLogMerge() *logMerge { return &logMerge{sources: map[string]*logSource{}} }

// open adds a source, for whose first words the others wait.
func (m *logMerge) open(id string, now time.Time) {
	m.sources[id] = &logSource{id: id, heard: now, position: -1}
}

// push takes what a source delivered.
func (m *logMerge) push(id string, batch *pb.LogBatch, now time.Time) {
	s := m.sources[id]
	if s == nil {
		return
	}
	s.heard, s.silent = now, false
	for _, e := range batch.GetEntries() {
		s.last = later(s.last, e.GetAt().AsTime())
		s.lines = append(s.lines, heldLine{entry: e, at: s.last, arrived: now})
	}
	s.watermark = later(s.watermark, s.last)
	if batch.GetWatermark() != nil {
		s.watermark = later(s.watermark, batch.Watermark.AsTime())
	}
	if s.position < 0 && len(s.lines) > 0 {
		heap.Push(&m.heads, s)
	}
}

// pause lets the others go on without a source until it speaks again.
func (m *logMerge) pause(id string) {
	if s := m.sources[id]; s != nil {
		s.silent = true
	}
}

// close ends a source; its lines still come out in their turn.
func (m *logMerge) close(id string) {
	s := m.sources[id]
	delete(m.sources, id)
	if s != nil {
		s.silent = true
	}
}

// silenced returns the sources that said nothing for maxHold, each once, and
// lets the others go on without them.
func (m *logMerge) silenced(now time.Time) []string {
	var silent []string
	for id, s := range m.sources {
		if !s.silent && now.Sub(s.heard) >= maxHold {
			s.silent = true
			silent = append(silent, id)
		}
	}
	return silent
}

// queued is how many lines of a source wait.
func (m *logMerge) queued(id string) int {
	if s := m.sources[id]; s != nil {
		return len(s.lines)
	}
	return 0
}

// pop returns the lines that are ready, in order.
func (m *logMerge) pop(now time.Time) []mergedLine {
	low, bounded := m.low()
	overdue := m.overdue(now)
	var out []mergedLine
	for len(m.heads) > 0 {
		s := m.heads[0]
		at := s.lines[0].at
		if bounded && at.After(low) && at.After(overdue) {
			break
		}
		out = append(out, mergedLine{source: s.id, entry: s.lines[0].entry})
		if s.lines = s.lines[1:]; len(s.lines) == 0 {
			s.lines = nil
			heap.Pop(&m.heads)
			continue
		}
		heap.Fix(&m.heads, 0)
	}
	return out
}

// low is the least watermark of those that are waited for; unbounded when
// there are none.
func (m *logMerge) low() (low time.Time, bounded bool) {
	for _, s := range m.sources {
		if !s.silent && (!bounded || s.watermark.Before(low)) {
			low, bounded = s.watermark, true
		}
	}
	return low, bounded
}

// overdue is the place in time of the last line that waited for maxHold.
func (m *logMerge) overdue(now time.Time) time.Time {
	var at time.Time
	for _, s := range m.heads {
		for _, line := range s.lines {
			if now.Sub(line.arrived) < maxHold {
				break
			}
			at = later(at, line.at)
		}
	}
	return at
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// sourceHeap orders sources that have lines by their first line.
type sourceHeap []*logSource

func (h sourceHeap) Len() int { return len(h) }

func (h sourceHeap) Less(i, j int) bool {
	a, b := h[i].lines[0].at, h[j].lines[0].at
	if a.Equal(b) {
		return h[i].id < h[j].id
	}
	return a.Before(b)
}

func (h sourceHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].position, h[j].position = i, j
}

func (h *sourceHeap) Push(x any) {
	s := x.(*logSource)
	s.position = len(*h)
	*h = append(*h, s)
}

func (h *sourceHeap) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	s.position = -1
	(*h)[last] = nil
	*h = (*h)[:last]
	return s
}
