package store_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

func eventsAfter(t testing.TB, s *store.State, index uint64) []*pb.Event {
	t.Helper()
	events, err := s.View().Events(index)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// eventLine is "! task web.1 failed: exit code 3".
func eventLine(e *pb.Event) string {
	line := strings.TrimSpace(e.Kind + " " + e.Name + " " + e.Action)
	if e.Reason != "" {
		line += ": " + e.Reason
	}
	if e.Warning {
		line = "! " + line
	}
	return line
}

func TestEventsAreKeptInOrder(t *testing.T) {
	m := newTaskMachine(t)
	m.must(assign("n1", "t1"), createTasks(task("t2", "web", 2)), assign("n1", "t2"))
	all := eventsAfter(t, m.State, 0)
	var lines []string
	for _, e := range all {
		lines = append(lines, eventLine(e))
	}
	equal(t, "events", lines, []string{
		"node n1 joined: as a worker", "node n1 ready", "node n2 joined: as a worker", "node n2 ready",
		"service Web created: image nginx, 3 replicas", "task web.1 assigned", "task web.2 assigned",
	})
	for i, e := range all {
		if rest := eventsAfter(t, m.State, e.Index); !slices.Equal(rest, all[i+1:]) {
			t.Errorf("after event %d there are %d more, not %d", i, len(rest), len(all)-i-1)
		}
		if !proto.Equal(e.At, at(e.Index>>16)) {
			t.Errorf("event %d at %v", i, e.At)
		}
	}
}

func TestOldestEventsGo(t *testing.T) {
	m := newMachine(t).must(readyWorker("n1")...)
	toggle := func(times int, message string) {
		for i := range times {
			state := []pb.NodeState{pb.NodeState_NODE_STATE_DOWN, pb.NodeState_NODE_STATE_READY}[i%2]
			m.must(&pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{Id: "n1", Status: &pb.NodeStatus{State: state, Message: message}}}})
		}
	}
	first := eventsAfter(t, m.State, 0)[0].Index
	toggle(9_998, "")
	if n := len(eventsAfter(t, m.State, first-1)); n != 10_000 {
		t.Errorf("%d events", n)
	}
	toggle(2, "")
	kept := eventsAfter(t, m.State, 0)
	if len(kept) != 10_000 || kept[0].Index <= first {
		t.Errorf("%d events from %d", len(kept), kept[0].Index)
	}
	if _, err := m.View().Events(first); !fault.Is(err, fault.Lagged) {
		t.Errorf("events after one that is gone: %v", err)
	}
	if whole := eventsAfter(t, m.State, kept[0].Index-1); len(whole) != 10_000 {
		t.Errorf("%d events after the last that is gone", len(whole))
	}
	// Long reasons make it fewer.
	toggle(10_000, strings.Repeat("x", 1000))
	bytes := 0
	for _, e := range eventsAfter(t, m.State, 0) {
		bytes += len(e.Reason)
	}
	if bytes > 8<<20 || bytes < 4<<20 {
		t.Errorf("%d bytes of reasons are kept", bytes)
	}
}

// More events than are kept, of one entry.
func TestEventsOfOneEntryAreBounded(t *testing.T) {
	m := newMachine(t).must(createSecret("s0", "s0"))
	before := eventsAfter(t, m.State, 0)[0].Index
	var cmds []*pb.Command
	for i := range 10_001 {
		cmds = append(cmds, createSecret(fmt.Sprint("s", i+1), fmt.Sprint("s", i+1)))
	}
	m.must(cmds...)
	kept := eventsAfter(t, m.State, 0)
	if len(kept) != 10_000 || kept[0].Name != "s2" {
		t.Errorf("%d events from %v", len(kept), kept[0])
	}
	if _, err := m.View().Events(before); !fault.Is(err, fault.Lagged) {
		t.Errorf("a gap is not told: %v", err)
	}
	m.must(createSecret("end", "end"))
	if more := eventsAfter(t, m.State, kept[9_999].Index); len(more) != 1 || more[0].Name != "end" {
		t.Errorf("then %v", more)
	}
}

