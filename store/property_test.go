package store_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// drawn makes small random commands that often meet each other.
type drawn struct{ *rapid.T }

func (d drawn) id(kind string, n int) string {
	return fmt.Sprint(kind, rapid.IntRange(1, n).Draw(d.T, kind))
}

func (d drawn) version() uint64 {
	return rapid.SampledFrom([]uint64{0, 0, 0, 3, 7}).Draw(d.T, "if version")
}

func (d drawn) taskState() pb.TaskState {
	return rapid.SampledFrom([]pb.TaskState{0, pending, assigned, ready, running, complete, shutdown, failed, remove, orphaned}).Draw(d.T, "state")
}

func (d drawn) role() pb.NodeRole {
	return rapid.SampledFrom([]pb.NodeRole{worker, worker, manager}).Draw(d.T, "role")
}

func (d drawn) service() *pb.ServiceSpec {
	s := webSpec(d.id("service", 3), d.id("image", 3))
	for i := range rapid.IntRange(0, 2).Draw(d.T, "networks") {
		withNetwork(s, []string{"w1", "w2"}[i])
	}
	if rapid.Bool().Draw(d.T, "published") {
		s.Task.Ports = append(s.Task.Ports, d.port(), d.port())
	}
	if rapid.Bool().Draw(d.T, "with secret") {
		withSecret(s, d.id("s", 2))
	}
	if rapid.Bool().Draw(d.T, "with config") {
		withConfig(s, d.id("c", 2))
	}
	if s.Name == "service3" {
		d.job(s)
	}
	return s
}

func (d drawn) job(s *pb.ServiceSpec) {
	s.Mode = &pb.ServiceSpec_ReplicatedJob{ReplicatedJob: &pb.ReplicatedJob{Completions: 3}}
	if rapid.Bool().Draw(d.T, "scheduled") {
		s.Job = &pb.JobConfig{Schedule: &pb.JobSchedule{Cron: "@hourly", Paused: rapid.Bool().Draw(d.T, "paused")}}
	}
}

func (d drawn) jobStatus() *pb.JobStatus {
	last := rapid.Uint64Range(0, 2).Draw(d.T, "last run")
	s := jobRun(last, rapid.SampledFrom([]pb.JobState{jobRunning, jobRunning, jobComplete}).Draw(d.T, "state"))
	if rapid.Bool().Draw(d.T, "until") {
		s.ScheduledUntil = at(rapid.Uint64Range(1, 9).Draw(d.T, "time"))
	}
	return s
}

func (d drawn) port() *pb.PortConfig {
	return &pb.PortConfig{
		Published: rapid.SampledFrom([]uint32{0, 80, 81, 30000}).Draw(d.T, "published"),
		Target:    rapid.Uint32Range(1, 2).Draw(d.T, "target"),
		Protocol:  pb.PortConfig_Protocol(rapid.IntRange(0, 2).Draw(d.T, "protocol")),
		Mode:      pb.PortConfig_Mode(rapid.IntRange(0, 2).Draw(d.T, "mode")),
	}
}

func (d drawn) subnet() string {
	return rapid.SampledFrom([]string{"10.0.0.0/29", "10.0.0.8/29", "10.0.0.0/28", "10.0.0.4/30", "fd00::/64"}).Draw(d.T, "subnet")
}

func (d drawn) network() *pb.NetworkSpec {
	s := &pb.NetworkSpec{Name: d.id("net", 3), Ingress: rapid.IntRange(0, 3).Draw(d.T, "ingress") == 0}
	if rapid.Bool().Draw(d.T, "with subnet") {
		s.Pools = []*pb.AddressPool{{Subnet: d.subnet()}}
	}
	if rapid.Bool().Draw(d.T, "with VNI") {
		s.Vni = rapid.Uint32Range(1, 3).Draw(d.T, "vni")
	}
	return s
}

func (d drawn) addresses() []string {
	return rapid.SampledFrom([][]string{{"10.0.0.2"}, {"10.0.0.2/29"}, {"10.0.0.3"}, {"10.0.0.3/28", "fd00::3/64"}, {"10.0.0.4/29"}, {"x"}}).Draw(d.T, "addresses")
}

func (d drawn) endpoint() *pb.Endpoint {
	e := &pb.Endpoint{}
	if rapid.Bool().Draw(d.T, "with VIP") {
		e.Vips = append(e.Vips, &pb.VirtualIP{NetworkId: d.id("w", 2), Addresses: d.addresses()})
	}
	if rapid.Bool().Draw(d.T, "with port") {
		e.Ports = append(e.Ports, d.port())
	}
	return e
}

