package restarts

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
)

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func at(seconds int) *timestamppb.Timestamp {
	return timestamppb.New(start.Add(time.Duration(seconds) * time.Second))
}

// ended is a task that was created, ran and failed at those seconds, with so
// many restarts since second 0.
func ended(id string, created, ran, end int, restarts uint64) *pb.Task {
	t := &pb.Task{
		Id: id, ServiceName: "web", Slot: 1, SpecVersion: 1, DesiredState: pb.TaskState_TASK_STATE_SHUTDOWN, RestartCount: restarts,
		Meta: &pb.Meta{CreatedAt: at(created)}, RunningAt: at(ran),
		Status: &pb.TaskStatus{State: pb.TaskState_TASK_STATE_FAILED, At: at(end), Container: &pb.ContainerStatus{ExitCode: 1}},
	}
	if restarts > 0 {
		t.Streak = &pb.RestartStreak{Restarts: restarts, Since: at(0)}
	}
	return t
}

// next is a task that waits for its turn, or whatever change makes of it.
func next(created, due int, restarts uint64, change func(*pb.Task)) *pb.Task {
	t := ended("next", created, 0, 0, restarts)
	t.DesiredState, t.RunningAt, t.StartAfter = pb.TaskState_TASK_STATE_READY, nil, at(due)
	t.Status = &pb.TaskStatus{State: pb.TaskState_TASK_STATE_READY}
	if change != nil {
		change(t)
	}
	return t
}

func runs(since int) func(*pb.Task) {
	return func(t *pb.Task) {
		t.DesiredState, t.Status.State, t.RunningAt = pb.TaskState_TASK_STATE_RUNNING, pb.TaskState_TASK_STATE_RUNNING, at(since)
	}
}

func TestFind(t *testing.T) {
	oom := ended("a", 100, 110, 130, 6)
	oom.Status.Error, oom.Status.Container.ExitCode = "out of memory: reached its limit of 64 MiB", 137
	fine := ended("a", 5, 6, 9, 3)
	fine.Status.State, fine.Status.Container.ExitCode = pb.TaskState_TASK_STATE_COMPLETE, 0
	for name, c := range map[string]struct {
		policy string
		tasks  []*pb.Task
		now    int
		want   string
	}{
		"no task":                {"", nil, 0, ""},
		"two restarts are few":   {"", []*pb.Task{ended("a", 5, 6, 9, 1), next(9, 14, 2, nil)}, 10, ""},
		"three are a loop":       {"", []*pb.Task{ended("a", 5, 6, 9, 2), next(9, 14, 3, nil)}, 10, "restarts again and again: 3 times in 9s, last: exit code 1, next try in 4s"},
		"with its own words":     {"", []*pb.Task{oom, next(130, 170, 7, nil)}, 130, "restarts again and again: 7 times in 2m10s, last: out of memory: reached its limit of 64 MiB (exit code 137), next try in 40s"},
		"never in no time":       {"", []*pb.Task{oom, next(130, 170, 7, nil)}, 169, "restarts again and again: 7 times in 2m10s, last: out of memory: reached its limit of 64 MiB (exit code 137), next try in 1s"},
		"its time has come":      {"", []*pb.Task{oom, next(130, 170, 7, nil)}, 171, "restarts again and again: 7 times in 2m10s, last: out of memory: reached its limit of 64 MiB (exit code 137), trying once more"},
		"it runs":                {"", []*pb.Task{oom, next(130, 170, 7, runs(171))}, 190, "restarts again and again: 7 times in 2m10s, last: out of memory: reached its limit of 64 MiB (exit code 137), running once more"},
		"it runs for long":       {"", []*pb.Task{oom, next(130, 170, 7, runs(171))}, 191, ""},
		"long after long delays": {"max-delay=1m", []*pb.Task{oom, next(130, 170, 7, runs(171))}, 191, "restarts again and again: 7 times in 2m10s, last: out of memory: reached its limit of 64 MiB (exit code 137), running once more"},
		"it finishes too soon":   {"", []*pb.Task{fine, next(9, 14, 4, nil)}, 10, "restarts again and again: 4 times in 9s, last: it finished (exit code 0), next try in 4s"},
		"it is told to stop":     {"", []*pb.Task{oom, next(130, 170, 7, func(t *pb.Task) { t.DesiredState = pb.TaskState_TASK_STATE_SHUTDOWN })}, 131, ""},
		"another version":        {"", []*pb.Task{oom, next(130, 170, 0, func(t *pb.Task) { t.SpecVersion = 2 })}, 131, ""},
		"all attempts are used":  {"attempts=3", []*pb.Task{ended("a", 5, 6, 9, 2), ended("b", 9, 14, 15, 3)}, 60, "is given up: 3 restarts are all that may be, last: exit code 1"},
		"the only one is used":   {"attempts=1", []*pb.Task{ended("b", 9, 14, 15, 1)}, 60, "is given up: 1 restart is all that may be, last: exit code 1"},
		"all within the window":  {"attempts=3 window=1m", []*pb.Task{ended("b", 9, 14, 15, 3)}, 60, "is given up: 3 restarts are all that may be within 1m0s, last: exit code 1"},
		"more may come":          {"attempts=4", []*pb.Task{ended("b", 9, 14, 15, 3)}, 60, ""},
		"done is not given up":   {"attempts=3 on-failure", []*pb.Task{fine}, 60, ""},
		"nothing of it is kept":  {"", []*pb.Task{next(130, 170, 7, nil)}, 131, ""},
	} {
		l, ok := Find(service(t, c.policy), c.tasks, start.Add(time.Duration(c.now)*time.Second))
		got := ""
		if ok {
			got = l.Text(start.Add(time.Duration(c.now) * time.Second))
		}
		if got != c.want {
			t.Errorf("%s:\n got %q\nwant %q", name, got, c.want)
		}
	}
}

func service(t *testing.T, policy string) *pb.Service {
	p := &pb.RestartPolicy{}
	for _, word := range strings.Fields(policy) {
		key, value, _ := strings.Cut(word, "=")
		d, _ := time.ParseDuration(value)
		switch key {
		case "on-failure":
			p.Condition = pb.RestartPolicy_CONDITION_ON_FAILURE
		case "attempts":
			p.MaxAttempts = uint64(value[0] - '0')
		case "window":
			p.Window = durationpb.New(d)
		case "max-delay":
			p.MaxDelay = durationpb.New(d)
		default:
			t.Fatalf("unknown word %q", word)
		}
	}
	return &pb.Service{Spec: &pb.ServiceSpec{Task: &pb.TaskSpec{Restart: p}}}
}

// TestLoops: each slot, and each node of a global service, has its own loop.
func TestLoops(t *testing.T) {
	var tasks []*pb.Task
	place := func(slot uint64, node string, restarts uint64) {
		for _, task := range []*pb.Task{ended("a"+node, 5, 6, 9, 2), next(9, 14, restarts, nil)} {
			task.Slot, task.NodeId = slot, node
			tasks = append(tasks, task)
		}
	}
	place(3, "n1", 5)
	place(1, "n2", 4)
	place(2, "n1", 1)
	place(0, "n2", 3)
	place(0, "n1", 3)
	var got []string
	for _, l := range Loops(service(t, ""), tasks, start) {
		got = append(got, l.Last.ServiceName+" "+l.Last.NodeId+" "+strings.Fields(l.Text(start))[4])
	}
	want := "web n1 3,web n2 3,web n2 4,web n1 5"
	if strings.Join(got, ",") != want {
		t.Errorf("loops %q", got)
	}
}
