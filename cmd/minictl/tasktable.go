package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/docker/go-units"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/progress"
	"github.com/minid/minid/internal/why"
	pb "github.com/minid/minid/proto/minid/v1"
)

// maxError is how much of an error a table shows.
const maxError = 60

// collapseFrom is how many like ends in a row become one row.
const collapseFrom = 3

// taskTable turns tasks into rows: a slot's present task, then its history.
type taskTable struct {
	now func() time.Time
	// ids asks for ids instead of names.
	ids      bool
	services map[string]*pb.Service
	nodes    map[string]string
	rows     map[string]taskRow
}

// taskRow is what a row shows beside its task.
type taskRow struct {
	// history rows are older than the one above them.
	history bool
	// repeats is how many like ends the row stands for, since the first of them.
	repeats int
	first   time.Time
}

// resolve fetches the names and specs that the rows need.
func (t *taskTable) resolve(ctx context.Context, a *api) error {
	services, err := a.control.ListServices(ctx, &pb.ListRequest{})
	if err != nil {
		return err
	}
	t.services = map[string]*pb.Service{}
	for _, s := range services.Services {
		t.services[s.Id] = s
	}
	t.nodes, err = a.nodeNames(ctx)
	return err
}

// nodeNames maps the ids of nodes to their host names.
func (a *api) nodeNames(ctx context.Context) (map[string]string, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	resp, err := a.control.ListNodes(ctx, &pb.ListRequest{})
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, n := range resp.Nodes {
		names[n.Id] = cmp.Or(hostname(n), n.Id)
	}
	return names, nil
}

// arrange orders tasks by service and slot, the newest first, and folds
// repeated ends into one row if collapse.
func (t *taskTable) arrange(tasks []*pb.Task, collapse bool) []*pb.Task {
	slices.SortFunc(tasks, func(a, b *pb.Task) int {
		return cmp.Or(cmp.Compare(a.ServiceName, b.ServiceName), -cmp.Compare(a.JobRun, b.JobRun), cmp.Compare(a.Slot, b.Slot), cmp.Compare(t.place(a), t.place(b)),
			-cmp.Compare(liveness(a), liveness(b)),
			-a.GetMeta().GetCreatedAt().AsTime().Compare(b.GetMeta().GetCreatedAt().AsTime()), cmp.Compare(a.Id, b.Id))
	})
	clear(t.rows)
	var rows []*pb.Task
	for i, task := range tasks {
		row := taskRow{repeats: 1, first: task.GetStatus().GetAt().AsTime(), history: i > 0 && t.sameSlot(tasks[i-1], task)}
		if n := len(rows); collapse && row.history && n > 0 && t.rows[rows[n-1].Id].history && sameEnd(rows[n-1], task) {
			above := t.rows[rows[n-1].Id]
			above.repeats, above.first = above.repeats+1, row.first
			t.rows[rows[n-1].Id] = above
			continue
		}
		t.rows[task.Id] = row
		rows = append(rows, task)
	}
	return t.unfold(rows, tasks)
}

// unfold gives folds that are too small their rows back.
func (t *taskTable) unfold(rows, tasks []*pb.Task) []*pb.Task {
	var out []*pb.Task
	for _, row := range rows {
		info := t.rows[row.Id]
		if info.repeats == 1 || info.repeats >= collapseFrom {
			out = append(out, row)
			continue
		}
		at := slices.Index(tasks, row)
		for _, task := range tasks[at : at+info.repeats] {
			t.rows[task.Id] = taskRow{repeats: 1, history: true}
			out = append(out, task)
		}
	}
	return out
}

// liveness puts tasks that should run above those that are over.
func liveness(t *pb.Task) int {
	if t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING && t.GetStatus().GetState() <= pb.TaskState_TASK_STATE_RUNNING {
		return 1
	}
	return 0
}

// place tells the slots of global services apart.
func (t *taskTable) place(task *pb.Task) string {
	if task.Slot > 0 {
		return ""
	}
	return cmp.Or(t.nodes[task.NodeId], task.NodeId)
}

func (t *taskTable) sameSlot(a, b *pb.Task) bool {
	return a.ServiceId == b.ServiceId && a.JobRun == b.JobRun && a.Slot == b.Slot && t.place(a) == t.place(b)
}

// sameEnd reports whether two tasks ended alike, badly.
func sameEnd(a, b *pb.Task) bool {
	return a.GetStatus().GetState() > pb.TaskState_TASK_STATE_SHUTDOWN && a.GetStatus().GetState() == b.GetStatus().GetState() &&
		a.SpecVersion == b.SpecVersion && progress.Reason(a) == progress.Reason(b)
}