// Thousands of tasks that wait for one thing are one event.
func TestOneReasonToWaitIsToldOnce(t *testing.T) {
	m := newTaskMachine(t)
	stuck := func(why string) *pb.TaskStatus {
		return &pb.TaskStatus{Message: "waiting: 0 of 2 nodes fit", Error: why, Refused: []*pb.FilterCount{{Filter: "f", Nodes: 2}}}
	}
	m.must(createTasks(task("t2", "web", 2), task("t3", "web", 3)))
	from := m.index << 16
	m.must(explain("t1", stuck("a")), explain("t2", stuck("a")), explain("t3", stuck("b")))
	m.must(explain("t1", stuck("a")), explain("t2", stuck("a")))
	var lines []string
	for _, e := range eventsAfter(t, m.State, from) {
		lines = append(lines, eventLine(e))
	}
	equal(t, "events", lines, []string{"! task web.1 waiting: 0 of 2 nodes fit: a", "! task web.3 waiting: 0 of 2 nodes fit: b"})
}

func TestWatchEventsWaitsForThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t).must(createSecret("a", "a"))
		w := m.WatchEvents(0)
		got, err := w.Next(t.Context())
		if err != nil || len(got) != 1 {
			t.Fatal(got, err)
		}
		arrived := make(chan string, 1)
		go func() {
			more, _ := w.Next(t.Context())
			arrived <- more[0].Name
		}()
		synctest.Wait()
		m.must(createCluster())
		m.must(joinTokens(&pb.JoinTokens{}))
		if name := <-arrived; name != "default" {
			t.Errorf("event of %s", name)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		over := fmt.Errorf("over")
		cancel(over)
		if _, err := w.Next(ctx); err != over {
			t.Errorf("ended with %v", err)
		}
	})
}

// A watch that is behind a restored snapshot goes on where it was, if it can.
func TestWatchEventsOverARestore(t *testing.T) {
	m := newMachine(t).must(createSecret("a", "a"))
	w := m.WatchEvents(0)
	if _, err := w.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	later := newMachine(t).must(createSecret("a", "a")).must(createSecret("b", "b"))
	if err := m.Restore(later.Snapshot()); err != nil {
		t.Fatal(err)
	}
	if got, err := w.Next(t.Context()); err != nil || len(got) != 1 || got[0].Name != "b" {
		t.Errorf("%v, %v", got, err)
	}
	gone := later.Snapshot()
	gone.EventsFloor, gone.Events = 9<<16, nil
	if err := m.Restore(gone); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(t.Context()); !fault.Is(err, fault.Lagged) {
		t.Errorf("got %v", err)
	}
}

// Whoever reads in pieces of any size, from any manager, however it came to
// its state, reads the same events once each.
func TestEventsHaveNoGapAndNoRepeat(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first, second := store.New(), store.New()
		var told []*pb.Event
		last := uint64(0)
		for index := range uint64(rapid.IntRange(1, 60).Draw(t, "entries")) {
			entry := &pb.Entry{At: at(index + 1)}
			for range rapid.IntRange(1, 4).Draw(t, "commands") {
				entry.Commands = append(entry.Commands, drawn{t}.command())
			}
			first.Apply(index+1, proto.CloneOf(entry))
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
				second = restored(t, second)
			}
			second.Apply(index+1, entry)
			if rapid.Bool().Draw(t, "read") {
				from := []*store.State{first, second}[rapid.IntRange(0, 1).Draw(t, "manager")]
				more, err := from.View().Events(last)
				if err != nil {
					t.Fatal(err)
				}
				told = append(told, more...)
				if len(told) > 0 {
					last = told[len(told)-1].Index
				}
			}
		}
		rest, _ := second.View().Events(last)
		all, _ := first.View().Events(0)
		same := slices.EqualFunc(append(told, rest...), all, func(a, b *pb.Event) bool { return proto.Equal(a, b) })
		rising := slices.IsSortedFunc(all, func(a, b *pb.Event) int {
			if a.Index < b.Index {
				return -1
			}
			return 1
		})
		if !same || !rising {
			t.Fatalf("told %v\nand %v\nof %v", told, rest, all)
		}
	})
}

func BenchmarkApplyEvents(b *testing.B) {
	m := newMachine(b).must(readyWorker("n1")...)
	m.must(createService("web", webSpec("Web", "nginx")))
	i := 0
	for b.Loop() {
		id := fmt.Sprint("t", i)
		m.must(createTasks(task(id, "web", 1)), assign("n1", id), reportState("n1", id, running), reportState("n1", id, failed), deleteTasks(id))
		i++
	}
}
