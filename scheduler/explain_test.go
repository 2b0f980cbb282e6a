package scheduler

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

func TestSummaryAndHint(t *testing.T) {
	disk := "node.labels.disk==ssd"
	hdd := label("disk", "hdd")
	with := func(spec *pb.TaskSpec, constraint string) *pb.TaskSpec {
		spec.Placement = &pb.Placement{Constraints: []string{constraint}}
		return spec
	}
	for _, c := range []struct {
		name          string
		nodes         []*pb.Node
		spec          *pb.TaskSpec
		summary, hint string
	}{
		{"no nodes", nil, nil, "0 of 0 nodes fit", "minictl swarm join-token worker"},
		{
			"the example of the API",
			[]*pb.Node{
				testNode("n1", hdd), testNode("n3"), testNode("n2", hdd),
				testNode("n4", availability(drain)), testNode("n5", memory(300<<20), label("disk", "ssd")),
			},
			with(needMemory(512<<20), disk),
			"0 of 5 nodes fit: 3 lack label disk=ssd, 1 is draining, 1 needs 212 MiB more memory",
			"minictl node update --label-add disk=ssd n3",
		},
		{
			"only activating helps",
			[]*pb.Node{testNode("n1", hdd), testNode("n3", availability(pause)), testNode("n2", availability(pause))},
			constrainedBy("node.labels.disk!=hdd"),
			"0 of 3 nodes fit: 2 are paused, 1 has label disk=hdd",
			"minictl node update --availability active n2",
		},
		{
			"a label that is not the only obstacle is no advice",
			[]*pb.Node{testNode("n1")},
			constrainedBy(disk, "node.role==manager"),
			"0 of 1 nodes fit: 1 lacks label disk=ssd", "",
		},
		{
			"too large everywhere",
			[]*pb.Node{testNode("n1"), testNode("n2", memory(2<<30)), testNode("n3", memory(1<<30))},
			needMemory(4 << 30),
			"0 of 3 nodes fit: 3 need at least 2048 MiB more memory",
			"minictl service update --reserve-memory 2048MiB web",
		},
		{
			"memory and CPU",
			[]*pb.Node{testNode("n1")},
			&pb.TaskSpec{Resources: &pb.ResourceRequirements{ReserveNanoCpus: 5500e6, ReserveMemoryBytes: 1<<30 + 1}},
			"0 of 1 nodes fit: 1 needs 1.5 more CPUs and 1 KiB more memory", "",
		},
		{
			"CPUs, told as what is free",
			[]*pb.Node{testNode("n1"), testNode("n2", func(n *pb.Node) { n.Description.Resources.NanoCpus = 4_500_500_000 })},
			&pb.TaskSpec{Resources: &pb.ResourceRequirements{ReserveNanoCpus: 5e9}},
			"0 of 2 nodes fit: 2 need at least 0.5 more CPUs", "minictl service update --reserve-cpu 4.5 web",
		},
		{
			"a single CPU",
			[]*pb.Node{testNode("n1")},
			&pb.TaskSpec{Resources: &pb.ResourceRequirements{ReserveNanoCpus: 5e9}},
			"0 of 1 nodes fit: 1 needs 1 more CPU", "minictl service update --reserve-cpu 4 web",
		},
		{
			"down and unknown",
			[]*pb.Node{testNode("n1", state(down)), testNode("n2", state(down)), testNode("n3", state(unknown))},
			nil,
			"0 of 3 nodes fit: 2 are down, 1 has not been heard of yet", "minictl node ls",
		},
		{
			"platform",
			[]*pb.Node{testNode("n1"), testNode("n2")},
			&pb.TaskSpec{Container: &pb.ContainerSpec{Platforms: []*pb.ImagePlatform{{Os: "linux", Architecture: "arm64"}}}},
			"0 of 2 nodes fit: 2 run linux/amd64, for which the image is not built", "",
		},
		{
			"label with a space",
			[]*pb.Node{testNode("n1")},
			constrainedBy("node.labels.room==room 1"),
			"0 of 1 nodes fit: 1 lacks label room=room 1",
			"minictl node update --label-add 'room=room 1' n1",
		},
		{
			"a list",
			[]*pb.Node{testNode("n1"), testNode("n2", hdd)},
			constrainedBy("node.labels.disk in (ssd,nvme)"),
			"0 of 2 nodes fit: 2 lack label disk in (nvme, ssd)",
			"minictl node update --label-add disk=nvme n1",
		},
		{
			"what may not be",
			[]*pb.Node{testNode("n1", hdd), testNode("n2", hdd)},
			constrainedBy("node.labels.disk notin (hdd,tape)"),
			"0 of 2 nodes fit: 2 have label disk in (hdd, tape)", "",
		},
		{
			"any value",
			[]*pb.Node{testNode("n1"), testNode("n2")},
			constrainedBy("node.labels.gpu exists"),
			"0 of 2 nodes fit: 2 lack label gpu", "minictl node update --label-add gpu n1",
		},
		{
			"no value",
			[]*pb.Node{testNode("n1", hdd)},
			constrainedBy("node.labels.disk !exists"),
			"0 of 1 nodes fit: 1 has label disk", "",
		},
		{
			"numbers",
			[]*pb.Node{testNode("n1", engineLabel("cores", "4")), testNode("n2")},
			constrainedBy("engine.labels.cores > 4"),
			"0 of 2 nodes fit: 2 lack engine label cores > 4", "",
		},
		{
			"attributes in lists",
			[]*pb.Node{testNode("n1"), testNode("n2")},
			constrainedBy("node.hostname in (a,b)"),
			"0 of 2 nodes fit: 2 are not named a or b", "",
		},
		{
			"an address",
			[]*pb.Node{testNode("n1")},
			constrainedBy("node.ip notin (10.0.0.0/8, 192.168.0.0/16)"),
			"0 of 1 nodes fit: 1 is in 10.0.0.0/8 or 192.168.0.0/16", "",
		},
		{"fits", []*pb.Node{testNode("n1"), testNode("n2", state(down))}, nil, "1 of 2 nodes fit: 1 is down", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := groupFor("web", c.spec, 1)
			e := setOf(c.nodes...).Explain(g, g.Tasks[0])
			if e.Summary() != c.summary {
				t.Errorf("summary:\n got %q\nwant %q", e.Summary(), c.summary)
			}
			if e.Hint != c.hint {
				t.Errorf("hint: got %q, want %q", e.Hint, c.hint)
			}
		})
	}
}

