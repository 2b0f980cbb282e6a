package store

import (
	"cmp"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store/internal/btree"
)

// tables are all objects in all orders. A copy of the struct is a snapshot.
type tables struct {
	index   uint64 // of the last entry applied
	cluster *pb.Cluster

	nodes    btree.Tree[string, *pb.Node]
	services btree.Tree[string, *pb.Service]
	tasks    btree.Tree[string, *pb.Task]
	secrets  btree.Tree[string, *pb.Secret]
	configs  btree.Tree[string, *pb.Config]
	networks btree.Tree[string, *pb.Network]
	ingress  string // id of the routing mesh's network

	servicesByName btree.Tree[string, *pb.Service]
	secretsByName  btree.Tree[string, *pb.Secret]
	configsByName  btree.Tree[string, *pb.Config]
	networksByName btree.Tree[string, *pb.Network]
	tasksBySlot    btree.Tree[slotKey, *pb.Task]
	tasksByNode    btree.Tree[nodeKey, *pb.Task] // only those that have a node

	claims
	chronicle
}

// slotKey orders tasks by service, then slot.
type slotKey struct {
	service string
	slot    uint64
	id      string
}

// nodeKey orders tasks by node.
type nodeKey struct{ node, id string }

func newTables() *tables {
	return &tables{
		nodes:          btree.New((*pb.Node).GetId, strings.Compare),
		services:       btree.New((*pb.Service).GetId, strings.Compare),
		tasks:          btree.New((*pb.Task).GetId, strings.Compare),
		secrets:        btree.New((*pb.Secret).GetId, strings.Compare),
		configs:        btree.New((*pb.Config).GetId, strings.Compare),
		networks:       btree.New((*pb.Network).GetId, strings.Compare),
		servicesByName: btree.New(func(s *pb.Service) string { return s.GetSpec().GetName() }, strings.Compare),
		secretsByName:  btree.New(func(s *pb.Secret) string { return s.GetSpec().GetName() }, strings.Compare),
		configsByName:  btree.New(func(c *pb.Config) string { return c.GetSpec().GetName() }, strings.Compare),
		networksByName: btree.New(func(n *pb.Network) string { return n.GetSpec().GetName() }, strings.Compare),
		tasksBySlot:    btree.New(slotOf, compareSlots),
		tasksByNode:    btree.New(nodeOf, compareNodes),
		claims:         newClaims(),
	}
}

func slotOf(t *pb.Task) slotKey { return slotKey{t.ServiceId, t.Slot, t.Id} }

func compareSlots(a, b slotKey) int {
	if c := strings.Compare(a.service, b.service); c != 0 {
		return c
	}
	if c := cmp.Compare(a.slot, b.slot); c != 0 {
		return c
	}
	return strings.Compare(a.id, b.id)
}

func nodeOf(t *pb.Task) nodeKey { return nodeKey{t.NodeId, t.Id} }

func compareNodes(a, b nodeKey) int {
	if c := strings.Compare(a.node, b.node); c != 0 {
		return c
	}
	return strings.Compare(a.id, b.id)
}

// txn is the work of one entry: its own tables, invisible until published, and
// the changes that led to them.
type txn struct {
	tables
	edit    *btree.Edit
	at      *timestamppb.Timestamp
	changes []Change
}

func begin(before *tables, index uint64, at *timestamppb.Timestamp) *txn {
	tx := &txn{tables: *before, edit: &btree.Edit{}, at: at}
	tx.index = index
	return tx
}

// created is the Meta of an object that this entry makes.
func (tx *txn) created() *pb.Meta {
	return &pb.Meta{Version: tx.index, CreatedAt: tx.at, UpdatedAt: tx.at}
}

// updated is the Meta of an object that its spec's writer changes.
func (tx *txn) updated(m *pb.Meta) *pb.Meta {
	n := &pb.Meta{Version: tx.index, CreatedAt: m.GetCreatedAt(), UpdatedAt: tx.at}
	keepUnknown(m, n)
	return n
}

// record notes the change of one object; absent sides are untyped nil.
func (tx *txn) record(kind pb.Kind, id string, old, new Object) {
	tx.changes = append(tx.changes, Change{Index: tx.index, Kind: kind, ID: id, Old: old, New: new})
}

// shallow returns a new message with the same fields, sharing what they point
// to; unknown fields come along. Fields of the copy are replaced, never
// changed within.
func shallow[M proto.Message](m M) M {
	from := m.ProtoReflect()
	to := from.New()
	from.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		to.Set(field, v)
		return true
	})
	to.SetUnknown(from.GetUnknown())
	return to.Interface().(M)
}

