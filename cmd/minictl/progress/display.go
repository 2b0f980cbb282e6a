package progress

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Display shows the progress of a wait.
type Display interface {
	// Show is called after every event and at least once a second.
	Show(t *Tracker, changes []Change, now time.Time)
	// Close leaves the output in order, with the last state shown.
	Close(t *Tracker, now time.Time)
}

// NewPlain returns the display for pipes: one line with its time per change;
// with many replicas, sums and what goes wrong.
func NewPlain(w io.Writer) Display { return &plain{w: w} }

type plain struct {
	w    io.Writer
	last string
	at   time.Time
}

func (p *plain) Show(t *Tracker, changes []Change, now time.Time) {
	counts := t.Counts()
	many := counts.Wanted > maxLines
	for _, c := range changes {
		for _, line := range c.Log {
			p.line(now, fit("    "+line, 0))
		}
		if len(c.Log) == 0 && (!many || (c.Failed || c.Waits) && !c.Repeats) {
			p.line(now, fit(c.String(), 0))
		}
		if c.Waits && !c.Repeats {
			p.line(now, "try: "+c.Try)
		}
	}
	if t.synced && (!many || now.Sub(p.at) >= time.Second) {
		p.overall(counts.Overall(many), now)
	}
}

func (p *plain) overall(line string, now time.Time) {
	if line == p.last {
		return
	}
	p.last, p.at = line, now
	p.line(now, line)
}

func (p *plain) line(now time.Time, text string) {
	fmt.Fprintf(p.w, "%s %s\n", now.Format(time.TimeOnly), text)
}

func (p *plain) Close(t *Tracker, now time.Time) {
	if t.synced {
		p.overall(t.Counts().Overall(t.Counts().Wanted > maxLines), now)
	}
}

// NewJSON returns the display for machines: one JSON object per change.
func NewJSON(w io.Writer) Display { return jsonLines{w} }

type jsonLines struct{ w io.Writer }

func (j jsonLines) Show(_ *Tracker, changes []Change, _ time.Time) {
	for _, c := range changes {
		fmt.Fprintln(j.w, c.JSON())
	}
}

func (jsonLines) Close(*Tracker, time.Time) {}

// NewQuiet returns the display that shows nothing.
func NewQuiet() Display { return quiet{} }

type quiet struct{}

func (quiet) Show(*Tracker, []Change, time.Time) {}
func (quiet) Close(*Tracker, time.Time)          {}

// NewTTY returns the display that redraws in place. Size is asked at every
// drawing, for the terminal may change.
func NewTTY(w io.Writer, size func() (width, height int)) Display { return &tty{w: w, size: size} }

type tty struct {
	w     io.Writer
	size  func() (width, height int)
	drawn int
}

func (d *tty) Show(t *Tracker, _ []Change, now time.Time) {
	width, height := d.size()
	lines := t.Picture(now, width)
	if height > 1 && len(lines) > height-1 {
		lines = lines[:height-1]
	}
	var b strings.Builder
	if d.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", d.drawn)
	}
	for _, line := range lines {
		b.WriteString(line + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	d.drawn = len(lines)
	io.WriteString(d.w, b.String())
}

func (d *tty) Close(t *Tracker, now time.Time) { d.Show(t, nil, now) }
