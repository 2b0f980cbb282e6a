package orchestrator

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// benchCluster holds services whose tasks all run, on 100 nodes.
func benchCluster(b *testing.B, services, replicas int) *env {
	e := newEnv(b)
	for i := range 100 {
		e.addNode(fmt.Sprintf("n%03d", i))
	}
	for i := range services {
		e.setService(fmt.Sprintf("web%04d", i), fmt.Sprintf("replicas=%d", replicas), "constraint=node.role==worker")
	}
	for s := range e.state.View().Services() {
		p := e.plan(s)
		e.commit(p.commands(s.Id)...)
		for i, t := range p.Create {
			node := fmt.Sprintf("n%03d", i%100)
			e.commit(
				&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{
					Tasks: []*pb.TaskAssignment{{Id: t.Id, NodeId: node}}}}},
				&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{NodeId: node,
					Reports: []*pb.TaskStatusReport{{Id: t.Id, Status: &pb.TaskStatus{State: pb.TaskState_TASK_STATE_RUNNING}}}}}})
		}
	}
	return e
}

func benchLoop(e *env) *Orchestrator {
	o := New(Config{State: e.state, NewID: e.newID, Logger: slog.New(slog.DiscardHandler)})
	o.services, o.dirty, o.global = map[string]*tracked{}, map[string]*tracked{}, map[string]*tracked{}
	o.balancing = map[string]*tracked{}
	for s := range e.state.View().Services() {
		o.track(s.Id)
	}
	return o
}

// BenchmarkOneEventOf10k is what one task's event costs in a service of 10,000.
func BenchmarkOneEventOf10k(b *testing.B) {
	e := benchCluster(b, 1, 10_000)
	o := benchLoop(e)
	o.reconcile(b.Context())
	tasks := slices.Collect(e.state.View().Tasks())
	i := 0
	for b.Loop() {
		t := tasks[i%len(tasks)]
		i++
		o.note([]store.Change{{Kind: pb.Kind_KIND_TASK, ID: t.Id, Old: t, New: t}})
		o.reconcile(b.Context())
	}
}

// BenchmarkReconcile10k goes through 10,000 running tasks from scratch.
func BenchmarkReconcile10k(b *testing.B) {
	e := benchCluster(b, 1, 10_000)
	e.benchScratch(b, "web0000")
}

func (e *env) benchScratch(b *testing.B, service string) {
	view := e.state.View()
	s := view.ServiceByName(service)
	for b.Loop() {
		in := Input{Service: s, Tasks: slices.Collect(view.TasksByService(s.Id)), Nodes: view, NewID: e.newID}
		if p := Reconcile(in, e.now); !p.Empty() {
			b.Fatal("something to do")
		}
	}
}

// BenchmarkCreate10k plans 10,000 tasks and applies the plan.
func BenchmarkCreate10k(b *testing.B) {
	for b.Loop() {
		e := newEnv(b)
		e.setService("web", "replicas=10000")
		s := e.service("web")
		p := e.plan(s)
		e.commit(p.commands(s.Id)...)
	}
}

// BenchmarkStart1000Services is a new leader's first round: 1,000 services of
// 10 tasks with nothing to do.
func BenchmarkStart1000Services(b *testing.B) {
	e := benchCluster(b, 1000, 10)
	for b.Loop() {
		o := benchLoop(e)
		o.reconcile(b.Context())
	}
}

// BenchmarkNodeDown is the loss of a node with 100 of 10,000 tasks: marking,
// planning and applying. The node comes back for the next turn.
func BenchmarkNodeDown(b *testing.B) {
	e := benchCluster(b, 1, 10_000)
	o := benchLoop(e)
	o.reconcile(b.Context())
	up := e.state.View().Node("n000")
	e.setNode("n000", pb.NodeState_NODE_STATE_DOWN)
	down := e.state.View().Node("n000")
	for b.Loop() {
		o.note([]store.Change{{Kind: pb.Kind_KIND_NODE, ID: "n000", Old: up, New: down}})
		var work proposals
		view := e.state.View()
		for _, t := range o.dirty {
			o.reconcileOne(t, view, time.Now(), &work)
		}
		if len(work.entries) == 0 {
			b.Fatal("nothing planned")
		}
	}
}
