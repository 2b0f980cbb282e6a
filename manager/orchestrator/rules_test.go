package orchestrator

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
)

func TestNeedsReplacement(t *testing.T) {
	old := &pb.TaskSpec{Container: &pb.ContainerSpec{Image: "a"}}
	ssd := &pb.Node{
		Id: "n", Spec: &pb.NodeSpec{Labels: map[string]string{"disk": "ssd"}},
		Description: &pb.NodeDescription{Platform: &pb.Platform{Os: "linux", Architecture: "amd64"}},
	}
	for _, c := range []struct {
		name   string
		change func(*pb.TaskSpec)
		want   bool
	}{
		{"nothing", func(*pb.TaskSpec) {}, false},
		{"image", func(s *pb.TaskSpec) { s.Container.Image = "b" }, true},
		{"environment", func(s *pb.TaskSpec) { s.Container.Env = []string{"A=1"} }, true},
		{"secret", func(s *pb.TaskSpec) { s.Container.Secrets = []*pb.FileReference{{Id: "s"}} }, true},
		{"force", func(s *pb.TaskSpec) { s.ForceUpdate++ }, true},
		{"resources", func(s *pb.TaskSpec) { s.Resources = &pb.ResourceRequirements{LimitPids: 1} }, true},
		{"host ports", func(s *pb.TaskSpec) {
			s.Ports = []*pb.PortConfig{{Target: 80, Mode: pb.PortConfig_MODE_HOST}, {Target: 80, Mode: pb.PortConfig_MODE_INGRESS}}
		}, true},
		{"ingress ports", func(s *pb.TaskSpec) {
			s.Ports = []*pb.PortConfig{{Target: 80, Published: 8080, Mode: pb.PortConfig_MODE_INGRESS}}
		}, false},
		{"network", func(s *pb.TaskSpec) { s.Networks = []*pb.NetworkAttachment{{NetworkId: "w"}} }, true},
		{"log", func(s *pb.TaskSpec) { s.Log = &pb.LogConfig{MaxFiles: 2} }, true},
		{"restart policy", func(s *pb.TaskSpec) { s.Restart = &pb.RestartPolicy{MaxAttempts: 1} }, false},
		{"pull credentials", func(s *pb.TaskSpec) { s.Container.PullAuth = []byte("x") }, false},
		{"the node's platform", func(s *pb.TaskSpec) { s.Container.Platforms = platforms("amd64") }, false},
		{"another platform", func(s *pb.TaskSpec) { s.Container.Platforms = platforms("arm64") }, true},
		{"spread", func(s *pb.TaskSpec) { s.Placement = &pb.Placement{Spread: []string{"node.labels.rack"}} }, false},
		{"constraint that holds", func(s *pb.TaskSpec) { s.Placement = &pb.Placement{Constraints: []string{"node.labels.disk==ssd"}} }, false},
		{"constraint that does not", func(s *pb.TaskSpec) { s.Placement = &pb.Placement{Constraints: []string{"node.labels.disk!=ssd"}} }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			next := proto.CloneOf(old)
			c.change(next)
			if got := NeedsReplacement(old, next, ssd, stillFits); got != c.want {
				t.Errorf("got %v", got)
			}
			if !NeedsReplacement(old, next, nil, stillFits) {
				t.Error("a task without a node need not be replaced")
			}
		})
	}
}

