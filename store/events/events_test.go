package events_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store/events"
)

// tell is what one change makes: "! task web.1 failed: exit code 3".
func tell(old, new proto.Message) []string {
	e := events.NewEntry(&timestamppb.Timestamp{Seconds: 7})
	e.Tell(old, new)
	var lines []string
	for _, e := range e.Events() {
		line := e.Kind + " " + e.Name + " " + e.Action
		if e.Reason != "" {
			line += ": " + e.Reason
		}
		if e.Warning {
			line = "! " + line
		}
		lines = append(lines, line)
	}
	return lines
}

// step is a change and what it makes.
type step struct {
	name     string
	old, new proto.Message
	want     []string
}

func check(t *testing.T, steps []step) {
	t.Helper()
	for _, s := range steps {
		if diff := cmp.Diff(s.want, tell(s.old, s.new)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.name, diff)
		}
	}
}

// task is web.1 in a state.
func task(state pb.TaskState, more ...func(*pb.TaskStatus)) *pb.Task {
	t := &pb.Task{Id: "t", ServiceId: "s", ServiceName: "web", Slot: 1, NodeId: "n", Status: &pb.TaskStatus{State: state}}
	for _, m := range more {
		m(t.Status)
	}
	return t
}

func failing(err string) func(*pb.TaskStatus) { return func(s *pb.TaskStatus) { s.Error = err } }

func health(state pb.HealthState, unready bool) func(*pb.TaskStatus) {
	return func(s *pb.TaskStatus) { s.Health = &pb.HealthStatus{State: state, Unready: unready} }
}

func stuck(why string) func(*pb.TaskStatus) {
	return func(s *pb.TaskStatus) {
		s.Message, s.Error, s.Refused = "waiting: 0 of 1 nodes fit", why, []*pb.FilterCount{{Nodes: 1}}
	}
}

func TestTasks(t *testing.T) {
	const (
		pending, assigned, preparing = pb.TaskState_TASK_STATE_PENDING, pb.TaskState_TASK_STATE_ASSIGNED, pb.TaskState_TASK_STATE_PREPARING
		running, failed, shutdown    = pb.TaskState_TASK_STATE_RUNNING, pb.TaskState_TASK_STATE_FAILED, pb.TaskState_TASK_STATE_SHUTDOWN
	)
	well, ill := pb.HealthState_HEALTH_STATE_HEALTHY, pb.HealthState_HEALTH_STATE_UNHEALTHY
	stopped := task(shutdown)
	stopped.Life = &pb.LifeLine{States: []pb.TaskState{shutdown}, Desired: []bool{true}, AtMs: []int64{1}, Reasons: []string{"scaled in"}}
	global := task(running)
	global.Slot = 0
	check(t, []step{
		{"created", nil, task(pending), nil},
		{"forgotten", task(failed), nil, nil},
		{"assigned", task(pending), task(assigned), []string{"task web.1 assigned"}},
		{"on its way", task(assigned), task(preparing), nil},
		{"runs", task(preparing), task(running, health(well, false)), []string{"task web.1 running"}},
		{"global", task(preparing), global, []string{"task web.n running"}},
		{"fails", task(running), task(failed, failing("no such file")), []string{"! task web.1 failed: no such file"}},
		{"rejected", task(preparing), task(pb.TaskState_TASK_STATE_REJECTED, failing("no image")), []string{"! task web.1 rejected: no image"}},
		{"told to stop", task(running), stopped, []string{"task web.1 shutdown: scaled in"}},
		{"complete", task(running), task(pb.TaskState_TASK_STATE_COMPLETE), []string{"task web.1 complete"}},
		{"orphaned", task(running), task(pb.TaskState_TASK_STATE_ORPHANED), []string{"! task web.1 orphaned"}},
		{"tries again", task(preparing), task(preparing, failing("refused")), []string{"! task web.1 retrying: refused"}},
		{"still tries", task(preparing, failing("refused")), task(preparing, failing("refused")), nil},
		{"waits", task(pending), task(pending, stuck("full")), []string{"! task web.1 waiting: 0 of 1 nodes fit: full"}},
		{"waits on", task(pending, stuck("full")), task(pending, stuck("full")), nil},
		{"waits for another reason", task(pending, stuck("full")), task(pending, stuck("down")), []string{"! task web.1 waiting: 0 of 1 nodes fit: down"}},
		{"heartbeat", task(running, health(well, false)), task(running, health(well, false)), nil},
		{"unhealthy", task(running, health(well, false)), task(running, health(ill, false), failing("ill")), []string{"! task web.1 unhealthy: ill"}},
		{"out of rotation", task(running, health(well, false)), task(running, health(ill, true), failing("ill")), []string{"! task web.1 unready: ill"}},
		{"back", task(running, health(ill, true)), task(running, health(well, false)), []string{"task web.1 healthy"}},
	})
}

