package testcluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/minid/minid/agent/faketask"
	"github.com/minid/minid/client"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// fence is how long after its return a node may still run what was replaced:
// session (2 s back-off, a leader's election), then stop with its grace period.
const fence = 20 * time.Second

// Settled returns what is not yet as the story's services want it, empty when
// all is.
func (s *Story) Settled() string {
	var services []*pb.Service
	var tasks []*pb.Task
	if err := s.Control(context.Background(), func(ctx context.Context, api pb.ControlClient) error {
		ls, err := api.ListServices(ctx, &pb.ListRequest{})
		if err != nil {
			return err
		}
		ts, err := api.ListTasks(ctx, &pb.ListTasksRequest{})
		services, tasks = ls.GetServices(), ts.GetTasks()
		return err
	}); err != nil {
		return err.Error()
	}
	byService := map[string][]*pb.Task{}
	for _, t := range tasks {
		byService[t.ServiceId] = append(byService[t.ServiceId], t)
	}
	for _, svc := range services {
		if why := s.unsettled(svc, byService[svc.Id]); why != "" {
			return why
		}
	}
	return s.strays(tasks)
}

// place is what a service has one task of: a slot, or a node. An update that
// starts first has two tasks in a slot, on nodes that may differ.
func place(t *pb.Task) string {
	if t.Slot > 0 {
		return fmt.Sprint(t.Slot)
	}
	return t.NodeId
}

// unsettled judges one service. Services that cannot settle, because their image
// crashes or is absent, only must not have more tasks than they should.
func (s *Story) unsettled(svc *pb.Service, tasks []*pb.Task) string {
	if store.IsJob(svc.Spec) {
		return s.unsettledJob(svc, tasks)
	}
	want := len(s.Nodes)
	if r := svc.Spec.GetReplicated(); r != nil {
		want = int(r.Replicas)
	}
	wanted, running := map[string]int{}, 0
	for _, t := range tasks {
		if t.DesiredState != pb.TaskState_TASK_STATE_RUNNING || t.Status.State > pb.TaskState_TASK_STATE_RUNNING {
			continue
		}
		wanted[place(t)]++
		if t.Status.State == pb.TaskState_TASK_STATE_RUNNING {
			running++
		}
	}
	if image := svc.Spec.Task.Container.Image; strings.Contains(image, "crash") || strings.Contains(image, "absent") {
		if len(wanted) > want {
			return fmt.Sprintf("%s wants %d slots running, has %d", svc.Spec.Name, want, len(wanted))
		}
		return ""
	}
	switch svc.UpdateStatus.GetState() {
	case pb.UpdateState_UPDATE_STATE_PAUSED, pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED:
		return ""
	}
	if store.Rebalancing(svc) {
		return fmt.Sprintf("%s is still rebalanced: %s", svc.Spec.Name, svc.Rebalance.Message)
	}
	if running != want || len(wanted) != want {
		return fmt.Sprintf("%s of %s wants %d running, has %d of %d wanted: %s", svc.Spec.Name, svc.Spec.Task.Container.Image, want, running, len(wanted), describe(tasks))
	}
	return ""
}

func describe(tasks []*pb.Task) string {
	var lines []string
	for _, t := range tasks {
		lines = append(lines, fmt.Sprintf("\n    %s slot %d v%d on %.6s desired %v: %v %s %s", t.Id[:6], t.Slot, t.SpecVersion, t.NodeId,
			t.DesiredState, t.Status.State, t.Status.Message, t.Status.Error))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// strays finds processes that no task accounts for.
func (s *Story) strays(tasks []*pb.Task) string {
	known := map[string]bool{}
	for _, t := range tasks {
		known[t.Id] = t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING
	}
	for _, n := range s.Nodes {
		for _, run := range n.Runtime.History() {
			if run.Ended.IsZero() && !known[run.TaskID] {
				return fmt.Sprintf("%s runs task %s, which nobody wants", n.Name, run.TaskID)
			}
		}
	}
	return ""
}

// Doubles lists tasks of one slot that ran at the same time without excuse: the
// first one's node was not out of reach, and the service does not start first.
func (s *Story) Doubles() []string {
	startFirst := map[string]bool{}
	for _, svc := range s.allServices() {
		startFirst[svc.Id] = svc.Spec.GetUpdate().GetOrder() == pb.UpdateConfig_ORDER_START_FIRST
	}
	var history []faketask.Run
	for _, n := range s.Nodes {
		history = append(history, n.Runtime.History()...)
	}
	var found []string
	for _, o := range faketask.Overlaps(history, time.Now()) {
		first, known := startFirst[o.First.ServiceID]
		if !known || first || s.excused(o) {
			continue // removed services took their order with them
		}
		found = append(found, o.String())
	}
	return found
}

func (s *Story) excused(o faketask.Overlap) bool {
	for _, out := range s.outages {
		same := out.node == o.First.NodeID || out.node == o.Second.NodeID
		if same && !o.From.Before(out.from) && !o.Until.After(out.until.Add(fence)) {
			return true
		}
	}
	return false
}

func (s *Story) allServices() []*pb.Service {
	var services []*pb.Service
	if err := s.Control(context.Background(), func(ctx context.Context, api pb.ControlClient) error {
		res, err := api.ListServices(ctx, &pb.ListRequest{})
		services = res.GetServices()
		return err
	}); err != nil {
		s.t.Errorf("list services: %v", err)
	}
	return services
}

// Backwards watches every task through one manager until ctx ends and reports
// steps back of observed or desired state, of versions, and of dead tasks' lives.
func (s *Story) Backwards(ctx context.Context, n *Node, report func(string)) {
	n.call(func(api *client.Client) error {
		stream, err := api.Control.Watch(ctx, &pb.WatchRequest{Kinds: []pb.Kind{pb.Kind_KIND_TASK}})
		if err != nil {
			return err
		}
		seen := map[string]*pb.Task{}
		for {
			event, err := stream.Recv()
			if err != nil {
				return err
			}
			t := event.GetObject().GetTask()
			if t == nil || event.Action != pb.WatchEvent_ACTION_PUT {
				continue
			}
			if why := backward(seen[t.Id], t); why != "" {
				report(why)
			}
			seen[t.Id] = t
		}
	})
}

func backward(old, now *pb.Task) string {
	switch {
	case old == nil:
		return ""
	case now.GetStatus().GetState() < old.GetStatus().GetState():
		return fmt.Sprintf("task %s went back from %v to %v", now.Id, old.Status.State, now.Status.State)
	case now.DesiredState < old.DesiredState:
		return fmt.Sprintf("task %s: desired went back from %v to %v", now.Id, old.DesiredState, now.DesiredState)
	case old.NodeId != "" && now.NodeId != old.NodeId:
		return fmt.Sprintf("task %s moved from node %s to %s", now.Id, old.NodeId, now.NodeId)
	}
	return ""
}
