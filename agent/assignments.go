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
	// withheld are the specs whose pull credentials were left out on disk.
	withheld map[string]bool
}

func newAssignments() assignments {
	return assignments{
		tasks:    map[string]*pb.AssignedTask{},
		specs:    map[string]*pb.AssignedSpec{},
		secrets:  map[string]*pb.Secret{},
		configs:  map[string]*pb.Config{},
		withheld: map[string]bool{},
	}
}

// newSet makes assignments of a full set.
func newSet(set *pb.AssignmentSet) assignments {
	a := newAssignments()
	a.sequence = set.GetSequence()
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
	}
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
