package orchestrator

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/scheduler"
	"github.com/minid/minid/store"
)

// env is a cluster in miniature: a real store, the pure orchestrator, and a
// fake placement and agents that do what the image's name says.
type env struct {
	t     testing.TB
	state *store.State
	start time.Time
	now   time.Time
	mu    sync.Mutex // for index
	index uint64
	ids   int
	trace strings.Builder
	next  map[string]time.Time
	lost  map[string]bool // tasks whose node was down once
	// startsFirst holds the services that ever replaced tasks so.
	startsFirst map[string]bool
	// crowd is how many seats of a job were ever allowed to be busy.
	crowd map[string]int

	// What the fakes are told.
	capacity int             // tasks per node; 0 is no limit
	full     map[string]bool // nodes that take no more tasks
	honest   bool            // the real scheduler places
	join     Join
	behave   map[string]mood // by image
	stubborn map[string]bool // nodes whose tasks do not stop
}

// mood is how a container of an image behaves.
type mood string

const (
	rejects  mood = "rejects"  // cannot be pulled
	fails    mood = "fails"    // exits with 1 as soon as it is started
	hangs    mood = "hangs"    // is pulled for ever
	unwell   mood = "unwell"   // starts for ever
	complete mood = "complete" // exits with 0
)

func newEnv(t testing.TB) *env {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return &env{
		t: t, state: store.New(), start: start, now: start,
		next: map[string]time.Time{}, lost: map[string]bool{}, startsFirst: map[string]bool{}, crowd: map[string]int{}, behave: map[string]mood{}, stubborn: map[string]bool{}, full: map[string]bool{},
	}
}

func (e *env) logf(format string, args ...any) {
	fmt.Fprintf(&e.trace, "%-7s %s\n", "+"+e.now.Sub(e.start).Round(time.Millisecond).String(), fmt.Sprintf(format, args...))
}

func (e *env) apply(cmds ...*pb.Command) {
	e.t.Helper()
	for _, err := range e.commit(cmds...) {
		if err != nil {
			e.t.Fatalf("refused at %v: %v", e.now.Sub(e.start), err)
		}
	}
	e.checkSlots()
}

// commit applies what the test, its users and agents do.
func (e *env) commit(cmds ...*pb.Command) []error { return e.commitAt(e.now, cmds...) }

// commitAt is commit for a loop, which has a clock of its own.
func (e *env) commitAt(now time.Time, cmds ...*pb.Command) []error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.index++
	return e.state.Apply(e.index, &pb.Entry{Commands: cmds, At: timestamppb.New(now)})
}

func (e *env) newID() string {
	e.ids++
	return fmt.Sprintf("t%03d", e.ids)
}

func (e *env) service(name string) *pb.Service {
	e.t.Helper()
	s := e.state.View().ServiceByName(name)
	if s == nil {
		e.t.Fatalf("no service %s", name)
	}
	return s
}

func (e *env) plan(s *pb.Service) Plan {
	view := e.state.View()
	in := Input{Service: s, Tasks: slices.Collect(view.TasksByService(s.Id)), Nodes: view, Join: e.join, NewID: e.newID}
	return Reconcile(in, e.now)
}

// round reconciles every service once and carries the plans out.
func (e *env) round() (changed bool) {
	for s := range e.state.View().Services() {
		p := e.plan(s)
		e.next[s.Id] = p.Next
		if p.Empty() {
			continue
		}
		changed = true
		e.tell(s, p)
		e.apply(p.commands(s.Id)...)
		if p.Rollback != nil && !store.RollingBack(e.service(s.Spec.Name)) {
			e.t.Fatalf("nothing was rolled back:\n%s", e.trace.String())
		}
	}
	return changed
}

