package controlapi

import (
	"fmt"
	"slices"
	"strings"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// maxCandidates is how many candidates an ambiguous reference's error lists.
const maxCandidates = 5

// object is a stored object of one kind; the constraint lets nil be recognised.
type object interface {
	comparable
	store.Object
}

// finder resolves references to one kind of object: an exact id, else an exact
// name, else an id's prefix that only one object has.
type finder[T object] struct {
	kind pb.Kind
	// What users call the kind.
	what   string
	byID   func(store.View, string) T
	byName func(store.View, string) []T
	// label tells candidates apart in an error.
	label func(T) string
	// list is the command that shows what there is.
	list string
}

func (f *finder[T]) find(view store.View, ref string) (T, error) {
	var none T
	if ref == "" {
		return none, fault.New(fault.Invalid, "find %s: no id or name is given", f.what)
	}
	if found := f.byID(view, ref); found != none {
		return found, nil
	}
	found := f.byName(view, ref)
	if len(found) == 0 {
		found = withPrefix[T](view, f.kind, ref)
	}
	switch len(found) {
	case 0:
		return none, fault.New(fault.NotFound, "find %s %s: there is none with this id or name", f.what, ref).WithTry("%s", f.list)
	case 1:
		return found[0], nil
	}
	return none, f.ambiguous(ref, found)
}

func (f *finder[T]) ambiguous(ref string, found []T) error {
	var candidates []string
	for _, o := range found[:min(len(found), maxCandidates)] {
		candidates = append(candidates, fmt.Sprintf("%s (%s)", o.GetId(), f.label(o)))
	}
	text := strings.Join(candidates, ", ")
	if more := len(found) - len(candidates); more > 0 {
		text += ", …"
	}
	return fault.New(fault.Invalid, "find %s %s: it may be any of %s", f.what, ref, text).
		WithTry("the same with more of the id")
}

// withPrefix returns the objects whose id starts with prefix, up to one more
// than an error lists.
func withPrefix[T object](view store.View, kind pb.Kind, prefix string) []T {
	var found []T
	for o := range view.ByPrefix(kind, prefix) {
		if t, ok := o.(T); ok {
			found = append(found, t)
		}
		if len(found) > maxCandidates {
			break
		}
	}
	return found
}

// one is what a unique name finds.
func one[T object](found T) []T {
	var none T
	if found == none {
		return nil
	}
	return []T{found}
}

func findNode(view store.View, ref string) (*pb.Node, error) {
	f := finder[*pb.Node]{
		kind: pb.Kind_KIND_NODE, what: "node", list: "minictl node ls",
		byID:   store.View.Node,
		byName: nodesNamed,
		label:  func(n *pb.Node) string { return n.GetDescription().GetHostname() },
	}
	return f.find(view, ref)
}

// nodesNamed looks at all nodes: hostnames need not be unique.
func nodesNamed(view store.View, hostname string) []*pb.Node {
	var found []*pb.Node
	for n := range view.Nodes() {
		if n.GetDescription().GetHostname() == hostname {
			found = append(found, n)
		}
	}
	return found
}

func findService(view store.View, ref string) (*pb.Service, error) {
	f := finder[*pb.Service]{
		kind: pb.Kind_KIND_SERVICE, what: "service", list: "minictl service ls",
		byID:   store.View.Service,
		byName: func(v store.View, name string) []*pb.Service { return one(v.ServiceByName(name)) },
		label:  func(s *pb.Service) string { return s.GetSpec().GetName() },
	}
	return f.find(view, ref)
}

func findSecret(view store.View, ref string) (*pb.Secret, error) {
	f := finder[*pb.Secret]{
		kind: pb.Kind_KIND_SECRET, what: "secret", list: "minictl secret ls",
		byID:   store.View.Secret,
		byName: func(v store.View, name string) []*pb.Secret { return one(v.SecretByName(name)) },
		label:  func(s *pb.Secret) string { return s.GetSpec().GetName() },
	}
	return f.find(view, ref)
}

func findConfig(view store.View, ref string) (*pb.Config, error) {
	f := finder[*pb.Config]{
		kind: pb.Kind_KIND_CONFIG, what: "config", list: "minictl config ls",
		byID:   store.View.Config,
		byName: func(v store.View, name string) []*pb.Config { return one(v.ConfigByName(name)) },
		label:  func(c *pb.Config) string { return c.GetSpec().GetName() },
	}
	return f.find(view, ref)
}

func findNetwork(view store.View, ref string) (*pb.Network, error) {
	f := finder[*pb.Network]{
		kind: pb.Kind_KIND_NETWORK, what: "network", list: "minictl network ls",
		byID:   store.View.Network,
		byName: func(v store.View, name string) []*pb.Network { return one(v.NetworkByName(name)) },
		label:  func(n *pb.Network) string { return n.GetSpec().GetName() },
	}
	return f.find(view, ref)
}

func findTask(view store.View, ref string) (*pb.Task, error) {
	f := finder[*pb.Task]{
		kind: pb.Kind_KIND_TASK, what: "task", list: "minictl task ls",
		byID:   store.View.Task,
		byName: tasksNamed,
		label:  taskName,
	}
	return f.find(view, ref)
}

// taskName is SERVICE.SLOT.ID, or SERVICE.NODE.ID for global services.
func taskName(t *pb.Task) string {
	return fmt.Sprintf("%s.%s.%s", t.ServiceName, slotName(t), t.Id)
}

// slotName is the middle of a task's name.
func slotName(t *pb.Task) string {
	if t.Slot == 0 {
		return t.NodeId
	}
	return fmt.Sprint(t.Slot)
}

// tasksNamed finds SERVICE.SLOT.ID and SERVICE.SLOT. Of a slot's tasks it is
// the live one that is meant, else the newest.
func tasksNamed(view store.View, name string) []*pb.Task {
	service, slot, ok := cutLast(name, ".")
	if !ok {
		return nil
	}
	if t := view.Task(slot); t != nil && taskName(t) == name {
		return []*pb.Task{t}
	}
	s := view.ServiceByName(service)
	if s == nil {
		return nil
	}
	var in []*pb.Task
	for t := range view.TasksByService(s.Id) {
		if slotName(t) == slot {
			in = append(in, t)
		}
	}
	if len(in) == 0 {
		return nil
	}
	return []*pb.Task{slices.MaxFunc(in, byRelevance)}
}

// byRelevance orders a slot's tasks: running over wanted over ended ones, then
// by age.
func byRelevance(a, b *pb.Task) int {
	if d := relevance(a) - relevance(b); d != 0 {
		return d
	}
	return a.GetMeta().GetCreatedAt().AsTime().Compare(b.GetMeta().GetCreatedAt().AsTime())
}

func relevance(t *pb.Task) int {
	state := t.GetStatus().GetState()
	switch {
	case state == pb.TaskState_TASK_STATE_RUNNING && t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING:
		return 3
	case state <= pb.TaskState_TASK_STATE_RUNNING && t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING:
		return 2
	case state <= pb.TaskState_TASK_STATE_RUNNING:
		return 1
	}
	return 0
}

// cutLast cuts around the last separator.
func cutLast(s, separator string) (before, after string, found bool) {
	i := strings.LastIndex(s, separator)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(separator):], true
}
