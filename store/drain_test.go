package store_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	active = pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE
	drain  = pb.NodeAvailability_NODE_AVAILABILITY_DRAIN
)

func available(id string, a pb.NodeAvailability, deadline time.Duration) *pb.Command {
	spec := &pb.NodeSpec{Role: worker, Availability: a}
	if deadline >= 0 {
		spec.DrainDeadline = durationpb.New(deadline)
	}
	return nodeSpec(id, 0, spec)
}

func TestDrainHasAnEnd(t *testing.T) {
	m := newMachine(t).must(createNode("n1", worker))
	m.must(available("n1", active, -1))
	if n := m.View().Node("n1"); n.DrainStartedAt != nil || store.Draining(n) || !store.DrainEnd(n).IsZero() {
		t.Errorf("an active node drains: %v", n)
	}
	m.must(available("n1", drain, -1))
	began := at(m.index).AsTime()
	wants := func(what string, deadline time.Duration) {
		t.Helper()
		if n := m.View().Node("n1"); !store.Draining(n) || !store.DrainEnd(n).Equal(began.Add(deadline)) {
			t.Errorf("%s: the drain that began at %v ends at %v", what, began, store.DrainEnd(n))
		}
	}
	wants("nothing said", 10*time.Minute)
	m.must(available("n1", drain, time.Minute))
	wants("another deadline", time.Minute)
	m.must(available("n1", drain, 0))
	wants("at once", 0)
	m.must(available("n1", active, 0))
	m.must(available("n1", drain, time.Hour))
	began = at(m.index).AsTime()
	wants("drained again", time.Hour)

	joins := createNode("n2", worker)
	joins.GetCreateNode().Node.Spec.Availability = drain
	if n := m.must(joins).View().Node("n2"); store.DrainEnd(n).IsZero() {
		t.Error("a node that joins draining has no deadline")
	}
}

func TestNodeJoinsOnce(t *testing.T) {
	m := newMachine(t).must(createNode("n1", worker), nodeState("n1", pb.NodeState_NODE_STATE_UNKNOWN))
	if n := m.View().Node("n1"); n.JoinedAt != nil {
		t.Errorf("joined at %v without a session", n.JoinedAt)
	}
	m.must(nodeState("n1", pb.NodeState_NODE_STATE_READY))
	first := m.index
	m.must(nodeState("n1", pb.NodeState_NODE_STATE_DOWN)).must(nodeState("n1", pb.NodeState_NODE_STATE_READY))
	equal(t, "joined", m.View().Node("n1").JoinedAt, at(first))
}

func TestLeastServing(t *testing.T) {
	for _, c := range []struct {
		replicas, parallelism uint64
		want                  int
	}{{5, 1, 4}, {5, 2, 3}, {5, 0, 0}, {5, 5, 0}, {5, 9, 0}, {1, 1, 0}, {0, 1, 0}} {
		s := &pb.Service{Spec: scaledSpec("v1", c.replicas)}
		s.Spec.Update = &pb.UpdateConfig{Parallelism: c.parallelism}
		if got := store.LeastServing(s); got != c.want {
			t.Errorf("%d replicas, parallelism %d: %d have to serve, want %d", c.replicas, c.parallelism, got, c.want)
		}
	}
	if got := store.LeastServing(&pb.Service{Spec: scaledSpec("v1", 3)}); got != 2 {
		t.Errorf("without settings %d of 3 have to serve", got)
	}
}

func TestServes(t *testing.T) {
	task := func(state, desired pb.TaskState, unready bool) *pb.Task {
		return &pb.Task{DesiredState: desired, Status: &pb.TaskStatus{State: state, Health: &pb.HealthStatus{Unready: unready}}}
	}
	for _, c := range []struct {
		task *pb.Task
		want bool
	}{
		{task(running, running, false), true},
		{task(running, running, true), false},
		{task(running, shutdown, false), false},
		{task(ready, running, false), false},
		{task(failed, running, false), false},
	} {
		if got := store.Serves(c.task); got != c.want {
			t.Errorf("%v: serves %v", c.task, got)
		}
	}
}

func rebalance(id string, asked uint64, done bool) *pb.Command {
	r := &pb.Rebalance{AskedAt: at(asked), Moved: asked}
	if done {
		r.CompletedAt = at(asked + 1)
	}
	return &pb.Command{Kind: &pb.Command_SetRebalance{SetRebalance: &pb.SetRebalance{Id: id, Rebalance: r}}}
}

func TestSetRebalance(t *testing.T) {
	global := webSpec("mon", "mon")
	global.Mode = &pb.ServiceSpec_Global{Global: &pb.GlobalMode{}}
	m := newMachine(t).must(createService("web", webSpec("web", "v1")), createService("mon", global))
	m.refused(fault.NotFound, rebalance("none", 1, false))
	m.refused(fault.State, rebalance("mon", 1, false))
	m.refused(fault.Invalid, &pb.Command{Kind: &pb.Command_SetRebalance{SetRebalance: &pb.SetRebalance{Id: "web"}}})
	version := m.View().Service("web").Meta.Version

	m.must(rebalance("web", 10, false))
	if s := m.View().Service("web"); !store.Rebalancing(s) || s.Meta.Version != version {
		t.Errorf("rebalancing %v, meta %v", store.Rebalancing(s), s.Meta)
	}
	m.refused(fault.State, rebalance("web", 11, false)) // one goes on
	m.must(rebalance("web", 10, true))
	if s := m.View().Service("web"); store.Rebalancing(s) || s.Rebalance.Moved != 10 {
		t.Errorf("after the end: %v", s.Rebalance)
	}
	m.must(rebalance("web", 11, false))
	m.refused(fault.Stale, rebalance("web", 10, true)) // late news of the last one
	m.must(removeService("web"))
	m.refused(fault.State, rebalance("web", 11, true))
}
