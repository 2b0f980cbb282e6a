package faketask_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/minid/minid/agent"
	"github.com/minid/minid/agent/faketask"
	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/agent/task/tasktest"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

var (
	_ task.Runtime = (*faketask.Runtime)(nil)
	_ agent.Logs   = (*faketask.Runtime)(nil)
	_ agent.Exec   = (*faketask.Runtime)(nil)
)

func TestKeepsTheContract(t *testing.T) {
	images := map[string]faketask.Behaviour{
		"stubborn": {StopFor: time.Hour},
		"exits3":   {RunFor: 10 * time.Millisecond, ExitCode: 3},
		"notfound": {CannotRun: "exec: not found", ExitCode: 127},
		"invalid":  {PrepareErr: func(int) error { return fault.New(fault.Invalid, "mount /x: no such directory") }},
	}
	tasktest.Run(t, tasktest.Specs{
		Sleeps:   spec("sleeps"),
		Stubborn: spec("stubborn"),
		Exits3:   spec("exits3"),
		NotFound: spec("notfound"),
		Invalid:  spec("invalid"),
	}, func(*testing.T) task.Runtime { return faketask.New(faketask.ByImage(images)) })
}

func spec(image string) *pb.TaskSpec {
	return &pb.TaskSpec{Container: &pb.ContainerSpec{Image: image}}
}

func TestOverlapsOfOneSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := faketask.New(nil), faketask.New(nil)
		run := func(r *faketask.Runtime, id, node string, slot uint64) {
			t.Helper()
			w := &task.Wanted{ID: id, ServiceID: "s", Slot: slot, NodeID: node, Spec: spec("x")}
			if err := r.Prepare(t.Context(), w, func(string) {}); err != nil {
				t.Fatal(err)
			}
			if err := r.Start(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		run(a, "t1", "n1", 1)
		run(a, "t2", "n1", 2)
		run(a, "g1", "n1", 0)
		run(b, "g2", "n2", 0)
		time.Sleep(time.Second)
		run(b, "t3", "n2", 1)
		time.Sleep(2 * time.Second)
		if err := a.Exit("t1", 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		got := faketask.Overlaps(append(a.History(), b.History()...), time.Now())
		if len(got) != 1 || got[0].First.TaskID != "t1" || got[0].Second.TaskID != "t3" || got[0].Until.Sub(got[0].From) != 2*time.Second {
			t.Errorf("overlaps: %v, want t1 and t3 for 2s", got)
		}
	})
}
