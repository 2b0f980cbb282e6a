// Package progress follows a service until it is as its spec says. Tracker is a
// pure reducer from watch events to changes, verdicts and pictures; displays
// draw them on terminals, pipes and for machines; Follow joins the two.
package progress

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
)

// verifyPeriod is how long all tasks have to keep running before a service
// counts as converged: long enough to see a process that ends at once, short
// against the start of many replicas. Rolling updates monitor by themselves.
const verifyPeriod = time.Second

// Outcome is where the wait for a service stands.
type Outcome int

// The outcomes.
const (
	// Waiting: work goes on.
	Waiting Outcome = iota
	// Converged: every slot runs the present version.
	Converged
	// Paused: the rolling update met failures, or no end, and stopped.
	Paused
	// RolledBack: it was undone for them, without this wait having asked for it.
	RolledBack
	// Gone: the service was removed meanwhile.
	Gone
	// Completed: the job's run has come to its good end.
	Completed
	// RunFailed: it has come to another end.
	RunFailed
)

// Tracker holds what is known of one service and its tasks.
type Tracker struct {
	service  *pb.Service
	baseline *pb.UpdateStatus
	// job is set when the run of a job is waited for.
	job *jobWait
	// first is the version that was waited for at the beginning.
	first  uint64
	nodes  map[string]string
	tasks  map[string]*pb.Task
	synced bool
	gone   bool
	// settledSince is when the present set of running tasks was complete.
	settledSince time.Time
	// told is what was last said of each task, waits what was said of waiting ones.
	told  map[string]string
	waits map[string]bool
	// places holds the tasks by their place; loops what was told of those that
	// are in a loop, loopsTold the highest count told of each reason.
	places    map[place]map[string]*pb.Task
	loops     map[place]*Loop
	loopsTold map[string]uint64
}

// NewTracker starts from a service as the API returned it. Nodes maps ids to
// host names. An update that was already paused is not this wait's failure.
func NewTracker(service *pb.Service, nodes map[string]string) *Tracker {
	t := &Tracker{service: service, baseline: service.GetUpdateStatus(), first: service.GetSpecVersion(), nodes: nodes,
		told: map[string]string{}, waits: map[string]bool{}, loops: map[place]*Loop{}, loopsTold: map[string]uint64{}}
	t.Reset()
	return t
}

// Reset forgets the tasks, for a watch that starts over.
func (t *Tracker) Reset() {
	t.tasks, t.places = map[string]*pb.Task{}, map[place]map[string]*pb.Task{}
	t.synced = false
}

// Apply takes in one event and returns what users should hear of it.
func (t *Tracker) Apply(ev *pb.WatchEvent, now time.Time) []Change {
	var changes []Change
	if ev.Action == pb.WatchEvent_ACTION_SYNCED {
		t.synced = true
		for _, slot := range t.slots() {
			changes = append(changes, t.tell(slot.current, now)...)
		}
	}
	switch o := ev.GetObject().GetKind().(type) {
	case *pb.Object_Service:
		if o.Service.Id != t.service.GetId() {
			break
		}
		t.gone = ev.Action == pb.WatchEvent_ACTION_DELETE || o.Service.Removing
		t.service = o.Service
		t.job.see(o.Service)
		changes = append(changes, t.tellRollback(now)...)
	case *pb.Object_Task:
		changes = t.applyTask(ev.Action, o.Task, now)
	}
	return changes
}

// Settle finds out whether the service is complete, once for all the events
// that came at a time: it looks at every task.
func (t *Tracker) Settle(now time.Time) {
	switch {
	case !t.settled():
		t.settledSince = time.Time{}
	case t.settledSince.IsZero():
		t.settledSince = now
	}
}

func (t *Tracker) applyTask(action pb.WatchEvent_Action, task *pb.Task, now time.Time) []Change {
	if task.ServiceId != t.service.GetId() {
		return nil
	}
	if action == pb.WatchEvent_ACTION_DELETE {
		delete(t.tasks, task.Id)
		delete(t.places[placeOf(task)], task.Id)
		return nil
	}
	t.tasks[task.Id] = task
	p := placeOf(task)
	if t.places[p] == nil {
		t.places[p] = map[string]*pb.Task{}
	}
	t.places[p][task.Id] = task
	if failed(task) {
		t.settledSince = time.Time{} // its replacement may run before anybody looks
	}
	if !t.synced || !t.job.has(task) {
		if !live(task) {
			t.told[task.Id] = describe(task)
		}
		return nil
	}
	return t.tell(task, now)
}