// allocation gives a task what the networks of its spec need, more or less.
func (d drawn) allocation() *pb.TaskAllocation {
	a := &pb.TaskAllocation{Id: d.id("t", 8)}
	switch rapid.IntRange(0, 4).Draw(d.T, "allocation") {
	case 0:
		a.Problem = d.id("problem", 2)
	case 1:
		a.Addresses = []*pb.TaskAddress{{NetworkId: "w2", Addresses: d.addresses()}}
	case 2, 3:
		a.Addresses = []*pb.TaskAddress{{NetworkId: "w1", Addresses: d.addresses()}}
	default:
		a.Addresses = []*pb.TaskAddress{{NetworkId: "w1", Addresses: d.addresses()}, {NetworkId: "w2", Addresses: d.addresses()}}
	}
	return a
}

// networking draws a command about networks.
func (d drawn) networking() *pb.Command {
	makers := []func() *pb.Command{
		func() *pb.Command { return createNetwork(d.id("w", 3), d.network()) },
		func() *pb.Command { return removeNetwork(d.id("w", 3)) },
		func() *pb.Command {
			a := &pb.NetworkAllocation{Vni: rapid.Uint32Range(0, 3).Draw(d.T, "vni"), Problem: d.id("problem", 2)}
			if rapid.Bool().Draw(d.T, "with subnet") {
				a.Pools = []*pb.AddressPool{{Subnet: d.subnet()}}
			}
			return allocateNetwork(d.id("w", 3), a)
		},
		func() *pb.Command { return allocateService(d.id("service", 3), d.version(), d.endpoint()) },
		func() *pb.Command { return allocateTasks(d.allocation(), d.allocation(), d.allocation()) },
		func() *pb.Command { return allocateTasks(d.allocation(), d.allocation()) },
		func() *pb.Command { return allocateNode(d.id("n", 3), rapid.Uint32Range(0, 3).Draw(d.T, "number")) },
		func() *pb.Command { return networkKeys(rapid.Uint64Range(0, 3).Draw(d.T, "epoch")) },
	}
	return makers[rapid.IntRange(0, len(makers)-1).Draw(d.T, "networking")]()
}

func (d drawn) task() *pb.Task {
	t := task(d.id("t", 8), d.id("service", 3), rapid.Uint64Range(0, 3).Draw(d.T, "slot"))
	t.SpecVersion = rapid.Uint64Range(1, 2).Draw(d.T, "version")
	t.DesiredState = rapid.SampledFrom([]pb.TaskState{ready, running}).Draw(d.T, "wanted")
	if t.ServiceId == "service3" {
		t.JobRun = rapid.Uint64Range(0, 2).Draw(d.T, "run")
	}
	if rapid.IntRange(0, 3).Draw(d.T, "preset") == 0 {
		t.NodeId = d.id("n", 3)
	}
	return t
}

