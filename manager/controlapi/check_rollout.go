package controlapi

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// defaultDeadline is how long a rollout may go without progress.
const defaultDeadline = 10 * time.Minute

func normalRollout(u *pb.UpdateConfig) *pb.UpdateConfig {
	if u == nil {
		u = &pb.UpdateConfig{Parallelism: 1}
	}
	if u.FailureAction == pb.UpdateConfig_FAILURE_ACTION_UNSPECIFIED {
		u.FailureAction = pb.UpdateConfig_FAILURE_ACTION_PAUSE
	}
	if u.Order == pb.UpdateConfig_ORDER_UNSPECIFIED {
		u.Order = pb.UpdateConfig_ORDER_STOP_FIRST
	}
	if u.Monitor == nil {
		u.Monitor = durationpb.New(defaultMonitor)
	}
	if u.Deadline == nil {
		u.Deadline = durationpb.New(defaultDeadline)
	}
	return u
}

// checkRollouts looks at the settings for updates and for rollbacks. What
// fails while it goes back can only stop, so a rollback has one action less.
func checkRollouts(spec *pb.ServiceSpec) error {
	if spec.Rollback.GetFailureAction() == pb.UpdateConfig_FAILURE_ACTION_ROLLBACK {
		return invalid("rollback-failure-action: a rollback is not rolled back").WithTry("--rollback-failure-action pause|continue")
	}
	return firstOf(
		checkRollout("update", "pause|continue|rollback", spec.Update),
		checkRollout("rollback", "pause|continue", spec.Rollback),
	)
}

// checkRollout names the flags of one kind of rollout in its errors. Jobs have
// none.
func checkRollout(kind, actions string, u *pb.UpdateConfig) error {
	switch {
	case u == nil:
		return nil
	case pb.UpdateConfig_FailureAction_name[int32(u.FailureAction)] == "":
		return invalid("%s-failure-action: there is no action %d", kind, u.FailureAction).WithTry("--%s-failure-action %s", kind, actions)
	case pb.UpdateConfig_Order_name[int32(u.Order)] == "":
		return invalid("%s-order: there is no order %d", kind, u.Order).WithTry("--%s-order stop-first|start-first", kind)
	case math.IsNaN(u.MaxFailureRatio) || u.MaxFailureRatio < 0 || u.MaxFailureRatio > 1:
		return invalid("%s-max-failure-ratio: %g is not between 0 and 1", kind, u.MaxFailureRatio).WithTry("--%s-max-failure-ratio 0.2", kind)
	}
	return firstOf(
		checkDuration(kind+"-delay", u.Delay),
		checkDuration(kind+"-monitor", u.Monitor),
		checkDuration(kind+"-deadline", u.Deadline),
	)
}

// orderWarnings tell of rollouts that cannot start new tasks first.
func orderWarnings(spec *pb.ServiceSpec) []string {
	port := store.FixedHostPort(spec.GetTask())
	if port == nil {
		return nil
	}
	var warnings []string
	for _, rollout := range []struct {
		kind   string
		config *pb.UpdateConfig
	}{{"update", spec.GetUpdate()}, {"rollback", spec.GetRollback()}} {
		if rollout.config.GetOrder() == pb.UpdateConfig_ORDER_START_FIRST {
			warnings = append(warnings, fmt.Sprintf("%s-order start-first: a task holds port %s of its node until it ends, so tasks are replaced stop-first",
				rollout.kind, portName(port.Published, port.Protocol)))
		}
	}
	return warnings
}