// tell returns a change when there is something new to say of a task. What was
// stopped on purpose is not news.
func (t *Tracker) tell(task *pb.Task, now time.Time) []Change {
	text := describe(task)
	if t.told[task.Id] == text {
		return nil
	}
	t.told[task.Id] = text
	if changes, looping := t.tellLoop(task, now); looping {
		return changes
	}
	state := task.GetStatus().GetState()
	stopped := task.DesiredState > pb.TaskState_TASK_STATE_RUNNING && !failed(task)
	if stopped || state == pb.TaskState_TASK_STATE_NEW && !stuck(task) {
		return nil
	}
	reason := Reason(task)
	c := Change{At: now, Service: task.ServiceName, Slot: slotLabel(task, t.nodes), Task: task.Id,
		Node: t.nodes[task.NodeId], State: StateName(state), Reason: reason, Failed: failed(task)}
	if stuck(task) {
		c.Waits = true
		c.Repeats = t.waits[reason]
		c.Try = "minictl task why " + Ref(task)
		t.waits[reason] = true
	}
	return []Change{c}
}

// Verdict says where things stand; while waiting, how long to hold still at
// most before asking again (0: until the next event).
func (t *Tracker) Verdict(now time.Time) (Outcome, time.Duration) {
	status := t.service.GetUpdateStatus()
	switch {
	case t.job != nil:
		return t.job.verdict(t.gone), 0
	case t.gone:
		return Gone, 0
	case t.undone() && status.State == pb.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED:
		return RolledBack, 0
	case t.synced && t.paused() && !t.pausedBefore():
		return Paused, 0
	case !t.synced || t.settledSince.IsZero():
		return Waiting, 0
	case t.state() == pb.UpdateState_UPDATE_STATE_COMPLETED && !proto.Equal(status, t.baseline),
		t.state() == pb.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED && !proto.Equal(status, t.baseline):
		return Converged, 0
	}
	if left := verifyPeriod - now.Sub(t.settledSince); left > 0 {
		return Waiting, left
	}
	return Converged, 0
}

func (t *Tracker) paused() bool {
	return t.state() == pb.UpdateState_UPDATE_STATE_PAUSED || t.state() == pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED
}

func (t *Tracker) pausedBefore() bool { return proto.Equal(t.service.GetUpdateStatus(), t.baseline) }

// settled reports whether every wanted slot runs what it should.
func (t *Tracker) settled() bool {
	rolling := t.state() == pb.UpdateState_UPDATE_STATE_UPDATING || t.state() == pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED
	if t.gone || rolling {
		return false
	}
	slots := t.slots()
	alive := 0
	for _, slot := range slots {
		if !live(slot.current) {
			continue
		}
		alive++
		if !running(slot.current) || !t.paused() && !upToDate(t.service, slot.current) {
			return false
		}
	}
	if want, replicated := t.wanted(); replicated {
		return alive == want
	}
	return alive > 0
}

// wanted is the replica count; that of a service on all nodes is not known to
// clients.
func (t *Tracker) wanted() (int, bool) {
	switch m := t.service.GetSpec().GetMode().(type) {
	case *pb.ServiceSpec_Replicated:
		return int(m.Replicated.Replicas), true
	case *pb.ServiceSpec_ReplicatedJob:
		return int(m.ReplicatedJob.Completions), true
	}
	return 0, false
}

// Waiting returns a task that no node can take, or that gets no address, nil if
// there is none.
func (t *Tracker) Waiting() *pb.Task {
	for _, slot := range t.slots() {
		if live(slot.current) && stuck(slot.current) {
			return slot.current
		}
	}
	return nil
}

// Slow returns a task that is still being prepared or started and tells what it
// is at, nil if there is none.
func (t *Tracker) Slow() *pb.Task {
	for _, slot := range t.slots() {
		s := slot.current.GetStatus().GetState()
		if s >= pb.TaskState_TASK_STATE_PREPARING && s < pb.TaskState_TASK_STATE_RUNNING && live(slot.current) && Reason(slot.current) != "" {
			return slot.current
		}
	}
	return nil
}

