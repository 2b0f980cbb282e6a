package events

import (
	"cmp"
	"strconv"

	"github.com/minid/minid/internal/why"
	pb "github.com/minid/minid/proto/minid/v1"
)

// reached is the action of a state that people want to hear of, and whether it
// is bad news. What comes between is in the task's life line.
func reached(s pb.TaskState) (action string, bad bool) {
	switch s {
	case pb.TaskState_TASK_STATE_ASSIGNED:
		return "assigned", false
	case pb.TaskState_TASK_STATE_RUNNING:
		return "running", false
	case pb.TaskState_TASK_STATE_COMPLETE:
		return "complete", false
	case pb.TaskState_TASK_STATE_SHUTDOWN:
		return "shutdown", false
	case pb.TaskState_TASK_STATE_FAILED:
		return "failed", true
	case pb.TaskState_TASK_STATE_REJECTED:
		return "rejected", true
	case pb.TaskState_TASK_STATE_ORPHANED:
		return "orphaned", true
	}
	return "", false
}

func (e *Entry) task(old, new *pb.Task) {
	if from, to := old.GetStatus().GetState(), new.GetStatus().GetState(); from != to {
		if action, bad := reached(to); action != "" {
			e.add(taskEvent(new), action, why.Task(new)).Warning = bad
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
	return service + "." + strconv.FormatUint(t.Slot, 10)
}
