package store_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// machine applies entries at rising indexes, one second apart.
type machine struct {
	*store.State
	t     testing.TB
	index uint64
}

func newMachine(t testing.TB) *machine { return &machine{State: store.New(), t: t} }

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// at is the time of the entry with an index.
func at(index uint64) *timestamppb.Timestamp {
	return timestamppb.New(epoch.Add(time.Duration(index) * time.Second))
}

func (m *machine) try(cmds ...*pb.Command) error {
	m.index++
	return errors.Join(m.Apply(m.index, &pb.Entry{Commands: cmds, At: at(m.index)})...)
}

func (m *machine) must(cmds ...*pb.Command) *machine {
	m.t.Helper()
	if err := m.try(cmds...); err != nil {
		m.t.Fatalf("entry %d: %v", m.index, err)
	}
	return m
}

// refused expects a refusal of a class that changes nothing but the index.
func (m *machine) refused(class fault.Class, cmd *pb.Command) {
	m.t.Helper()
	before := m.Snapshot()
	err := m.try(cmd)
	after := m.Snapshot()
	after.Index = before.Index
	if !fault.Is(err, class) {
		m.t.Errorf("%T: got %v (%v), want a refusal of class %v", cmd.Kind, err, fault.ClassOf(err), class)
	}
	if diff := cmp.Diff(before, after, protocmp.Transform()); diff != "" {
		m.t.Errorf("%T was refused and changed something:\n%s", cmd.Kind, diff)
	}
}

// equal compares messages and plain values alike.
func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func createCluster() *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateCluster{CreateCluster: &pb.CreateCluster{
		Cluster: &pb.Cluster{Id: "c", Spec: &pb.ClusterSpec{Name: "default"}},
	}}}
}

func createNode(id string, role pb.NodeRole) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: &pb.Node{
		Id: id, Role: role,
		Spec: &pb.NodeSpec{Role: role, Availability: pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE},
	}}}}
}

func nodeSpec(id string, ifVersion uint64, spec *pb.NodeSpec) *pb.Command {
	return &pb.Command{Kind: &pb.Command_UpdateNodeSpec{UpdateNodeSpec: &pb.UpdateNodeSpec{Id: id, IfVersion: ifVersion, Spec: spec}}}
}

func nodeState(id string, state pb.NodeState) *pb.Command {
	return &pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{Id: id, Status: &pb.NodeStatus{State: state}}}}
}

func removeNode(id string, force bool) *pb.Command {
	return &pb.Command{Kind: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Id: id, Force: force}}}
}

// readyWorker is a node that takes tasks.
func readyWorker(id string) []*pb.Command {
	return []*pb.Command{createNode(id, pb.NodeRole_NODE_ROLE_WORKER), nodeState(id, pb.NodeState_NODE_STATE_READY)}
}

// webSpec is a replicated service running an image.
func webSpec(name, image string) *pb.ServiceSpec {
	return &pb.ServiceSpec{
		Name: name,
		Task: &pb.TaskSpec{Container: &pb.ContainerSpec{Image: image}},
		Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: 3}},
	}
}

func withSecret(s *pb.ServiceSpec, id string) *pb.ServiceSpec {
	s.Task.Container.Secrets = []*pb.FileReference{{Id: id, Name: "key"}}
	return s
}

func withConfig(s *pb.ServiceSpec, id string) *pb.ServiceSpec {
	s.Task.Container.Configs = []*pb.FileReference{{Id: id, Name: "conf"}}
	return s
}

func createService(id string, spec *pb.ServiceSpec) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: id, Spec: spec}}}
}

func updateService(id string, ifVersion uint64, spec *pb.ServiceSpec) *pb.Command {
	return &pb.Command{Kind: &pb.Command_UpdateServiceSpec{UpdateServiceSpec: &pb.UpdateServiceSpec{Id: id, IfVersion: ifVersion, Spec: spec}}}
}

func removeService(id string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_RemoveService{RemoveService: &pb.RemoveService{Id: id}}}
}

func deleteService(id string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_DeleteService{DeleteService: &pb.DeleteService{Id: id}}}
}

func updateStatus(id string, status *pb.UpdateStatus) *pb.Command {
	return &pb.Command{Kind: &pb.Command_SetUpdateStatus{SetUpdateStatus: &pb.SetUpdateStatus{Id: id, Status: status}}}
}

// task is a new task of version 1 of a service.
func task(id, service string, slot uint64) *pb.Task {
	return &pb.Task{Id: id, ServiceId: service, Slot: slot, SpecVersion: 1, DesiredState: pb.TaskState_TASK_STATE_RUNNING}
}

func createTasks(tasks ...*pb.Task) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: tasks}}}
}

func desire(state pb.TaskState, ids ...string) *pb.Command {
	c := &pb.SetDesired{}
	for _, id := range ids {
		c.Tasks = append(c.Tasks, &pb.TaskDesired{Id: id, State: state})
	}
	return &pb.Command{Kind: &pb.Command_SetDesired{SetDesired: c}}
}

