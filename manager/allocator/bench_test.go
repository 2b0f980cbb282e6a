package allocator_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// chunk is how many tasks one CreateTasks of the orchestrator holds at most.
const chunk = 1000

// pending blocks until n tasks got their addresses since the watch began.
func pending(t testing.TB, w *store.Watch, n int) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	for n > 0 {
		changes, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("%d tasks without addresses: %v", n, err)
		}
		for _, c := range changes {
			if task, ok := c.New.(*pb.Task); ok && task != nil && task.Status.State == pb.TaskState_TASK_STATE_PENDING {
				n--
			}
		}
	}
}

// Benchmark100kTasksOnOneNetwork measures from the allocator's start to the
// last task's addresses, applied.
func Benchmark100kTasksOnOneNetwork(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		b.StopTimer()
		c := newCluster()
		c.must(b, createCluster(&pb.ClusterSpec{}), createNetwork(network("web", "10.16.0.0/12")))
		stop := c.run(b)
		c.must(b, createService(service("s", "web")), tasks("s", n, 1))
		w := c.Watch(1, pb.Kind_KIND_TASK)
		pending(b, w, 1)
		w.Close()
		stop()
		for from := 0; from < n; from += chunk {
			c.must(b, tasks("s", from, chunk))
		}
		w = c.Watch(0, pb.Kind_KIND_TASK)
		b.StartTimer()
		start := time.Now()
		stop = c.run(b)
		pending(b, w, n)
		b.ReportMetric(float64(n)/time.Since(start).Seconds(), "tasks/s")
		b.StopTimer()
		w.Close()
		stop()
		b.StartTimer()
	}
}

// Benchmark5kNetworksAndServices measures subnets for networks, and a VIP and a
// port for a service on each.
func Benchmark5kNetworksAndServices(b *testing.B) {
	const n = 5000
	for b.Loop() {
		b.StopTimer()
		c := newCluster()
		c.must(b, createCluster(&pb.ClusterSpec{SubnetMaskLength: 22}))
		for i := range 50 {
			c.must(b, createNode(fmt.Sprint("n", i), fmt.Sprintf("10.0.%d.0/24", i)))
		}
		for i := range n {
			name := fmt.Sprintf("w%05d", i)
			s := service(name, name)
			if i%2 == 0 {
				publish(s, pb.PortConfig_PROTOCOL_TCP, 0, 80)
			}
			c.must(b, createNetwork(network(name)), createService(s))
		}
		w := c.Watch(0, pb.Kind_KIND_SERVICE)
		b.StartTimer()
		stop := c.run(b)
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		for left := n; left > 0; {
			changes, err := w.Next(ctx)
			if err != nil {
				b.Fatalf("%d services without addresses: %v", left, err)
			}
			for _, change := range changes {
				if s, ok := change.New.(*pb.Service); ok && len(s.Endpoint.GetVips()) == 1 {
					left--
				}
			}
		}
		cancel()
		b.StopTimer()
		w.Close()
		stop()
		b.StartTimer()
	}
}
