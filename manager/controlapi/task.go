package controlapi

import (
	"cmp"
	"context"
	"iter"
	"time"

	"github.com/minid/minid/internal/why"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/scheduler"
	"github.com/minid/minid/store"
)

// ListTasks returns the tasks of the named services and nodes that pass the
// filters. Naming both means tasks of these services on these nodes.
func (s *Server) ListTasks(_ context.Context, req *pb.ListTasksRequest) (*pb.ListTasksResponse, error) {
	view := s.cfg.State.View()
	services, err := idsOf(view, req.GetServices(), findService)
	if err != nil {
		return nil, err
	}
	nodes, err := idsOf(view, req.GetNodes(), findNode)
	if err != nil {
		return nil, err
	}
	passes, err := taskFilters(view).compile(req.GetFilters())
	if err != nil {
		return nil, err
	}
	answer, account := &pb.ListTasksResponse{}, newAccount(view)
	for t := range tasksOf(view, services, nodes) {
		if passes(t) {
			answer.Tasks = append(answer.Tasks, account.of(t))
		}
	}
	return answer, nil
}

// idsOf resolves references, each object once.
func idsOf[T object](view store.View, refs []string, find func(store.View, string) (T, error)) (map[string]bool, error) {
	ids := map[string]bool{}
	for _, ref := range refs {
		found, err := find(view, ref)
		if err != nil {
			return nil, err
		}
		ids[found.GetId()] = true
	}
	return ids, nil
}

// tasksOf iterates over as few tasks as the view's indexes allow.
func tasksOf(view store.View, services, nodes map[string]bool) iter.Seq[*pb.Task] {
	return func(yield func(*pb.Task) bool) {
		for _, tasks := range taskRanges(view, services, nodes) {
			for t := range tasks {
				wanted := len(services) == 0 || len(nodes) == 0 || nodes[t.NodeId]
				if wanted && !yield(t) {
					return
				}
			}
		}
	}
}

func taskRanges(view store.View, services, nodes map[string]bool) []iter.Seq[*pb.Task] {
	var ranges []iter.Seq[*pb.Task]
	for service := range services {
		ranges = append(ranges, view.TasksByService(service))
	}
	if len(services) == 0 {
		for node := range nodes {
			ranges = append(ranges, view.TasksByNode(node))
		}
	}
	if len(services) == 0 && len(nodes) == 0 {
		ranges = append(ranges, view.Tasks())
	}
	return ranges
}

// GetTask finds a task by id, name, SERVICE.SLOT or id prefix.
func (s *Server) GetTask(_ context.Context, req *pb.GetRequest) (*pb.Task, error) {
	view := s.cfg.State.View()
	t, err := findTask(view, req.GetRef())
	if err != nil {
		return nil, err
	}
	return newAccount(view).of(t), nil
}

// ExplainTask tells, node by node, why a task is or is not placed there.
func (s *Server) ExplainTask(_ context.Context, req *pb.GetRequest) (*pb.Explanation, error) {
	view := s.cfg.State.View()
	t, err := findTask(view, req.GetRef())
	if err != nil {
		return nil, err
	}
	e := scheduler.ExplainTask(view, t, time.Now())
	switch state, reason := t.GetStatus().GetState(), why.Task(t); {
	case state == pb.TaskState_TASK_STATE_NEW:
		e.Summary, e.Hint = cmp.Or(reason, t.Status.GetMessage()), inspectNetworks(view, t)
	case state >= pb.TaskState_TASK_STATE_ASSIGNED && reason != "":
		e.Summary = why.State(state) + ": " + reason
	}
	if reason := newAccount(view).reason(t); reason != "" {
		e.Summary = reason + "; " + e.Summary
	}
	return e, nil
}

// inspectNetworks shows why a task has no addresses yet; until it has, no node
// is asked, whichever fits.
func inspectNetworks(view store.View, t *pb.Task) string {
	hint := "minictl network inspect -v"
	for _, a := range store.TaskSpec(view.Service(t.ServiceId), t.SpecVersion).GetNetworks() {
		hint += " " + a.NetworkName
	}
	return hint
}
