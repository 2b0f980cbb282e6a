package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

var nodeNames = []string{"n1", "n2", "n3"}

// disturb does one thing that users, nodes or containers may do.
func (e *env) disturb(rt *rapid.T) {
	node := rapid.SampledFrom(nodeNames).Draw(rt, "node")
	switch rapid.IntRange(0, 12).Draw(rt, "what") {
	case 0:
		state := rapid.SampledFrom([]pb.NodeState{1, 2, 3, 3}).Draw(rt, "state")
		e.setNode(node, state)
	case 1:
		availability := rapid.SampledFrom([]pb.NodeAvailability{1, 1, 2, 3}).Draw(rt, "availability")
		e.changeNode(node, func(s *pb.NodeSpec) { s.Availability = availability })
	case 2:
		image := rapid.SampledFrom([]string{"app", "b", "rejects", "fails", "hangs"}).Draw(rt, "image")
		e.setService("web", "image="+image)
	case 3:
		if e.service("web").Spec.GetReplicated() != nil {
			e.setService("web", fmt.Sprintf("replicas=%d", rapid.IntRange(0, 5).Draw(rt, "replicas")))
		}
	case 4:
		running := e.running()
		if len(running) > 0 {
			t := rapid.SampledFrom(running).Draw(rt, "task")
			end := rapid.SampledFrom([]pb.TaskState{pb.TaskState_TASK_STATE_COMPLETE, pb.TaskState_TASK_STATE_FAILED}).Draw(rt, "end")
			e.report(t, &pb.TaskStatus{State: end})
		}
	case 5:
		e.stubborn[node] = rapid.Bool().Draw(rt, "stubborn")
	case 6:
		label := rapid.SampledFrom([]string{"ssd", "hdd"}).Draw(rt, "label")
		e.changeNode(node, func(s *pb.NodeSpec) { s.Labels = map[string]string{"disk": label} })
	case 7:
		constraint := rapid.SampledFrom([]string{"node.labels.disk==ssd", "node.labels.disk!=ssd", "node.role==worker"}).Draw(rt, "constraint")
		e.setService("web", "constraint="+constraint)
	case 8:
		e.forget()
	case 9:
		e.rollback(rapid.Uint64Range(0, 3).Draw(rt, "to"))
	case 11:
		e.changeNode(node, func(s *pb.NodeSpec) {
			s.DrainDeadline = durationpb.New(time.Duration(rapid.IntRange(0, 9).Draw(rt, "deadline")) * time.Second)
		})
	case 12:
		if s := e.service("web"); s.Spec.GetReplicated() != nil && !store.Rebalancing(s) {
			e.rebalance("web")
		}
	case 10:
		e.setService("web", "monitor="+rapid.SampledFrom([]string{"1s", "3s"}).Draw(rt, "monitor"))
	}
}

// forget trims history as hard as the reaper may: of what is over it leaves a
// slot's newest task and the one that a running update judges the slot by.
func (e *env) forget() {
	s := e.service("web")
	slots := map[place][]*pb.Task{}
	for t := range e.state.View().TasksByService(s.Id) {
		slots[placeOf(t)] = append(slots[placeOf(t)], t)
	}
	var ids []string
	for _, tasks := range slots {
		slices.SortFunc(tasks, compareAge)
		trial := slices.IndexFunc(tasks, func(t *pb.Task) bool {
			return t.SpecVersion == s.SpecVersion && !t.Meta.CreatedAt.AsTime().Before(s.UpdateStatus.GetStartedAt().AsTime())
		})
		for i, t := range tasks {
			over := t.Status.State > pb.TaskState_TASK_STATE_RUNNING && t.DesiredState > pb.TaskState_TASK_STATE_RUNNING
			kept := t.DesiredState < pb.TaskState_TASK_STATE_REMOVE && (i == trial || i == len(tasks)-1)
			if over && !kept {
				ids = append(ids, t.Id)
			}
		}
	}
	e.apply(&pb.Command{Kind: &pb.Command_DeleteTasks{DeleteTasks: &pb.DeleteTasks{Ids: ids}}})
}

// rollback goes to a version, if there is such a one.
func (e *env) rollback(to uint64) {
	e.commit(&pb.Command{Kind: &pb.Command_RollbackService{RollbackService: &pb.RollbackService{Id: e.service("web").Id, To: to}}})
	e.checkSlots()
}

