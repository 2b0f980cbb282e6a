package controlapi

import (
	"context"
	"iter"
	"slices"
	"testing"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// watch yields the first n events of a watch.
func (r *rig) watch(t *testing.T, req *pb.WatchRequest, n int) iter.Seq[*pb.WatchEvent] {
	return func(yield func(*pb.WatchEvent) bool) {
		ctx, cancel := context.WithCancel(t.Context())
		stream := collect[pb.WatchEvent](ctx)
		ended := make(chan error, 1)
		go func() { ended <- r.server.Watch(req, stream) }()
		defer func() { cancel(); <-ended }()
		for range n {
			select {
			case e := <-stream.sent:
				if !yield(e) {
					return
				}
			case err := <-ended:
				t.Errorf("watch ended with %v", err)
				ended <- err
				return
			}
		}
	}
}

func idOf(e *pb.WatchEvent) string {
	switch o := e.GetObject().GetKind().(type) {
	case *pb.Object_Node:
		return o.Node.Id
	case *pb.Object_Service:
		return o.Service.Spec.Name
	case *pb.Object_Task:
		return o.Task.Id
	}
	return e.Action.String()
}

func TestWatchSendsSnapshotThenChanges(t *testing.T) {
	r := newRig(t)
	r.create(web())
	var got []string
	req := &pb.WatchRequest{Kinds: []pb.Kind{pb.Kind_KIND_TASK, pb.Kind_KIND_SERVICE}}
	for e := range r.watch(t, req, 5) {
		got = append(got, idOf(e))
		if e.Action == pb.WatchEvent_ACTION_SYNCED {
			r.task("t1", "web", 1, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
		}
	}
	if want := []string{"web", "ACTION_SYNCED", "t1", "t1", "t1"}; !slices.Equal(got, want) {
		t.Errorf("watch tells %v, want %v", got, want)
	}
}

func TestWatchOfOneService(t *testing.T) {
	r := newRig(t)
	service := r.create(web())
	other := web()
	other.Name = "other"
	r.create(other)
	r.task("t1", "web", 1, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
	r.task("o1", "other", 1, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
	var got []string
	for e := range r.watch(t, &pb.WatchRequest{ServiceId: service.Id}, 4) {
		got = append(got, idOf(e))
		if e.Action == pb.WatchEvent_ACTION_SYNCED {
			r.apply(&pb.Command{Kind: &pb.Command_DeleteTasks{DeleteTasks: &pb.DeleteTasks{Ids: []string{"o1"}}}})
			r.apply(&pb.Command{Kind: &pb.Command_RemoveService{RemoveService: &pb.RemoveService{Id: service.Id}}})
		}
	}
	if want := []string{"web", "t1", "ACTION_SYNCED", "web"}; !slices.Equal(got, want) {
		t.Errorf("watch tells %v, want %v", got, want)
	}
}

// Wherever a client breaks off, resuming at the last index that it saw loses nothing.
func TestWatchResumesWithoutAGap(t *testing.T) {
	r := newRig(t)
	r.create(web())
	begin := r.state.View().Index()
	for _, id := range []string{"t1", "t2", "t3"} { // three changes in one entry each
		r.task(id, "web", 1, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
	}
	all := slices.Collect(r.watch(t, &pb.WatchRequest{FromIndex: begin}, 9))
	for i, e := range all {
		rest := slices.Collect(r.watch(t, &pb.WatchRequest{FromIndex: e.Index}, 9-(i+1)/3*3))
		missed := slices.Clone(all[i+1:])
		for _, again := range rest {
			missed = slices.DeleteFunc(missed, func(m *pb.WatchEvent) bool {
				return idOf(m) == idOf(again) && m.Object.GetTask().Status.State == again.Object.GetTask().Status.State
			})
		}
		if len(missed) > 0 {
			t.Errorf("resumed at index %d of event %d, %d events are missed", e.Index, i, len(missed))
		}
	}
}

func TestWatchOfForgottenHistoryFails(t *testing.T) {
	r := newRig(t)
	r.create(web())
	if err := r.state.Restore(r.state.Snapshot()); err != nil {
		t.Fatal(err)
	}
	wantClass(t, r.server.Watch(&pb.WatchRequest{FromIndex: 1}, collect[pb.WatchEvent](t.Context())), fault.Lagged)
}

func TestChangeEventsOfAnotherServiceAreLeftOut(t *testing.T) {
	changes := []store.Change{
		{Index: 7, Kind: pb.Kind_KIND_TASK, New: &pb.Task{Id: "a", ServiceId: "s"}},
		{Index: 7, Kind: pb.Kind_KIND_TASK, Old: &pb.Task{Id: "b", ServiceId: "s"}},
		{Index: 7, Kind: pb.Kind_KIND_TASK, New: &pb.Task{Id: "c", ServiceId: "other"}},
		{Index: 7, Kind: pb.Kind_KIND_NODE, New: &pb.Node{Id: "n"}},
	}
	events := changeEvents(changes, "s")
	if len(events) != 2 || events[0].Index != 6 || events[1].Index != 7 || events[1].Action != pb.WatchEvent_ACTION_DELETE {
		t.Errorf("events %v", events)
	}
}
