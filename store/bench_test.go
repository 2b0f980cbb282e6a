package store_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/hashicorp/go-memdb"

	"github.com/minid/minid/internal/id"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	benchTasks = 1_000_000
	benchNodes = 5_000
	perService = 1_000
)

// large is a state with a million assigned tasks, built once.
var large = sync.OnceValue(func() *benchState {
	b := &benchState{State: store.New()}
	for range benchNodes {
		n := id.New()
		b.nodes = append(b.nodes, n)
		b.apply(readyWorker(n)...)
	}
	for i := range benchTasks / perService {
		s := id.New()
		b.services = append(b.services, s)
		b.apply(createService(s, webSpec(fmt.Sprint("service-", i), "nginx")))
		var made []*pb.Task
		for slot := range uint64(perService) {
			made = append(made, task(id.New(), s, slot+1))
			b.tasks = append(b.tasks, made[slot].Id)
		}
		b.apply(createTasks(made...))
		for j, t := range made {
			b.apply(assign(b.nodes[(i*perService+j)%benchNodes], t.Id))
		}
	}
	return b
})

type benchState struct {
	*store.State
	index                  uint64
	nodes, services, tasks []string
}

func (b *benchState) apply(cmds ...*pb.Command) {
	b.index++
	for _, err := range b.Apply(b.index, &pb.Entry{Commands: cmds, At: at(b.index)}) {
		if err != nil {
			panic(err)
		}
	}
}

// node of a task by its number, as large assigned it.
func (b *benchState) node(i int) string { return b.nodes[i%benchNodes] }

func BenchmarkApplyCreate(b *testing.B) {
	s := large()
	i := 0
	for b.Loop() {
		s.apply(createTasks(task(id.New(), s.services[i%len(s.services)], uint64(i))))
		i++
	}
}

func BenchmarkApplyCreateAssign(b *testing.B) {
	s := large()
	i := 0
	for b.Loop() {
		t := task(id.New(), s.services[i%len(s.services)], uint64(i))
		s.apply(createTasks(t), assign(s.nodes[i%benchNodes], t.Id))
		i++
	}
}

func BenchmarkApplyReport(b *testing.B) {
	s := large()
	i := 0
	for b.Loop() {
		n := (i * 7919) % benchTasks
		s.apply(report(s.node(n), s.tasks[n], &pb.TaskStatus{State: running, Message: fmt.Sprint(i)}))
		i++
	}
}

// A batch as the dispatcher proposes it.
func BenchmarkApplyReport1000(b *testing.B) {
	s := large()
	i := 0
	for b.Loop() {
		cmds := make([]*pb.Command, 0, 1000)
		for range 1000 {
			n := (i * 7919) % benchTasks
			cmds = append(cmds, report(s.node(n), s.tasks[n], &pb.TaskStatus{State: running, Message: fmt.Sprint(i)}))
			i++
		}
		s.apply(cmds...)
	}
}

func BenchmarkView(b *testing.B) {
	s := large()
	for b.Loop() {
		_ = s.View().Index()
	}
}

func BenchmarkTasksByNode(b *testing.B) {
	s := large()
	i := 0
	for b.Loop() {
		count := 0
		for range s.View().TasksByNode(s.nodes[i%benchNodes]) {
			count++
		}
		if i++; count < benchTasks/benchNodes {
			b.Fatal(count)
		}
	}
}

// Memory of a million tasks, in bytes each.
func BenchmarkMemoryPerTask(b *testing.B) {
	for b.Loop() {
		s := large()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/benchTasks, "bytes/task")
		runtime.KeepAlive(s)
	}
}

// One change wakes 5,000 watches, and all of them have it at the end.
func BenchmarkWatchFanOut5000(b *testing.B) {
	const watchers = 5000
	m := newMachine(b).must(readyWorker("n1")...)
	var got sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	for range watchers {
		w := m.Watch(0)
		readers.Go(func() {
			for {
				if _, err := w.Next(ctx); err != nil {
					return
				}
				got.Done()
			}
		})
	}
	i := 0
	for b.Loop() {
		got.Add(watchers)
		m.must(managerless("n1", fmt.Sprint(i)))
		got.Wait()
		i++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(i)/watchers, "ns/watcher")
	cancel()
	readers.Wait()
}

func managerless(node, message string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{Id: node, Status: &pb.NodeStatus{Message: message}}}}
}

// The measure that decided against go-memdb: the same four orders of tasks.
func BenchmarkMemdbMemoryPerTask(b *testing.B) {
	field := func(name string) *memdb.StringFieldIndex { return &memdb.StringFieldIndex{Field: name} }
	schema := &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{"task": {Name: "task", Indexes: map[string]*memdb.IndexSchema{
		"id":      {Name: "id", Unique: true, Indexer: field("Id")},
		"node":    {Name: "node", Indexer: field("NodeId")},
		"service": {Name: "service", Indexer: &memdb.CompoundIndex{Indexes: []memdb.Indexer{field("ServiceId"), &memdb.UintFieldIndex{Field: "Slot"}}}},
	}}}}
	const count = benchTasks / 5
	for b.Loop() {
		db, err := memdb.NewMemDB(schema)
		if err != nil {
			b.Fatal(err)
		}
		nodes, service := make([]string, benchNodes), id.New()
		for i := range nodes {
			nodes[i] = id.New()
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range count {
			txn := db.Txn(true)
			t := &pb.Task{Id: id.New(), ServiceId: service, Slot: uint64(i), NodeId: nodes[i%benchNodes]}
			if err := txn.Insert("task", t); err != nil {
				b.Fatal(err)
			}
			txn.Commit()
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/count, "bytes/task")
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/count, "ns/insert")
		runtime.KeepAlive(db)
	}
}
