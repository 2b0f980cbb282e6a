package orchestrator

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
)

func TestRestartDelay(t *testing.T) {
	for _, c := range []struct {
		delay, longest time.Duration // negative is unset
		before         uint64
		want           time.Duration
	}{
		{-1, -1, 0, 5 * time.Second},
		{-1, -1, 1 << 40, 5 * time.Second},
		{time.Second, -1, 9, time.Second},
		{0, time.Minute, 9, 0},
		{time.Second, time.Minute, 0, time.Second},
		{time.Second, time.Minute, 3, 8 * time.Second},
		{time.Second, time.Minute, 5, 32 * time.Second},
		{time.Second, time.Minute, 6, time.Minute},
		{time.Second, time.Minute, 1<<64 - 1, time.Minute},
		{-1, 40 * time.Second, 2, 20 * time.Second},
		{-1, 3 * time.Second, 0, 3 * time.Second},
		{time.Second, 10 * 365 * 24 * time.Hour, 1000, 10 * 365 * 24 * time.Hour},
	} {
		p := &pb.RestartPolicy{}
		if c.delay >= 0 {
			p.Delay = durationpb.New(c.delay)
		}
		if c.longest >= 0 {
			p.MaxDelay = durationpb.New(c.longest)
		}
		if got := restartDelay(p, c.before); got != c.want {
			t.Errorf("after %d restarts, %v growing to %v: %v instead of %v", c.before, c.delay, c.longest, got, c.want)
		}
	}
}

// TestRestartDelayGrows: never shorter than the one before, never more than
// twice it, never beyond the longest.
func TestRestartDelayGrows(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		delay := time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(rt, "delay"))
		longest := delay + time.Duration(rapid.Int64Range(0, int64(maxAge)).Draw(rt, "more"))
		p := &pb.RestartPolicy{Delay: durationpb.New(delay), MaxDelay: durationpb.New(longest)}
		before := delay
		for n := range uint64(80) {
			got := restartDelay(p, n)
			if got < before || got > 2*before || got > longest {
				rt.Fatalf("restart %d waits %v after one that waited %v", n, got, before)
			}
			before = got
		}
		if before != longest {
			rt.Fatalf("%v is not reached: %v", longest, before)
		}
	})
}

// maxAge is the longest duration that the API takes.
const maxAge = 10 * 365 * 24 * time.Hour