// touch changes something that concerns no task.
func (e *env) touch() {
	e.changeNode("idle", func(s *pb.NodeSpec) { s.Labels = map[string]string{"count": fmt.Sprint(e.index)} })
}

func (e *env) running() []*pb.Task {
	var tasks []*pb.Task
	for t := range e.state.View().Tasks() {
		if t.Status.State == pb.TaskState_TASK_STATE_RUNNING && t.DesiredState == pb.TaskState_TASK_STATE_RUNNING {
			tasks = append(tasks, t)
		}
	}
	return tasks
}

func anyCluster(rt *rapid.T, t testing.TB) *env {
	e := newEnv(t)
	for _, n := range nodeNames {
		e.addNode(n)
	}
	e.addNode("idle")
	e.changeNode("idle", func(s *pb.NodeSpec) { s.Availability = pb.NodeAvailability_NODE_AVAILABILITY_DRAIN })
	e.behave = map[string]mood{"rejects": rejects, "fails": fails, "hangs": hangs}
	options := []string{
		"image=app", "restart-delay=2s", "monitor=3s",
		rapid.SampledFrom([]string{"restart-delay=2s", "max-delay=9s"}).Draw(rt, "restart delay"),
		rapid.SampledFrom([]string{"replicas=3", "replicas=5", "mode=global"}).Draw(rt, "mode"),
		rapid.SampledFrom([]string{"order=STOP_FIRST", "order=START_FIRST"}).Draw(rt, "order"),
		rapid.SampledFrom([]string{"parallelism=1", "parallelism=2", "parallelism=0"}).Draw(rt, "parallelism"),
		rapid.SampledFrom([]string{"action=PAUSE", "action=CONTINUE", "action=ROLLBACK", "action=ROLLBACK"}).Draw(rt, "action"),
		rapid.SampledFrom([]string{"attempts=0", "attempts=2"}).Draw(rt, "attempts"),
		rapid.SampledFrom([]string{"delay=0s", "delay=4s"}).Draw(rt, "delay"),
		rapid.SampledFrom([]string{"deadline=0s", "deadline=10s"}).Draw(rt, "deadline"),
		rapid.SampledFrom([]string{"rollback-order=STOP_FIRST", "rollback-order=START_FIRST"}).Draw(rt, "back order"),
		rapid.SampledFrom([]string{"rollback-parallelism=0", "rollback-parallelism=2"}).Draw(rt, "back parallelism"),
		rapid.SampledFrom([]string{"rollback-action=PAUSE", "rollback-action=CONTINUE"}).Draw(rt, "back action"),
		rapid.SampledFrom([]string{"restart=ANY", "restart=ON_FAILURE", "restart=NONE"}).Draw(rt, "condition"),
	}
	e.setService("web", options...)
	return e
}

// TestAnyHistory disturbs a cluster at random. env checks at each step that no
// slot has two tasks that may run, and that everything comes to rest; this
// adds what holds at rest and that rollouts keep to their parallelism.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := anyCluster(rt, t)
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			e.disturb(rt)
			e.advance(time.Duration(rapid.IntRange(0, 5).Draw(rt, "seconds")) * time.Second)
			e.checkAtRest(rt)
		}
	})
}

// checkAtRest looks at a cluster after settle.
func (e *env) checkAtRest(rt *rapid.T) {
	s := e.service("web")
	if p := e.plan(s); !p.Empty() {
		rt.Fatalf("a plan that was carried out leaves another: %v\n%s", p, e.trace.String())
	}
	slots := map[place][]*pb.Task{}
	kept := 0
	for t := range e.state.View().TasksByService(s.Id) {
		if t.DesiredState < pb.TaskState_TASK_STATE_REMOVE {
			slots[placeOf(t)] = append(slots[placeOf(t)], t)
		}
	}
	for p, tasks := range slots {
		kept++
		lives := 0
		for _, t := range tasks {
			if live(t) {
				lives++
			}
		}
		if lives > 2 {
			rt.Fatalf("%d live tasks in %v\n%s", lives, p, e.trace.String())
		}
	}
	if want := s.Spec.GetReplicated(); want != nil && kept != int(want.Replicas) {
		rt.Fatalf("%d slots instead of %d\n%s", kept, want.Replicas, e.trace.String())
	}
	e.checkPace(rt, s, slots)
}

