package containerd

import (
	"fmt"
	"slices"
	"strings"

	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// grant is the generic resources that a task has for itself. The scheduler sees
// to it that there are enough on the node; which ones a task gets is chosen
// here, so that it need not be written anywhere but in the container's record.
type grant struct {
	// Place is the task's service and slot. The task that replaces it there may
	// get the same ids: it is prepared before this one ends, and started after.
	Place string              `json:"place"`
	IDs   map[string][]string `json:"ids"`
}

// grant chooses ids for a task, nil if it asks for nothing that has any.
func (r *Runtime) grant(w *task.Wanted) (*grant, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := &grant{Place: fmt.Sprintf("%s/%d", w.ServiceID, w.Slot), IDs: map[string][]string{}}
	for _, req := range w.Spec.GetResources().GetGeneric() {
		i := slices.IndexFunc(r.cfg.Generic, func(has *pb.GenericResource) bool { return has.GetKind() == req.GetKind() })
		if i < 0 || len(r.cfg.Generic[i].GetIds()) == 0 {
			continue
		}
		used, shared := r.granted(w.ID, req.GetKind(), g.Place)
		ids := choose(r.cfg.Generic[i].GetIds(), int(req.GetCount()), used, shared)
		if ids == nil {
			return nil, fault.New(fault.Unavailable, "generic resource %s: fewer than %d are free on this node yet", req.GetKind(), req.GetCount())
		}
		g.IDs[req.GetKind()] = ids
	}
	if len(g.IDs) == 0 {
		return nil, nil
	}
	r.grants[w.ID] = g
	return g, nil
}

// granted tells which ids of a kind tasks have that did not end: those of
// other places, and those of the same one.
func (r *Runtime) granted(except, kind, place string) (used, shared []string) {
	for id, g := range r.grants {
		if rec := r.records[id]; id == except || rec != nil && rec.Exit != nil {
			continue
		}
		if g.Place == place {
			shared = append(shared, g.IDs[kind]...)
		} else {
			used = append(used, g.IDs[kind]...)
		}
	}
	return used, shared
}

// choose takes count ids: the first free ones, and only if these are too few
// the first shared ones. It returns nil if there are not so many.
func choose(ids []string, count int, used, shared []string) []string {
	var chosen, second []string
	for _, id := range ids {
		switch {
		case slices.Contains(used, id):
		case slices.Contains(shared, id):
			second = append(second, id)
		default:
			chosen = append(chosen, id)
		}
	}
	if chosen = append(chosen, second...); len(chosen) < count {
		return nil
	}
	return chosen[:count]
}

// environment tells the task what it was given: DOCKER_RESOURCE_KIND is ids, or
// how many where there are no ids.
func (g *grant) environment(spec *pb.TaskSpec) []string {
	var env []string
	for _, req := range spec.GetResources().GetGeneric() {
		value := fmt.Sprint(req.GetCount())
		if g != nil && len(g.IDs[req.GetKind()]) > 0 {
			value = strings.Join(g.IDs[req.GetKind()], ",")
		}
		name := strings.ReplaceAll(strings.ToUpper(req.GetKind()), "-", "_")
		env = append(env, "DOCKER_RESOURCE_"+name+"="+value)
	}
	return env
}