func TestRestarts(t *testing.T) {
	epoch := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(s int) *timestamppb.Timestamp { return timestamppb.New(epoch.Add(time.Duration(s) * time.Second)) }
	// A slot that was restarted every 10 seconds; the last task ended at 45.
	var tasks []*pb.Task
	for i := range 5 {
		tasks = append(tasks, &pb.Task{
			Id: fmt.Sprint(i), SpecVersion: 1, RestartCount: uint64(i),
			Meta: &pb.Meta{CreatedAt: at(10 * i)}, Status: &pb.TaskStatus{State: pb.TaskState_TASK_STATE_FAILED, At: at(10*i + 5)},
		})
	}
	const complete, failed, rejected = pb.TaskState_TASK_STATE_COMPLETE, pb.TaskState_TASK_STATE_FAILED, pb.TaskState_TASK_STATE_REJECTED
	const none, onFailure, whatever = pb.RestartPolicy_CONDITION_NONE, pb.RestartPolicy_CONDITION_ON_FAILURE, pb.RestartPolicy_CONDITION_ANY
	for _, c := range []struct {
		policy *pb.RestartPolicy
		end    pb.TaskState
		count  uint64
		again  bool
	}{
		{nil, complete, 5, true},
		{nil, failed, 5, true},
		{&pb.RestartPolicy{Condition: whatever}, complete, 5, true},
		{&pb.RestartPolicy{Condition: none}, failed, 0, false},
		{&pb.RestartPolicy{Condition: onFailure}, complete, 0, false},
		{&pb.RestartPolicy{Condition: onFailure}, failed, 5, true},
		{&pb.RestartPolicy{Condition: onFailure}, rejected, 5, true},
		{&pb.RestartPolicy{MaxAttempts: 5}, failed, 5, true},
		{&pb.RestartPolicy{MaxAttempts: 4}, failed, 5, false},
		{&pb.RestartPolicy{MaxAttempts: 3, Window: durationpb.New(30 * time.Second)}, failed, 4, false}, // at 20, 30, 40
		{&pb.RestartPolicy{MaxAttempts: 3, Window: durationpb.New(20 * time.Second)}, failed, 3, true},  // at 30, 40
		{&pb.RestartPolicy{Window: durationpb.New(time.Second)}, failed, 1, true},
	} {
		t.Run(fmt.Sprint(c.policy, c.end), func(t *testing.T) {
			s := newSet(nil, nil)
			s.spec = &pb.TaskSpec{Restart: c.policy}
			last := proto.CloneOf(tasks[4])
			last.Status.State = c.end
			count, again := s.restarts(&slot{tasks: append(slices.Clone(tasks[:4]), last)}, last)
			if again != c.again || again && count != c.count {
				t.Errorf("restart %d, %v", count, again)
			}
		})
	}
}

// TestLeastMissed gives slots as STATE@NODE and wants the order in which
// scale-in takes their numbers.
func TestLeastMissed(t *testing.T) {
	for _, c := range []struct{ slots, want string }{
		{"running@a running@b running@c", "3 2 1"},
		{"running@a running@a running@b", "2 3 1"},
		{"running@a running@a running@a running@b running@b", "3 5 2 4 1"},
		{"running@a pending@ running@b", "2 3 1"},
		{"starting@a pending@ running@b ready@c", "2 4 1 3"},
		{"running@a failed@a running@a", "2 3 1"},
		{"pending@ pending@ pending@", "3 2 1"},
	} {
		t.Run(c.slots, func(t *testing.T) {
			s := newSet(nil, nil)
			for i, word := range strings.Fields(c.slots) {
				state, node, _ := strings.Cut(word, "@")
				p := place{slot: uint64(i + 1)}
				task := &pb.Task{Slot: p.slot, NodeId: node, DesiredState: pb.TaskState_TASK_STATE_RUNNING,
					Status: &pb.TaskStatus{State: pb.TaskState(pb.TaskState_value["TASK_STATE_"+strings.ToUpper(state)])}}
				s.slots[p] = &slot{place: p, occupied: true}
				if live(task) {
					s.slots[p].live = []*pb.Task{task}
				}
				s.present++
			}
			var got []string
			for _, sl := range s.leastMissed() {
				got = append(got, fmt.Sprint(sl.slot))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}

func TestReconcileLeavesItsInputAlone(t *testing.T) {
	e := newEnv(t)
	e.addNode("n1")
	e.setService("web", "replicas=3")
	e.settle()
	e.setService("web", "image=b")
	before := e.state.Snapshot()
	for range 3 {
		e.plan(e.service("web"))
	}
	if !proto.Equal(before, e.state.Snapshot()) {
		t.Error("a plan changed what is stored")
	}
}

func platforms(arch string) []*pb.ImagePlatform {
	return []*pb.ImagePlatform{{Os: "linux", Architecture: arch}}
}
