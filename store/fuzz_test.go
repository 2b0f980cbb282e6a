package store_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// seedEntries are one entry for each kind of command.
func seedEntries() []*pb.Entry {
	preset := task("t2", "web", 0)
	preset.NodeId = "n1"
	return []*pb.Entry{
		{At: at(1), Commands: []*pb.Command{createCluster(), createNode("n1", worker), nodeState("n1", pb.NodeState_NODE_STATE_READY), createSecret("s1", "key"), createConfig("c1", "conf")}},
		{At: at(2), Commands: []*pb.Command{createService("web", withConfig(withSecret(webSpec("web", "nginx"), "s1"), "c1")), createTasks(task("t1", "web", 1), preset)}},
		{At: at(3), Commands: []*pb.Command{assign("n1", "t1"), explain("t2", &pb.TaskStatus{Message: "waiting"}), reportState("n1", "t1", running), removeSecret("s1"), removeConfig("c1")}},
		{At: at(4), Commands: []*pb.Command{updateService("web", 0, webSpec("web", "v2")), updateStatus("web", &pb.UpdateStatus{ToVersion: 2}), desire(remove, "t1"), deleteTasks("t1")}},
		{At: at(5), Commands: []*pb.Command{removeService("web"), deleteService("web"), removeNode("n1", true), secretLabels("s1", 0, nil), configLabels("c1", 0, nil)}},
		{At: at(5), Commands: []*pb.Command{createService("job", scheduled(jobSpec("job", 2), "@daily")), jobStatus("job", 0, jobRun(1, jobRunning)), createTasks(jobTask("t3", "job", 1, 1)), runJob("job")}},
		{At: at(6), Commands: []*pb.Command{clusterSpec(0, &pb.ClusterSpec{Name: "default"}), joinTokens(&pb.JoinTokens{}), setRole("n1", manager), managerAddr("n1", "h:1"), nodeSpec("n1", 0, &pb.NodeSpec{})}},
		{At: at(7), Commands: []*pb.Command{rebalance("web", 5, false), {Kind: &pb.Command_SetRebalance{SetRebalance: &pb.SetRebalance{Id: "web"}}}}},
	}
}

// known says whether all commands of an entry are of kinds that this code
// knows; Apply stops at others by design.
func known(e *pb.Entry) bool {
	for _, c := range e.Commands {
		if c.Kind == nil {
			return false
		}
	}
	return true
}

// Whatever decodes must be applied or refused, not panic.
func FuzzApplyNeverPanics(f *testing.F) {
	for _, e := range seedEntries() {
		data, err := proto.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := store.New()
		for i, e := range seedEntries()[:3] {
			s.Apply(uint64(i+1), e)
		}
		var e pb.Entry
		if proto.Unmarshal(data, &e) != nil || !known(&e) {
			return
		}
		if errs := s.Apply(10, &e); len(errs) != len(e.Commands) {
			t.Errorf("%d answers to %d commands", len(errs), len(e.Commands))
		}
		for range s.View().Objects() {
			continue
		}
	})
}

// Whatever decodes as a snapshot is refused or survives a round trip, unknown
// fields included.
func FuzzSnapshotRoundTrip(f *testing.F) {
	s := store.New()
	for i, e := range seedEntries() {
		s.Apply(uint64(i+1), e)
		data, err := proto.Marshal(s.Snapshot())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var in pb.Snapshot
		if proto.Unmarshal(data, &in) != nil {
			return
		}
		first, second := store.New(), store.New()
		if first.Restore(&in) != nil {
			return
		}
		want := first.Snapshot()
		if err := second.Restore(proto.CloneOf(want)); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if got := second.Snapshot(); !proto.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
}

// A field of a newer minid stays through updates by this one.
func TestUnknownFieldsSurvive(t *testing.T) {
	m := newMachine(t)
	c := createNode("n1", worker)
	extra := []byte{0xca, 0x3e, 0x01, 0x07}
	c.GetCreateNode().Node.ProtoReflect().SetUnknown(extra)
	m.must(c, nodeState("n1", pb.NodeState_NODE_STATE_READY), nodeSpec("n1", 0, &pb.NodeSpec{}))
	data, err := proto.Marshal(m.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	var in pb.Snapshot
	if err := proto.Unmarshal(data, &in); err != nil {
		t.Fatal(err)
	}
	fresh := store.New()
	if err := fresh.Restore(&in); err != nil {
		t.Fatal(err)
	}
	if got := fresh.View().Node("n1").ProtoReflect().GetUnknown(); string(got) != string(extra) {
		t.Errorf("unknown fields %x, want %x", got, extra)
	}
}

func TestRestoreRefusesUnknownKinds(t *testing.T) {
	m := newMachine(t).must(createNode("n1", worker))
	before := m.Snapshot()
	err := m.Restore(&pb.Snapshot{Index: 9, Objects: []*pb.Object{{Kind: &pb.Object_Node{Node: &pb.Node{Id: "n2"}}}, {}}})
	if err == nil {
		t.Error("it was restored")
	}
	equal(t, "state after a refused restore", m.Snapshot(), before)
}
