package containerd

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/minid/minid/agent/task"
)

// BenchmarkStop stops 100 containers side by side, as the agent does, whose
// process ends at its stop signal: 3 s is what it may take.
func BenchmarkStop(b *testing.B) {
	const count = 100
	r := open(b)
	for b.Loop() {
		b.StopTimer()
		list := make([]*task.Wanted, count)
		for i := range list {
			list[i] = wanted("sleep")
		}
		each(b, list, 8, func(ctx context.Context, w *task.Wanted) error {
			if err := r.runtime.Prepare(ctx, w, nil); err != nil {
				return err
			}
			return r.runtime.Start(ctx, w.ID)
		})
		time.Sleep(3 * time.Second) // until they listen for signals
		b.StartTimer()
		began := time.Now()
		each(b, list, count, func(ctx context.Context, w *task.Wanted) error {
			return r.runtime.Stop(ctx, w.ID, "", 10*time.Second)
		})
		b.ReportMetric(time.Since(began).Seconds(), "s/all")
		b.StopTimer()
		for _, w := range list {
			if o, err := r.runtime.Inspect(context.Background(), w.ID); err != nil || o.Phase != task.Exited || o.ExitCode != 0 {
				b.Errorf("task %s: %+v, %v", w.ID, o, err)
			}
		}
		removeAll(b, r, list)
		b.StartTimer()
	}
}

// each does something with all tasks, so many at a time.
func each(b *testing.B, list []*task.Wanted, at int, do func(context.Context, *task.Wanted) error) {
	b.Helper()
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(at)
	for _, w := range list {
		g.Go(func() error { return do(ctx, w) })
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
}
