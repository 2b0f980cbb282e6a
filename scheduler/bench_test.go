package scheduler

import (
	"fmt"
	"testing"

	pb "github.com/minid/minid/proto/minid/v1"
)

func largeSet(nodes int) *Set {
	s := NewSet()
	for i := range nodes {
		s.PutNode(testNode(fmt.Sprintf("n%06d", i), memory(64<<30), label("rack", fmt.Sprintf("r%02d", i%40))))
	}
	return s
}

// undo takes a group's tasks off again.
func undo(s *Set, decisions []Decision) {
	for _, d := range decisions {
		s.RemoveTask(d.Task)
	}
}

func BenchmarkPlaceGroup(b *testing.B) {
	spread := spreadOver("node.labels.rack")
	for name, spec := range map[string]*pb.TaskSpec{"plain": needMemory(1 << 20), "spread": spread} {
		b.Run(name+"/nodes=5000/tasks=50000", func(b *testing.B) {
			s, g := largeSet(5000), groupFor("web", spec, 50_000)
			for b.Loop() {
				placed, _ := s.Place(g, epoch)
				b.StopTimer()
				undo(s, placed)
				b.StartTimer()
			}
			b.ReportMetric(float64(len(g.Tasks)*b.N)/b.Elapsed().Seconds(), "tasks/s")
		})
	}
}

// Nodes are filled one after the other; a group looks at all of them once.
func BenchmarkPack(b *testing.B) {
	for name, tasks := range map[string]int{"lone": 1, "tasks=50000": 50_000} {
		b.Run(name+"/nodes=5000", func(b *testing.B) {
			s, g := largeSet(5000), groupFor("web", needMemory(1<<30), tasks)
			s.SetStrategy(pb.PlacementStrategy_PLACEMENT_STRATEGY_BINPACK)
			for b.Loop() {
				placed, _ := s.Place(g, epoch)
				b.StopTimer()
				undo(s, placed)
				b.StartTimer()
			}
			b.ReportMetric(float64(len(g.Tasks)*b.N)/b.Elapsed().Seconds(), "tasks/s")
		})
	}
}

func BenchmarkPlaceLone(b *testing.B) {
	constrained := constrainedBy("node.labels.rack==r07")
	for name, spec := range map[string]*pb.TaskSpec{
		"plain": needMemory(1 << 20), "constrained": constrained, "spread": spreadOver("node.labels.rack"),
	} {
		b.Run(name+"/nodes=100000", func(b *testing.B) {
			s := largeSet(100_000)
			need := Compile(spec)
			for i := 0; b.Loop(); i++ {
				g := Group{Service: fmt.Sprint("s", i), Version: 1, Need: need, Tasks: []Waiting{{ID: fmt.Sprint("t", i)}}}
				if placed, _ := s.Place(g, epoch); len(placed) != 1 {
					b.Fatal("not placed")
				}
			}
		})
	}
}

// A task that fits only on the fullest node, after all others.
func BenchmarkPlaceLoneOnFullCluster(b *testing.B) {
	s := largeSet(100_000)
	for i := range 10 {
		s.PutTask(runningTask("other", fmt.Sprint("o", i), "n077777"), Compile(nil))
	}
	place(b, s, groupFor("full", needMemory(64<<30), 99_999))
	need := Compile(needMemory(1 << 20))
	for i := 0; b.Loop(); i++ {
		g := Group{Service: fmt.Sprint("s", i), Version: 1, Need: need, Tasks: []Waiting{{ID: "t"}}}
		placed, _ := s.Place(g, epoch)
		undo(s, placed)
	}
}

func BenchmarkExplain(b *testing.B) {
	s := largeSet(5000)
	g := groupFor("web", constrainedBy("node.labels.disk==ssd"), 1)
	for b.Loop() {
		s.Explain(g, g.Tasks[0])
	}
}
