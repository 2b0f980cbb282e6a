package placement_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/minid/minid/internal/id"
	pb "github.com/minid/minid/proto/minid/v1"
)

// chunk is how many tasks one CreateTasks of the orchestrator holds at most.
const chunk = 4096

func withNodes(b *testing.B, n int) *cluster {
	c := newCluster()
	for from := 0; from < n; from += chunk {
		var cmds []*pb.Command
		for i := range min(chunk, n-from) {
			cmds = append(cmds, node(id.New(), map[string]string{"rack": fmt.Sprintf("r%02d", (from+i)%40)}))
		}
		c.must(b, cmds...)
	}
	return c
}

func settle(c *cluster, b *testing.B) {
	// A first task placed shows that the loop has taken in all nodes.
	w := c.Watch(0, pb.Kind_KIND_TASK)
	defer w.Close()
	c.must(b, spec("warm-up", reserving(nil)), tasks("warm-up", 0, 1))
	assigned(b, w, 1)
}

func reserving(p *pb.Placement) *pb.TaskSpec {
	return &pb.TaskSpec{
		Placement: p,
		Resources: &pb.ResourceRequirements{ReserveNanoCpus: 1e8, ReserveMemoryBytes: 64 << 20},
	}
}

// benchGroup measures from the first CreateTasks to the last ASSIGNED.
func benchGroup(b *testing.B, nodes, n int, p *pb.Placement) {
	for b.Loop() {
		b.StopTimer()
		c := withNodes(b, nodes)
		stop := c.run(b)
		settle(c, b)
		c.must(b, spec("web", reserving(p)))
		var creates []*pb.Command
		for from := 0; from < n; from += chunk {
			creates = append(creates, tasks("web", from, min(chunk, n-from)))
		}
		w := c.Watch(0, pb.Kind_KIND_TASK)
		b.StartTimer()
		start := time.Now()
		for _, cmd := range creates {
			c.must(b, cmd)
		}
		assigned(b, w, n)
		b.ReportMetric(float64(n)/time.Since(start).Seconds(), "tasks/s")
		b.StopTimer()
		w.Close()
		stop()
		b.StartTimer()
	}
}

func Benchmark10kTasksOn1kNodes(b *testing.B)  { benchGroup(b, 1000, 10_000, nil) }
func Benchmark100kTasksOn5kNodes(b *testing.B) { benchGroup(b, 5000, 100_000, nil) }
func BenchmarkSpreadOver40RacksOn5kNodes(b *testing.B) {
	benchGroup(b, 5000, 50_000, &pb.Placement{Spread: []string{"node.labels.rack"}})
}

// benchLone measures lone tasks beside the tasks of so many other services,
// that fit somewhere or not.
func benchLone(b *testing.B, nodes, n, beside int, p *pb.Placement) {
	for b.Loop() {
		b.StopTimer()
		c := withNodes(b, nodes)
		stop := c.run(b)
		settle(c, b)
		for i := range n {
			c.must(b, spec(fmt.Sprintf("s%04d", i), reserving(nil)))
		}
		for i := range beside {
			name := fmt.Sprintf("beside%05d", i)
			c.must(b, spec(name, reserving(p)), tasks(name, 0, 1))
		}
		for told := false; !told; time.Sleep(time.Millisecond) {
			told = true
			for t := range c.View().Tasks() {
				told = told && (t.GetNodeId() != "" || t.GetStatus().GetMessage() != "")
			}
		}
		w := c.Watch(0, pb.Kind_KIND_TASK)
		runtime.GC() // what was made above is not measured
		b.StartTimer()
		for i := range n {
			c.must(b, tasks(fmt.Sprintf("s%04d", i), 0, 1))
		}
		assigned(b, w, n)
		b.StopTimer()
		w.Close()
		stop()
		b.StartTimer()
	}
}

func Benchmark1kLoneTasksOn100kNodes(b *testing.B) { benchLone(b, 100_000, 1000, 0, nil) }
func Benchmark1kLoneTasksOn5kNodes(b *testing.B)   { benchLone(b, 5000, 1000, 0, nil) }

// What waits in vain costs no more than what runs: compare the two.
func Benchmark1kLoneTasksBeside25kPlaced(b *testing.B) { benchLone(b, 5000, 1000, 25_000, nil) }
func Benchmark1kLoneTasksBeside25kUnplaceable(b *testing.B) {
	benchLone(b, 5000, 1000, 25_000, &pb.Placement{Constraints: []string{"node.labels.no==where"}})
}