func service(change func(*pb.Service)) *pb.Service {
	s := &pb.Service{Id: "s", Spec: &pb.ServiceSpec{
		Name: "web",
		Task: &pb.TaskSpec{Container: &pb.ContainerSpec{Image: "nginx:1@sha256:abc", Env: []string{"PASSWORD=hidden"}}},
		Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: 2}},
	}}
	if change != nil {
		change(s)
	}
	return s
}

func rollout(state pb.UpdateState, message string) *pb.Service {
	return service(func(s *pb.Service) { s.UpdateStatus = &pb.UpdateStatus{State: state, Message: message, ToVersion: 2} })
}

func TestServices(t *testing.T) {
	updating, paused := rollout(pb.UpdateState_UPDATE_STATE_UPDATING, "update in progress"), rollout(pb.UpdateState_UPDATE_STATE_PAUSED, "task web.1.t failed: exit code 3")
	spec := func(change func(*pb.ServiceSpec)) *pb.Service {
		return service(func(s *pb.Service) { change(s.Spec) })
	}
	jobs := func(last uint64, message string, runs ...*pb.JobRun) *pb.Service {
		return service(func(s *pb.Service) { s.Job = &pb.JobStatus{LastRun: last, Runs: runs, Message: message} })
	}
	moving := service(func(s *pb.Service) { s.Rebalance = &pb.Rebalance{AskedAt: &timestamppb.Timestamp{Seconds: 1}} })
	moved := service(func(s *pb.Service) {
		s.Rebalance = &pb.Rebalance{AskedAt: &timestamppb.Timestamp{Seconds: 1}, CompletedAt: &timestamppb.Timestamp{Seconds: 2}, Moved: 3}
	})
	const done, broken = pb.JobState_JOB_STATE_COMPLETE, pb.JobState_JOB_STATE_FAILED
	check(t, []step{
		{"created", nil, service(nil), []string{"service web created: image nginx:1, 2 replicas"}},
		{"nothing", service(nil), service(nil), nil},
		{"image and replicas", service(nil), spec(func(s *pb.ServiceSpec) {
			s.Task.Container.Image = "nginx:2"
			s.GetReplicated().Replicas = 3
		}), []string{"service web updated: image nginx:1 → nginx:2, replicas 2 → 3"}},
		{"same tag", service(nil), spec(func(s *pb.ServiceSpec) { s.Task.Container.Image = "nginx:1@sha256:def" }),
			[]string{"service web updated: image nginx:1 has another digest"}},
		{"other settings by name", service(nil), spec(func(s *pb.ServiceSpec) {
			s.Task.Container.Env = []string{"PASSWORD=other"}
			s.Task.ForceUpdate = 1
			s.Update = &pb.UpdateConfig{Parallelism: 2}
		}), []string{"service web updated: update, force update, env changed"}},
		{"removed", service(nil), service(func(s *pb.Service) { s.Removing = true }), []string{"service web removing"}},
		{"gone", service(nil), nil, []string{"service web removed"}},
		{"update starts", service(nil), updating, []string{"service web update started"}},
		{"update goes on", updating, updating, nil},
		{"update pauses", updating, paused, []string{"! service web update paused: task web.1.t failed: exit code 3"}},
		{"update resumes", paused, rollout(pb.UpdateState_UPDATE_STATE_UPDATING, "update in progress, resumed"), []string{"service web update resumed: resumed"}},
		{"update ends", updating, rollout(pb.UpdateState_UPDATE_STATE_COMPLETED, "update completed"), []string{"service web update completed"}},
		{"update ends, not well", updating, rollout(pb.UpdateState_UPDATE_STATE_COMPLETED, "update completed; tasks of 1 of 4 slots failed"),
			[]string{"service web update completed: tasks of 1 of 4 slots failed"}},
		{"rolls back", updating, rollout(pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED, "rollback to version 1 in progress: x"),
			[]string{"! service web rollback started: rollback to version 1 in progress: x"}},
		{"no address", service(nil), service(func(s *pb.Service) { s.Endpoint = &pb.Endpoint{Problem: "network full"} }), []string{"! service web waiting: network full"}},
		{"a run", jobs(0, ""), jobs(1, "", &pb.JobRun{Number: 1, State: pb.JobState_JOB_STATE_RUNNING, Message: "scheduled"}), []string{"service web run 1 started: scheduled"}},
		{"it ends, the next begins", jobs(1, "", &pb.JobRun{Number: 1, State: pb.JobState_JOB_STATE_RUNNING}),
			jobs(2, "", &pb.JobRun{Number: 1, State: done}, &pb.JobRun{Number: 2, State: pb.JobState_JOB_STATE_RUNNING}),
			[]string{"service web run 1 complete", "service web run 2 started"}},
		{"it fails at once", jobs(1, ""), jobs(2, "", &pb.JobRun{Number: 2, State: broken, Message: "deadline"}), []string{"service web run 2 started", "! service web run 2 failed: deadline"}},
		{"left out", jobs(1, ""), jobs(1, "08:05 left out: run 1 goes on"), []string{"! service web run left out: 08:05 left out: run 1 goes on"}},
		{"rebalancing", service(nil), moving, []string{"service web rebalancing"}},
		{"rebalanced", moving, moved, []string{"service web rebalanced: 3 tasks moved"}},
	})
}

