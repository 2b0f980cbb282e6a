package agent

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
)

// errGap means that a diff was lost: only a full set helps.
var errGap = errors.New("assignments do not follow on each other")

// assignments are all that this node has to know: its tasks and what they use.
type assignments struct {
	// sequence of the last message, 0 before the first one of a session.
	sequence uint64
	tasks    map[string]*pb.AssignedTask
	specs    map[string]*pb.AssignedSpec
	secrets  map[string]*pb.Secret
	configs  map[string]*pb.Config
	// network are all other items, which are the network's alone.
	network map[itemKey]*pb.Assignment
	// rest is how many diffs of a full set are still to come.
	rest uint32
	// withheld are the specs whose pull credentials were left out on disk.
	withheld map[string]bool
}

// itemKey names an item as AssignmentKey does.
type itemKey struct {
	kind pb.ItemKind
	id   string
}

func newAssignments() assignments {
	return assignments{
		tasks:    map[string]*pb.AssignedTask{},
		specs:    map[string]*pb.AssignedSpec{},
		secrets:  map[string]*pb.Secret{},
		configs:  map[string]*pb.Config{},
		network:  map[itemKey]*pb.Assignment{},
		withheld: map[string]bool{},
	}
}

// newSet makes assignments of a full set.
func newSet(set *pb.AssignmentSet) assignments {
	a := newAssignments()
	a.sequence, a.rest = set.GetSequence(), set.GetRest()
	for _, item := range set.GetItems() {
		a.put(item)
	}
	return a
}

// apply changes the assignments in place by the diff that follows on them.
func (a *assignments) apply(diff *pb.AssignmentDiff) error {
	if a.sequence == 0 || diff.GetSequence() != a.sequence+1 {
		return fmt.Errorf("%w: %d after %d", errGap, diff.GetSequence(), a.sequence)
	}
	a.sequence = diff.GetSequence()
	if a.rest > 0 {
		a.rest--
	}
	for _, key := range diff.GetRemove() {
		a.remove(key)
	}
	for _, item := range diff.GetPut() {
		a.put(item)
	}
	return nil
}

func (a *assignments) put(item *pb.Assignment) {
	switch {
	case item.GetTask() != nil:
		a.tasks[item.GetTask().GetId()] = item.GetTask()
	case item.GetSpec() != nil:
		key := specKey(item.GetSpec().GetServiceId(), item.GetSpec().GetVersion())
		a.specs[key] = item.GetSpec()
		delete(a.withheld, key)
	case item.GetSecret() != nil:
		a.secrets[item.GetSecret().GetId()] = item.GetSecret()
	case item.GetConfig() != nil:
		a.configs[item.GetConfig().GetId()] = item.GetConfig()
	default:
		if key, ok := networkKey(item); ok {
			a.network[key] = item
		}
	}
}

func (a *assignments) remove(key *pb.AssignmentKey) {
	switch key.GetKind() {
	case pb.ItemKind_ITEM_KIND_TASK:
		delete(a.tasks, key.GetId())
	case pb.ItemKind_ITEM_KIND_SPEC:
		delete(a.specs, key.GetId())
	case pb.ItemKind_ITEM_KIND_SECRET:
		delete(a.secrets, key.GetId())
	case pb.ItemKind_ITEM_KIND_CONFIG:
		delete(a.configs, key.GetId())
	default:
		delete(a.network, itemKey{key.GetKind(), key.GetId()})
	}
}

