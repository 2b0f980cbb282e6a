package progress

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
)

// spin is the way of a slot's restart: its task fails, and the next one comes,
// due 40 s later.
func spin(slot, restarts uint64, at time.Time, reason string) []*pb.WatchEvent {
	attempt := func(n uint64, state pb.TaskState, change ...func(*pb.Task)) *pb.Task {
		t := task(fmt.Sprintf("%d-%02d", slot, n), slot, state, change...)
		t.Meta = &pb.Meta{CreatedAt: timestamppb.New(at.Add(time.Duration(n) * time.Second))}
		if n > 0 {
			t.Streak = &pb.RestartStreak{Restarts: n, Since: timestamppb.New(start)}
		}
		return t
	}
	next := attempt(restarts, ready, wanted(ready))
	next.StartAfter = timestamppb.New(at.Add(40 * time.Second))
	return []*pb.WatchEvent{
		put(attempt(restarts-1, run)), put(attempt(restarts-1, dead, because(reason))),
		put(attempt(restarts-1, dead, because(reason), wanted(shutdown))), put(next),
	}
}

// TestLoopIsToldSeldom: when it begins, when its count has doubled, and when
// the reason is another; its steps are not told.
func TestLoopIsToldSeldom(t *testing.T) {
	tracker := NewTracker(service(1), nodes)
	tracker.Apply(synced, start)
	told := map[uint64]string{}
	for n := uint64(1); n <= 13; n++ {
		reason := "exit code 1"
		if n >= 8 {
			reason = "exit code 2"
		}
		at := start.Add(time.Duration(n) * 10 * time.Second)
		var texts []string
		for _, ev := range spin(1, n, at, reason) {
			for _, c := range tracker.Apply(ev, at) {
				texts = append(texts, c.String())
			}
		}
		told[n] = strings.Join(texts, "; ")
	}
	const loop = "web.1 restarts again and again: "
	steps := "web.1 running on node1; web.1 failed on node1: exit code 1; web.1 ready on node1"
	want := map[uint64]string{
		1: steps, 2: steps, 3: strings.TrimSuffix(steps, "web.1 ready on node1") + loop + "3 times in 33s, last: exit code 1, next try in 40s",
		4: "", 5: "", 6: loop + "6 times in 1m6s, last: exit code 1, next try in 40s", 7: "",
		8: loop + "8 times in 1m28s, last: exit code 2, next try in 40s",
		9: "", 10: "", 11: "", 12: "", 13: "",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if loops := tracker.Loops(start); len(loops) != 1 || loops[0].Told() != want[8] {
		t.Errorf("loops %v", loops)
	}
}

// TestLoopEnds: a long life ends it, and the slot's steps are told again.
func TestLoopEnds(t *testing.T) {
	tracker := NewTracker(service(1), nodes)
	events := spin(1, 5, start, "boom")
	for _, ev := range append(events, synced) {
		tracker.Apply(ev, start)
	}
	next := proto.CloneOf(events[3].GetObject().GetTask())
	next.DesiredState, next.Status.State, next.RunningAt = run, run, timestamppb.New(start)
	if got := tracker.Apply(put(next), start.Add(time.Second)); len(got) != 0 {
		t.Errorf("told %v", got)
	}
	if n := len(tracker.Loops(start.Add(19 * time.Second))); n != 1 {
		t.Errorf("%d loops after 19 s", n)
	}
	if n := len(tracker.Loops(start.Add(21 * time.Second))); n != 0 {
		t.Errorf("%d loops after 21 s", n)
	}
	next = proto.CloneOf(next)
	next.Status.State = dead
	next.Status.At = timestamppb.New(start.Add(time.Minute))
	if got := tracker.Apply(put(next), start.Add(time.Minute)); len(got) != 1 || got[0].Loop != "" {
		t.Errorf("told %v", got)
	}
}

// TestManyLoopsAreOne: of many slots that fail alike one is told of.
func TestManyLoopsAreOne(t *testing.T) {
	tracker := NewTracker(service(50), nodes)
	var out strings.Builder
	d := NewPlain(&out)
	tracker.Apply(synced, start)
	for slot := range uint64(50) {
		for _, ev := range spin(slot+1, 4, start, "boom") {
			d.Show(tracker, tracker.Apply(ev, start), start)
		}
	}
	if n := strings.Count(out.String(), "again and again"); n != 1 {
		t.Errorf("told %d times:\n%s", n, out.String())
	}
	lines := tracker.Picture(start, 200)
	text := strings.Join(lines, "\n")
	if !strings.Contains(text, "web.1 restarts again and again: 4 times") || !strings.Contains(text, "and so do 49 more") {
		t.Errorf("picture:\n%s", text)
	}
}

func TestLoopPicture(t *testing.T) {
	tracker := NewTracker(service(1), nodes)
	var changes []Change
	for _, ev := range append(spin(1, 7, start, "boom"), synced) {
		changes = append(changes, tracker.Apply(ev, start)...)
	}
	if len(changes) != 1 {
		t.Fatalf("changes %v", changes)
	}
	quoted := tracker.Quote(changes[0], []string{"panic: no", "luck\x1b[0m"}, start)
	got := strings.Join(tracker.Picture(start.Add(10*time.Second), 120), "\n")
	want := `overall progress: 0 out of 1 tasks
1/1:     ready      [=====>  ] node1           3s  restarts again and again: 7 times in 7s, last: boom, next try in 30s
    panic: no
    luck [0m`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("picture (-want +got):\n%s", diff)
	}
	var plain, machine strings.Builder
	NewPlain(&plain).Show(tracker, []Change{quoted}, start)
	NewJSON(&machine).Show(tracker, []Change{quoted}, start)
	if want := "12:00:00     panic: no\n12:00:00     luck [0m\n"; !strings.HasPrefix(plain.String(), want) {
		t.Errorf("plain %q", plain.String())
	}
	if want := `"log":["panic: no","luck\u001b[0m"]`; !strings.Contains(machine.String(), want) {
		t.Errorf("json %s", machine.String())
	}
}
