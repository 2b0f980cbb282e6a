package controlapi

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
)

func at(second int) time.Time { return time.Unix(int64(second), 0) }

func line(second int, text string) *pb.LogEntry {
	return &pb.LogEntry{At: timestamppb.New(at(second)), Text: []byte(text)}
}

func batchOf(watermark int, entries ...*pb.LogEntry) *pb.LogBatch {
	return &pb.LogBatch{Entries: entries, Watermark: timestamppb.New(at(watermark))}
}

func texts(lines []mergedLine) []string {
	var out []string
	for _, l := range lines {
		out = append(out, string(l.entry.Text))
	}
	return out
}

func wantTexts(t *testing.T, got []mergedLine, want ...string) {
	t.Helper()
	if !slices.Equal(texts(got), want) {
		t.Errorf("lines %v, want %v", texts(got), want)
	}
}

// However the sources' batches interleave, all lines come out, in time order
// and with those of one source in their own.
func TestMergeIsSortedAndLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, now := newLogMerge(), at(1000)
		sources := rapid.IntRange(1, 5).Draw(t, "sources")
		clock, left := make([]int, sources), make([]int, sources)
		var want, got []mergedLine
		for i := range sources {
			m.open(fmt.Sprint(i), now)
			left[i] = rapid.IntRange(0, 8).Draw(t, "batches")
		}
		for slices.ContainsFunc(left, func(n int) bool { return n >= 0 }) {
			i := rapid.IntRange(0, sources-1).Draw(t, "source")
			id := fmt.Sprint(i)
			switch {
			case left[i] > 0:
				batch := &pb.LogBatch{}
				for range rapid.IntRange(0, 3).Draw(t, "lines") {
					clock[i] += rapid.IntRange(0, 3).Draw(t, "step")
					e := line(clock[i], fmt.Sprintf("%s/%d", id, len(want)))
					batch.Entries = append(batch.Entries, e)
					want = append(want, mergedLine{id, e})
				}
				clock[i] += rapid.IntRange(0, 3).Draw(t, "watermark")
				batch.Watermark = timestamppb.New(at(clock[i]))
				m.push(id, batch, now)
			case left[i] == 0:
				m.close(id)
			}
			left[i]--
			got = append(got, m.pop(now)...)
		}
		if !slices.IsSortedFunc(got, func(a, b mergedLine) int { return a.entry.At.AsTime().Compare(b.entry.At.AsTime()) }) {
			t.Fatalf("not in time order: %v", got)
		}
		for i := range sources {
			of := func(lines []mergedLine) []string {
				return texts(slices.DeleteFunc(slices.Clone(lines), func(l mergedLine) bool { return l.source != fmt.Sprint(i) }))
			}
			if !slices.Equal(of(got), of(want)) {
				t.Fatalf("source %d: %v, want %v", i, of(got), of(want))
			}
		}
	})
}

func TestMergeWaitsForWatermarks(t *testing.T) {
	m, now := newLogMerge(), at(100)
	m.open("a", now)
	m.open("b", now)
	m.push("a", batchOf(5, line(1, "a1"), line(5, "a5")), now)
	wantTexts(t, m.pop(now)) // b has said nothing yet
	m.push("b", batchOf(3), now)
	wantTexts(t, m.pop(now), "a1")
	m.push("b", batchOf(6, line(4, "b4")), now)
	wantTexts(t, m.pop(now), "b4", "a5")
}

func TestSilentSourceHoldsNobodyUp(t *testing.T) {
	m, now := newLogMerge(), at(100)
	m.open("a", now)
	m.open("b", now)
	m.push("a", batchOf(1, line(1, "a1")), now)
	if silent := m.silenced(now.Add(maxHold / 2)); silent != nil {
		t.Errorf("%v is silent too early", silent)
	}
	now = now.Add(maxHold)
	m.push("a", batchOf(2, line(2, "a2")), now)
	if silent := m.silenced(now); !slices.Equal(silent, []string{"b"}) {
		t.Errorf("silent: %v, want b", silent)
	}
	if again := m.silenced(now); again != nil {
		t.Errorf("%v is reported twice", again)
	}
	wantTexts(t, m.pop(now), "a1", "a2")
	m.push("b", batchOf(3, line(1, "late")), now)
	m.push("a", batchOf(4, line(4, "a4")), now)
	wantTexts(t, m.pop(now), "late") // late, but there; and b is waited for again
}

// A node whose clock is hours behind delivers, but its watermark never gets
// anywhere: lines wait for maxHold and no longer.
func TestSlowClockHoldsLinesForALimitedTime(t *testing.T) {
	m, now := newLogMerge(), at(10000)
	m.open("ahead", now)
	m.open("behind", now)
	m.push("ahead", batchOf(10000, line(9999, "x"), line(10000, "y")), now)
	for range 10 {
		m.push("behind", batchOf(5, line(5, "old")), now)
		now = now.Add(maxHold / 10)
	}
	got := texts(m.pop(now))
	if len(got) != 12 || got[10] != "x" || got[11] != "y" {
		t.Errorf("after %v: %v", maxHold, got)
	}
}

func TestLinesOfOneSourceKeepTheirOrder(t *testing.T) {
	m, now := newLogMerge(), at(100)
	m.open("a", now)
	m.push("a", batchOf(9, line(5, "first"), line(3, "clock set back"), line(6, "third")), now)
	m.close("a")
	wantTexts(t, m.pop(now), "first", "clock set back", "third")
}

func BenchmarkLogMerge(b *testing.B) {
	const sources, lines = 100, 100
	b.ReportAllocs()
	for b.Loop() {
		m, now := newLogMerge(), at(0)
		total := 0
		for s := range sources {
			m.open(fmt.Sprint(s), now)
		}
		for s := range sources {
			batch := &pb.LogBatch{}
			for l := range lines {
				batch.Entries = append(batch.Entries, line(l, "x"))
			}
			m.push(fmt.Sprint(s), batch, now)
		}
		if total += len(m.pop(now)); total != sources*lines {
			b.Fatal(total)
		}
	}
}