// Nowhere reports whether a global service found no node at all.
func (t *Tracker) Nowhere() bool {
	_, replicated := t.wanted()
	return t.synced && !replicated && len(t.tasks) == 0
}

// Failed returns the task whose failure is the best answer to what went wrong,
// nil if none failed.
func (t *Tracker) Failed() *pb.Task {
	if ids := t.service.GetUpdateStatus().GetFailedTasks(); len(ids) > 0 {
		if task := t.tasks[ids[len(ids)-1]]; task != nil {
			return task
		}
	}
	version := t.service.SpecVersion
	if t.undone() {
		version = t.first
	}
	var last *pb.Task
	for _, task := range t.tasks {
		if failed(task) && (task.SpecVersion == version || t.job != nil) && t.job.has(task) &&
			(last == nil || last.Status.GetAt().AsTime().Before(task.Status.GetAt().AsTime())) {
			last = task
		}
	}
	return last
}

// Service is the service as last seen.
func (t *Tracker) Service() *pb.Service { return t.service }

// slot is one place of a service and the task that stands for it.
type slot struct {
	label   string
	current *pb.Task
}

// slots returns the service's live slots in order, and failed ones whose
// replacement is not there yet.
func (t *Tracker) slots() []slot {
	type key struct {
		slot uint64
		node string
	}
	best := map[key]*pb.Task{}
	for _, task := range t.tasks {
		if !t.job.has(task) {
			continue
		}
		k := key{slot: task.Slot}
		if task.Slot == 0 {
			k.node = task.NodeId
		}
		if have := best[k]; have == nil || newer(task, have) {
			best[k] = task
		}
	}
	var slots []slot
	for _, task := range best {
		if live(task) || failed(task) && task.DesiredState <= pb.TaskState_TASK_STATE_SHUTDOWN && t.hasPlace(task) {
			slots = append(slots, slot{slotLabel(task, t.nodes), task})
		}
	}
	slices.SortFunc(slots, func(a, b slot) int {
		return cmp.Or(cmp.Compare(a.current.Slot, b.current.Slot), cmp.Compare(a.label, b.label))
	})
	return slots
}

// hasPlace tells whether a dead task's slot is still wanted.
func (t *Tracker) hasPlace(task *pb.Task) bool {
	want, replicated := t.wanted()
	return !replicated || task.Slot <= uint64(want)
}

// newer orders the tasks of one slot: live before dead, then by version, age and id.
func newer(a, b *pb.Task) bool {
	if live(a) != live(b) {
		return live(a)
	}
	return cmp.Or(cmp.Compare(a.SpecVersion, b.SpecVersion),
		a.GetMeta().GetCreatedAt().AsTime().Compare(b.GetMeta().GetCreatedAt().AsTime()),
		cmp.Compare(a.Id, b.Id)) > 0
}

func live(t *pb.Task) bool {
	return t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING && t.GetStatus().GetState() <= pb.TaskState_TASK_STATE_RUNNING
}

func running(t *pb.Task) bool { return t.GetStatus().GetState() == pb.TaskState_TASK_STATE_RUNNING }

func failed(t *pb.Task) bool {
	switch t.GetStatus().GetState() {
	case pb.TaskState_TASK_STATE_FAILED, pb.TaskState_TASK_STATE_REJECTED, pb.TaskState_TASK_STATE_ORPHANED:
		return true
	}
	return false
}

// upToDate reports whether a task needs no replacement: it has the present
// version, or one that differs only in what applies without a new container.
func upToDate(s *pb.Service, t *pb.Task) bool {
	if t.SpecVersion == s.SpecVersion {
		return true
	}
	var old *pb.TaskSpec
	for _, v := range s.Versions {
		if v.Version == t.SpecVersion {
			old = v.Spec
		}
	}
	return old != nil && proto.Equal(container(old), container(s.GetSpec().GetTask()))
}

// container is what a task's container is made from; the routing mesh's ports
// are none of its business.
func container(s *pb.TaskSpec) *pb.TaskSpec {
	c := proto.CloneOf(s)
	if c == nil {
		return nil
	}
	c.Placement, c.Restart = nil, nil
	c.Ports = slices.DeleteFunc(c.Ports, func(p *pb.PortConfig) bool { return p.Mode == pb.PortConfig_MODE_INGRESS })
	if c.Container != nil {
		c.Container.PullAuth, c.Container.Platforms = nil, nil
	}
	return c
}
