package containerd

import (
	"context"
	"testing"
	"time"

	"github.com/minid/minid/agent/task"
)

// TestPrepareCutShort: whenever minid is killed while it prepares a task, the
// next one prepares it, within few tries.
func TestPrepareCutShort(t *testing.T) {
	r := open(t)
	for after := time.Duration(0); after < 120*time.Millisecond; after += 4 * time.Millisecond {
		w := wanted("sleep")
		r.cutShort(t, w, after)
		for try := 1; ; try++ {
			err := r.runtime.Prepare(t.Context(), w, nil)
			if err == nil {
				break
			}
			if try == 5 {
				t.Fatalf("killed after %v: not prepared after %d tries: %v", after, try, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err := r.runtime.Remove(t.Context(), w.ID, false); err != nil {
			t.Error(err)
		}
	}
}

// cutShort begins a preparation and ends it as a kill does: calls in flight are
// broken off and nothing is undone.
func (r *rig) cutShort(t *testing.T, w *task.Wanted, after time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(withNamespace(t.Context()))
	img, err := r.runtime.images.ensure(ctx, w.Spec.GetContainer(), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.runtime.build(ctx, w, img) // that it fails is the point
	}()
	time.Sleep(after)
	cancel()
	<-done
	r.reopen(t)
}