func (t *taskTable) list() print.List[*pb.Task] {
	type column = print.Column[*pb.Task]
	return print.List[*pb.Task]{
		ID:     (*pb.Task).GetId,
		Object: func(t *pb.Task) proto.Message { return t },
		Columns: []column{
			{Field: "ID", Header: "ID", Value: func(task *pb.Task, whole bool) string { return print.ID(task.Id, whole) }},
			{Field: "Name", Header: "NAME", Value: t.name},
			{Field: "Run", Header: "RUN", Optional: true, Value: func(task *pb.Task, _ bool) string { return runNumber(task) }},
			{Field: "Image", Header: "IMAGE", Value: t.image},
			{Field: "Node", Header: "NODE", Value: func(task *pb.Task, whole bool) string {
				if name := t.nodes[task.NodeId]; name != "" && !t.ids {
					return name
				}
				return print.ID(task.NodeId, whole)
			}},
			{Field: "DesiredState", Header: "DESIRED STATE", Value: func(task *pb.Task, _ bool) string { return title(progress.StateName(task.DesiredState)) }},
			{Field: "CurrentState", Header: "CURRENT STATE", Value: func(task *pb.Task, _ bool) string {
				state := title(progress.StateName(task.GetStatus().GetState())) + healthSuffix(task)
				if ago := print.Ago(task.GetStatus().GetAt(), t.now()); ago != "" {
					state += " " + lowerFirst(ago)
				}
				return state
			}},
			{Field: "Error", Header: "ERROR", Value: t.failure},
			{Field: "Ports", Header: "PORTS", Value: func(task *pb.Task, _ bool) string {
				return portsText(modePorts(task.GetStatus().GetPorts(), pb.PortConfig_MODE_HOST))
			}},
			{Field: "Reason", Header: "REASON", Wide: true, Value: func(task *pb.Task, _ bool) string { return why.Task(task) }},
			{Field: "Addresses", Header: "ADDRESSES", Wide: true, Value: func(task *pb.Task, _ bool) string { return joinComma(taskAddresses(task)) }},
		},
	}
}

// healthSuffix is what the health check of a task that runs says, as docker ps
// has it.
func healthSuffix(task *pb.Task) string {
	if task.GetStatus().GetState() > pb.TaskState_TASK_STATE_RUNNING {
		return ""
	}
	switch task.GetStatus().GetHealth().GetState() {
	case pb.HealthState_HEALTH_STATE_STARTING:
		return " (health: starting)"
	case pb.HealthState_HEALTH_STATE_HEALTHY:
		return " (healthy)"
	case pb.HealthState_HEALTH_STATE_UNHEALTHY:
		return " (unhealthy)"
	}
	return ""
}

// lowerFirst fits "About a minute ago" into a sentence.
func lowerFirst(s string) string {
	if s != "" && s[0] >= 'A' && s[0] <= 'Z' {
		return string(s[0]+'a'-'A') + s[1:]
	}
	return s
}

func (t *taskTable) name(task *pb.Task, whole bool) string {
	service, slot := cmp.Or(task.ServiceName, print.ID(task.ServiceId, whole)), fmt.Sprint(task.Slot)
	if t.ids {
		service = task.ServiceId
	}
	if task.Slot == 0 {
		slot = print.ID(task.NodeId, whole)
	}
	name := service + "." + slot
	if t.rows[task.Id].history {
		return ` \_ ` + name
	}
	return name
}

func (t *taskTable) image(task *pb.Task, whole bool) string {
	s := t.services[task.ServiceId]
	if s.GetSpecVersion() == task.SpecVersion {
		return print.Image(s.GetSpec().GetTask().GetContainer().GetImage(), whole)
	}
	for _, v := range s.GetVersions() {
		if v.Version == task.SpecVersion {
			return print.Image(v.GetSpec().GetContainer().GetImage(), whole)
		}
	}
	return ""
}

func (t *taskTable) failure(task *pb.Task, whole bool) string {
	reason := progress.Reason(task)
	state := task.GetStatus().GetState()
	if reason == "" || state > pb.TaskState_TASK_STATE_PENDING && state < pb.TaskState_TASK_STATE_RUNNING && task.GetStatus().GetError() == "" {
		return ""
	}
	if !whole {
		reason = print.Truncate(reason, maxError)
	}
	text := `"` + reason + `"`
	if row := t.rows[task.Id]; row.repeats > 1 {
		text += fmt.Sprintf(" (x%d over %s)", row.repeats, lowerFirst(units.HumanDuration(task.GetStatus().GetAt().AsTime().Sub(row.first))))
	}
	return text
}

// taskAddresses are a task's addresses on its networks.
func taskAddresses(task *pb.Task) []string {
	var addrs []string
	for _, on := range task.Addresses {
		addrs = append(addrs, on.Addresses...)
	}
	return addrs
}
