package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// prettyPrinter writes the indented "Key: value" lines of inspect --pretty.
type prettyPrinter struct{ w io.Writer }

// line writes one line; a key without a value heads those indented below it.
func (p prettyPrinter) line(depth int, key, value string) {
	text := strings.Repeat(" ", depth) + key + ":"
	if value != "" {
		text = fmt.Sprintf("%-20s %s", text, value)
	}
	fmt.Fprintln(p.w, text)
}

// field writes a line only if there is a value.
func (p prettyPrinter) field(depth int, key, value string) {
	if value != "" {
		p.line(depth, key, value)
	}
}

func (p prettyPrinter) labels(depth int, labels map[string]string) {
	if len(labels) == 0 {
		return
	}
	p.line(depth, "Labels", "")
	var pairs []string
	for k, v := range labels {
		pairs = append(pairs, k+"="+v)
	}
	slices.Sort(pairs)
	for _, pair := range pairs {
		fmt.Fprintf(p.w, "%s- %s\n", strings.Repeat(" ", depth+1), pair)
	}
}

func timeText(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

func durationText(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return d.AsDuration().String()
}

// cpuText writes billionths of a CPU as CPUs.
func cpuText(nano int64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%d.%09d", nano/1e9, nano%1e9), "0"), ".")
}
