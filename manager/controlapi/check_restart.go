package controlapi

import pb "github.com/minid/minid/proto/minid/v1"

// checkMaxDelay refuses a longest delay that a delay cannot grow to. Equal to
// the delay it is a delay that stays the same.
func checkMaxDelay(r *pb.RestartPolicy) error {
	if r.MaxDelay == nil {
		return nil
	}
	if err := checkDuration("restart-max-delay", r.MaxDelay); err != nil {
		return err
	}
	delay, longest := r.Delay.AsDuration(), r.MaxDelay.AsDuration()
	switch {
	case delay == 0:
		return invalid("restart-max-delay: a delay of 0 stays 0 however often it doubles").WithTry("--restart-delay 1s")
	case longest < delay:
		return invalid("restart-max-delay: %v is less than the first delay, %v", longest, delay).
			WithTry("--restart-max-delay %v, or %v for a delay that stays the same", 8*delay, delay)
	}
	return nil
}