// command draws any command; a service's id is its name, so that updates hit.
func (d drawn) command() *pb.Command {
	makers := []func() *pb.Command{
		createCluster,
		func() *pb.Command {
			return clusterSpec(d.version(), &pb.ClusterSpec{Name: "default", TaskHistoryLimit: 3})
		},
		func() *pb.Command { return joinTokens(&pb.JoinTokens{Worker: d.id("token", 2)}) },
		func() *pb.Command { return createNode(d.id("n", 3), d.role()) },
		func() *pb.Command { return nodeState(d.id("n", 3), pb.NodeState_NODE_STATE_READY) },
		func() *pb.Command { return nodeState(d.id("n", 3), pb.NodeState_NODE_STATE_DOWN) },
		func() *pb.Command {
			return nodeSpec(d.id("n", 3), d.version(), &pb.NodeSpec{Role: d.role(), Availability: rapid.SampledFrom([]pb.NodeAvailability{active, active, drain}).Draw(d.T, "availability")})
		},
		func() *pb.Command {
			return rebalance(d.id("service", 3), rapid.Uint64Range(1, 4).Draw(d.T, "asked"), rapid.Bool().Draw(d.T, "done"))
		},
		func() *pb.Command { return setRole(d.id("n", 3), d.role()) },
		func() *pb.Command { return managerAddr(d.id("n", 3), d.id("addr", 2)) },
		func() *pb.Command { return removeNode(d.id("n", 3), rapid.Bool().Draw(d.T, "force")) },
		func() *pb.Command { s := d.service(); return createService(s.Name, s) },
		func() *pb.Command { s := d.service(); return updateService(s.Name, d.version(), s) },
		func() *pb.Command { return rollback(d.id("service", 3), rapid.Uint64Range(0, 3).Draw(d.T, "to")) },
		func() *pb.Command { return removeService(d.id("service", 3)) },
		func() *pb.Command { return deleteService(d.id("service", 3)) },
		func() *pb.Command {
			return updateStatus(d.id("service", 3), &pb.UpdateStatus{ToVersion: rapid.Uint64Range(1, 2).Draw(d.T, "to")})
		},
		func() *pb.Command {
			return jobStatus("service3", rapid.Uint64Range(0, 2).Draw(d.T, "if last run"), d.jobStatus())
		},
		func() *pb.Command { return runJob(d.id("service", 3)) },
		func() *pb.Command { return createTasks(d.task(), d.task(), d.task()) },
		func() *pb.Command { return createTasks(d.task(), d.task()) },
		func() *pb.Command { return desire(d.taskState(), d.id("t", 8), d.id("t", 8)) },
		func() *pb.Command { return assign(d.id("n", 3), d.id("t", 8), d.id("t", 8), d.id("t", 8)) },
		func() *pb.Command { return explain(d.id("t", 8), &pb.TaskStatus{Message: d.id("why", 2)}) },
		func() *pb.Command { return reportState(d.id("n", 3), d.id("t", 8), d.taskState()) },
		func() *pb.Command { return reportState(d.id("n", 3), d.id("t", 8), running) },
		func() *pb.Command { return deleteTasks(d.id("t", 8), d.id("t", 8)) },
		func() *pb.Command { return createSecret(d.id("s", 2), d.id("key", 2)) },
		func() *pb.Command { return secretLabels(d.id("s", 2), d.version(), map[string]string{"a": "b"}) },
		func() *pb.Command { return removeSecret(d.id("s", 2)) },
		func() *pb.Command { return createConfig(d.id("c", 2), d.id("conf", 2)) },
		func() *pb.Command { return configLabels(d.id("c", 2), d.version(), map[string]string{"a": "b"}) },
		func() *pb.Command { return removeConfig(d.id("c", 2)) },
		d.networking, d.networking, d.networking, d.networking, d.networking,
		d.networking, d.networking, d.networking, d.networking, d.networking,
	}
	return makers[rapid.IntRange(0, len(makers)-1).Draw(d.T, "command")]()
}

// mirror is the state as a watch tells it.
type mirror map[string]store.Object

func mirrorKey(kind pb.Kind, id string) string { return fmt.Sprint(kind, "/", id) }

// take follows a change, which must continue what was told before.
func (m mirror) take(t *rapid.T, c store.Change) {
	key := mirrorKey(c.Kind, c.ID)
	if c.Old != m[key] || (c.Old == nil && c.New == nil) {
		t.Fatalf("change of %s at %d does not continue the last one", key, c.Index)
	}
	if c.New == nil {
		delete(m, key)
		return
	}
	if c.Old != nil {
		checkStep(t, c)
	}
	m[key] = c.New
}

// checkStep checks what may happen to one object in one change.
func checkStep(t *rapid.T, c store.Change) {
	if from, to := c.Old.GetMeta().Version, c.New.GetMeta().Version; to < from || (to != from && to != c.Index) {
		t.Fatalf("version of %s went from %d to %d at %d", c.ID, from, to, c.Index)
	}
	switch from := c.Old.(type) {
	case *pb.Task:
		to := c.New.(*pb.Task)
		checkLife(t, from, to)
		switch {
		case to.Status.State < from.Status.State || to.DesiredState < from.DesiredState:
			t.Fatalf("task %s went back from %v to %v", c.ID, from, to)
		case from.Status.State > running && to.Status.State != from.Status.State:
			t.Fatalf("task %s ended twice: %v, %v", c.ID, from, to)
		case from.NodeId != "" && from.NodeId != to.NodeId:
			t.Fatalf("task %s moved from %s to %s", c.ID, from.NodeId, to.NodeId)
		case to.Meta.Version != c.Index:
			t.Fatalf("task %s changed at %d and kept version %d", c.ID, c.Index, to.Meta.Version)
		}
	case *pb.Service:
		if to := c.New.(*pb.Service); to.SpecVersion < from.SpecVersion || store.TaskSpec(to, to.SpecVersion) == nil {
			t.Fatalf("service %s at version %d after %d, versions %v", c.ID, to.SpecVersion, from.SpecVersion, to.Versions)
		} else if until := from.GetJob().GetScheduledUntil(); to.GetJob().GetScheduledUntil().AsTime().Before(until.AsTime()) && until != nil {
			t.Fatalf("job %s: scheduled until %v after %v", c.ID, to.Job.ScheduledUntil, until)
		}
	}
}

