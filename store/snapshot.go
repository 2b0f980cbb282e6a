package store

import (
	"fmt"
	"iter"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store/internal/btree"
)

// Snapshot returns the whole state as one message. Objects streams the same
// without building it.
func (s *State) Snapshot() *pb.Snapshot {
	v := s.View()
	whole := v.Head()
	whole.Objects = slices.Collect(v.Objects())
	return whole
}

// Head is a snapshot of the view without its objects.
func (v View) Head() *pb.Snapshot {
	return &pb.Snapshot{Index: v.t.index, Events: slices.Clip(v.t.chronicle.events), EventsFloor: v.t.chronicle.floor}
}

// Restore replaces the whole state by a copy of a snapshot; watchers see Lagged.
func (s *State) Restore(snapshot *pb.Snapshot) error {
	head := proto.CloneOf(&pb.Snapshot{Index: snapshot.GetIndex(), Events: snapshot.GetEvents(), EventsFloor: snapshot.GetEventsFloor()})
	return s.RestoreObjects(head, func(yield func(*pb.Object, error) bool) {
		for _, o := range snapshot.GetObjects() {
			if !yield(proto.CloneOf(o), nil) {
				return
			}
		}
	})
}

// Objects iterates over the whole state in a fixed order: what other objects
// refer to comes first.
func (v View) Objects() iter.Seq[*pb.Object] {
	return func(yield func(*pb.Object) bool) {
		if c := v.t.cluster; c != nil && !yield(&pb.Object{Kind: &pb.Object_Cluster{Cluster: c}}) {
			return
		}
		_ = each(v.t.nodes, func(n *pb.Node) bool {
			return yield(&pb.Object{Kind: &pb.Object_Node{Node: n}})
		}) && each(v.t.secrets, func(s *pb.Secret) bool {
			return yield(&pb.Object{Kind: &pb.Object_Secret{Secret: s}})
		}) && each(v.t.configs, func(c *pb.Config) bool {
			return yield(&pb.Object{Kind: &pb.Object_Config{Config: c}})
		}) && each(v.t.networks, func(n *pb.Network) bool {
			return yield(&pb.Object{Kind: &pb.Object_Network{Network: n}})
		}) && each(v.t.services, func(s *pb.Service) bool {
			return yield(&pb.Object{Kind: &pb.Object_Service{Service: s}})
		}) && each(v.t.tasks, func(t *pb.Task) bool {
			return yield(&pb.Object{Kind: &pb.Object_Task{Task: t}})
		})
	}
}

func each[V any](tree btree.Tree[string, V], yield func(V) bool) bool {
	for v := range tree.All() {
		if !yield(v) {
			return false
		}
	}
	return true
}

// RestoreObjects replaces the whole state by a head and objects as Head and
// Objects give them, which it takes over; watchers see Lagged. If the sequence yields an error or an object of an
// unknown kind, it fails and the state stays as it was.
func (s *State) RestoreObjects(head *pb.Snapshot, objects iter.Seq2[*pb.Object, error]) error {
	s.writer.Lock()
	defer s.writer.Unlock()
	index := head.GetIndex()
	tx := begin(newTables(), index, nil)
	tx.chronicle = restoredChronicle(head)
	for o, err := range objects {
		if err == nil {
			err = tx.restore(o)
		}
		if err != nil {
			return fmt.Errorf("restore snapshot of index %d: %w", index, err)
		}
		tx.changes = tx.changes[:0]
	}
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	s.present.Store(&tx.tables)
	s.history.forget(index)
	return nil
}

func (tx *txn) restore(o *pb.Object) error {
	switch o := o.GetKind().(type) {
	case *pb.Object_Cluster:
		tx.putCluster(o.Cluster)
	case *pb.Object_Node:
		tx.putNode(o.Node)
	case *pb.Object_Secret:
		tx.putSecret(o.Secret)
	case *pb.Object_Config:
		tx.putConfig(o.Config)
	case *pb.Object_Network:
		tx.putNetwork(o.Network)
	case *pb.Object_Service:
		tx.putService(shareSpec(o.Service))
	case *pb.Object_Task:
		tx.putTask(nil, tx.interned(o.Task))
	default:
		return fault.New(fault.Invalid, "read object: its kind is unknown: it was written by a newer minid or is damaged")
	}
	return nil
}

// shareSpec lets a service's present spec and the newest of its versions be one again.
func shareSpec(s *pb.Service) *pb.Service {
	if n := len(s.Versions); n > 0 && s.GetSpec() != nil && proto.Equal(s.Versions[n-1].Spec, s.Spec.Task) {
		s.Versions[n-1].Spec = s.Spec.Task
	}
	return s
}
