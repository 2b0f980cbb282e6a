package dispatcher

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// maxDiff bounds one message in bytes, well below what rpc lets through.
const maxDiff = 4 << 20

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
	serving bool
	// What it may still use, as of needs. key is empty without spec.
	spec, files bool
	key         specKey
	// The secrets and configs that it holds references to.
	secrets, configs []string
}

// specKey names one version of one service's task spec.
type specKey struct {
	service string
	version uint64
}

func (k specKey) String() string { return fmt.Sprintf("%s@%d", k.service, k.version) }

// assignable tells whether a task is a node's: placed there, and not forgotten.
// An ended one is, for the agent keeps its log until the reaper deletes it.
func assignable(t *pb.Task, node string) bool {
	return t != nil && t.NodeId == node && t.GetStatus().GetState() >= pb.TaskState_TASK_STATE_ASSIGNED
}

// needs tells what a task may still use: its spec while it has not ended, its
// secrets and configs while it is to run.
func needs(t *pb.Task) (spec, files bool) {
	spec = !ended(t)
	return spec, spec && t.GetDesiredState() <= pb.TaskState_TASK_STATE_RUNNING
}

func ended(t *pb.Task) bool { return t.GetStatus().GetState() > pb.TaskState_TASK_STATE_RUNNING }

// full forgets what was told and returns everything that the node must know: a
// set and, if that is too large for one message, diffs with the rest. What the
// agent may have begun is in the set, for it stops what is not. network are the
// index's items.
func (a *assignments) full(view store.View, network []*pb.Assignment) (*pb.AssignmentSet, []*pb.AssignmentDiff) {
	a.tasks = map[string]assigned{}
	a.specs = map[specKey]int{}
	a.secrets = map[string]int{}
	a.configs = map[string]int{}
	a.sequence = 1
	d := &delta{a: a, view: view}
	d.compare(a.candidates(view))
	d.puts = append(d.puts, network...)
	slices.SortStableFunc(d.puts, func(x, y *pb.Assignment) int { return setOrder(x) - setOrder(y) })
	parts := divide(d.puts, maxDiff)
	set := &pb.AssignmentSet{Sequence: a.sequence}
	if len(parts) > 0 {
		set.Items, set.Rest = parts[0], uint32(len(parts)-1)
		return set, a.number(parts[1:], nil, nil)
	}
	return set, nil
}

// candidates returns the ids of the tasks that the node has or was told of.
func (a *assignments) candidates(view store.View) []string {
	ids := slices.Collect(maps.Keys(a.tasks))
	for t := range view.TasksByNode(a.node) {
		ids = append(ids, t.Id)
	}
	return ids
}

// update looks at the given tasks again and returns what the agent has to be
// told about them and about the network: mostly one diff or none, more if it is
// too large.
func (a *assignments) update(view store.View, ids []string, network []*change) []*pb.AssignmentDiff {
	d := &delta{a: a, view: view}
	d.compare(ids)
	for _, c := range coalesce(network) {
		if c.put != nil {
			d.tell(c.put)
		} else {
			d.gone = append(d.gone, &pb.AssignmentKey{Kind: c.key.kind, Id: c.key.id})
		}
	}
	return d.finish()
}

// delta collects one diff. Counts go up before they go down, so that what one
// task hands to the next is not sent twice.
type delta struct {
	a       *assignments
	view    store.View
	puts    []*pb.Assignment
	removes []*pb.AssignmentKey
	// gone are network items. They go first, for an address may be another's now.
	gone []*pb.AssignmentKey
	// What the tasks of this diff let go.
	released []assigned
}

// compare looks at every task once, in a fixed order.
func (d *delta) compare(ids []string) {
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		d.task(id)
	}
}