func node(change func(*pb.Node)) *pb.Node {
	n := &pb.Node{Id: "n", Role: pb.NodeRole_NODE_ROLE_WORKER, Description: &pb.NodeDescription{Hostname: "host"},
		Spec: &pb.NodeSpec{Role: pb.NodeRole_NODE_ROLE_WORKER, Availability: pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE, Labels: map[string]string{"a": "1", "b": "2"}}}
	change(n)
	return n
}

func TestNodes(t *testing.T) {
	plain := node(func(*pb.Node) {})
	state := func(s pb.NodeState, message string) *pb.Node {
		return node(func(n *pb.Node) { n.Spec, n.Status = plain.Spec, &pb.NodeStatus{State: s, Message: message} })
	}
	ready, down := state(pb.NodeState_NODE_STATE_READY, ""), state(pb.NodeState_NODE_STATE_DOWN, "heartbeats missed")
	spec := func(change func(*pb.NodeSpec)) *pb.Node { return node(func(n *pb.Node) { change(n.Spec) }) }
	check(t, []step{
		{"joined", nil, plain, []string{"node host joined: as a worker"}},
		{"joined and ready", nil, ready, []string{"node host joined: as a worker", "node host ready"}},
		{"ready", plain, ready, []string{"node host ready"}},
		{"down", ready, down, []string{"! node host down: heartbeats missed"}},
		{"up again", down, ready, []string{"node host ready"}},
		{"reports again", ready, state(pb.NodeState_NODE_STATE_READY, "x"), nil},
		{"drained", plain, spec(func(s *pb.NodeSpec) { s.Availability = pb.NodeAvailability_NODE_AVAILABILITY_DRAIN }), []string{"node host draining"}},
		{"paused", plain, spec(func(s *pb.NodeSpec) { s.Availability = pb.NodeAvailability_NODE_AVAILABILITY_PAUSE }), []string{"node host paused"}},
		{"promoted", plain, spec(func(s *pb.NodeSpec) { s.Role = pb.NodeRole_NODE_ROLE_MANAGER }), []string{"node host promoted"}},
		{"a manager now", plain, node(func(n *pb.Node) { n.Spec, n.Role = plain.Spec, pb.NodeRole_NODE_ROLE_MANAGER }), []string{"node host became a manager"}},
		{"labels", plain, spec(func(s *pb.NodeSpec) { s.Labels = map[string]string{"a": "2", "c": "3"} }),
			[]string{"node host updated: label a=2 set, label c=3 set, label b removed"}},
		{"removed", plain, nil, []string{"node host removed"}},
	})
}

