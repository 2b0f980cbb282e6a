package dispatcher

import (
	"testing"

	pb "github.com/minid/minid/proto/minid/v1"
)

func TestHealthOfReports(t *testing.T) {
	const running = pb.TaskState_TASK_STATE_RUNNING
	with := func(state pb.HealthState, unready bool) *pb.Task {
		return &pb.Task{DesiredState: running, Status: &pb.TaskStatus{
			State: running, Health: &pb.HealthStatus{State: state, Unready: unready},
		}}
	}
	well, ill := with(pb.HealthState_HEALTH_STATE_HEALTHY, false), with(pb.HealthState_HEALTH_STATE_UNHEALTHY, true)
	if !isServing(well, false) || isServing(ill, false) || isServing(well, true) {
		t.Error("new connections go to tasks that are healthy on nodes that are up")
	}
	if !isNews(well, ill.Status) || !isNews(ill, well.Status) {
		t.Error("another health is no news")
	}
	if isNews(ill, ill.Status) {
		t.Error("the same health is news")
	}
}