// checkPace: never more slots under way than parallelism allows, but for those
// that a drain moves.
func (e *env) checkPace(rt *rapid.T, s *pb.Service, slots map[place][]*pb.Task) {
	limit := store.Rollout(s).Parallelism
	if !rolls(s.GetUpdateStatus()) || limit == 0 {
		return
	}
	underWay := uint64(0)
	for _, tasks := range slots {
		hasOld, hasNew := false, false
		for _, t := range tasks {
			hasOld = hasOld || live(t) && t.SpecVersion != s.SpecVersion && !store.Draining(e.state.View().Node(t.NodeId))
			hasNew = hasNew || live(t) && t.SpecVersion == s.SpecVersion && t.RestartCount == 0
		}
		if hasOld && hasNew {
			underWay++
		}
	}
	if underWay > limit {
		rt.Fatalf("%d slots under way, %d allowed\n%s", underWay, limit, e.trace.String())
	}
}

// TestIncrementalAgrees feeds a working set with nothing but the slots that
// changed, and compares its plans with those made from scratch.
func TestIncrementalAgrees(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := anyCluster(rt, t)
		e.agrees(rt, e.disturb, 6, func(_ *pb.Service, p Plan) Plan { return p })
	})
}

// agrees disturbs the service web again and again, up to so many seconds apart,
// and compares; normal takes out of a plan what may differ.
func (e *env) agrees(rt *rapid.T, disturb func(*rapid.T), apart int, normal func(*pb.Service, Plan) Plan) {
	view, watch := e.state.ViewAndWatch(pb.Kind_KIND_TASK, pb.Kind_KIND_NODE, pb.Kind_KIND_SERVICE)
	defer watch.Close()
	s := e.service("web")
	tr := &tracked{id: s.Id, places: map[place]bool{}}
	o := New(Config{State: e.state, NewID: func() string { return "new" }})
	o.services, o.dirty, o.global = map[string]*tracked{s.Id: tr}, map[string]*tracked{}, map[string]*tracked{}
	o.balancing = map[string]*tracked{s.Id: tr}
	if store.PerNode(s.Spec) {
		o.global[s.Id] = tr
	}
	tr.refresh(s, view, &o.cfg)
	for range rapid.IntRange(1, 8).Draw(rt, "steps") {
		disturb(rt)
		e.touch()
		for range rapid.IntRange(1, 4).Draw(rt, "rounds") {
			o.note(drain(e.t, watch))
			e.compare(rt, o, tr, normal)
			e.round()
			e.placeAll()
			e.runAll()
			e.touch()
		}
		e.now = e.now.Add(time.Duration(rapid.IntRange(0, apart).Draw(rt, "seconds")) * time.Second)
	}
}

func (e *env) compare(rt *rapid.T, o *Orchestrator, tr *tracked, normal func(*pb.Service, Plan) Plan) {
	view := e.state.View()
	s := view.Service(tr.id)
	tr.refresh(s, view, &o.cfg)
	got := tr.set.reconcile(e.now)
	in := Input{Service: s, Tasks: slices.Collect(view.TasksByService(s.Id)), Nodes: view, NewID: func() string { return "new" }}
	want := Reconcile(in, e.now)
	tr.distrust(got, view)
	if diff := cmp.Diff(normal(s, want), normal(s, got), protocmp.Transform()); diff != "" {
		rt.Fatalf("(-from scratch +incremental):\n%s%s", diff, e.trace.String())
	}
}

// drain reads what is there; the caller has seen to it that something is.
func drain(t testing.TB, w *store.Watch) []store.Change {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	changes, err := w.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

// TestDeterministic: the order in which tasks are given does not matter.
func TestDeterministic(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := anyCluster(rt, t)
		e.deterministic(rt, e.disturb, time.Second)
	})
}

func (e *env) deterministic(rt *rapid.T, disturb func(*rapid.T), apart time.Duration) {
	for range rapid.IntRange(1, 6).Draw(rt, "steps") {
		disturb(rt)
		e.advance(apart)
	}
	disturb(rt)
	view := e.state.View()
	s := e.service("web")
	tasks := slices.Collect(view.TasksByService(s.Id))
	shuffled := rapid.Permutation(slices.Clone(tasks)).Draw(rt, "order")
	var plans []Plan
	for _, tasks := range [][]*pb.Task{tasks, shuffled} {
		plans = append(plans, Reconcile(Input{Service: s, Tasks: tasks, Nodes: view, NewID: func() string { return "new" }}, e.now))
	}
	if diff := cmp.Diff(plans[0], plans[1], protocmp.Transform()); diff != "" {
		rt.Fatal(diff)
	}
}