func (e *env) tell(s *pb.Service, p Plan) {
	view := e.state.View()
	if u := p.Update; u != nil && (u.State != s.GetUpdateStatus().GetState() || u.ToVersion != s.GetUpdateStatus().GetToVersion()) {
		e.logf("%s update to v%d %s: %s", s.Spec.Name, u.ToVersion, stateOf(u), u.Message)
	} else if u != nil {
		e.logf("%s update: %d failed", s.Spec.Name, len(u.FailedTasks))
	}
	if p.Rollback != nil {
		if store.RollingBack(s) {
			e.t.Fatalf("a rollback is rolled back:\n%s", e.trace.String())
		}
		e.logf("%s rolls back to %d: %s", s.Spec.Name, p.Rollback.To, p.Rollback.Reason)
	}
	if r := p.Rebalance; r.GetCompletedAt() != nil {
		e.logf("%s rebalanced: %s", s.Spec.Name, r.Message)
	} else if r != nil && !r.AskedAt.AsTime().Equal(s.Rebalance.GetAskedAt().AsTime()) {
		e.logf("%s is rebalanced: %s", s.Spec.Name, r.Message)
	}
	e.tellJob(s, p)
	for _, d := range p.Desired {
		e.logf("%s -> %s", describe(view.Task(d.Id)), word(d.State.String()))
	}
	for _, t := range p.Create {
		text := fmt.Sprintf("create %s -> %s", describe(t), word(t.DesiredState.String()))
		if t.Replaces != "" {
			text += " for " + t.Replaces
		}
		if t.StartAfter != nil {
			text += " in " + t.StartAfter.AsTime().Sub(e.now).String()
		}
		if t.RestartCount > 0 {
			text += fmt.Sprintf(" restart %d", t.RestartCount)
		}
		e.logf("%s", text)
	}
}

func describe(t *pb.Task) string {
	where := fmt.Sprint(t.Slot)
	if t.Slot == 0 {
		where = t.NodeId
	}
	text := fmt.Sprintf("%s.%s %s v%d", t.ServiceName, where, t.Id, t.SpecVersion)
	if t.JobRun > 0 {
		text += fmt.Sprintf(" run %d", t.JobRun)
	}
	return text
}

func stateOf(u *pb.UpdateStatus) string {
	return strings.ToLower(strings.TrimPrefix(u.GetState().String(), "UPDATE_STATE_"))
}

func word(enum string) string { return strings.ToLower(enum[strings.LastIndex(enum, "_")+1:]) }

// settle lets everybody act until nothing changes at this moment.
func (e *env) settle() {
	e.t.Helper()
	for range 300 {
		changed := e.round()
		changed = e.placeAll() || changed
		changed = e.runAll() || changed
		if !changed {
			return
		}
	}
	e.t.Fatalf("no rest after 300 rounds:\n%s", e.trace.String())
}

// advance moves time on, stopping wherever the orchestrator asked to.
func (e *env) advance(d time.Duration) {
	e.t.Helper()
	for end := e.now.Add(d); ; {
		e.settle()
		soonest := end
		for _, at := range e.next {
			if !at.IsZero() && at.Before(soonest) {
				soonest = at
			}
		}
		if !soonest.After(e.now) && e.now.Equal(end) {
			return
		}
		if !soonest.After(e.now) {
			e.t.Fatalf("the plan wants to be asked again at once:\n%s", e.trace.String())
		}
		e.now = soonest
	}
}

// placeAll is placement: the emptiest node that is usable.
func (e *env) placeAll() (changed bool) {
	view := e.state.View()
	if e.honest {
		return e.placeHonestly(view)
	}
	held := map[string]int{}
	for t := range view.Tasks() {
		if t.NodeId != "" && t.Status.State <= pb.TaskState_TASK_STATE_RUNNING && t.Status.State >= pb.TaskState_TASK_STATE_ASSIGNED {
			held[t.NodeId]++
		}
	}
	for t := range view.Tasks() {
		if t.Status.State != pb.TaskState_TASK_STATE_PENDING || t.DesiredState > pb.TaskState_TASK_STATE_RUNNING {
			continue
		}
		if n := e.nodeFor(view, t, held); n != "" {
			held[n]++
			e.apply(&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{
				Tasks: []*pb.TaskAssignment{{Id: t.Id, NodeId: n}}}}})
			changed = true
		} else if (e.capacity > 0 || len(e.full) > 0) && len(t.Status.Refused) == 0 {
			e.apply(&pb.Command{Kind: &pb.Command_ExplainTasks{ExplainTasks: &pb.ExplainTasks{Tasks: []*pb.TaskStatusReport{{
				Id: t.Id, Status: &pb.TaskStatus{Message: "waiting: 0 nodes fit", Refused: []*pb.FilterCount{{Filter: "resources", Nodes: 1}}}}}}}})
			changed = true
		}
	}
	return changed
}

