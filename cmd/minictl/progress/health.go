package progress

import pb "github.com/minid/minid/proto/minid/v1"

// Synced reports whether the service and its tasks are known as they are now.
func (t *Tracker) Synced() bool { return t.synced }

// Unhealthy returns a live task whose health check does not succeed, nil if
// there is none. Tasks without a health check are healthy.
func (t *Tracker) Unhealthy() *pb.Task {
	for _, slot := range t.slots() {
		switch slot.current.GetStatus().GetHealth().GetState() {
		case pb.HealthState_HEALTH_STATE_STARTING, pb.HealthState_HEALTH_STATE_UNHEALTHY:
			if live(slot.current) {
				return slot.current
			}
		}
	}
	return nil
}
