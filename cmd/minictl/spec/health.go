package spec

import (
	"fmt"
	"strconv"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

const noHealthcheck = "no-healthcheck"

// healthFlags say how to find out whether tasks are well.
func healthFlags() []flag {
	return []flag{
		scalar(noHealthcheck, "", "bool", "no health check, whatever the image says", func(s *pb.ServiceSpec, v string) error {
			off, err := parseBool(v)
			switch {
			case err != nil:
				return err
			case off:
				container(s).Health = &pb.HealthConfig{Test: []string{"NONE"}}
			case checkIsOff(s):
				container(s).Health = nil
			}
			return nil
		}),
		scalar("health-cmd", "", "string", "command line that succeeds in a healthy task (empty is the image's)", setHealthCmd),
		healthPeriod("health-interval", "time between tests (default 30s)", func(h *pb.HealthConfig) **durationpb.Duration { return &h.Interval }),
		healthPeriod("health-timeout", "a test that takes longer has failed (default 30s)", func(h *pb.HealthConfig) **durationpb.Duration { return &h.Timeout }),
		scalar("health-retries", "", "uint", "failures in a row that make a task unhealthy (default 3)", func(s *pb.ServiceSpec, v string) error {
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil {
				return fmt.Errorf("expected a count")
			}
			h, err := health(s)
			h.Retries = uint32(n)
			return err
		}),
		healthPeriod("health-start-period", "time after the start in which failures do not count (default 0s)", func(h *pb.HealthConfig) **durationpb.Duration { return &h.StartPeriod }),
		healthPeriod("health-start-interval", "time between tests in the start period (default 5s)", func(h *pb.HealthConfig) **durationpb.Duration { return &h.StartInterval }),
		scalar("health-action", "", "string", "what becomes of an unhealthy task: restart, or unready: it gets no connections (default restart)", func(s *pb.ServiceSpec, v string) error {
			h, err := health(s)
			if err != nil {
				return err
			}
			return choice(choices[pb.HealthConfig_Action]{
				{"restart", pb.HealthConfig_ACTION_RESTART}, {"unready", pb.HealthConfig_ACTION_UNREADY},
			}, func(*pb.ServiceSpec) *pb.HealthConfig_Action { return &h.Action })(s, v)
		}),
	}
}

func checkIsOff(s *pb.ServiceSpec) bool {
	test := container(s).GetHealth().GetTest()
	return len(test) > 0 && test[0] == "NONE"
}

// health is the check to change, never nil. It must not be turned off.
func health(s *pb.ServiceSpec) (*pb.HealthConfig, error) {
	if checkIsOff(s) {
		return &pb.HealthConfig{}, fmt.Errorf("health checks of the service are off: turn them on with --%s=false or --health-cmd", noHealthcheck)
	}
	return made(&container(s).Health), nil
}

func setHealthCmd(s *pb.ServiceSpec, v string) error {
	h := made(&container(s).Health)
	h.Test = nil
	if v != "" {
		h.Test = []string{"CMD-SHELL", v}
	}
	return nil
}

func healthPeriod(name, usage string, field func(*pb.HealthConfig) **durationpb.Duration) flag {
	return scalar(name, "", "duration", usage, func(s *pb.ServiceSpec, v string) error {
		h, err := health(s)
		if err != nil {
			return err
		}
		return period(func(*pb.ServiceSpec) **durationpb.Duration { return field(h) })(s, v)
	})
}

// clash refuses flags that ask for a health check and for none.
func (f *Flags) clash() error {
	off, err := parseBool(f.set.Lookup(noHealthcheck).Value.String())
	if err != nil || !off {
		return nil
	}
	for _, fl := range healthFlags() {
		if fl.name != noHealthcheck && f.set.Changed(fl.name) {
			return fault.New(fault.Invalid, "--%s and --%s: they exclude each other", noHealthcheck, fl.name)
		}
	}
	return nil
}
