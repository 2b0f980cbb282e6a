package controlapi

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// As docker: less is a mistake of units.
	minHealthPeriod  = time.Millisecond
	maxHealthRetries = 10_000
)

// checkHealth takes what docker takes in an image.
func checkHealth(h *pb.HealthConfig) error {
	if h == nil {
		return nil
	}
	if h.Retries > maxHealthRetries {
		return invalid("health-retries: %d are more than %d", h.Retries, maxHealthRetries).WithTry("--health-retries 3")
	}
	if pb.HealthConfig_Action_name[int32(h.Action)] == "" {
		return invalid("health-action: %d is not known", h.Action).WithTry("--health-action restart, or unready")
	}
	return firstOf(
		checkTest(h.Test),
		checkHealthPeriod("health-interval", h.Interval),
		checkHealthPeriod("health-timeout", h.Timeout),
		checkHealthPeriod("health-start-period", h.StartPeriod),
		checkHealthPeriod("health-start-interval", h.StartInterval),
	)
}

func checkTest(test []string) error {
	if len(test) == 0 {
		return nil
	}
	switch words := len(test) - 1; {
	case test[0] == "NONE" && words == 0, test[0] == "CMD" && words > 0 && test[1] != "", test[0] == "CMD-SHELL" && words == 1 && test[1] != "":
		return nil
	}
	return invalid("health-cmd: %q is no test: it must be NONE, CMD and a command, or CMD-SHELL and a command line", test).
		WithTry("--health-cmd 'curl -f http://localhost/'")
}

func checkHealthPeriod(flag string, d *durationpb.Duration) error {
	if err := checkDuration(flag, d); err != nil || d.AsDuration() == 0 {
		return err
	}
	if d.AsDuration() < minHealthPeriod {
		return invalid("%s: %v is shorter than %v", flag, d.AsDuration(), minHealthPeriod).WithTry("--%s 5s", flag)
	}
	return nil
}
