package progress

import (
	"testing"

	pb "github.com/minid/minid/proto/minid/v1"
)

func TestUnhealthy(t *testing.T) {
	feeling := func(s pb.HealthState) func(*pb.Task) {
		return func(t *pb.Task) { t.Status.Health = &pb.HealthStatus{State: s} }
	}
	tracker := NewTracker(service(3), nodes)
	play(tracker, put(service(3)), put(task("a", 1, run)), put(task("b", 2, run, feeling(pb.HealthState_HEALTH_STATE_HEALTHY))),
		put(task("c", 3, run, feeling(pb.HealthState_HEALTH_STATE_UNHEALTHY))))
	if sick := tracker.Unhealthy(); sick.GetId() != "c" {
		t.Errorf("got %v", sick)
	}
	play(tracker, put(task("c", 3, run, feeling(pb.HealthState_HEALTH_STATE_STARTING))))
	if sick := tracker.Unhealthy(); sick.GetId() != "c" {
		t.Errorf("got %v while it starts", sick)
	}
	play(tracker, put(task("c", 3, dead, wanted(shutdown), feeling(pb.HealthState_HEALTH_STATE_UNHEALTHY))), put(task("d", 3, run)))
	if sick := tracker.Unhealthy(); sick != nil {
		t.Errorf("got %v after it was replaced", sick)
	}
}
