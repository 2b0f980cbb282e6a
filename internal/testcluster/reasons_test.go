package testcluster

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/agent/faketask"
	"github.com/minid/minid/cmd/minictl/progress"
	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/why"
	pb "github.com/minid/minid/proto/minid/v1"
)

const library = "docker.io/library/"

// events are those that a request gets, without follow.
func (l *lifeRig) events(req *pb.EventsRequest) (got []*pb.Event) {
	l.t.Helper()
	l.do("read events", func(ctx context.Context, api pb.ControlClient) error {
		got = nil
		stream, err := api.Events(ctx, req)
		if err != nil {
			return err
		}
		for {
			e, err := stream.Recv()
			if err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			got = append(got, e)
		}
	})
	return got
}

// situation is something that a task can be in.
type situation struct {
	image  string
	change func(*pb.ServiceSpec)
	// action is the event that tells of it, reason what it says.
	action, reason string
	// silent: it is no news to who waits for the service.
	silent bool
}

// reserve makes a service set memory aside, of the 8 GiB that each node has.
func reserve(gib int64) func(*pb.ServiceSpec) {
	return func(s *pb.ServiceSpec) { s.Task.Resources = &pb.ResourceRequirements{ReserveMemoryBytes: gib << 30} }
}

func situations() map[string]situation {
	sick := "unhealthy: 2 health checks failed in a row, the last with exit code 1: feeling ill"
	return map[string]situation{
		"runs":         {image: steady, action: "running"},
		"completes":    {image: library + "done:1", action: "complete"},
		"crashes":      {image: library + "exit3:1", action: "failed", reason: "exit code 3"},
		"no memory":    {image: library + "hungry:1", action: "failed", reason: "out of memory: the host had none left (exit code 137)"},
		"no command":   {image: library + "nocommand:1", action: "failed", reason: "exec: no such file (exit code 127)"},
		"no image":     {image: library + "noimage:1", action: "rejected", reason: "there is no such image"},
		"slow network": {image: library + "faraway:1", action: "retrying", reason: "registry: connection refused"},
		"ill":          {image: library + "ill:1", action: "failed", reason: sick + " (exit code 143)"},
		"out of rotation": {image: library + "moody:1", action: "unready", reason: sick,
			change: func(s *pb.ServiceSpec) {
				s.Task.Container.Health = &pb.HealthConfig{Action: pb.HealthConfig_ACTION_UNREADY}
			}},
		"no label": {image: steady, action: "waiting", reason: "0 of 2 nodes fit: 2 lack label disk=ssd",
			change: func(s *pb.ServiceSpec) {
				s.Task.Placement = &pb.Placement{Constraints: []string{"node.labels.disk==ssd"}}
			}},
		"no room": {image: steady, action: "waiting", reason: "0 of 2 nodes fit: 2 need 1024 MiB more memory", change: reserve(9)},
	}
}

// task why, the progress of waits, and events say the same of a situation.
func TestOneReasonForASituation(t *testing.T) {
	life(t, func(l *lifeRig) {
		checks := &pb.HealthConfig{Test: []string{"CMD", "true"}, Interval: durationpb.New(time.Second), Timeout: durationpb.New(time.Second), Retries: 2}
		sick := func(from int) func(int) error {
			return func(try int) error {
				if try >= from {
					return errors.New("feeling ill")
				}
				return nil
			}
		}
		always := func(err error) func(int) error { return func(int) error { return err } }
		behave := map[string]faketask.Behaviour{
			steady:                  {},
			library + "done:1":      {RunFor: time.Second},
			library + "exit3:1":     {RunFor: time.Second, ExitCode: 3},
			library + "hungry:1":    {RunFor: time.Second, ExitCode: 137, OOMKilled: true},
			library + "nocommand:1": {CannotRun: "exec: no such file", ExitCode: 127},
			library + "noimage:1":   {PrepareErr: always(fault.New(fault.Invalid, "there is no such image"))},
			library + "faraway:1":   {PrepareErr: always(fault.New(fault.Unavailable, "registry: connection refused"))},
			library + "ill:1":       {Health: checks, ProbeErr: sick(2)},
			library + "moody:1":     {Health: checks, ProbeErr: sick(2)},
		}
		l.Behave = faketask.ByImage(behave)
		l.Form(context.Background(), 1, 1)
		l.await(time.Minute, func() string { // a node that is not heard of is a reason, too
			for id, n := range l.nodes() {
				if n.GetStatus().GetState() != pb.NodeState_NODE_STATE_READY {
					return "node " + id + " is not ready"
				}
			}
			return ""
		})
		for name, s := range situations() {
			l.situation(strings.ReplaceAll(name, " ", "-"), s)
		}
		l.stopped()
		l.situation("filler", situation{image: steady, action: "running", change: func(s *pb.ServiceSpec) {
			reserve(5)(s)
			s.GetReplicated().Replicas = 2
		}})
		l.situation("pinned", situation{image: steady, action: "waiting", reason: "waiting for its node: the node needs 2048 MiB more memory",
			change: func(s *pb.ServiceSpec) {
				reserve(5)(s)
				s.Mode = &pb.ServiceSpec_Global{Global: &pb.GlobalMode{}}
			}})
	})
}

