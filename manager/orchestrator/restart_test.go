package orchestrator

import (
	"fmt"
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

// TestRestartsAgainstModel ends the tasks of a slot after lives of any length
// and compares when the next ones start with the rules as a user would say them.
func TestRestartsAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		condition := rapid.SampledFrom([]string{"ANY", "ON_FAILURE", "NONE"}).Draw(rt, "condition")
		delay := time.Duration(rapid.IntRange(1, 8).Draw(rt, "delay")) * time.Second
		longest := delay * time.Duration(rapid.IntRange(1, 20).Draw(rt, "growth"))
		grows := rapid.Bool().Draw(rt, "grows")
		attempts := rapid.IntRange(0, 4).Draw(rt, "attempts")

		e := newEnv(t)
		e.addNode("n1")
		options := []string{"restart=" + condition, "restart-delay=" + delay.String(), fmt.Sprintf("attempts=%d", attempts)}
		if grows {
			options = append(options, "max-delay="+longest.String())
		}
		e.setService("web", options...)
		e.settle()

		wait, restarts := delay, 0
		for range rapid.IntRange(1, 8).Draw(rt, "lives") {
			life := time.Duration(rapid.IntRange(0, 200).Draw(rt, "seconds")) * time.Second
			end := rapid.SampledFrom([]string{"failed", "complete"}).Draw(rt, "end")
			e.advance(life)
			e.end("web.1", end)
			if grows && life >= max(2*longest, 20*time.Second) {
				wait = delay
			}
			over := condition == "NONE" || condition == "ON_FAILURE" && end == "complete" || attempts > 0 && restarts == attempts
			e.advance(wait - time.Nanosecond)
			if n := len(e.running()); n != 0 {
				rt.Fatalf("a task runs before %v have passed\n%s", wait, e.trace.String())
			}
			e.advance(time.Nanosecond)
			if n := len(e.running()); (n == 0) != over {
				rt.Fatalf("%d tasks run %v after restart %d\n%s", n, wait, restarts, e.trace.String())
			}
			if over {
				e.advance(time.Hour)
				if n := len(e.running()); n != 0 {
					rt.Fatalf("a slot that is over came back\n%s", e.trace.String())
				}
				return
			}
			restarts++
			if grows {
				wait = min(2*wait, longest)
			}
		}
	})
}