// keepUnknown carries fields of a newer minid over to a copy.
func keepUnknown(from, to proto.Message) {
	if unknown := from.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		to.ProtoReflect().SetUnknown(unknown)
	}
}

// was turns the absent old object of a creation into a plain nil.
func was[T interface {
	comparable
	Object
}](old T) Object {
	var none T
	if old == none {
		return nil
	}
	return old
}

func (tx *txn) putCluster(c *pb.Cluster) {
	tx.record(pb.Kind_KIND_CLUSTER, c.Id, was(tx.cluster), c)
	tx.cluster = c
}

func (tx *txn) putNode(n *pb.Node) {
	old := tx.nodes.Get(n.Id)
	tx.record(pb.Kind_KIND_NODE, n.Id, was(old), n)
	tx.nodes.Set(tx.edit, n)
	tx.claimNumber(n.Id, old.GetMeshNumber(), n.MeshNumber)
}

func (tx *txn) deleteNode(n *pb.Node) {
	tx.claimNumber(n.Id, n.MeshNumber, 0)
	tx.record(pb.Kind_KIND_NODE, n.Id, n, nil)
	tx.nodes.Delete(tx.edit, n.Id)
}

func (tx *txn) putService(s *pb.Service) {
	old := tx.services.Get(s.Id)
	tx.record(pb.Kind_KIND_SERVICE, s.Id, was(old), s)
	tx.claimService(old, s)
	tx.services.Set(tx.edit, s)
	tx.servicesByName.Set(tx.edit, s)
}

func (tx *txn) deleteService(s *pb.Service) {
	tx.record(pb.Kind_KIND_SERVICE, s.Id, s, nil)
	tx.claimService(s, nil)
	tx.services.Delete(tx.edit, s.Id)
	tx.servicesByName.Delete(tx.edit, s.GetSpec().GetName())
}

// putTask stores a task in place of old, nil if it is new. Its service and
// slot never change, its node only from none to one.
func (tx *txn) putTask(old, t *pb.Task) {
	tx.record(pb.Kind_KIND_TASK, t.Id, was(old), t)
	tx.claimTask(old, t)
	tx.tasks.Set(tx.edit, t)
	tx.tasksBySlot.Set(tx.edit, t)
	if t.NodeId != "" {
		tx.tasksByNode.Set(tx.edit, t)
	}
}

func (tx *txn) deleteTask(t *pb.Task) {
	tx.record(pb.Kind_KIND_TASK, t.Id, t, nil)
	tx.claimTask(t, nil)
	tx.tasks.Delete(tx.edit, t.Id)
	tx.tasksBySlot.Delete(tx.edit, slotOf(t))
	if t.NodeId != "" {
		tx.tasksByNode.Delete(tx.edit, nodeOf(t))
	}
}

func (tx *txn) putSecret(s *pb.Secret) {
	tx.record(pb.Kind_KIND_SECRET, s.Id, was(tx.secrets.Get(s.Id)), s)
	tx.secrets.Set(tx.edit, s)
	tx.secretsByName.Set(tx.edit, s)
}

func (tx *txn) deleteSecret(s *pb.Secret) {
	tx.record(pb.Kind_KIND_SECRET, s.Id, s, nil)
	tx.secrets.Delete(tx.edit, s.Id)
	tx.secretsByName.Delete(tx.edit, s.GetSpec().GetName())
}

func (tx *txn) putConfig(c *pb.Config) {
	tx.record(pb.Kind_KIND_CONFIG, c.Id, was(tx.configs.Get(c.Id)), c)
	tx.configs.Set(tx.edit, c)
	tx.configsByName.Set(tx.edit, c)
}

func (tx *txn) deleteConfig(c *pb.Config) {
	tx.record(pb.Kind_KIND_CONFIG, c.Id, c, nil)
	tx.configs.Delete(tx.edit, c.Id)
	tx.configsByName.Delete(tx.edit, c.GetSpec().GetName())
}

func (tx *txn) putNetwork(n *pb.Network) {
	old := tx.networks.Get(n.Id)
	tx.record(pb.Kind_KIND_NETWORK, n.Id, was(old), n)
	tx.networks.Set(tx.edit, n)
	tx.networksByName.Set(tx.edit, n)
	tx.claimNetwork(old, n)
	if n.GetSpec().GetIngress() {
		tx.ingress = n.Id
	}
}

func (tx *txn) deleteNetwork(n *pb.Network) {
	tx.record(pb.Kind_KIND_NETWORK, n.Id, n, nil)
	tx.networks.Delete(tx.edit, n.Id)
	tx.networksByName.Delete(tx.edit, n.GetSpec().GetName())
	tx.claimNetwork(n, nil)
	if tx.ingress == n.Id {
		tx.ingress = ""
	}
}