// checkIndexes compares every index with a scan over all objects.
func checkIndexes(t *rapid.T, v store.View) {
	tasks := slices.Collect(v.Tasks())
	expect := func(what string, got iter.Seq[*pb.Task], belongs func(*pb.Task) bool) {
		var want []*pb.Task
		for _, task := range tasks {
			if belongs(task) {
				want = append(want, task)
			}
		}
		byID := func(a, b *pb.Task) int { return strings.Compare(a.Id, b.Id) }
		if !slices.Equal(slices.SortedFunc(got, byID), want) {
			t.Fatalf("index %s does not match", what)
		}
	}
	for i := 1; i <= 3; i++ {
		service, node := fmt.Sprint("service", i), fmt.Sprint("n", i)
		expect(service, v.TasksByService(service), func(t *pb.Task) bool { return t.ServiceId == service })
		expect(node, v.TasksByNode(node), func(t *pb.Task) bool { return t.NodeId == node })
		for slot := range uint64(4) {
			expect("slot", v.TasksBySlot(service, slot), func(t *pb.Task) bool { return t.ServiceId == service && t.Slot == slot })
		}
		if v.ServiceByName(service) != v.Service(service) {
			t.Fatalf("service %s has another name", service)
		}
	}
	for _, task := range tasks {
		s := v.Service(task.ServiceId)
		if s == nil || (task.Status.State <= running && store.TaskSpec(s, task.SpecVersion) == nil) {
			t.Fatalf("task %s has no spec", task.Id)
		}
	}
	for s := range v.Services() {
		for _, r := range s.Spec.Task.GetContainer().GetSecrets() {
			if !s.Removing && v.Secret(r.Id) == nil {
				t.Fatalf("service %s refers to secret %s, which is gone", s.Id, r.Id)
			}
		}
	}
}

func TestRandomHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first, second := store.New(), store.New()
		told := mirror{}
		watch := first.Watch(0)
		entries := uint64(rapid.IntRange(1, 80).Draw(t, "entries"))
		for index := range entries {
			entry := &pb.Entry{At: at(index + 1)}
			for range rapid.IntRange(1, 4).Draw(t, "commands") {
				entry.Commands = append(entry.Commands, drawn{t}.command())
			}
			answers := first.Apply(index+1, proto.CloneOf(entry))
			if index%16 == 15 { // a replica that restarts from a snapshot must not differ
				second = restored(t, second)
			}
			again := second.Apply(index+1, decoded(t, entry))
			checkAnswers(t, answers, again)
			checkIndexes(t, first.View())
			checkClaims(t, first.View())
		}
		for _, s := range []*store.State{first, second} { // so that there is something to read
			s.Apply(entries+1, &pb.Entry{Commands: []*pb.Command{createSecret("end", "end")}})
		}
		changes, err := watch.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			told.take(t, c)
		}
		want, got := first.Snapshot(), second.Snapshot()
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Fatalf("two replicas differ:\n%s", diff)
		}
		for _, o := range want.Objects {
			kind, object := unwrapped(o)
			if told[mirrorKey(kind, object.GetId())] != object {
				t.Fatalf("the watch did not tell of %s", object.GetId())
			}
		}
		if len(told) != len(want.Objects) {
			t.Fatalf("the watch told of %d objects, there are %d", len(told), len(want.Objects))
		}
	})
}

// decoded is an entry as it comes from a log.
func decoded(t *rapid.T, e *pb.Entry) *pb.Entry {
	data, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var out pb.Entry
	if err := proto.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return &out
}

func restored(t *rapid.T, s *store.State) *store.State {
	fresh := store.New()
	if err := fresh.Restore(proto.CloneOf(s.Snapshot())); err != nil {
		t.Fatal(err)
	}
	return fresh
}

func checkAnswers(t *rapid.T, a, b []error) {
	for i, err := range a {
		if fmt.Sprint(err) != fmt.Sprint(b[i]) {
			t.Fatalf("replicas answer differently: %v and %v", err, b[i])
		}
		if _, ok := errors.AsType[*fault.Error](err); err != nil && (!ok || fault.Is(err, fault.Internal)) {
			t.Fatalf("%v is no refusal with a class", err)
		}
	}
}

// unwrapped takes an object out of its wrapper.
func unwrapped(o *pb.Object) (pb.Kind, store.Object) {
	switch o := o.Kind.(type) {
	case *pb.Object_Cluster:
		return pb.Kind_KIND_CLUSTER, o.Cluster
	case *pb.Object_Node:
		return pb.Kind_KIND_NODE, o.Node
	case *pb.Object_Service:
		return pb.Kind_KIND_SERVICE, o.Service
	case *pb.Object_Task:
		return pb.Kind_KIND_TASK, o.Task
	case *pb.Object_Secret:
		return pb.Kind_KIND_SECRET, o.Secret
	case *pb.Object_Network:
		return pb.Kind_KIND_NETWORK, o.Network
	}
	return pb.Kind_KIND_CONFIG, o.GetConfig()
}
