package dispatcher

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// known is what an agent has after a set and diffs: assignments by key.
type known map[string]string

func (k known) put(items []*pb.Assignment) {
	for _, name := range names(items) {
		key, value, _ := strings.Cut(name, "=")
		k[key] = value
	}
}

func (k known) remove(t *rapid.T, removed []*pb.AssignmentKey) {
	for _, key := range removed {
		name := keys([]*pb.AssignmentKey{key})[0]
		if _, ok := k[name]; !ok {
			t.Fatalf("%s is removed, which the agent does not have", name)
		}
		delete(k, name)
	}
}

// settled is what the agent has, less what it was told of ended tasks: that they
// do not serve any more, it knows best.
func (k known) settled(view store.View) known {
	k = maps.Clone(k)
	for name, value := range k {
		if id, ok := strings.CutPrefix(name, "task/"); ok && ended(view.Task(id)) {
			k[name] = strings.TrimSuffix(value, ",serving")
		}
	}
	return k
}

// oracle works out what the node must know from nothing but the view.
func oracle(view store.View, node string) known {
	k := known{}
	for t := range view.Tasks() {
		state := t.Status.State
		if t.NodeId != node || state < pb.TaskState_TASK_STATE_ASSIGNED {
			continue
		}
		k["task/"+t.Id] = fmt.Sprint(int32(t.DesiredState))
		if state == running && t.DesiredState == running && view.Node(node).Status.State != down {
			k["task/"+t.Id] += ",serving"
		}
		if state > pb.TaskState_TASK_STATE_RUNNING {
			continue
		}
		k[fmt.Sprintf("spec/%s@%d", t.ServiceId, t.SpecVersion)] = ""
		if t.DesiredState > pb.TaskState_TASK_STATE_RUNNING {
			continue
		}
		c := store.TaskSpec(view.Service(t.ServiceId), t.SpecVersion).Container
		for _, ref := range c.Secrets {
			k["secret/"+ref.Id] = ""
		}
		for _, ref := range c.Configs {
			k["config/"+ref.Id] = ""
		}
	}
	return k
}

// world applies random commands.
type world struct {
	state *store.State
	index uint64
	tasks []string
}

func (w *world) apply(cmds ...*pb.Command) {
	w.index++
	w.state.Apply(w.index, &pb.Entry{Commands: cmds, At: timestamppb.New(time.Unix(int64(w.index), 0))})
}

func newWorld() *world {
	w := &world{state: store.New()}
	for n := range 2 {
		w.apply(createNode(fmt.Sprintf("n%d", n+1), pb.NodeState_NODE_STATE_READY))
	}
	for i := range 3 {
		id := fmt.Sprintf("f%d", i)
		w.apply(&pb.Command{Kind: &pb.Command_CreateSecret{CreateSecret: &pb.CreateSecret{Id: id, Spec: &pb.SecretSpec{Name: id, Data: []byte(id)}}}},
			&pb.Command{Kind: &pb.Command_CreateConfig{CreateConfig: &pb.CreateConfig{Id: id, Spec: &pb.ConfigSpec{Name: id, Data: []byte(id)}}}})
	}
	for i := range 3 {
		w.apply(&pb.Command{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{
			Id: fmt.Sprintf("s%d", i), Spec: &pb.ServiceSpec{
				Name: fmt.Sprintf("s%d", i), Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{}},
				Task: &pb.TaskSpec{Container: &pb.ContainerSpec{
					Secrets: []*pb.FileReference{{Id: fmt.Sprintf("f%d", i)}, {Id: fmt.Sprintf("f%d", (i+1)%3)}},
					Configs: []*pb.FileReference{{Id: fmt.Sprintf("f%d", i)}},
				}},
			},
		}}})
	}
	return w
}

// step does one random thing to the tasks.
func (w *world) step(t *rapid.T) {
	node := fmt.Sprintf("n%d", rapid.IntRange(1, 2).Draw(t, "node"))
	if len(w.tasks) == 0 || rapid.Bool().Draw(t, "create") {
		id := fmt.Sprintf("t%03d", len(w.tasks))
		w.tasks = append(w.tasks, id)
		service := fmt.Sprintf("s%d", rapid.IntRange(0, 2).Draw(t, "service"))
		w.apply(&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
			Id: id, ServiceId: service, SpecVersion: 1, Slot: 1, DesiredState: pb.TaskState_TASK_STATE_READY,
		}}}}}, &pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{{Id: id, NodeId: node}}}}})
		return
	}
	id := rapid.SampledFrom(w.tasks).Draw(t, "task")
	desired := rapid.SampledFrom([]pb.TaskState{running, shutdown, pb.TaskState_TASK_STATE_REMOVE}).Draw(t, "desired")
	state := rapid.SampledFrom([]pb.TaskState{running, shutdown, pb.TaskState_TASK_STATE_FAILED}).Draw(t, "state")
	switch rapid.IntRange(0, 2).Draw(t, "step") {
	case 0:
		w.apply(&pb.Command{Kind: &pb.Command_SetDesired{SetDesired: &pb.SetDesired{Tasks: []*pb.TaskDesired{{Id: id, State: desired}}}}})
	case 1:
		w.apply(&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{
			NodeId: node, Reports: []*pb.TaskStatusReport{{Id: id, Status: &pb.TaskStatus{State: state}}},
		}}})
	case 2:
		w.apply(&pb.Command{Kind: &pb.Command_DeleteTasks{DeleteTasks: &pb.DeleteTasks{Ids: []string{id}}}})
	}
}

