package dispatcher

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
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
		told[i].full(t.cfg.State.View(), nil)
		before[c.ID] = assigned{desired: pb.TaskState_TASK_STATE_READY, key: specKey{"s", 1}}
	}
	for i := 0; b.Loop(); i++ {
		at := i % len(changes)
		c, a := changes[at], &told[at]
		a.tasks[c.ID] = before[c.ID]
		t.deliver(changes[at : at+1])
		n := t.sessions[a.node].take()
		if diffs := a.update(t.cfg.State.View(), n.tasks, n.items); len(diffs) != 1 {
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

// benchNetwork is a leader with 100 nodes in session, and 5,000 services with 5
// tasks each on one network.
func benchNetwork(b *testing.B) (*term, []store.Change) {
	const nodes, services, replicas = 100, 5000, 5
	w := &world{state: store.New()}
	cmds := []*pb.Command{
		{Kind: &pb.Command_CreateNetwork{CreateNetwork: &pb.CreateNetwork{Id: "net", Spec: &pb.NetworkSpec{Name: "net"}}}},
		{Kind: &pb.Command_AllocateNetwork{AllocateNetwork: &pb.AllocateNetwork{Id: "net", Allocation: &pb.NetworkAllocation{
			Vni: 4096, Pools: []*pb.AddressPool{{Subnet: "10.0.0.0/12"}},
		}}}},
	}
	for i := range nodes {
		cmds = append(cmds, createNode(fmt.Sprintf("n%d", i), pb.NodeState_NODE_STATE_READY))
	}
	addr := netip.MustParseAddr("10.0.1.0")
	create, allocate, assign := &pb.CreateTasks{}, &pb.AllocateTasks{}, &pb.AssignTasks{}
	for i := range services {
		id := fmt.Sprintf("s%d", i)
		addr = addr.Next()
		cmds = append(cmds, &pb.Command{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: id, Spec: &pb.ServiceSpec{
			Name: id, Mode: &pb.ServiceSpec_Replicated{},
			Task: &pb.TaskSpec{Container: &pb.ContainerSpec{}, Networks: []*pb.NetworkAttachment{{NetworkId: "net"}}},
		}}}}, &pb.Command{Kind: &pb.Command_AllocateService{AllocateService: &pb.AllocateService{Id: id, Endpoint: &pb.Endpoint{
			Vips: []*pb.VirtualIP{{NetworkId: "net", Addresses: []string{addr.String()}}},
		}}}})
		for slot := range replicas {
			addr = addr.Next()
			task := fmt.Sprintf("t%d-%d", i, slot)
			create.Tasks = append(create.Tasks, &pb.Task{Id: task, ServiceId: id, SpecVersion: 1, Slot: uint64(slot + 1), DesiredState: running})
			allocate.Tasks = append(allocate.Tasks, &pb.TaskAllocation{Id: task, Addresses: []*pb.TaskAddress{{NetworkId: "net", Addresses: []string{addr.String() + "/12"}}}})
			assign.Tasks = append(assign.Tasks, &pb.TaskAssignment{Id: task, NodeId: fmt.Sprintf("n%d", len(assign.Tasks)%nodes)})
		}
	}
	w.apply(cmds...)
	w.apply(&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: create}},
		&pb.Command{Kind: &pb.Command_AllocateTasks{AllocateTasks: allocate}},
		&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: assign}})
	reports := map[string]*pb.ReportStatuses{}
	for _, a := range assign.Tasks {
		if reports[a.NodeId] == nil {
			reports[a.NodeId] = &pb.ReportStatuses{NodeId: a.NodeId}
		}
		reports[a.NodeId].Reports = append(reports[a.NodeId].Reports, &pb.TaskStatusReport{Id: a.Id, Status: &pb.TaskStatus{State: running}})
	}
	cfg := &Config{State: w.state, Logger: slog.New(slog.DiscardHandler), Managers: func() []*pb.ManagerPeer { return nil }}
	t, watch := newTerm(cfg)
	b.Cleanup(watch.Close)
	for i := range nodes {
		if _, err := t.register(fmt.Sprintf("n%d", i), "addr", nil); err != nil {
			b.Fatal(err)
		}
	}
	for _, r := range reports {
		w.apply(&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: r}})
	}
	changes, err := watch.Next(b.Context())
	if err != nil || len(changes) != services*replicas {
		b.Fatalf("%d changes, %v", len(changes), err)
	}
	return t, changes
}

// BenchmarkEndpoint is one endpoint of 25,000 that changes, for 100 nodes: up to
// their writers, and with the writers' part, up to the encoded diffs.
func BenchmarkEndpoint(b *testing.B) {
	for _, encode := range []bool{false, true} {
		b.Run(fmt.Sprintf("encode=%t", encode), func(b *testing.B) {
			t, changes := benchNetwork(b)
			told := map[string]*assignments{}
			for node, s := range t.sessions {
				view, _ := t.begin(s)
				told[node] = &assignments{node: node}
				told[node].full(view, nil)
			}
			for i := 0; b.Loop(); i++ {
				c := changes[i%len(changes)]
				p := t.index.placed[c.ID]
				p.serving = false // as if the index had not heard of it
				t.index.placed[c.ID] = p
				topic := t.index.networks["net"]
				delete(topic.items, endpointKey(c.ID, "net"))
				t.deliver([]store.Change{c})
				for _, s := range t.sessions {
					n, view := t.take(s)
					if len(n.items) != 1 {
						b.Fatalf("%d changes of items", len(n.items))
					}
					if !encode {
						continue
					}
					for _, diff := range told[s.node].update(view, nil, n.items) {
						if _, err := proto.Marshal(diff); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
		})
	}
}

// BenchmarkSnapshot is the full set of one of those nodes.
func BenchmarkSnapshot(b *testing.B) {
	t, _ := benchNetwork(b)
	for b.Loop() {
		a := &assignments{node: "n0"}
		a.full(t.begin(t.sessions["n0"]))
	}
}

// BenchmarkIndex makes the index anew, as a new leader does.
func BenchmarkIndex(b *testing.B) {
	t, _ := benchNetwork(b)
	view := t.cfg.State.View()
	for b.Loop() {
		x := newIndex()
		x.update(view, x.everything(view))
	}
}