// task compares one task with what was told of it.
func (d *delta) task(id string) {
	told, known := d.a.tasks[id]
	t := d.view.Task(id)
	if !assignable(t, d.a.node) {
		if known {
			delete(d.a.tasks, id)
			d.released = append(d.released, told)
			d.remove(pb.ItemKind_ITEM_KIND_TASK, id)
		}
		return
	}
	now := assigned{desired: t.DesiredState, serving: isServing(t, false) && !isDown(d.view.Node(d.a.node))}
	now.spec, now.files = needs(t)
	if known && ended(t) {
		now.serving = told.serving // that it ended, the agent said itself
	}
	if known && told.desired == now.desired && told.serving == now.serving && told.spec == now.spec && told.files == now.files {
		return
	}
	if now.spec {
		now.key = specKey{t.ServiceId, t.SpecVersion}
		spec := d.useSpec(now.key)
		if now.files {
			now.secrets = d.useSecrets(spec)
			now.configs = d.useConfigs(spec)
		}
	}
	if known {
		d.released = append(d.released, told)
	}
	d.a.tasks[id] = now
	if known && told.desired == now.desired && told.serving == now.serving {
		return
	}
	d.tell(&pb.Assignment{Kind: &pb.Assignment_Task{Task: &pb.AssignedTask{
		Id:            t.Id,
		ServiceId:     t.ServiceId,
		SpecVersion:   t.SpecVersion,
		Slot:          t.Slot,
		DesiredState:  t.DesiredState,
		ObservedState: t.GetStatus().GetState(),
		Addresses:     t.Addresses,
		Serving:       now.serving,
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
		d.tell(&pb.Assignment{Kind: &pb.Assignment_Spec{Spec: &pb.AssignedSpec{
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
			d.tell(&pb.Assignment{Kind: &pb.Assignment_Secret{Secret: secret}})
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
			d.tell(&pb.Assignment{Kind: &pb.Assignment_Config{Config: config}})
		}
	}
	return ids
}

func (d *delta) tell(item *pb.Assignment) { d.puts = append(d.puts, item) }

func (d *delta) remove(kind pb.ItemKind, id string) {
	d.removes = append(d.removes, &pb.AssignmentKey{Kind: kind, Id: id})
}

// finish takes back what nothing uses any more and numbers the diffs.
func (d *delta) finish() []*pb.AssignmentDiff {
	for _, was := range d.released {
		if was.spec && release(d.a.specs, was.key) {
			d.remove(pb.ItemKind_ITEM_KIND_SPEC, was.key.String())
		}
		for _, id := range was.secrets {
			if release(d.a.secrets, id) {
				d.remove(pb.ItemKind_ITEM_KIND_SECRET, id)
			}
		}
		for _, id := range was.configs {
			if release(d.a.configs, id) {
				d.remove(pb.ItemKind_ITEM_KIND_CONFIG, id)
			}
		}
	}
	slices.SortStableFunc(d.puts, func(x, y *pb.Assignment) int { return diffOrder(x) - diffOrder(y) })
	return d.a.number(divide(d.puts, maxDiff), d.gone, d.removes)
}

// number makes diffs of the parts; what goes, goes with the first or the last.
func (a *assignments) number(parts [][]*pb.Assignment, first, last []*pb.AssignmentKey) []*pb.AssignmentDiff {
	if len(parts) == 0 && len(first)+len(last) > 0 {
		parts = [][]*pb.Assignment{nil}
	}
	var diffs []*pb.AssignmentDiff
	for _, part := range parts {
		a.sequence++
		diffs = append(diffs, &pb.AssignmentDiff{Sequence: a.sequence, Put: part})
	}
	if len(diffs) > 0 {
		diffs[0].Remove = first
		end := diffs[len(diffs)-1]
		end.Remove = slices.Concat(end.Remove, last)
	}
	return diffs
}

// divide cuts items into parts of at most limit bytes, or of one item.
func divide(items []*pb.Assignment, limit int) [][]*pb.Assignment {
	var parts [][]*pb.Assignment
	size := 0
	for _, item := range items {
		bytes := proto.Size(item)
		if len(parts) == 0 || size+bytes > limit {
			parts = append(parts, nil)
			size = 0
		}
		last := len(parts) - 1
		parts[last] = append(parts[last], item)
		size += bytes
	}
	return parts
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

// diffOrder puts tasks behind what they use.
func diffOrder(item *pb.Assignment) int {
	if item.GetTask() != nil {
		return 1
	}
	return 0
}

// setOrder puts first what must be in the first message: specs, which are
// small, and the tasks that the agent may have begun.
func setOrder(item *pb.Assignment) int {
	task := item.GetTask()
	switch {
	case item.GetSpec() != nil:
		return 0
	case task != nil && task.ObservedState > pb.TaskState_TASK_STATE_ASSIGNED:
		return 1
	case task == nil:
		return 2
	}
	return 3
}
