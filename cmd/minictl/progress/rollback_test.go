package progress

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
)

// at is a service in the middle or at the end of a rollout to a version.
func at(version uint64, state pb.UpdateState, message string) *pb.Service {
	s := service(1)
	s.SpecVersion = version
	s.UpdateStatus = &pb.UpdateStatus{State: state, ToVersion: version, Message: message}
	return s
}

const (
	updating = pb.UpdateState_UPDATE_STATE_UPDATING
	back     = pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED
	wentBack = pb.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED
	stuckOn  = pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED
)

func TestRollbacks(t *testing.T) {
	synced := &pb.WatchEvent{Action: pb.WatchEvent_ACTION_SYNCED}
	for name, c := range map[string]struct {
		first *pb.Service
		then  []*pb.Service
		want  Outcome
		says  string
	}{
		"an update is undone": {at(2, updating, ""), []*pb.Service{at(3, back, "rollback to version 1 in progress: it broke"), at(3, wentBack, "done")},
			RolledBack, "web rolling back: it broke"},
		"undoing it fails": {at(2, updating, ""), []*pb.Service{at(3, back, "x: it broke"), at(3, stuckOn, "no")},
			Paused, "web rolling back: it broke"},
		"undone between two looks": {at(2, updating, ""), []*pb.Service{at(3, wentBack, "rollback to version 1 completed: it broke")},
			RolledBack, "web rolling back: it broke"},
		"a rollback was asked for": {at(3, back, "rollback to version 1 in progress"), []*pb.Service{at(3, wentBack, "done")}, Converged, ""},
		"and fails":                {at(3, back, "rollback to version 1 in progress"), []*pb.Service{at(3, stuckOn, "no")}, Paused, ""},
		"it goes on":               {at(3, back, "rollback to version 1 in progress"), nil, Waiting, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tr := NewTracker(c.first, nodes)
			tr.Apply(put(task("t1", 1, run, version(c.first.SpecVersion))), start)
			tr.Apply(synced, start)
			tr.Settle(start)
			var told []string
			for _, s := range c.then {
				s = proto.CloneOf(s)
				for _, change := range tr.Apply(put(s), start) {
					told = append(told, change.String())
				}
				tr.Apply(put(task("t1", 1, run, version(s.SpecVersion))), start)
				tr.Settle(start)
			}
			if got, _ := tr.Verdict(start); got != c.want {
				t.Errorf("the outcome is %v, not %v", got, c.want)
			}
			if got := strings.Join(told, "\n"); got != c.says {
				t.Errorf("it says %q", got)
			}
			if picture := strings.Join(tr.Picture(start, 80), "\n"); strings.Contains(picture, "rolling back: ") != (c.says != "") {
				t.Errorf("the picture is\n%s", picture)
			}
		})
	}
}
