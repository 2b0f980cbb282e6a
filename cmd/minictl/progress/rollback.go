package progress

import (
	"strings"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// state is that of the rollout to the present version, unspecified if none began.
func (t *Tracker) state() pb.UpdateState {
	s := t.service.GetUpdateStatus()
	if s.GetToVersion() != t.service.GetSpecVersion() {
		return pb.UpdateState_UPDATE_STATE_UNSPECIFIED
	}
	return s.GetState()
}

// undone tells whether what is waited for was given up for an earlier version.
func (t *Tracker) undone() bool {
	return t.service.GetSpecVersion() != t.first && t.state() >= pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED
}

// tellRollback says once that the service goes back, and why.
func (t *Tracker) tellRollback(now time.Time) []Change {
	if !t.undone() || t.told["rollback"] != "" {
		return nil
	}
	t.told["rollback"] = "begun"
	return []Change{{At: now, Service: t.service.GetSpec().GetName(), State: "rolling back", Reason: t.rollbackReason(), Failed: true}}
}

// rollbackReason is the part of the status that tells what failed.
func (t *Tracker) rollbackReason() string {
	message := t.service.GetUpdateStatus().GetMessage()
	if _, why, found := strings.Cut(message, ": "); found {
		return why
	}
	return message
}