func assign(node string, ids ...string) *pb.Command {
	c := &pb.AssignTasks{}
	for _, id := range ids {
		c.Tasks = append(c.Tasks, &pb.TaskAssignment{Id: id, NodeId: node})
	}
	return &pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: c}}
}

func explain(id string, status *pb.TaskStatus) *pb.Command {
	return &pb.Command{Kind: &pb.Command_ExplainTasks{ExplainTasks: &pb.ExplainTasks{
		Tasks: []*pb.TaskStatusReport{{Id: id, Status: status}},
	}}}
}

func report(node, id string, status *pb.TaskStatus) *pb.Command {
	return &pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{
		NodeId: node, Reports: []*pb.TaskStatusReport{{Id: id, Status: status}},
	}}}
}

func reportState(node, id string, state pb.TaskState) *pb.Command {
	return report(node, id, &pb.TaskStatus{State: state})
}

func deleteTasks(ids ...string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_DeleteTasks{DeleteTasks: &pb.DeleteTasks{Ids: ids}}}
}

func withNetwork(s *pb.ServiceSpec, id string) *pb.ServiceSpec {
	s.Task.Networks = append(s.Task.Networks, &pb.NetworkAttachment{NetworkId: id, NetworkName: "net-" + id})
	return s
}

func createNetwork(id string, spec *pb.NetworkSpec) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateNetwork{CreateNetwork: &pb.CreateNetwork{Id: id, Spec: spec}}}
}

func removeNetwork(id string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_RemoveNetwork{RemoveNetwork: &pb.RemoveNetwork{Id: id}}}
}

func allocateNetwork(id string, a *pb.NetworkAllocation) *pb.Command {
	return &pb.Command{Kind: &pb.Command_AllocateNetwork{AllocateNetwork: &pb.AllocateNetwork{Id: id, Allocation: a}}}
}

func allocateService(id string, ifVersion uint64, e *pb.Endpoint) *pb.Command {
	return &pb.Command{Kind: &pb.Command_AllocateService{AllocateService: &pb.AllocateService{Id: id, IfVersion: ifVersion, Endpoint: e}}}
}

func allocateTasks(tasks ...*pb.TaskAllocation) *pb.Command {
	return &pb.Command{Kind: &pb.Command_AllocateTasks{AllocateTasks: &pb.AllocateTasks{Tasks: tasks}}}
}

func allocateNode(id string, number uint32) *pb.Command {
	return &pb.Command{Kind: &pb.Command_AllocateNode{AllocateNode: &pb.AllocateNode{Id: id, MeshNumber: number}}}
}

// networkKeys are one key of each epoch.
func networkKeys(epochs ...uint64) *pb.Command {
	c := &pb.SetNetworkKeys{}
	for _, epoch := range epochs {
		c.Keys = append(c.Keys, &pb.NetworkKey{Epoch: epoch, Key: make([]byte, 32)})
	}
	return &pb.Command{Kind: &pb.Command_SetNetworkKeys{SetNetworkKeys: c}}
}

func createSecret(id, name string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateSecret{CreateSecret: &pb.CreateSecret{Id: id, Spec: &pb.SecretSpec{Name: name, Data: []byte("x")}}}}
}

func removeSecret(id string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_RemoveSecret{RemoveSecret: &pb.RemoveSecret{Id: id}}}
}

func createConfig(id, name string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateConfig{CreateConfig: &pb.CreateConfig{Id: id, Spec: &pb.ConfigSpec{Name: name, Data: []byte("x")}}}}
}

func removeConfig(id string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_RemoveConfig{RemoveConfig: &pb.RemoveConfig{Id: id}}}
}

func secretLabels(id string, ifVersion uint64, labels map[string]string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_UpdateSecretLabels{UpdateSecretLabels: &pb.UpdateSecretLabels{Id: id, IfVersion: ifVersion, Labels: labels}}}
}

func configLabels(id string, ifVersion uint64, labels map[string]string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_UpdateConfigLabels{UpdateConfigLabels: &pb.UpdateConfigLabels{Id: id, IfVersion: ifVersion, Labels: labels}}}
}

func ids[T store.Object](objects func(func(T) bool)) []string {
	var all []string
	for o := range objects {
		all = append(all, o.GetId())
	}
	return all
}