func TestReasonsOfLoad(t *testing.T) {
	s := setOf(testNode("n1"))
	spec := publishing(80)
	spec.Placement = &pb.Placement{MaxReplicasPerNode: 1}
	g := groupFor("web", spec, 1)
	place(t, s, g)
	if e := s.Explain(groupFor("api", publishing(80), 1), Waiting{}); e.Reasons() != "1 has host port 80/tcp in use" {
		t.Error(e.Reasons())
	}
	e := s.Explain(groupFor("web", &pb.TaskSpec{Placement: spec.Placement}, 1), Waiting{})
	if e.Reasons() != "1 is at the limit of 1 replica per node" || e.Hint != "minictl service update --replicas-max-per-node 2 web" {
		t.Errorf("%s; %s", e.Reasons(), e.Hint)
	}
}

func TestConstraintReasons(t *testing.T) {
	for text, want := range map[string]string{
		"node.id==x":               "1 is not node x",
		"node.id!=n1":              "1 is node n1",
		"node.hostname==db":        "1 is not named db",
		"node.ip==192.168.0.0/16":  "1 is not in 192.168.0.0/16",
		"node.role==manager":       "1 is not a manager",
		"node.role!=worker":        "1 is a worker",
		"node.platform.os!=linux":  "1 is linux",
		"node.platform.arch==arm":  "1 is not arm",
		"engine.labels.gpu==a100":  "1 lacks engine label gpu=a100",
		"node.labels.empty!=x==y":  "1 is refused by the unreadable constraint node.labels.empty!=x==y",
		"node.labels.disk != none": "",
	} {
		s := setOf(testNode("n1"))
		g := groupFor("web", constrainedBy(text), 1)
		if got := s.Explain(g, g.Tasks[0]).Reasons(); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func TestFormatBytes(t *testing.T) {
	for n, want := range map[int64]string{
		1: "1 KiB", 1 << 10: "1 KiB", 1<<10 + 1: "2 KiB", 1 << 20: "1 MiB", 212<<20 - 5: "212 MiB",
		9 << 30: "9216 MiB", 10 << 30: "10 GiB", 10<<30 + 1: "11 GiB",
	} {
		if got := formatBytes(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

// storeWith applies commands that must succeed.
func storeWith(t *testing.T, cmds ...*pb.Command) store.View {
	t.Helper()
	s := store.New()
	for i, cmd := range cmds {
		for _, err := range s.Apply(uint64(i+1), &pb.Entry{Commands: []*pb.Command{cmd}, At: timestamppb.New(epoch)}) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return s.View()
}

func createNode(n *pb.Node) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: n}}}
}

func TestExplainTask(t *testing.T) {
	spec := constrainedBy("node.labels.disk==ssd")
	spec.Resources = &pb.ResourceRequirements{ReserveMemoryBytes: 600 << 20}
	task := func(id, node string, state pb.TaskState) *pb.Task {
		return &pb.Task{
			Id: id, ServiceId: "s1", ServiceName: "web", SpecVersion: 1, NodeId: node,
			DesiredState: pb.TaskState_TASK_STATE_RUNNING, Status: &pb.TaskStatus{State: state},
		}
	}
	running := task("t1", "n1", pb.TaskState_TASK_STATE_RUNNING)
	waiting := task("t2", "", pb.TaskState_TASK_STATE_PENDING)
	v := storeWith(t,
		createNode(testNode("n1", label("disk", "ssd"))), createNode(testNode("n2")), createNode(testNode("n3", state(down))),
		&pb.Command{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: "s1", Spec: &pb.ServiceSpec{
			Name: "web", Task: spec, Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: 2}},
		}}}},
		&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{running, waiting}}}},
	)
	others := []*pb.NodeVerdict{
		{NodeId: "n2", NodeName: "n2", Filter: "constraints", Reason: "lacks label disk=ssd"},
		{NodeId: "n3", NodeName: "n3", Filter: "ready", Reason: "is down"},
	}
	for _, c := range []struct {
		task *pb.Task
		want *pb.Explanation
	}{
		{running, &pb.Explanation{
			Task:    running,
			Summary: "1 of 3 nodes fit: 1 is down, 1 lacks label disk=ssd",
			Nodes:   append([]*pb.NodeVerdict{{NodeId: "n1", NodeName: "n1", Fits: true, Rank: 1, Chosen: true}}, others...),
		}},
		{waiting, &pb.Explanation{
			Task:    waiting,
			Summary: "0 of 3 nodes fit: 1 is down, 1 needs 176 MiB more memory, 1 lacks label disk=ssd",
			Hint:    "minictl node update --label-add disk=ssd n2",
			Nodes: append([]*pb.NodeVerdict{{
				NodeId: "n1", NodeName: "n1", Filter: "resources", Reason: "needs 176 MiB more memory", ServiceTasks: 1, TotalTasks: 1,
			}}, others...),
		}},
	} {
		got := ExplainTask(v, c.task, epoch)
		if diff := cmp.Diff(c.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", c.task.Id, diff)
		}
	}
}

func TestFromViewKnowsPastFailures(t *testing.T) {
	cmds := []*pb.Command{
		createNode(testNode("n1")),
		{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: "s1", Spec: &pb.ServiceSpec{
			Name: "web", Task: &pb.TaskSpec{}, Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{}},
		}}}},
	}
	failed := &pb.CreateTasks{}
	for i := range maxFailures {
		failed.Tasks = append(failed.Tasks, &pb.Task{
			Id: fmt.Sprint("t", i), ServiceId: "s1", SpecVersion: 1, NodeId: "n1", DesiredState: pb.TaskState_TASK_STATE_SHUTDOWN,
			Status: &pb.TaskStatus{State: pb.TaskState_TASK_STATE_FAILED, At: timestamppb.New(epoch)},
		})
	}
	s := FromView(storeWith(t, append(cmds, &pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: failed}})...))
	if flapping := s.flapping(s.service("s1"), 1, epoch); !flapping[s.nodes["n1"]] {
		t.Error("a new leader does not know that the node flaps")
	}
}
