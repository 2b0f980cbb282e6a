package main

import (
	"context"
	"strings"
	"testing"
)

func TestMet(t *testing.T) {
	for _, test := range []struct {
		name string
		row  row
		want bool
	}{
		{"no samples of minid", row{swarm: []float64{1}}, false},
		{"no samples of Swarm", row{minid: []float64{1}}, false},
		{"no target", row{swarm: []float64{1}, minid: []float64{9}}, true},
		{"ratio met", row{ratio: 5, swarm: []float64{10}, minid: []float64{2}}, true},
		{"ratio missed", row{ratio: 5, swarm: []float64{10}, minid: []float64{2.1}}, false},
		{"limit met, ratio missed", row{ratio: 5, most: 6, swarm: []float64{10}, minid: []float64{3}}, false},
		{"ratio met, limit missed", row{ratio: 5, most: 6, swarm: []float64{100}, minid: []float64{7}}, false},
		{"one outlier", row{most: 6, swarm: []float64{1}, minid: []float64{99, 1, 2}}, true},
	} {
		if got := test.row.met(); got != test.want {
			t.Errorf("%s: met is %t, want %t", test.name, got, test.want)
		}
	}
}

func TestMedian(t *testing.T) {
	for want, samples := range map[float64][]float64{0: nil, 3: {3}, 1: {2, 1}, 5: {9, 5, 1}} {
		if got := median(samples); got != want {
			t.Errorf("median of %v is %g, want %g", samples, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	got := table([]*row{
		{title: "tasks → running", unit: "s", ratio: 5, most: 6, swarm: []float64{30, 31, 29}, minid: []float64{5, 5.5, 4}},
		{title: "memory", unit: "MB", most: 60, swarm: []float64{148}, minid: []float64{61}},
		{title: "gone", unit: "s", swarm: []float64{2}},
	})
	want := strings.TrimPrefix(`
| story           | Swarm              | minid              | ratio | target      |        |
|-----------------|--------------------|--------------------|-------|-------------|--------|
| tasks → running | 30.0 s (29.0–31.0) | 5.00 s (4.00–5.50) | 6.0×  | ≥ 5×, ≤ 6 s | met    |
| memory          | 148.0 MB           | 61.0 MB            | 2.4×  | ≤ 60 MB     | missed |
| gone            | 2.00 s             | –                  | 0.0×  |             | missed |
`, "\n")
	if got != want {
		t.Errorf("table is\n%s\nwant\n%s", got, want)
	}
}

func TestChoose(t *testing.T) {
	told, err := plan{only: "stop"}.choose(stories())
	if err != nil || len(told) != 1 || told[0].rows[0].id != "start" {
		t.Errorf("stop is told by %v, %v; want the story of start", told, err)
	}
	if _, err := (plan{only: "nothing"}).choose(stories()); err == nil {
		t.Error("an unknown row is accepted")
	}
}

func TestPage(t *testing.T) {
	got := page(context.Background(), "0.10", "| a |\n")
	if !strings.HasPrefix(got, "# ") || !strings.HasSuffix(got, "| a |\n") {
		t.Errorf("page is\n%s", got)
	}
}
