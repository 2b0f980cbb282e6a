package store_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// TestFollow: a session sees what is there and what comes, is begun anew when
// changes are lost, and ends with its context's cause or its own error.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t).must(createNode("n1", worker))
		enough := errors.New("enough")
		ctx, stop := context.WithCancelCause(t.Context())
		var begun, changed, lagged int
		ended := make(chan error)
		go func() {
			ended <- m.Follow(ctx, func() { lagged++ }, []pb.Kind{pb.Kind_KIND_NODE}, func(ctx context.Context, view store.View, changes <-chan []store.Change) error {
				begun++
				if view.Node("n1") == nil {
					t.Error("the view misses a node")
				}
				for {
					select {
					case batch := <-changes:
						changed += len(batch)
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				}
			})
		}()
		synctest.Wait()
		m.must(createNode("n2", worker))
		synctest.Wait()
		if begun != 1 || changed != 1 {
			t.Errorf("begun %d times, %d changes", begun, changed)
		}
		if err := m.Restore(m.Snapshot()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if begun != 2 || lagged != 1 {
			t.Errorf("after a jump: begun %d times, lagged %d times", begun, lagged)
		}
		stop(enough)
		if err := <-ended; err != enough {
			t.Error("ended with", err)
		}
		own := errors.New("own")
		err := m.Follow(t.Context(), func() {}, nil, func(context.Context, store.View, <-chan []store.Change) error { return own })
		if err != own {
			t.Error("a session's own error became", err)
		}
	})
}
