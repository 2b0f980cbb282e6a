package controlapi

import (
	"maps"
	"slices"
	"strings"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// test tells whether an object passes.
type test[T any] func(T) bool

// filters are the keys that a list can be filtered by; each makes a test from a
// value or refuses the value.
type filters[T any] map[string]func(value string) (test[T], error)

// compile makes one test of all filters: every key must match one of its values.
func (f filters[T]) compile(wanted []*pb.Filter) (test[T], error) {
	anyOf := map[string][]test[T]{}
	for _, w := range wanted {
		make, ok := f[w.Key]
		if !ok {
			return nil, fault.New(fault.Invalid, "filter %q: there is no such key here; there are %s",
				w.Key, strings.Join(slices.Sorted(maps.Keys(f)), ", "))
		}
		for _, value := range w.Values {
			t, err := make(value)
			if err != nil {
				return nil, err
			}
			anyOf[w.Key] = append(anyOf[w.Key], t)
		}
	}
	return func(o T) bool {
		for _, tests := range anyOf {
			if !slices.ContainsFunc(tests, func(t test[T]) bool { return t(o) }) {
				return false
			}
		}
		return true
	}, nil
}

// prefixOf filters by the beginning of a text.
func prefixOf[T any](text func(T) string) func(string) (test[T], error) {
	return func(value string) (test[T], error) {
		return func(o T) bool { return strings.HasPrefix(text(o), value) }, nil
	}
}

// labelOf filters by KEY or KEY=VALUE.
func labelOf[T any](labels func(T) map[string]string) func(string) (test[T], error) {
	return func(wanted string) (test[T], error) {
		key, value, exact := strings.Cut(wanted, "=")
		if key == "" {
			return nil, fault.New(fault.Invalid, "filter label=%s: it must be KEY or KEY=VALUE", wanted)
		}
		return func(o T) bool {
			has, ok := labels(o)[key]
			return ok && (!exact || has == value)
		}, nil
	}
}

// choice filters by a value out of a few.
func choice[T any](key string, choices map[string]test[T]) func(string) (test[T], error) {
	return func(value string) (test[T], error) {
		t, ok := choices[value]
		if !ok {
			return nil, fault.New(fault.Invalid, "filter %s=%s: the value must be one of %s",
				key, value, strings.Join(slices.Sorted(maps.Keys(choices)), ", "))
		}
		return t, nil
	}
}

func nodeFilters() filters[*pb.Node] {
	role := func(r pb.NodeRole) test[*pb.Node] {
		return func(n *pb.Node) bool { return n.GetSpec().GetRole() == r }
	}
	return filters[*pb.Node]{
		"id":         prefixOf((*pb.Node).GetId),
		"name":       prefixOf(func(n *pb.Node) string { return n.GetDescription().GetHostname() }),
		"label":      labelOf(func(n *pb.Node) map[string]string { return n.GetDescription().GetEngineLabels() }),
		"node.label": labelOf(func(n *pb.Node) map[string]string { return n.GetSpec().GetLabels() }),
		"role": choice("role", map[string]test[*pb.Node]{
			"worker":  role(pb.NodeRole_NODE_ROLE_WORKER),
			"manager": role(pb.NodeRole_NODE_ROLE_MANAGER),
		}),
		// A node exists here once it was admitted.
		"membership": choice("membership", map[string]test[*pb.Node]{
			"accepted": func(*pb.Node) bool { return true },
			"pending":  func(*pb.Node) bool { return false },
		}),
	}
}

// serviceFilters looks up networks by name.
func serviceFilters(view store.View) filters[*pb.Service] {
	return filters[*pb.Service]{
		"id":    prefixOf((*pb.Service).GetId),
		"name":  prefixOf(func(s *pb.Service) string { return s.GetSpec().GetName() }),
		"label": labelOf(func(s *pb.Service) map[string]string { return s.GetSpec().GetLabels() }),
		"mode": choice("mode", map[string]test[*pb.Service]{
			"replicated":     func(s *pb.Service) bool { return s.GetSpec().GetReplicated() != nil },
			"global":         func(s *pb.Service) bool { return s.GetSpec().GetGlobal() != nil },
			"replicated-job": func(s *pb.Service) bool { return s.GetSpec().GetReplicatedJob() != nil },
			"global-job":     func(s *pb.Service) bool { return s.GetSpec().GetGlobalJob() != nil },
		}),
		"network": func(ref string) (test[*pb.Service], error) {
			n, err := findNetwork(view, ref)
			return func(s *pb.Service) bool { return attachment(s.GetSpec().GetTask(), n.GetId()) != nil }, err
		},
	}
}

// taskFilters looks up the labels of a task's service, and nodes by name.
func taskFilters(view store.View) filters[*pb.Task] {
	labels := func(t *pb.Task) map[string]string { return view.Service(t.ServiceId).GetSpec().GetLabels() }
	desired := func(from, to pb.TaskState) test[*pb.Task] {
		return func(t *pb.Task) bool { return t.DesiredState >= from && t.DesiredState <= to }
	}
	return filters[*pb.Task]{
		"id":    prefixOf((*pb.Task).GetId),
		"name":  prefixOf(taskName),
		"label": labelOf(labels),
		"node": func(ref string) (test[*pb.Task], error) {
			n, err := findNode(view, ref)
			return func(t *pb.Task) bool { return t.NodeId == n.GetId() }, err
		},
		// As users see it: accepted is what waits to be let run.
		"desired-state": choice("desired-state", map[string]test[*pb.Task]{
			"accepted": desired(pb.TaskState_TASK_STATE_NEW, pb.TaskState_TASK_STATE_READY),
			"ready":    desired(pb.TaskState_TASK_STATE_READY, pb.TaskState_TASK_STATE_READY),
			"running":  desired(pb.TaskState_TASK_STATE_RUNNING, pb.TaskState_TASK_STATE_RUNNING),
			"shutdown": desired(pb.TaskState_TASK_STATE_COMPLETE, pb.TaskState_TASK_STATE_ORPHANED),
		}),
	}
}

func secretFilters() filters[*pb.Secret] {
	return filters[*pb.Secret]{
		"id":    prefixOf((*pb.Secret).GetId),
		"name":  prefixOf(func(s *pb.Secret) string { return s.GetSpec().GetName() }),
		"label": labelOf(func(s *pb.Secret) map[string]string { return s.GetSpec().GetLabels() }),
	}
}

func configFilters() filters[*pb.Config] {
	return filters[*pb.Config]{
		"id":    prefixOf((*pb.Config).GetId),
		"name":  prefixOf(func(c *pb.Config) string { return c.GetSpec().GetName() }),
		"label": labelOf(func(c *pb.Config) map[string]string { return c.GetSpec().GetLabels() }),
	}
}
