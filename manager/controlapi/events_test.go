package controlapi

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// events are those that a request gets until its stream ends, or rests.
func (r *rig) events(req *pb.EventsRequest) ([]*pb.Event, error) {
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	stream := collect[pb.Event](ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.server.Events(req, stream) }()
	var got []*pb.Event
	for {
		select {
		case e := <-stream.sent:
			got = append(got, e)
			continue
		case err := <-ended:
			return got, err
		case <-time.After(time.Second): // of virtual time
			cancel()
			<-ended
			return got, nil
		}
	}
}

// told is what a request without follow gets, as "kind name action".
func (r *rig) told(filters ...*pb.Filter) []string {
	r.t.Helper()
	got, err := r.events(&pb.EventsRequest{Filters: filters})
	if err != nil {
		r.t.Error(err)
	}
	var lines []string
	for _, e := range got {
		lines = append(lines, e.Kind+" "+e.Name+" "+e.Action)
	}
	return lines
}

func by(key string, values ...string) *pb.Filter { return &pb.Filter{Key: key, Values: values} }

// eventful is a rig with a past.
func eventful(t *testing.T) (*rig, *pb.Service) {
	r := newRig(t)
	s := r.create(web())
	r.task("t1", "web", 1, "node-w1", pb.TaskState_TASK_STATE_FAILED)
	r.task("t2", "web", 2, "node-w2", pb.TaskState_TASK_STATE_RUNNING)
	other := web()
	other.Name = "web-admin"
	r.create(other)
	r.task("o1", "web-admin", 1, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
	return r, s
}

func TestEventFilters(t *testing.T) {
	r, s := eventful(t)
	ofWeb := []string{"service web created", "task web.1 assigned", "task web.1 failed", "task web.2 assigned", "task web.2 running"}
	onW1 := []string{"node w1 joined", "node w1 ready", "task web.1 assigned", "task web.1 failed", "task web-admin.1 assigned", "task web-admin.1 running"}
	for name, c := range map[string]struct {
		filters []*pb.Filter
		want    []string
	}{
		"service by name":     {[]*pb.Filter{by("service", "web")}, ofWeb},
		"service by id":       {[]*pb.Filter{by("service", s.Id[:9])}, ofWeb},
		"slot":                {[]*pb.Filter{by("task", "web.1")}, ofWeb[1:3]},
		"task by id":          {[]*pb.Filter{by("task", "t2")}, ofWeb[3:]},
		"node by name":        {[]*pb.Filter{by("node", "w1")}, onW1},
		"node by id":          {[]*pb.Filter{by("node", "node-w1")}, onW1},
		"either, and":         {[]*pb.Filter{by("service", "web"), by("action", "failed", "running")}, []string{ofWeb[2], ofWeb[4]}},
		"kind":                {[]*pb.Filter{by("kind", "service")}, []string{ofWeb[0], "service web-admin created"}},
		"warnings":            {[]*pb.Filter{by("warning", "true")}, ofWeb[2:3]},
		"nothing of this":     {[]*pb.Filter{by("service", "nosuch")}, nil},
		"node, no such thing": {[]*pb.Filter{by("node", "w9")}, nil},
	} {
		if got := r.told(c.filters...); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	r.apply(&pb.Command{Kind: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Id: "node-w1", Force: true}}})
	if got := r.told(by("node", "w1")); !slices.Contains(got, "node w1 removed") || !slices.Contains(got, "task web-admin.1 orphaned") {
		t.Errorf("of a node that is gone: %q", got)
	}
	for _, bad := range []*pb.Filter{by("nosuch", "x"), by("kind", "volume"), by("warning", "maybe"), by("service", "")} {
		_, err := r.events(&pb.EventsRequest{Filters: []*pb.Filter{bad}})
		wantClass(t, err, fault.Invalid)
	}
}

func TestEventsByTime(t *testing.T) {
	r, _ := eventful(t)
	all, _ := r.events(&pb.EventsRequest{})
	middle := all[len(all)/2].At
	since, _ := r.events(&pb.EventsRequest{Since: middle})
	until, _ := r.events(&pb.EventsRequest{Until: timestamppb.New(middle.AsTime().Add(-time.Nanosecond))})
	if len(since) == 0 || len(until) == 0 || len(since)+len(until) != len(all) {
		t.Errorf("%d before and %d after, of %d", len(until), len(since), len(all))
	}
}

// Wherever a client breaks off, it goes on with the next event.
func TestEventsResume(t *testing.T) {
	r, _ := eventful(t)
	all, _ := r.events(&pb.EventsRequest{})
	for i, e := range all {
		rest, err := r.events(&pb.EventsRequest{FromIndex: e.Index})
		if err != nil || len(rest) != len(all)-i-1 {
			t.Errorf("after %d of %d come %d: %v", i+1, len(all), len(rest), err)
		}
	}
	snapshot := r.state.Snapshot()
	snapshot.EventsFloor = all[0].Index + 1
	if err := r.state.Restore(snapshot); err != nil {
		t.Fatal(err)
	}
	for _, follow := range []bool{false, true} {
		_, err := r.events(&pb.EventsRequest{FromIndex: all[0].Index, Follow: follow})
		wantClass(t, err, fault.Lagged)
	}
}

func TestEventsFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := eventful(t)
		before := len(r.told())
		go func() {
			for i := range 5 {
				time.Sleep(100 * time.Millisecond)
				r.task(fmt.Sprint("n", i), "web", 3, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
			}
		}()
		got, err := r.events(&pb.EventsRequest{Follow: true})
		if err != nil || len(got) != before+10 {
			t.Errorf("%d events after %d: %v", len(got), before, err)
		}
		soon := timestamppb.New(time.Now().Add(time.Hour))
		began := time.Now()
		if err := r.server.Events(&pb.EventsRequest{Follow: true, FromIndex: got[len(got)-1].Index, Until: soon}, collect[pb.Event](t.Context())); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != time.Hour {
			t.Errorf("it ended after %v", took)
		}
	})
}

// A follower that wants none of many events still knows how far it is.
func TestEventsMarkTheirPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := eventful(t)
		go func() {
			for i := range 1100 {
				time.Sleep(time.Millisecond)
				r.task(fmt.Sprint("n", i), "web", 3, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
			}
		}()
		got, err := r.events(&pb.EventsRequest{Follow: true, Filters: []*pb.Filter{by("kind", "secret")}})
		if err != nil || len(got) != 2 {
			t.Fatalf("%d marks: %v", len(got), err)
		}
		for _, e := range got {
			if e.Kind != "" || e.Index == 0 {
				t.Errorf("mark %v", e)
			}
		}
	})
}