func (e *env) nodeFor(view store.View, t *pb.Task, held map[string]int) string {
	spec := store.TaskSpec(view.Service(t.ServiceId), t.SpecVersion)
	var fit []string
	for n := range view.Nodes() {
		if usable(n) && !e.full[n.Id] && stillFits(n, spec) && (t.NodeId == "" || t.NodeId == n.Id) && (e.capacity == 0 || held[n.Id] < e.capacity) {
			fit = append(fit, n.Id)
		}
	}
	if len(fit) == 0 {
		return ""
	}
	return slices.MinFunc(fit, func(a, b string) int { return cmp.Or(cmp.Compare(held[a], held[b]), cmp.Compare(a, b)) })
}

func (e *env) rebalance(service string) {
	e.t.Helper()
	e.apply(&pb.Command{Kind: &pb.Command_SetRebalance{SetRebalance: &pb.SetRebalance{
		Id: e.service(service).Id, Rebalance: &pb.Rebalance{AskedAt: timestamppb.New(e.now)}}}})
}

// placeHonestly asks the real scheduler, for all waiting tasks of a version at
// once.
func (e *env) placeHonestly(view store.View) (changed bool) {
	for s := range view.Services() {
		groups := map[uint64][]scheduler.Waiting{}
		for t := range view.TasksByService(s.Id) {
			if t.Status.State == pb.TaskState_TASK_STATE_PENDING && t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING {
				groups[t.SpecVersion] = append(groups[t.SpecVersion], scheduler.Waiting{ID: t.Id, Node: t.NodeId, Replaces: t.Replaces})
			}
		}
		for _, version := range slices.Sorted(maps.Keys(groups)) {
			view := e.state.View()
			decisions, _ := scheduler.FromView(view).Place(scheduler.Group{
				Service: s.Id, Version: version, StopFirst: scheduler.StopFirst(s), Tasks: groups[version],
				Need: scheduler.CompileIn(view, store.TaskSpec(s, version)),
			}, e.now)
			for _, d := range decisions {
				e.apply(&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{
					Tasks: []*pb.TaskAssignment{{Id: d.Task, NodeId: d.Node}}}}})
				changed = true
			}
		}
	}
	return changed
}

func usable(n *pb.Node) bool {
	return n.Status.State == pb.NodeState_NODE_STATE_READY && n.Spec.Availability == pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE
}

// runAll is the agents: each task takes one step.
func (e *env) runAll() (changed bool) {
	view := e.state.View()
	for t := range view.Tasks() {
		n := view.Node(t.NodeId)
		if n == nil || n.Status.State != pb.NodeState_NODE_STATE_READY || t.Status.State < pb.TaskState_TASK_STATE_ASSIGNED {
			continue
		}
		if next := e.step(view, t); next != nil {
			e.report(t, next)
			changed = true
		}
	}
	return changed
}

func (e *env) step(view store.View, t *pb.Task) *pb.TaskStatus {
	state := t.Status.State
	how := e.behave[store.TaskSpec(view.Service(t.ServiceId), t.SpecVersion).GetContainer().GetImage()]
	switch {
	case state > pb.TaskState_TASK_STATE_RUNNING:
		return nil
	case t.DesiredState > pb.TaskState_TASK_STATE_RUNNING:
		if e.stubborn[t.NodeId] {
			return nil
		}
		return &pb.TaskStatus{State: pb.TaskState_TASK_STATE_SHUTDOWN}
	case state < pb.TaskState_TASK_STATE_PREPARING:
		return &pb.TaskStatus{State: pb.TaskState_TASK_STATE_PREPARING}
	case state == pb.TaskState_TASK_STATE_PREPARING && how == rejects:
		return &pb.TaskStatus{State: pb.TaskState_TASK_STATE_REJECTED, Error: "no such image"}
	case state == pb.TaskState_TASK_STATE_PREPARING && how == hangs:
		return nil
	case state == pb.TaskState_TASK_STATE_PREPARING:
		return &pb.TaskStatus{State: pb.TaskState_TASK_STATE_READY}
	case state == pb.TaskState_TASK_STATE_READY && t.DesiredState == pb.TaskState_TASK_STATE_RUNNING:
		return &pb.TaskStatus{State: pb.TaskState_TASK_STATE_STARTING}
	case state == pb.TaskState_TASK_STATE_STARTING && how == fails:
		return &pb.TaskStatus{State: pb.TaskState_TASK_STATE_FAILED, Container: &pb.ContainerStatus{ExitCode: 1}}
	case state == pb.TaskState_TASK_STATE_STARTING && how != unwell:
		return &pb.TaskStatus{State: pb.TaskState_TASK_STATE_RUNNING}
	case state == pb.TaskState_TASK_STATE_RUNNING && how == complete:
		return &pb.TaskStatus{State: pb.TaskState_TASK_STATE_COMPLETE}
	}
	return nil
}

