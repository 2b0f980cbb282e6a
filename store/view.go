package store

import (
	"iter"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store/internal/btree"
)

// View is an immutable snapshot. Lookups return nil for what is not there.
// What it returns must not be changed.
type View struct{ t *tables }

// Index returns the raft index of the last entry that the view contains.
func (v View) Index() uint64 { return v.t.index }

// Cluster returns the cluster object, nil before the cluster exists.
func (v View) Cluster() *pb.Cluster { return v.t.cluster }

// Node returns the node with an id.
func (v View) Node(id string) *pb.Node { return v.t.nodes.Get(id) }

// Nodes iterates over all nodes, by id.
func (v View) Nodes() iter.Seq[*pb.Node] { return v.t.nodes.All() }

// Service returns the service with an id.
func (v View) Service(id string) *pb.Service { return v.t.services.Get(id) }

// ServiceByName returns the service with a name.
func (v View) ServiceByName(name string) *pb.Service { return v.t.servicesByName.Get(name) }

// Services iterates over all services, by id.
func (v View) Services() iter.Seq[*pb.Service] { return v.t.services.All() }

// Task returns the task with an id.
func (v View) Task(id string) *pb.Task { return v.t.tasks.Get(id) }

// Tasks iterates over all tasks, by id.
func (v View) Tasks() iter.Seq[*pb.Task] { return v.t.tasks.All() }

// TasksByService iterates over the tasks of a service, by slot and id.
func (v View) TasksByService(id string) iter.Seq[*pb.Task] {
	return while(v.t.tasksBySlot.From(slotKey{service: id}), func(t *pb.Task) bool {
		return t.ServiceId == id
	})
}

// TasksByNode iterates over the tasks that were given to a node, by id.
func (v View) TasksByNode(id string) iter.Seq[*pb.Task] {
	return while(v.t.tasksByNode.From(nodeKey{node: id}), func(t *pb.Task) bool {
		return t.NodeId == id
	})
}

// TasksBySlot iterates over the tasks of one slot of a service, by id.
func (v View) TasksBySlot(service string, slot uint64) iter.Seq[*pb.Task] {
	return while(v.t.tasksBySlot.From(slotKey{service: service, slot: slot}), func(t *pb.Task) bool {
		return t.ServiceId == service && t.Slot == slot
	})
}

// Secret returns the secret with an id.
func (v View) Secret(id string) *pb.Secret { return v.t.secrets.Get(id) }

// SecretByName returns the secret with a name.
func (v View) SecretByName(name string) *pb.Secret { return v.t.secretsByName.Get(name) }

// Secrets iterates over all secrets, by id.
func (v View) Secrets() iter.Seq[*pb.Secret] { return v.t.secrets.All() }

// Config returns the config with an id.
func (v View) Config(id string) *pb.Config { return v.t.configs.Get(id) }

// ConfigByName returns the config with a name.
func (v View) ConfigByName(name string) *pb.Config { return v.t.configsByName.Get(name) }

// Configs iterates over all configs, by id.
func (v View) Configs() iter.Seq[*pb.Config] { return v.t.configs.All() }

// ByPrefix returns the objects of a kind whose id starts with prefix.
func (v View) ByPrefix(kind pb.Kind, prefix string) iter.Seq[Object] {
	switch kind {
	case pb.Kind_KIND_CLUSTER:
		return func(yield func(Object) bool) {
			if v.t.cluster != nil && strings.HasPrefix(v.t.cluster.Id, prefix) {
				yield(v.t.cluster)
			}
		}
	case pb.Kind_KIND_NODE:
		return withPrefix(v.t.nodes, prefix)
	case pb.Kind_KIND_SERVICE:
		return withPrefix(v.t.services, prefix)
	case pb.Kind_KIND_TASK:
		return withPrefix(v.t.tasks, prefix)
	case pb.Kind_KIND_SECRET:
		return withPrefix(v.t.secrets, prefix)
	case pb.Kind_KIND_CONFIG:
		return withPrefix(v.t.configs, prefix)
	case pb.Kind_KIND_NETWORK:
		return withPrefix(v.t.networks, prefix)
	}
	return func(func(Object) bool) {}
}

func withPrefix[T Object](tree btree.Tree[string, T], prefix string) iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for object := range tree.From(prefix) {
			if !strings.HasPrefix(object.GetId(), prefix) || !yield(object) {
				return
			}
		}
	}
}

// while ends a sequence at the first item that does not belong.
func while[T any](items iter.Seq[T], belongs func(T) bool) iter.Seq[T] {
	return func(yield func(T) bool) {
		for item := range items {
			if !belongs(item) || !yield(item) {
				return
			}
		}
	}
}

// TaskSpec returns the spec of a version of a service, nil if it is no longer kept.
func TaskSpec(s *pb.Service, version uint64) *pb.TaskSpec {
	for _, v := range s.GetVersions() {
		if v.Version == version {
			return v.Spec
		}
	}
	return nil
}
