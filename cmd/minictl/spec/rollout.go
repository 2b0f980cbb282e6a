package spec

import (
	"fmt"
	"strconv"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/minid/minid/proto/minid/v1"
)

// updateFlags are those of updates and of rollbacks, which are alike but for
// the last resort of a failed update.
func updateFlags() []flag {
	pause, proceed := pb.UpdateConfig_FAILURE_ACTION_PAUSE, pb.UpdateConfig_FAILURE_ACTION_CONTINUE
	return append(
		rolloutFlags("update", "pause, continue or rollback",
			choices[pb.UpdateConfig_FailureAction]{{"pause", pause}, {"continue", proceed}, {"rollback", pb.UpdateConfig_FAILURE_ACTION_ROLLBACK}},
			func(s *pb.ServiceSpec) *pb.UpdateConfig { return rollout(&s.Update) }),
		rolloutFlags("rollback", "pause or continue",
			choices[pb.UpdateConfig_FailureAction]{{"pause", pause}, {"continue", proceed}},
			func(s *pb.ServiceSpec) *pb.UpdateConfig { return rollout(&s.Rollback) })...)
}

// rollout returns the settings for one kind of rollout, made if missing.
func rollout(config **pb.UpdateConfig) *pb.UpdateConfig {
	if *config == nil {
		*config = &pb.UpdateConfig{Parallelism: 1}
	}
	return *config
}

func rolloutFlags(kind, names string, actions choices[pb.UpdateConfig_FailureAction], of func(*pb.ServiceSpec) *pb.UpdateConfig) []flag {
	return []flag{
		scalar(kind+"-parallelism", "", "uint", "tasks replaced at a time, 0 is all (default 1)", count(func(s *pb.ServiceSpec) *uint64 { return &of(s).Parallelism })),
		scalar(kind+"-delay", "", "duration", "time between one task's start and the next replacement", period(func(s *pb.ServiceSpec) **durationpb.Duration { return &of(s).Delay })),
		scalar(kind+"-monitor", "", "duration", "how long a new task must keep running (default 5s)", period(func(s *pb.ServiceSpec) **durationpb.Duration { return &of(s).Monitor })),
		scalar(kind+"-deadline", "", "duration", "how long it may go without progress, 0 is for ever (default 10m)", period(func(s *pb.ServiceSpec) **durationpb.Duration { return &of(s).Deadline })),
		scalar(kind+"-failure-action", "", "string", "what a failure leads to: "+names+" (default pause)",
			choice(actions, func(s *pb.ServiceSpec) *pb.UpdateConfig_FailureAction { return &of(s).FailureAction })),
		scalar(kind+"-order", "", "string", "stop-first or start-first (default stop-first)", choice(choices[pb.UpdateConfig_Order]{
			{"stop-first", pb.UpdateConfig_ORDER_STOP_FIRST}, {"start-first", pb.UpdateConfig_ORDER_START_FIRST},
		}, func(s *pb.ServiceSpec) *pb.UpdateConfig_Order { return &of(s).Order })),
		scalar(kind+"-max-failure-ratio", "", "float", "share of failed tasks that is borne", func(s *pb.ServiceSpec, v string) error {
			ratio, err := strconv.ParseFloat(v, 64)
			if err != nil || !(ratio >= 0 && ratio <= 1) {
				return fmt.Errorf("expected a number between 0 and 1")
			}
			of(s).MaxFailureRatio = ratio
			return nil
		}),
	}
}