func (e *env) report(t *pb.Task, status *pb.TaskStatus) {
	status.At = timestamppb.New(e.now)
	if status.State >= pb.TaskState_TASK_STATE_RUNNING {
		e.logf("  %s %s on %s", describe(t), word(status.State.String()), t.NodeId)
	}
	e.apply(&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{
		NodeId: t.NodeId, Reports: []*pb.TaskStatusReport{{Id: t.Id, Status: status}}}}})
}

// checkSlots holds the promise that matters most: one slot, one task that may
// be running, but for start-first, and never two that are meant to.
func (e *env) checkSlots() {
	e.t.Helper()
	view := e.state.View()
	for s := range view.Services() {
		if store.IsJob(s.Spec) {
			e.checkSeats(s)
			continue
		}
		started := map[place][]*pb.Task{}
		e.startsFirst[s.Id] = e.startsFirst[s.Id] || store.StartsFirst(s)
		for t := range view.TasksByService(s.Id) {
			n := view.Node(t.NodeId)
			state := t.Status.State
			if n != nil && n.Status.State == pb.NodeState_NODE_STATE_DOWN {
				e.lost[t.Id] = true
			}
			if t.StartAfter.AsTime().After(e.now) && (state == pb.TaskState_TASK_STATE_STARTING || t.DesiredState == pb.TaskState_TASK_STATE_RUNNING) {
				e.t.Fatalf("%s starts before its time\n%s", describe(t), e.trace.String())
			}
			if n == nil || e.lost[t.Id] || state > pb.TaskState_TASK_STATE_RUNNING {
				continue
			}
			if state >= pb.TaskState_TASK_STATE_STARTING || t.DesiredState == pb.TaskState_TASK_STATE_RUNNING {
				started[placeOf(t)] = append(started[placeOf(t)], t)
			}
		}
		for p, tasks := range started {
			if len(tasks) > 1 && !e.startsFirst[s.Id] && !s.Removing {
				e.t.Fatalf("two tasks may run in %v: %v\n%s", p, tasks, e.trace.String())
			}
		}
	}
}

func (e *env) addNode(id string) {
	e.apply(&pb.Command{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: &pb.Node{
		Id: id, Role: pb.NodeRole_NODE_ROLE_WORKER,
		Spec:        &pb.NodeSpec{Role: pb.NodeRole_NODE_ROLE_WORKER, Availability: pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE},
		Description: &pb.NodeDescription{Hostname: id},
		Status:      &pb.NodeStatus{State: pb.NodeState_NODE_STATE_READY},
	}}}})
}

func (e *env) setNode(id string, state pb.NodeState) {
	e.apply(&pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{Id: id, Status: &pb.NodeStatus{State: state}}}})
}

func (e *env) changeNode(id string, change func(*pb.NodeSpec)) {
	spec := proto.CloneOf(e.state.View().Node(id).Spec)
	change(spec)
	e.apply(&pb.Command{Kind: &pb.Command_UpdateNodeSpec{UpdateNodeSpec: &pb.UpdateNodeSpec{Id: id, Spec: spec}}})
}

