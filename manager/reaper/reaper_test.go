package reaper

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
)

var (
	epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	nodes = map[string]*pb.Node{
		"up":      {Id: "up", Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_READY}},
		"down":    {Id: "down", Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_DOWN}},
		"unknown": {Id: "unknown", Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_UNKNOWN}},
	}
)

func nodeOf(id string) *pb.Node { return nodes[id] }

// slotOf makes tasks t1, t2… from words like "failed/shutdown@up:v2": observed
// and desired state, node, spec version; each a second younger than the last.
func slotOf(t testing.TB, words string) (tasks []*pb.Task) {
	t.Helper()
	for i, word := range strings.Fields(words) {
		word, version, _ := strings.Cut(word, ":v")
		states, node, _ := strings.Cut(word, "@")
		observed, desired, _ := strings.Cut(states, "/")
		task := &pb.Task{
			Id: fmt.Sprintf("t%d", i+1), ServiceId: "s", Slot: 1, NodeId: node, SpecVersion: 1,
			Meta:         &pb.Meta{CreatedAt: timestamppb.New(epoch.Add(time.Duration(i) * time.Second))},
			Status:       &pb.TaskStatus{State: stateOf(t, observed)},
			DesiredState: stateOf(t, desired),
		}
		if version != "" {
			fmt.Sscan(version, &task.SpecVersion)
		}
		tasks = append(tasks, task)
	}
	return tasks
}

func stateOf(t testing.TB, word string) pb.TaskState {
	t.Helper()
	state, ok := pb.TaskState_value["TASK_STATE_"+strings.ToUpper(word)]
	if !ok {
		t.Fatalf("no task state %q", word)
	}
	return pb.TaskState(state)
}

func serviceWith(attempts uint64, update pb.UpdateState, version uint64) *pb.Service {
	return &pb.Service{
		Id: "s", SpecVersion: version,
		Spec:         &pb.ServiceSpec{Task: &pb.TaskSpec{Restart: &pb.RestartPolicy{MaxAttempts: attempts}}},
		UpdateStatus: &pb.UpdateStatus{State: update},
	}
}

func TestReap(t *testing.T) {
	plain := serviceWith(0, 0, 1)
	updating := serviceWith(0, pb.UpdateState_UPDATE_STATE_UPDATING, 2)
	const over, runs = " failed/shutdown@up", " running/running@up"
	for _, c := range []struct {
		name    string
		service *pb.Service
		limit   int64
		tasks   string
		want    string
	}{
		{"history within the limit", plain, 3, over + over + over + runs, ""},
		{"the oldest go first", plain, 2, over + over + over + over + runs, "t1 t2"},
		{"no history", plain, 0, over + over + runs, "t1 t2"},
		{"all history", plain, -1, over + over + over + runs, ""},
		{"a slot that was given up keeps its last task", plain, 0, over + over + over, "t1 t2"},
		{"a failure that nobody dealt with stays", plain, 0, over + " failed/running@up" + runs, "t1"},
		{"what still stops is no history", plain, 0, "running/shutdown@up" + runs, ""},
		{"nor where the node is silent", plain, 0, "running/shutdown@unknown" + runs, ""},
		{"beyond reach is history", plain, 0, "running/shutdown@down running/shutdown@gone" + runs, "t1 t2"},
		{"a live task on a lost node is the orchestrator's", plain, 0, "running/running@down running/running@gone", ""},
		{"attempts must be countable", serviceWith(3, 0, 1), 1, over + over + over + over + over + runs, "t1"},
		{"attempts below the limit change nothing", serviceWith(1, 0, 1), 3, over + over + over + over + runs, "t1"},
		{"the update's task stays", updating, 0, over + " failed/shutdown@up:v2 failed/shutdown@up:v2 running/running@up:v1", "t1 t3"},
		{"failed beside a running one: the newest stays", plain, 0, runs + over + over, "t2"},
		{"after the update it goes", serviceWith(0, pb.UpdateState_UPDATE_STATE_COMPLETED, 2), 0, " failed/shutdown@up:v2 running/running@up:v2", "t1"},
		{"removed and ended", plain, -1, "shutdown/remove@up failed/remove@up orphaned/remove@gone", "t1 t2 t3"},
		{"removed and still stopping", plain, 0, "running/remove@up starting/remove@unknown", ""},
		{"removed, node beyond reach", plain, 0, "running/remove@down running/remove@gone", "t1 t2"},
		{"removed before it had a node", plain, 0, "shutdown/remove pending/remove", "t1 t2"},
		{"a slot used again", plain, 5, "running/remove@up shutdown/remove@up pending/ready", "t2"},
		{"a service that does not exist keeps nothing", nil, 5, over + " running/running@up pending/running", "t1 t3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Reap(Slot{Service: c.service, Tasks: slotOf(t, c.tasks), Limit: c.limit, Node: nodeOf})
			if strings.Join(got, " ") != c.want {
				t.Errorf("deletes %v, want %q", got, c.want)
			}
		})
	}
}

// TestReapSafely: whatever the slot, nothing that may run is forgotten, the
// history has its length, and reaping again finds nothing.
func TestReapSafely(t *testing.T) {
	word := rapid.Custom(func(rt *rapid.T) string {
		observed := rapid.SampledFrom([]string{"pending", "starting", "running", "complete", "failed", "rejected", "shutdown", "orphaned"}).Draw(rt, "observed")
		desired := rapid.SampledFrom([]string{"ready", "running", "shutdown", "remove"}).Draw(rt, "desired")
		node := rapid.SampledFrom([]string{"up", "down", "unknown", "gone"}).Draw(rt, "node")
		return fmt.Sprintf("%s/%s@%s:v%d", observed, desired, node, rapid.IntRange(1, 2).Draw(rt, "version"))
	})
	rapid.Check(t, func(rt *rapid.T) {
		tasks := slotOf(t, strings.Join(rapid.SliceOfN(word, 0, 12).Draw(rt, "tasks"), " "))
		in := Slot{
			Service: serviceWith(rapid.Uint64Range(0, 3).Draw(rt, "attempts"), pb.UpdateState(rapid.IntRange(0, 3).Draw(rt, "update")), 2),
			Tasks:   tasks, Limit: rapid.Int64Range(-1, 4).Draw(rt, "limit"), Node: nodeOf,
		}
		ids := Reap(in)
		for _, task := range tasks {
			reachable := nodes[task.NodeId].GetStatus().GetState() > pb.NodeState_NODE_STATE_DOWN || task.NodeId == "unknown"
			running := task.Status.State <= pb.TaskState_TASK_STATE_RUNNING && reachable
			wanted := task.Status.State <= pb.TaskState_TASK_STATE_RUNNING && task.DesiredState <= pb.TaskState_TASK_STATE_RUNNING
			if slices.Contains(ids, task.Id) && (running || wanted) {
				rt.Fatalf("%v is forgotten while it may run", task)
			}
		}
		in.Tasks = slices.DeleteFunc(slices.Clone(tasks), func(t *pb.Task) bool { return slices.Contains(ids, t.Id) })
		if again := Reap(in); len(again) > 0 {
			rt.Fatalf("reaps %v, then %v", ids, again)
		}
		if keep := in.keep(); keep >= 0 && len(in.Tasks) > 0 {
			kept := 0
			for _, task := range in.Tasks {
				if in.over(task) && task.DesiredState == pb.TaskState_TASK_STATE_SHUTDOWN {
					kept++
				}
			}
			if kept > keep+2 {
				rt.Fatalf("%d finished tasks kept, limit %d", kept, keep)
			}
		}
	})
}
