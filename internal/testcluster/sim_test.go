package testcluster

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// corpus holds seeds that once found something; they always run.
var corpus = []uint64{1, 2, 3}

// TestSimulatedFaults tells SIM_RUNS random stories. SIM_SEED=n repeats one
// story's choices, SIM_LOG=1 shows the nodes' logs.
func TestSimulatedFaults(t *testing.T) {
	for _, seed := range seeds(t) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { tellStory(t, seed, (*Story).Step) })
		})
	}
}

// TestSimulatedJobs tells stories with jobs besides.
func TestSimulatedJobs(t *testing.T) {
	for _, seed := range seeds(t) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { tellStory(t, seed, (*Story).StepWithJobs) })
		})
	}
}

func seeds(t *testing.T) []uint64 {
	if s := os.Getenv("SIM_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return []uint64{seed}
	}
	runs, _ := strconv.Atoi(os.Getenv("SIM_RUNS"))
	list := corpus
	base := uint64(time.Now().UnixNano()) % 1e9
	for i := len(list); i < runs; i++ {
		list = append(list, base+uint64(i))
	}
	return list
}

func tellStory(t *testing.T, seed uint64, step func(*Story)) {
	c := New(t)
	if os.Getenv("SIM_LOG") != "" {
		c.Log = slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})
	}
	defer c.Close()
	story := NewStory(c, seed, 3, 2)
	defer func() {
		if t.Failed() {
			t.Logf("SIM_SEED=%d; the story:\n%s", seed, strings.Join(story.Told, "\n"))
		}
	}()
	ctx, stop := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop()
	for _, n := range c.Nodes[:3] {
		watching.Go(func() { story.Backwards(ctx, n, func(why string) { t.Error(why) }) })
		watching.Go(func() { story.GivenTwice(ctx, n, func(why string) { t.Error(why) }) })
	}
	for range 25 {
		step(story)
	}
	story.Quiet()
	awaitSettled(t, story)
	if why := story.Unconnected(); why != "" {
		t.Error(why)
	}
	for _, double := range story.Doubles() {
		t.Error("two tasks in one slot: ", double)
	}
}

func awaitSettled(t *testing.T, story *Story) {
	const patience = 3 * time.Minute
	deadline := time.Now().Add(patience)
	for {
		why := story.Settled()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not settled %v after the last fault: %s", patience, why)
		}
		time.Sleep(time.Second)
	}
}