// setService creates or updates a service from words like replicas=3.
func (e *env) setService(name string, options ...string) {
	e.t.Helper()
	old := e.state.View().ServiceByName(name)
	spec := &pb.ServiceSpec{
		Name: name, Task: &pb.TaskSpec{Container: &pb.ContainerSpec{Image: "app"}, Restart: &pb.RestartPolicy{}, Placement: &pb.Placement{}},
		Mode:   &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: 1}},
		Update: &pb.UpdateConfig{Parallelism: 1}, Rollback: &pb.UpdateConfig{Parallelism: 1},
	}
	if old != nil {
		spec = proto.CloneOf(old.Spec)
	}
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		e.option(spec, key, value)
	}
	if old != nil {
		e.apply(&pb.Command{Kind: &pb.Command_UpdateServiceSpec{UpdateServiceSpec: &pb.UpdateServiceSpec{Id: old.Id, Spec: spec}}})
		return
	}
	e.apply(&pb.Command{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: "s-" + name, Spec: spec}}})
}

func (e *env) option(spec *pb.ServiceSpec, key, value string) {
	e.t.Helper()
	number := func() uint64 {
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			e.t.Fatal(err)
		}
		return n
	}
	duration := func() *durationpb.Duration {
		d, err := time.ParseDuration(value)
		if err != nil {
			e.t.Fatal(err)
		}
		return durationpb.New(d)
	}
	if e.jobOption(spec, key, value) {
		return
	}
	switch key {
	case "replicas":
		spec.Mode = &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: number()}}
	case "mode":
		spec.Mode = &pb.ServiceSpec_Global{Global: &pb.GlobalMode{}}
	case "image":
		spec.Task.Container.Image = value
	case "auth":
		spec.Task.Container.PullAuth = []byte(value)
	case "force":
		spec.Task.ForceUpdate = number()
	case "constraint":
		spec.Task.Placement.Constraints = []string{value}
	case "spread":
		spec.Task.Placement.Spread = []string{value}
	case "restart":
		spec.Task.Restart.Condition = pb.RestartPolicy_Condition(pb.RestartPolicy_Condition_value["CONDITION_"+value])
	case "restart-delay":
		spec.Task.Restart.Delay = duration()
	case "max-delay":
		spec.Task.Restart.MaxDelay = duration()
	case "attempts":
		spec.Task.Restart.MaxAttempts = number()
	case "window":
		spec.Task.Restart.Window = duration()
	case "host-port":
		spec.Task.Ports = []*pb.PortConfig{{Target: 80, Published: uint32(number()), Mode: pb.PortConfig_MODE_HOST}}
	case "ingress-port":
		spec.Task.Ports = []*pb.PortConfig{{Target: 80, Published: uint32(number()), Mode: pb.PortConfig_MODE_INGRESS}}
	default:
		config := spec.Update
		if rest, found := strings.CutPrefix(key, "rollback-"); found {
			config, key = spec.Rollback, rest
		}
		e.rolloutOption(config, key, value, duration)
	}
}

func (e *env) rolloutOption(c *pb.UpdateConfig, key, value string, duration func() *durationpb.Duration) {
	e.t.Helper()
	switch key {
	case "parallelism":
		c.Parallelism, _ = strconv.ParseUint(value, 10, 64)
	case "delay":
		c.Delay = duration()
	case "monitor":
		c.Monitor = duration()
	case "deadline":
		c.Deadline = duration()
	case "order":
		c.Order = pb.UpdateConfig_Order(pb.UpdateConfig_Order_value["ORDER_"+value])
	case "action":
		c.FailureAction = pb.UpdateConfig_FailureAction(pb.UpdateConfig_FailureAction_value["FAILURE_ACTION_"+value])
	case "ratio":
		c.MaxFailureRatio, _ = strconv.ParseFloat(value, 64)
	default:
		e.t.Fatalf("unknown option %q", key)
	}
}

// tasks lists a service's tasks by slot, newest last.
func (e *env) tasks(name string) string {
	view := e.state.View()
	tasks := slices.SortedFunc(view.TasksByService(e.service(name).Id), func(a, b *pb.Task) int {
		return cmp.Or(comparePlaces(placeOf(a), placeOf(b)), compareAge(a, b))
	})
	var b strings.Builder
	for _, t := range tasks {
		fmt.Fprintf(&b, "%s %s/%s %s\n", describe(t), word(t.Status.State.String()), word(t.DesiredState.String()), cmp.Or(t.NodeId, "-"))
	}
	return b.String()
}