// However the steps are cut into diffs, the agent knows exactly what it must.
func TestDiffsAddUpToWhatTheNodeMustKnow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		for range rapid.IntRange(0, 10).Draw(t, "before") {
			w.step(t)
		}
		a := &assignments{node: "n1"}
		set, rest := a.full(w.state.View(), nil)
		agent := known{}
		agent.put(set.Items)
		sequence := set.Sequence
		take := func(diffs []*pb.AssignmentDiff) {
			for _, diff := range diffs {
				if sequence++; diff.Sequence != sequence {
					t.Fatalf("diff %d, want %d", diff.Sequence, sequence)
				}
				agent.put(diff.Put)
				agent.remove(t, diff.Remove)
			}
		}
		take(rest)
		for range rapid.IntRange(0, 20).Draw(t, "rounds") {
			for range rapid.IntRange(1, 4).Draw(t, "steps") {
				w.step(t)
			}
			take(a.update(w.state.View(), a.candidates(w.state.View()), nil))
			if diff := cmp.Diff(oracle(w.state.View(), "n1"), agent.settled(w.state.View())); diff != "" {
				t.Fatalf("the agent differs from what it must know (-want +got):\n%s", diff)
			}
		}
	})
}

func TestDependenciesComeFirst(t *testing.T) {
	w := newWorld()
	a := &assignments{node: "n1"}
	a.full(w.state.View(), nil)
	w.apply(&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{
		{Id: "a", ServiceId: "s0", SpecVersion: 1, DesiredState: running},
		{Id: "b", ServiceId: "s1", SpecVersion: 1, DesiredState: running},
	}}}}, &pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{
		{Id: "a", NodeId: "n1"}, {Id: "b", NodeId: "n1"},
	}}}})
	diffs := a.update(w.state.View(), a.candidates(w.state.View()), nil)
	wantNames(t, "put", names(diffs[0].Put),
		"spec/s0@1", "secret/f0", "secret/f1", "config/f0", "spec/s1@1", "secret/f2", "config/f1", "task/a=512", "task/b=512")
}

func TestDivideLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var items []*pb.Assignment
		for _, size := range rapid.SliceOf(rapid.IntRange(1, 300)).Draw(t, "sizes") {
			items = append(items, &pb.Assignment{Kind: &pb.Assignment_Secret{Secret: &pb.Secret{Spec: &pb.SecretSpec{Data: make([]byte, size)}}}})
		}
		parts := divide(items, 400)
		if got := slices.Concat(parts...); !slices.Equal(got, items) {
			t.Fatalf("%d items became %d", len(items), len(got))
		}
		for _, part := range parts {
			total := 0
			for _, item := range part {
				total += proto.Size(item)
			}
			if total > 400 && len(part) > 1 {
				t.Fatalf("a part of %d items has %d bytes", len(part), total)
			}
		}
	})
}

// A set that is too large for one message still has, in its first, all that
// the agent may have begun.
func TestLargeSetIsCutBehindBegunTasks(t *testing.T) {
	w := newWorld()
	var refs []*pb.FileReference
	for i := range 8 {
		id := fmt.Sprintf("big%d", i)
		refs = append(refs, &pb.FileReference{Id: id})
		w.apply(&pb.Command{Kind: &pb.Command_CreateConfig{CreateConfig: &pb.CreateConfig{Id: id, Spec: &pb.ConfigSpec{Name: id, Data: make([]byte, 1000<<10)}}}})
	}
	w.apply(&pb.Command{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: "big", Spec: &pb.ServiceSpec{
		Name: "big", Mode: &pb.ServiceSpec_Replicated{}, Task: &pb.TaskSpec{Container: &pb.ContainerSpec{Configs: refs}},
	}}}})
	for _, id := range []string{"begun", "new"} {
		w.apply(&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{Id: id, ServiceId: "big", SpecVersion: 1, DesiredState: running}}}}},
			&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{{Id: id, NodeId: "n1"}}}}})
	}
	w.apply(&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{
		NodeId: "n1", Reports: []*pb.TaskStatusReport{{Id: "begun", Status: &pb.TaskStatus{State: running}}},
	}}})
	a := &assignments{node: "n1"}
	set, rest := a.full(w.state.View(), nil)
	first := names(set.Items)
	if !slices.Contains(first, "task/begun=512,serving") || slices.Contains(first, "task/new=512") || len(rest) == 0 {
		t.Errorf("the set has %v, %d diffs follow", first, len(rest))
	}
	agent := known{}
	agent.put(set.Items)
	for _, diff := range rest {
		agent.put(diff.Put)
	}
	if want := oracle(w.state.View(), "n1"); int(set.Rest) != len(rest) || !maps.Equal(want, agent) {
		t.Errorf("the agent has %v, want %v", agent, want)
	}
}
