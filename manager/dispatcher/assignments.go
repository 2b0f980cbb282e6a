package dispatcher

import (
	"fmt"
	"maps"
	"slices"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// assignments is what one agent was told, so that only what differs is sent.
// Specs, secrets and configs are counted by the tasks that use them: sent with
// the first, taken back with the last.
type assignments struct {
	node     string
	sequence uint64
	tasks    map[string]assigned
	specs    map[specKey]int
	secrets  map[string]int
	configs  map[string]int
}

// assigned is what an agent was told of one task.
type assigned struct {
	desired pb.TaskState
	key     specKey
	// The secrets and configs that it holds references to.
	secrets, configs []string
}

// specKey names one version of one service's task spec.
type specKey struct {
	service string
	version uint64
}

func (k specKey) String() string { return fmt.Sprintf("%s@%d", k.service, k.version) }

// assignable tells whether a node's agent still has something to do about a
// task: it was placed there and has not ended.
func assignable(t *pb.Task, node string) bool {
	if t == nil || t.NodeId != node {
		return false
	}
	state := t.GetStatus().GetState()
	return state >= pb.TaskState_TASK_STATE_ASSIGNED && state <= pb.TaskState_TASK_STATE_RUNNING
}

// full forgets what was told and returns everything that the node must know.
func (a *assignments) full(view store.View) *pb.AssignmentSet {
	a.tasks = map[string]assigned{}
	a.specs = map[specKey]int{}
	a.secrets = map[string]int{}
	a.configs = map[string]int{}
	a.sequence = 0
	diff := a.update(view, a.candidates(view))
	if diff == nil {
		diff = &pb.AssignmentDiff{}
	}
	a.sequence = 1
	return &pb.AssignmentSet{Sequence: a.sequence, Items: diff.Put}
}

// candidates returns the ids of the tasks that the node has or was told of.
func (a *assignments) candidates(view store.View) map[string]struct{} {
	ids := make(map[string]struct{}, len(a.tasks))
	for id := range a.tasks {
		ids[id] = struct{}{}
	}
	for t := range view.TasksByNode(a.node) {
		ids[t.Id] = struct{}{}
	}
	return ids
}

// update looks at the given tasks again and returns what the agent has to be
// told about them, nil if nothing.
func (a *assignments) update(view store.View, ids map[string]struct{}) *pb.AssignmentDiff {
	d := &delta{a: a, view: view}
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		d.task(id)
	}
	return d.finish()
}

// delta collects one diff. Counts go up before they go down, so that what one
// task hands to the next is not sent twice.
type delta struct {
	a    *assignments
	view store.View
	out  pb.AssignmentDiff
	// What the tasks of this diff let go.
	released []assigned
}

// task compares one task with what was told of it.
func (d *delta) task(id string) {
	told, known := d.a.tasks[id]
	t := d.view.Task(id)
	if !assignable(t, d.a.node) {
		if known {
			delete(d.a.tasks, id)
			d.released = append(d.released, told)
			d.remove(pb.Kind_KIND_TASK, id)
		}
		return
	}
	if known && told.desired == t.DesiredState {
		return
	}
	now := assigned{desired: t.DesiredState, key: specKey{t.ServiceId, t.SpecVersion}}
	spec := d.useSpec(now.key)
	if t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING {
		now.secrets = d.useSecrets(spec)
		now.configs = d.useConfigs(spec)
	}
	if known {
		d.released = append(d.released, told)
	}
	d.a.tasks[id] = now
	d.put(&pb.Assignment{Kind: &pb.Assignment_Task{Task: &pb.AssignedTask{
		Id:            t.Id,
		ServiceId:     t.ServiceId,
		SpecVersion:   t.SpecVersion,
		Slot:          t.Slot,
		DesiredState:  t.DesiredState,
		ObservedState: t.GetStatus().GetState(),
	}}})
}

// useSpec counts one more task on a spec version and sends it with the first.
func (d *delta) useSpec(key specKey) *pb.TaskSpec {
	var spec *pb.TaskSpec
	service := d.view.Service(key.service)
	if service != nil {
		spec = store.TaskSpec(service, key.version)
	}
	d.a.specs[key]++
	if d.a.specs[key] == 1 && spec != nil {
		d.put(&pb.Assignment{Kind: &pb.Assignment_Spec{Spec: &pb.AssignedSpec{
			ServiceId:     key.service,
			Version:       key.version,
			ServiceName:   service.GetSpec().GetName(),
			ServiceLabels: service.GetSpec().GetLabels(),
			Task:          spec,
		}}})
	}
	return spec
}

func (d *delta) useSecrets(spec *pb.TaskSpec) []string {
	var ids []string
	for _, ref := range spec.GetContainer().GetSecrets() {
		ids = append(ids, ref.Id)
		d.a.secrets[ref.Id]++
		if secret := d.view.Secret(ref.Id); d.a.secrets[ref.Id] == 1 && secret != nil {
			d.put(&pb.Assignment{Kind: &pb.Assignment_Secret{Secret: secret}})
		}
	}
	return ids
}

func (d *delta) useConfigs(spec *pb.TaskSpec) []string {
	var ids []string
	for _, ref := range spec.GetContainer().GetConfigs() {
		ids = append(ids, ref.Id)
		d.a.configs[ref.Id]++
		if config := d.view.Config(ref.Id); d.a.configs[ref.Id] == 1 && config != nil {
			d.put(&pb.Assignment{Kind: &pb.Assignment_Config{Config: config}})
		}
	}
	return ids
}

func (d *delta) put(item *pb.Assignment) { d.out.Put = append(d.out.Put, item) }

func (d *delta) remove(kind pb.Kind, id string) {
	d.out.Remove = append(d.out.Remove, &pb.AssignmentKey{Kind: kind, Id: id})
}

// finish takes back what nothing uses any more and numbers the diff.
func (d *delta) finish() *pb.AssignmentDiff {
	for _, was := range d.released {
		if release(d.a.specs, was.key) {
			d.remove(pb.Kind_KIND_SERVICE, was.key.String())
		}
		for _, id := range was.secrets {
			if release(d.a.secrets, id) {
				d.remove(pb.Kind_KIND_SECRET, id)
			}
		}
		for _, id := range was.configs {
			if release(d.a.configs, id) {
				d.remove(pb.Kind_KIND_CONFIG, id)
			}
		}
	}
	if len(d.out.Put) == 0 && len(d.out.Remove) == 0 {
		return nil
	}
	d.a.sequence++
	// What a task uses comes before the task.
	slices.SortStableFunc(d.out.Put, func(x, y *pb.Assignment) int { return putOrder(x) - putOrder(y) })
	d.out.Sequence = d.a.sequence
	return &d.out
}

// release counts one use less and tells whether that was the last.
func release[K comparable](uses map[K]int, key K) bool {
	uses[key]--
	if uses[key] > 0 {
		return false
	}
	delete(uses, key)
	return true
}

// putOrder sorts tasks behind everything else.
func putOrder(item *pb.Assignment) int {
	if item.GetTask() != nil {
		return 1
	}
	return 0
}
