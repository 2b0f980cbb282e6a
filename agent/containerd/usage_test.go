package containerd

import (
	"io"
	"net/http"
	"testing"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// usageOf measures a task, which must be among those of the node.
func usageOf(t testing.TB, r *rig, id string) *pb.Usage {
	t.Helper()
	sample, err := r.runtime.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range sample.Tasks {
		if task.TaskId == id {
			return task.Usage
		}
	}
	t.Fatalf("task %s is not measured", id)
	return nil
}

// TestUsage: what real containers burn, hold, write and send is measured; what
// the kernel only caches for them is not counted as memory.
func TestUsage(t *testing.T) {
	r := open(t)
	const size = 48 << 20
	burning := wanted("burn", "/file", "50331648")
	burning.Spec.Resources = &pb.ResourceRequirements{LimitNanoCpus: 5e8, LimitMemoryBytes: 512 << 20}
	burner, eater, server := r.start(t, burning), r.start(t, wanted("eat", "50331648")), r.start(t, wanted("serve"))

	eventually(t, "the burner wrote and burns", func() bool {
		u := usageOf(t, r, burner)
		return u.WrittenBytes >= size && u.CpuNs > 1e9
	})
	began, first := time.Now(), usageOf(t, r, burner)
	eventually(t, "the burner burns on", func() bool { return usageOf(t, r, burner).CpuNs > first.CpuNs+2e8 })
	last := usageOf(t, r, burner)
	if spent, passed := time.Duration(last.CpuNs-first.CpuNs), time.Since(began); spent > passed {
		t.Errorf("%v of CPU in %v, with half a CPU", spent, passed)
	}
	if last.NanoCpus != 5e8 || last.MemoryLimitBytes != 512<<20 || last.MemoryBytes > size/2 || last.Pids == 0 {
		t.Errorf("the burner: %v", last)
	}

	eventually(t, "the eater is full", func() bool { return usageOf(t, r, eater).MemoryBytes >= size })
	if u := usageOf(t, r, eater); u.MemoryBytes > 2*size || u.NanoCpus != 0 || u.MemoryLimitBytes != 0 {
		t.Errorf("the eater: %v", u)
	}

	o, err := r.runtime.Inspect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	before := usageOf(t, r, server)
	eventually(t, "an answer", func() bool {
		resp, err := http.Get("http://" + o.Address + ":8080/?size=1000000")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		n, _ := io.Copy(io.Discard, resp.Body)
		return n > 1e6
	})
	after := usageOf(t, r, server)
	if sent := after.SentBytes - before.SentBytes; sent < 1e6 || sent > 2e6 || after.ReceivedBytes <= before.ReceivedBytes {
		t.Errorf("the server sent %d bytes: %v", sent, after)
	}

	if err := r.runtime.Stop(t.Context(), eater, "", time.Second); err != nil {
		t.Fatal(err)
	}
	r.finish(t, eater)
	sample, err := r.runtime.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range sample.Tasks {
		if task.TaskId == eater {
			t.Error("a task that ended is measured")
		}
	}
	if sample.NodeId != "node1" || sample.Total.GetCpuNs() == 0 || sample.At == nil {
		t.Errorf("the node: %v", sample)
	}
}

func BenchmarkUsage(b *testing.B) {
	r := open(b)
	for range 5 {
		r.start(b, wanted("sleep"))
	}
	for b.Loop() {
		if _, err := r.runtime.Usage(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
