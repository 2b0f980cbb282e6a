package dispatcher

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// benchTerm is a leader with 5,000 agents in session, each with a task.
func benchTerm(b *testing.B) (*term, []store.Change) {
	const nodes = 5000
	w := &world{state: store.New()}
	cmds := []*pb.Command{{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: "s", Spec: &pb.ServiceSpec{
		Name: "s", Mode: &pb.ServiceSpec_Replicated{}, Task: &pb.TaskSpec{Container: &pb.ContainerSpec{}},
	}}}}}
	create, assign, desire := &pb.CreateTasks{}, &pb.AssignTasks{}, &pb.SetDesired{}
	for i := range nodes {
		node, task := fmt.Sprintf("n%d", i), fmt.Sprintf("t%d", i)
		cmds = append(cmds, createNode(node, pb.NodeState_NODE_STATE_READY))
		create.Tasks = append(create.Tasks, &pb.Task{Id: task, ServiceId: "s", SpecVersion: 1, DesiredState: pb.TaskState_TASK_STATE_READY})
		assign.Tasks = append(assign.Tasks, &pb.TaskAssignment{Id: task, NodeId: node})
		desire.Tasks = append(desire.Tasks, &pb.TaskDesired{Id: task, State: running})
	}
	w.apply(cmds...)
	w.apply(&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: create}}, &pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: assign}})
	cfg := &Config{State: w.state, Logger: slog.New(slog.DiscardHandler), Managers: func() []*pb.ManagerPeer { return nil }}
	t, watch := newTerm(cfg)
	for i := range nodes {
		if _, err := t.register(fmt.Sprintf("n%d", i), "addr", nil); err != nil {
			b.Fatal(err)
		}
	}
	w.apply(&pb.Command{Kind: &pb.Command_SetDesired{SetDesired: desire}})
	changes, err := watch.Next(b.Context())
	if err != nil || len(changes) != nodes {
		b.Fatalf("%d changes, %v", len(changes), err)
	}
	return t, changes
}

// BenchmarkRoute is one change on its way to the one of 5,000 agents that it
// concerns, up to the agent's writer.
func BenchmarkRoute(b *testing.B) {
	t, changes := benchTerm(b)
	for i := 0; b.Loop(); i++ {
		t.deliver(changes[i%len(changes) : i%len(changes)+1])
	}
}

// BenchmarkRouteAndDiff adds the writer's part: view, comparison and diff.
func BenchmarkRouteAndDiff(b *testing.B) {
	t, changes := benchTerm(b)
	told := make([]assignments, len(changes))
	before := map[string]assigned{}
	for i, c := range changes {
		told[i] = assignments{node: c.New.(*pb.Task).NodeId}
		told[i].full(t.cfg.State.View())
		before[c.ID] = assigned{desired: pb.TaskState_TASK_STATE_READY, key: specKey{"s", 1}}
	}
	for i := 0; b.Loop(); i++ {
		at := i % len(changes)
		c, a := changes[at], &told[at]
		a.tasks[c.ID] = before[c.ID]
		t.deliver(changes[at : at+1])
		n := t.sessions[a.node].take()
		if diffs := a.update(t.cfg.State.View(), n.tasks); len(diffs) != 1 {
			b.Fatalf("%d diffs", len(diffs))
		}
	}
}

// BenchmarkStatusIntake is one status report, from the agent's batch to its
// place in a proposal.
func BenchmarkStatusIntake(b *testing.B) {
	t, changes := benchTerm(b)
	report := &pb.TaskStatus{State: pb.TaskState_TASK_STATE_PREPARING, At: timestamppb.Now(), Message: "pulling image"}
	log := slog.New(slog.DiscardHandler)
	for i := 0; b.Loop(); i++ {
		task := changes[i%len(changes)].New.(*pb.Task)
		s := t.sessions[task.NodeId]
		s.in.node = false
		s.report(&pb.StatusBatch{Number: uint64(i), Reports: []*pb.TaskStatusReport{{Id: task.Id, Status: report}}})
		if o := s.harvest(t.cfg.State.View(), time.Time{}, log); len(o.cmds) != 1 {
			b.Fatalf("%d commands", len(o.cmds))
		}
	}
}
