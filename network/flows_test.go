package network

import (
	"os"
	"testing"

	"github.com/minid/minid/network/netns"
	pb "github.com/minid/minid/proto/minid/v1"
)

// TestTaskEnds: what a task leaves is cleared away off the lock, and no part
// takes its going for damage.
func TestTaskEnds(t *testing.T) {
	w := openWorld(t)
	e := w.engine
	ns := e.state.Local("db.1").Netns
	process, err := os.Open(ns) // left in the namespace, so that its links stay
	must(t, err)
	defer process.Close()
	_, _, err = e.Attach(t.Context(), &pb.TaskNetwork{TaskId: "web.1", ServiceId: "web", Addresses: []*pb.TaskAddress{
		{NetworkId: "web", Addresses: []string{"10.0.16.9/24"}},
	}})
	must(t, err)
	must(t, e.Serve(t.Context(), "db.1"))
	must(t, e.Unpublish(t.Context(), "db.1"))
	if len(e.ended) != 1 {
		t.Errorf("%d addresses to be forgotten by the mesh", len(e.ended))
	}
	e.clearFlowsOnce()
	if len(e.ended) > 0 {
		t.Error("the mesh forgot nothing")
	}
	for range 2 {
		must(t, e.Detach(t.Context(), "db.1"))
	}
	if netns.Exists(ns) {
		t.Error("the namespace stays")
	}
	if intact, err := e.overlay.Check(); !intact || err != nil {
		t.Errorf("a task that leaves is damage to the overlay: %v", err)
	}
	e.sweep()
	e.check()
	for part, err := range e.broken {
		t.Errorf("%s: %v", part, err)
	}
	if _, _, err := e.Attach(t.Context(), &pb.TaskNetwork{TaskId: "db.1", ServiceId: "db", Addresses: []*pb.TaskAddress{
		{NetworkId: "web", Addresses: []string{"10.0.16.3/24", "fd12::3/64"}},
	}}); err != nil {
		t.Errorf("the task is back: %v", err)
	}
	w.checkAll()
	if p := w.parts("overlay")["overlay"]; !p.Intact {
		t.Errorf("overlay:\n%s", p.Actual)
	}
}
