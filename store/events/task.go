package events

import (
	"cmp"
	"fmt"

	"github.com/minid/minid/internal/why"
	pb "github.com/minid/minid/proto/minid/v1"
)

// told are the states of tasks that people want to hear of, and whether they
// are bad news. What comes between is in the task's life line.
var told = map[pb.TaskState]bool{
	pb.TaskState_TASK_STATE_ASSIGNED: false,
	pb.TaskState_TASK_STATE_RUNNING:  false,
	pb.TaskState_TASK_STATE_COMPLETE: false,
	pb.TaskState_TASK_STATE_SHUTDOWN: false,
	pb.TaskState_TASK_STATE_FAILED:   true,
	pb.TaskState_TASK_STATE_REJECTED: true,
	pb.TaskState_TASK_STATE_ORPHANED: true,
}

func (e *Entry) task(old, new *pb.Task) {
	if from, to := old.GetStatus().GetState(), new.GetStatus().GetState(); from != to {
		if bad, ok := told[to]; ok {
			e.add(taskEvent(new), why.State(to), why.Task(new)).Warning = bad
			return
		}
	}
	switch reason := why.Task(new); {
	case why.Waits(new):
		e.taskWaits(old, new, reason)
	case new.GetStatus().GetState() == pb.TaskState_TASK_STATE_RUNNING:
		e.health(old, new, reason)
	case new.GetStatus().GetError() != "" && new.Status.Error != old.GetStatus().GetError():
		e.warn(taskEvent(new), "retrying", reason) // its agent tries again by itself
	}
}

// taskWaits tells each reason once for all tasks of a service in an entry.
func (e *Entry) taskWaits(old, new *pb.Task, reason string) {
	key := waiting{new.ServiceId, reason}
	if why.Waits(old) && why.Task(old) == reason || e.waiting[key] {
		return
	}
	if e.waiting == nil {
		e.waiting = map[waiting]bool{}
	}
	e.waiting[key] = true
	e.warn(taskEvent(new), "waiting", reason)
}

// health follows the health check of a task that runs.
func (e *Entry) health(old, new *pb.Task, reason string) {
	was, is := old.GetStatus().GetHealth(), new.GetStatus().GetHealth()
	ill := is.GetState() == pb.HealthState_HEALTH_STATE_UNHEALTHY
	switch {
	case is.GetUnready() && !was.GetUnready():
		e.warn(taskEvent(new), "unready", reason)
	case ill && was.GetState() != is.GetState():
		e.warn(taskEvent(new), "unhealthy", reason)
	case was.GetUnready() && !is.GetUnready(), !ill && was.GetState() == pb.HealthState_HEALTH_STATE_UNHEALTHY:
		e.add(taskEvent(new), "healthy", reason)
	}
}

func taskEvent(t *pb.Task) *pb.Event {
	return &pb.Event{Kind: "task", ObjectId: t.Id, Name: taskName(t), ServiceId: t.ServiceId, NodeId: t.NodeId}
}

// taskName is SERVICE.SLOT or, of global services, SERVICE.NODE_ID.
func taskName(t *pb.Task) string {
	service := cmp.Or(t.ServiceName, t.ServiceId)
	if t.Slot == 0 {
		return service + "." + t.NodeId
	}
	return fmt.Sprintf("%s.%d", service, t.Slot)
}
