package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// change is a store.Change in short.
type change struct {
	Index uint64
	Kind  pb.Kind
	ID    string
	What  string
}

func next(t *testing.T, w *store.Watch) []change {
	t.Helper()
	changes, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var short []change
	for _, c := range changes {
		what := "changed"
		if c.Old == nil {
			what = "created"
		} else if c.New == nil {
			what = "removed"
		}
		short = append(short, change{c.Index, c.Kind, c.ID, what})
	}
	return short
}

func TestWatchTellsWhatHappened(t *testing.T) {
	m := newMachine(t).must(createNode("before", worker))
	v, all := m.ViewAndWatch()
	tasks := m.Watch(0, pb.Kind_KIND_TASK)
	if v.Node("before") == nil {
		t.Error("the view misses what was before")
	}
	m.must(createService("web", webSpec("web", "nginx")), createTasks(task("t1", "web", 1), task("t2", "web", 2)))
	m.must(desire(shutdown, "t1"))
	m.must(removeNode("before", false), deleteTasks("t1"))
	want := []change{
		{2, pb.Kind_KIND_SERVICE, "web", "created"}, {2, pb.Kind_KIND_TASK, "t1", "created"}, {2, pb.Kind_KIND_TASK, "t2", "created"},
		{3, pb.Kind_KIND_TASK, "t1", "changed"},
		{4, pb.Kind_KIND_NODE, "before", "removed"}, {4, pb.Kind_KIND_TASK, "t1", "removed"},
	}
	equal(t, "all", next(t, all), want)
	equal(t, "tasks", next(t, tasks), []change{want[1], want[2], want[3], want[5]})
	m.must(createSecret("s1", "key"))
	equal(t, "one more", next(t, all), []change{{5, pb.Kind_KIND_SECRET, "s1", "created"}})
}

func TestWatchResumesAtAnIndex(t *testing.T) {
	m := newMachine(t)
	for i := range 5 {
		m.must(createNode(fmt.Sprint("n", i+1), worker))
	}
	w := m.Watch(3)
	equal(t, "after 3", next(t, w), []change{{4, pb.Kind_KIND_NODE, "n4", "created"}, {5, pb.Kind_KIND_NODE, "n5", "created"}})
	ahead := m.Watch(6) // this manager is behind the one that the reader saw
	m.must(createNode("n6", worker)).must(createNode("n7", worker))
	equal(t, "after 6", next(t, ahead), []change{{7, pb.Kind_KIND_NODE, "n7", "created"}})
}

func TestWatchWakesSleepers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		var readers sync.WaitGroup
		for range 100 {
			w := m.Watch(0, pb.Kind_KIND_NODE)
			readers.Go(func() {
				equal(t, "woken with", next(t, w), []change{{2, pb.Kind_KIND_NODE, "n1", "created"}})
			})
		}
		synctest.Wait()
		m.must(createSecret("s1", "key")) // of no interest
		synctest.Wait()
		m.must(createNode("n1", worker))
		readers.Wait()
	})
}

func TestWatchEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.New()
		reason := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error)
		await := func(w *store.Watch) {
			_, err := w.Next(ctx)
			ended <- err
		}
		w := s.Watch(0)
		go await(w)
		synctest.Wait()
		w.Close()
		w.Close()
		if err := <-ended; !errors.Is(err, store.ErrWatchClosed) {
			t.Errorf("closed: %v", err)
		}
		go await(s.Watch(0))
		synctest.Wait()
		cancel(reason)
		if err := <-ended; !errors.Is(err, reason) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

func TestSlowReaderLags(t *testing.T) {
	m := newMachine(t).must(createService("web", webSpec("web", "nginx")))
	created := m.index
	slow, quick := m.Watch(0), m.Watch(0)
	const batch = 50_000
	for i := range 6 { // 300,000 changes: more than are kept
		tasks := make([]*pb.Task, batch)
		for j := range tasks {
			tasks[j] = task(fmt.Sprintf("%d-%d", i, j), "web", 1)
		}
		m.must(createTasks(tasks...))
		if got := next(t, quick); len(got) != batch {
			t.Fatalf("the quick reader got %d changes", len(got))
		}
	}
	if _, err := slow.Next(t.Context()); !fault.Is(err, fault.Lagged) {
		t.Errorf("the slow reader: %v", err)
	}
	if _, err := m.Watch(created).Next(t.Context()); !fault.Is(err, fault.Lagged) {
		t.Errorf("resuming too far back: %v", err)
	}
	if got := next(t, m.Watch(m.index-1)); len(got) != batch {
		t.Errorf("resuming in time: %d changes", len(got))
	}
}

func TestRestoreMakesReadersLag(t *testing.T) {
	m := newMachine(t)
	w := m.Watch(0)
	resumed := m.must(createNode("n1", worker)).Snapshot()
	resumed.Index = 10
	if err := m.Restore(resumed); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(t.Context()); !fault.Is(err, fault.Lagged) {
		t.Errorf("a watch over a restore: %v", err)
	}
	if _, err := m.Watch(9).Next(t.Context()); !fault.Is(err, fault.Lagged) {
		t.Errorf("a watch from before the restore: %v", err)
	}
	after := m.Watch(10)
	m.index = 10
	m.must(createNode("n2", worker))
	equal(t, "after the restore", next(t, after), []change{{11, pb.Kind_KIND_NODE, "n2", "created"}})
}
