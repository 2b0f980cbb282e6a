package agent_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/agent/faketask"
	pb "github.com/minid/minid/proto/minid/v1"
)

// A sample comes at once and then one per interval, of the tasks that run, and
// no more when the peer or the session has gone.
func TestAttachUsage(t *testing.T) {
	play(t, faketask.New(nil), func(w *world) {
		m := w.managers["m1"]
		m.set = join(assign("t1", running), assign("t2", pb.TaskState_TASK_STATE_READY))
		w.start("m1")
		w.pass(time.Second)
		for _, test := range []struct {
			interval, pass time.Duration
			samples        int
		}{
			{3 * time.Second, 10 * time.Second, 4},
			{time.Millisecond, 3500 * time.Millisecond, 4}, // not more than one a second
			{0, 5 * time.Second, 3},
		} {
			req := &pb.UsageAttach{}
			if test.interval > 0 {
				req.Interval = durationpb.New(test.interval)
			}
			before := w.runtime.Measured()
			stream := w.open(m, &pb.Attach{Id: "a", Kind: &pb.Attach_Usage{Usage: req}})
			w.pass(test.pass)
			for i := range test.samples + 1 {
				up, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					continue // the word that it is open
				}
				if tasks := up.GetUsage().GetTasks(); len(tasks) != 1 || tasks[0].TaskId != "t1" || tasks[0].Usage.MemoryBytes == 0 {
					t.Errorf("sample %d is of %v", i, tasks)
				}
			}
			m.detach <- struct{}{}
			w.pass(time.Minute)
			if n := w.runtime.Measured() - before; n != test.samples {
				t.Errorf("every %v: %d samples, want %d", test.interval, n, test.samples)
			}
		}
		w.open(m, &pb.Attach{Id: "b", Kind: &pb.Attach_Usage{Usage: &pb.UsageAttach{}}})
		w.pass(time.Second)
		m.drop()
		w.pass(time.Second)
		before := w.runtime.Measured()
		w.pass(time.Minute)
		if n := w.runtime.Measured(); n != before {
			t.Errorf("%d samples for a session that ended", n-before)
		}
	}, "m1")
}