func TestQueries(t *testing.T) {
	m := newMachine(t)
	m.must(createCluster()).must(readyWorker("n1")...).must(readyWorker("n2")...)
	m.must(createSecret("s1", "key"), createConfig("c1", "conf"))
	m.must(createService("web", webSpec("Web", "nginx")), createService("api", webSpec("API", "go")))
	m.must(createTasks(task("t1", "web", 1), task("t3", "web", 2), task("t2", "web", 1), task("t4", "api", 1)))
	m.must(assign("n1", "t2", "t4"), assign("n2", "t1"))
	v := m.View()
	for what, got := range map[string][2][]string{
		"nodes":        {ids(v.Nodes()), {"n1", "n2"}},
		"services":     {ids(v.Services()), {"api", "web"}},
		"tasks":        {ids(v.Tasks()), {"t1", "t2", "t3", "t4"}},
		"secrets":      {ids(v.Secrets()), {"s1"}},
		"configs":      {ids(v.Configs()), {"c1"}},
		"by service":   {ids(v.TasksByService("web")), {"t1", "t2", "t3"}},
		"by slot":      {ids(v.TasksBySlot("web", 1)), {"t1", "t2"}},
		"by node":      {ids(v.TasksByNode("n1")), {"t2", "t4"}},
		"no service":   {ids(v.TasksByService("we")), nil},
		"no slot":      {ids(v.TasksBySlot("web", 3)), nil},
		"no node":      {ids(v.TasksByNode("n")), nil},
		"prefix t":     {ids(v.ByPrefix(pb.Kind_KIND_TASK, "t")), {"t1", "t2", "t3", "t4"}},
		"prefix t2":    {ids(v.ByPrefix(pb.Kind_KIND_TASK, "t2")), {"t2"}},
		"prefix n":     {ids(v.ByPrefix(pb.Kind_KIND_NODE, "n")), {"n1", "n2"}},
		"prefix w":     {ids(v.ByPrefix(pb.Kind_KIND_SERVICE, "w")), {"web"}},
		"prefix s":     {ids(v.ByPrefix(pb.Kind_KIND_SECRET, "s")), {"s1"}},
		"prefix c":     {ids(v.ByPrefix(pb.Kind_KIND_CONFIG, "")), {"c1"}},
		"prefix clust": {ids(v.ByPrefix(pb.Kind_KIND_CLUSTER, "c")), {"c"}},
		"prefix none":  {ids(v.ByPrefix(pb.Kind_KIND_CLUSTER, "x")), nil},
		"no kind":      {ids(v.ByPrefix(pb.Kind_KIND_UNSPECIFIED, "")), nil},
	} {
		if !slices.Equal(got[0], got[1]) {
			t.Errorf("%s: %v, want %v", what, got[0], got[1])
		}
	}
	if v.ServiceByName("Web") != v.Service("web") || v.SecretByName("key") != v.Secret("s1") || v.ConfigByName("conf") != v.Config("c1") {
		t.Error("lookups by name and id differ")
	}
	if v.Node("x") != nil || v.Service("x") != nil || v.Task("x") != nil || v.Secret("x") != nil || v.Config("x") != nil ||
		v.ServiceByName("x") != nil || v.SecretByName("x") != nil || v.ConfigByName("x") != nil {
		t.Error("what is not there is not nil")
	}
	if v.Index() != m.index {
		t.Errorf("index %d, want %d", v.Index(), m.index)
	}
}

func TestViewsDoNotChange(t *testing.T) {
	m := newMachine(t).must(createNode("n1", pb.NodeRole_NODE_ROLE_WORKER))
	v := m.View()
	m.must(nodeState("n1", pb.NodeState_NODE_STATE_READY), createNode("n2", pb.NodeRole_NODE_ROLE_WORKER))
	if v.Node("n1").GetStatus() != nil || v.Node("n2") != nil || v.Index() != 1 {
		t.Error("a view shows what came after it")
	}
}

func TestEntriesAnswerPerCommand(t *testing.T) {
	m := newMachine(t)
	errs := m.Apply(1, &pb.Entry{Commands: []*pb.Command{createSecret("a", "key"), createSecret("b", "key"), createSecret("c", "other")}})
	if len(errs) != 3 || errs[0] != nil || !fault.Is(errs[1], fault.Exists) || errs[2] != nil {
		t.Errorf("answers %v", errs)
	}
	if m.View().Secret("c") == nil {
		t.Error("a refusal stopped the rest of the entry")
	}
}

func TestApplyStopsRatherThanDiverge(t *testing.T) {
	future := &pb.Command{}
	future.ProtoReflect().SetUnknown([]byte{0xca, 0x3e, 0x00}) // field 1001, of no version that we know
	for what, apply := range map[string]func(*store.State){
		"unknown command": func(s *store.State) { s.Apply(2, &pb.Entry{Commands: []*pb.Command{future}}) },
		"empty command":   func(s *store.State) { s.Apply(2, &pb.Entry{Commands: []*pb.Command{{}}}) },
		"same index":      func(s *store.State) { s.Apply(1, &pb.Entry{}) },
	} {
		t.Run(what, func(t *testing.T) {
			s := store.New()
			s.Apply(1, &pb.Entry{})
			defer func() {
				if r := recover(); r == nil {
					t.Error("it went on")
				} else if fmt.Sprint(r) == "" {
					t.Error("it did not say why")
				}
			}()
			apply(s)
		})
	}
}
