package containerd

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/minid/minid/agent/task"
)

// BenchmarkStart makes and starts containers, so many at a time, and tells the
// time from the first call to the last running process.
func BenchmarkStart(b *testing.B) {
	const count = 100
	for _, at := range []int{1, 4, 8} {
		b.Run(fmt.Sprintf("count=%d/at=%d", count, at), func(b *testing.B) {
			r := open(b)
			for b.Loop() {
				var list []*task.Wanted
				for range count {
					list = append(list, wanted("sleep"))
				}
				startAll(b, r, list, at)
				b.StopTimer()
				removeAll(b, r, list)
				b.StartTimer()
			}
		})
	}
}

func startAll(b *testing.B, r *rig, list []*task.Wanted, at int) {
	var mu sync.Mutex
	var prepare, start time.Duration
	var g errgroup.Group
	g.SetLimit(at)
	began := time.Now()
	for _, w := range list {
		g.Go(func() error {
			t0 := time.Now()
			if err := r.runtime.Prepare(context.Background(), w, nil); err != nil {
				return err
			}
			t1 := time.Now()
			if err := r.runtime.Start(context.Background(), w.ID); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			prepare += t1.Sub(t0)
			start += time.Since(t1)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(began).Seconds(), "s/all")
	b.ReportMetric(float64(prepare.Milliseconds())/float64(len(list)), "ms/prepare")
	b.ReportMetric(float64(start.Milliseconds())/float64(len(list)), "ms/start")
}

func removeAll(b *testing.B, r *rig, list []*task.Wanted) {
	var g errgroup.Group
	g.SetLimit(4)
	for _, w := range list {
		g.Go(func() error { return r.runtime.Remove(context.Background(), w.ID, false) })
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
}