func (l *lifeRig) situation(name string, s situation) {
	l.t.Helper()
	spec := &pb.ServiceSpec{Name: name, Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: 1}},
		Task: &pb.TaskSpec{Container: &pb.ContainerSpec{Image: s.image}, Restart: &pb.RestartPolicy{Condition: pb.RestartPolicy_CONDITION_NONE}}}
	if s.change != nil {
		s.change(spec)
	}
	l.do("create service", func(ctx context.Context, api pb.ControlClient) error {
		_, err := api.CreateService(ctx, &pb.CreateServiceRequest{Spec: spec})
		return err
	})
	l.agree(name, s)
}

// agree waits for the event of a situation and compares what is said of its task.
func (l *lifeRig) agree(name string, s situation) {
	l.t.Helper()
	var event *pb.Event
	l.await(time.Minute, func() string {
		all := l.events(&pb.EventsRequest{Filters: []*pb.Filter{{Key: "service", Values: []string{name}}, {Key: "kind", Values: []string{"task"}}}})
		i := slices.IndexFunc(all, func(e *pb.Event) bool { return e.Action == s.action })
		if i < 0 {
			return name + " was not told to be " + s.action
		}
		event = all[i]
		return ""
	})
	if event.Reason != s.reason {
		l.t.Errorf("%s: the event says %q, not %q", name, event.Reason, s.reason)
	}
	l.do("explain task", func(ctx context.Context, api pb.ControlClient) error {
		e, err := api.ExplainTask(ctx, &pb.GetRequest{Ref: event.ObjectId})
		if err != nil {
			return err
		}
		if said := strings.TrimPrefix(e.Summary, why.State(e.Task.Status.State)+": "); s.reason != "" && said != s.reason {
			l.t.Errorf("%s: task why says %q, not %q", name, said, s.reason)
		}
		if said := strings.TrimPrefix(progress.Reason(e.Task), "waiting: "); !s.silent && said != s.reason {
			l.t.Errorf("%s: who waits hears %q, not %q", name, said, s.reason)
		}
		return nil
	})
}

// stopped is a task that an update replaced.
func (l *lifeRig) stopped() {
	l.t.Helper()
	l.do("update service", func(ctx context.Context, api pb.ControlClient) error {
		have, err := api.GetService(ctx, &pb.GetRequest{Ref: "runs"})
		if err != nil {
			return err
		}
		spec := proto.CloneOf(have.Spec)
		spec.Task.Container.Env = []string{"A=1"}
		_, err = api.UpdateService(ctx, &pb.UpdateServiceRequest{Ref: "runs", Spec: spec})
		return err
	})
	l.agree("runs", situation{action: "shutdown", reason: "updated", silent: true})
}

// The managers tell the same events, before and after the leader is lost.
func TestEventsThroughLeaderChanges(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Form(context.Background(), 3, 1)
		l.serve("web", 6)
		var seen []*pb.Event
		for range 3 {
			last := uint64(0)
			if len(seen) > 0 {
				last = seen[len(seen)-1].Index
			}
			more := l.events(&pb.EventsRequest{FromIndex: last})
			all := l.events(&pb.EventsRequest{})
			seen = append(seen, more...)
			if len(all) < len(seen) || !slices.EqualFunc(seen, all[:len(seen)], func(a, b *pb.Event) bool { return proto.Equal(a, b) }) {
				l.t.Fatalf("read in pieces: %v\nat once: %v", seen, all)
			}
			leader := l.leader()
			leader.Kill()
			l.awaitRunningAtLeast(4)
			leader.Start()
			l.awaitRunning(6)
		}
		if !slices.ContainsFunc(seen, func(e *pb.Event) bool { return e.Kind == "node" && e.Action == "joined" }) {
			t.Error("the nodes did not join")
		}
	})
}