// networkKey names an item that is the network's alone; others are not.
func networkKey(item *pb.Assignment) (key itemKey, ok bool) {
	switch k := item.GetKind().(type) {
	case *pb.Assignment_Network:
		return itemKey{pb.ItemKind_ITEM_KIND_NETWORK, k.Network.GetId()}, true
	case *pb.Assignment_Service:
		return itemKey{pb.ItemKind_ITEM_KIND_SERVICE, k.Service.GetServiceId() + "@" + k.Service.GetNetworkId()}, true
	case *pb.Assignment_Endpoint:
		return itemKey{pb.ItemKind_ITEM_KIND_ENDPOINT, k.Endpoint.GetTaskId() + "@" + k.Endpoint.GetNetworkId()}, true
	case *pb.Assignment_Peer:
		return itemKey{pb.ItemKind_ITEM_KIND_PEER, k.Peer.GetNodeId()}, true
	case *pb.Assignment_Published:
		return itemKey{pb.ItemKind_ITEM_KIND_PUBLISHED, k.Published.GetServiceId()}, true
	case *pb.Assignment_Backend:
		return itemKey{pb.ItemKind_ITEM_KIND_BACKEND, k.Backend.GetServiceId() + "@" + k.Backend.GetNodeId()}, true
	case *pb.Assignment_Keys:
		return itemKey{kind: pb.ItemKind_ITEM_KIND_KEYS}, true
	}
	return itemKey{}, false
}

// forNetwork are the items of a diff that the network hears of: its own and the
// tasks.
func forNetwork(diff *pb.AssignmentDiff) (put []*pb.Assignment, remove []*pb.AssignmentKey) {
	for _, item := range diff.GetPut() {
		if _, own := networkKey(item); own || item.GetTask() != nil {
			put = append(put, item)
		}
	}
	for _, key := range diff.GetRemove() {
		switch key.GetKind() {
		case pb.ItemKind_ITEM_KIND_SPEC, pb.ItemKind_ITEM_KIND_SECRET, pb.ItemKind_ITEM_KIND_CONFIG:
		default:
			remove = append(remove, key)
		}
	}
	return put, remove
}

// allForNetwork are all of them.
func (a *assignments) allForNetwork() []*pb.Assignment {
	items := make([]*pb.Assignment, 0, len(a.tasks)+len(a.network))
	for _, t := range a.tasks {
		items = append(items, &pb.Assignment{Kind: &pb.Assignment_Task{Task: t}})
	}
	for _, item := range a.network {
		items = append(items, item)
	}
	return items
}

// spec of a task, nil when the managers did not send it.
func (a *assignments) spec(t *pb.AssignedTask) *pb.AssignedSpec {
	return a.specs[specKey(t.GetServiceId(), t.GetSpecVersion())]
}

// missing says what a task lacks to be prepared. What only memory holds is
// missing after a restart, until a manager sends it again.
func (a *assignments) missing(t *pb.AssignedTask) string {
	key := specKey(t.GetServiceId(), t.GetSpecVersion())
	spec := a.specs[key]
	if spec == nil {
		return "waiting for a manager to send the task's spec"
	}
	if a.withheld[key] {
		return "waiting for a manager to send the registry's credentials: they are not kept on this node's disk"
	}
	for _, ref := range spec.GetTask().GetContainer().GetSecrets() {
		if a.secrets[ref.GetId()] == nil {
			return fmt.Sprintf("waiting for a manager to send secret %q: secrets are not kept on this node's disk", ref.GetName())
		}
	}
	for _, ref := range spec.GetTask().GetContainer().GetConfigs() {
		if a.configs[ref.GetId()] == nil {
			return fmt.Sprintf("waiting for a manager to send config %q", ref.GetName())
		}
	}
	return ""
}

// taskIDs in a stable order: tasks start in the order of their services and
// slots, not of a map.
func (a *assignments) taskIDs() []string {
	return slices.SortedFunc(maps.Keys(a.tasks), func(x, y string) int {
		return compareTasks(a.tasks[x], a.tasks[y])
	})
}

func specKey(serviceID string, version uint64) string {
	return fmt.Sprintf("%s@%d", serviceID, version)
}

func compareTasks(a, b *pb.AssignedTask) int {
	return cmp.Or(strings.Compare(a.GetServiceId(), b.GetServiceId()), cmp.Compare(a.GetSlot(), b.GetSlot()), strings.Compare(a.GetId(), b.GetId()))
}