func TestTheRest(t *testing.T) {
	secret := func(data string, labels map[string]string) *pb.Secret {
		return &pb.Secret{Id: "x", Spec: &pb.SecretSpec{Name: "key", Data: []byte(data), Labels: labels}}
	}
	cluster := func(change func(*pb.Cluster)) *pb.Cluster {
		c := &pb.Cluster{Id: "c", Spec: &pb.ClusterSpec{Name: "default"}, JoinTokens: &pb.JoinTokens{Worker: "w", Manager: "m"}}
		change(c)
		return c
	}
	plain := cluster(func(*pb.Cluster) {})
	network := &pb.Network{Id: "w", Spec: &pb.NetworkSpec{Name: "front"}}
	full := &pb.Network{Id: "w", Spec: network.Spec, Allocation: &pb.NetworkAllocation{Problem: "no free subnet"}}
	check(t, []step{
		{"secret created", nil, secret("s", nil), []string{"secret key created"}},
		{"secret labelled", secret("s", nil), secret("s", map[string]string{"a": "b"}), []string{"secret key updated: labels changed"}},
		{"config removed", &pb.Config{Id: "x", Spec: &pb.ConfigSpec{Name: "conf"}}, nil, []string{"config conf removed"}},
		{"network created", nil, network, []string{"network front created"}},
		{"network without a subnet", network, full, []string{"! network front waiting: no free subnet"}},
		{"still without", full, full, nil},
		{"network removed", network, nil, []string{"network front removed"}},
		{"cluster created", nil, plain, []string{"cluster default created"}},
		{"cluster changed", plain, cluster(func(c *pb.Cluster) { c.Spec.TaskHistoryLimit, c.Spec.HeartbeatPeriod = 3, durationpb.New(1) }),
			[]string{"cluster default updated: heartbeat period, task history limit changed"}},
		{"a token", plain, cluster(func(c *pb.Cluster) { c.JoinTokens.Worker = "new" }), []string{"cluster default join token rotated: for workers"}},
		{"a key", plain, cluster(func(c *pb.Cluster) { c.NetworkKeys = []*pb.NetworkKey{{Epoch: 1}} }), []string{"cluster default network key rotated"}},
	})
}

func TestLongReasonsAreCut(t *testing.T) {
	old, new := task(pb.TaskState_TASK_STATE_RUNNING), task(pb.TaskState_TASK_STATE_FAILED, failing(strings.Repeat("é", 5000)))
	line := tell(old, new)[0]
	if len(line) > 1100 || !utf8.ValidString(line) || !strings.HasSuffix(line, "é…") {
		t.Errorf("%d bytes: %s", len(line), line[len(line)-10:])
	}
}

// Whatever changes of what is or may be secret, no event holds it.
func TestNoEventHoldsASecret(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		leak := func() string { return fmt.Sprint("LEAK", rapid.IntRange(0, 3).Draw(t, "n")) }
		objects := func() []proto.Message {
			env, data := leak(), []byte(leak())
			s := service(func(s *pb.Service) {
				s.Spec.Labels = map[string]string{"password": leak()}
				s.Spec.Task.Container.Env = []string{"PASSWORD=" + env}
				s.Spec.Task.Container.Args = []string{leak()}
				s.Spec.Task.Container.PullAuth = data
			})
			return []proto.Message{s,
				&pb.Secret{Id: "x", Spec: &pb.SecretSpec{Name: "key", Data: data}},
				&pb.Config{Id: "x", Spec: &pb.ConfigSpec{Name: "conf", Data: data}},
				&pb.Cluster{Id: "c", RootCaKey: data, JoinTokens: &pb.JoinTokens{Worker: leak(), Manager: leak()},
					NetworkKeys: []*pb.NetworkKey{{Epoch: rapid.Uint64().Draw(t, "epoch"), Key: data}}},
			}
		}
		before, after := objects(), objects()
		e := events.NewEntry(nil)
		for i := range before {
			e.Tell(nil, before[i])
			e.Tell(before[i], after[i])
			if i > 0 || rapid.Bool().Draw(t, "remove") {
				if _, last := after[i].(*pb.Cluster); !last {
					e.Tell(after[i], nil)
				}
			}
		}
		for _, e := range e.Events() {
			if strings.Contains(e.String(), "LEAK") {
				t.Fatalf("event %v", e)
			}
		}
	})
}
