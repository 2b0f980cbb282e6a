package main

import (
	"fmt"
	"slices"
	"strings"
)

// row is one line of the table.
type row struct {
	id, title, unit string
	// ratio is how many times as good as Swarm minid must be, most what it may
	// need at most; 0 is no such target.
	ratio, most float64
	// swarm and minid are the samples, one for each round.
	swarm, minid []float64
}

func (r *row) add(system string, sample float64) {
	if system == dockerSwarm.name {
		r.swarm = append(r.swarm, sample)
		return
	}
	r.minid = append(r.minid, sample)
}

// median of samples; of an even number the lower middle one.
func median(samples []float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[(len(sorted)-1)/2]
}

// times is how many times as good minid is.
func (r *row) times() float64 {
	if m := median(r.minid); m > 0 {
		return median(r.swarm) / m
	}
	return 0
}

// met tells whether the row has its samples and meets every target.
func (r *row) met() bool {
	if len(r.swarm) == 0 || len(r.minid) == 0 {
		return false
	}
	return (r.ratio == 0 || r.times() >= r.ratio) && (r.most == 0 || median(r.minid) <= r.most)
}

func (r *row) target() string {
	var parts []string
	if r.ratio > 0 {
		parts = append(parts, fmt.Sprintf("≥ %g×", r.ratio))
	}
	if r.most > 0 {
		parts = append(parts, fmt.Sprintf("≤ %g %s", r.most, r.unit))
	}
	return strings.Join(parts, ", ")
}

func (r *row) verdict() string {
	switch {
	case !r.met():
		return "missed"
	case r.target() == "":
		return ""
	}
	return "met"
}

// figure is a median with the lowest and highest sample, if there are several.
func (r *row) figure(samples []float64) string {
	if len(samples) == 0 {
		return "–"
	}
	digits := 1
	if r.unit == "s" && median(samples) < 10 {
		digits = 2
	}
	text := fmt.Sprintf("%.*f %s", digits, median(samples), r.unit)
	if len(samples) > 1 {
		text += fmt.Sprintf(" (%.*f–%.*f)", digits, slices.Min(samples), digits, slices.Max(samples))
	}
	return text
}

var columns = []string{"story", "Swarm", "minid", "ratio", "target", ""}

func (r *row) cells() []string {
	return []string{r.title, r.figure(r.swarm), r.figure(r.minid), fmt.Sprintf("%.1f×", r.times()), r.target(), r.verdict()}
}

// table renders rows as Markdown, aligned so that it is a table in a terminal too.
func table(rows []*row) string {
	lines := [][]string{columns}
	for _, r := range rows {
		lines = append(lines, r.cells())
	}
	widths := make([]int, len(columns))
	for _, cells := range lines {
		for i, c := range cells {
			widths[i] = max(widths[i], len([]rune(c)))
		}
	}
	var b strings.Builder
	for n, cells := range lines {
		for i, c := range cells {
			fmt.Fprintf(&b, "| %-*s ", widths[i], c)
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, w := range widths {
				b.WriteString("|" + strings.Repeat("-", w+2))
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}
