package controlapi

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestCheckHealth(t *testing.T) {
	for name, c := range map[string]struct {
		health *pb.HealthConfig
		good   bool
	}{
		"unset":                  {nil, true},
		"the image's":            {&pb.HealthConfig{Interval: durationpb.New(time.Second), Retries: 5}, true},
		"none":                   {&pb.HealthConfig{Test: []string{"NONE"}}, true},
		"a command":              {&pb.HealthConfig{Test: []string{"CMD", "test", "-f", "/ok"}}, true},
		"a command line":         {&pb.HealthConfig{Test: []string{"CMD-SHELL", "test -f /ok"}}, true},
		"none of something":      {&pb.HealthConfig{Test: []string{"NONE", "x"}}, false},
		"no command":             {&pb.HealthConfig{Test: []string{"CMD"}}, false},
		"an empty command line":  {&pb.HealthConfig{Test: []string{"CMD-SHELL", ""}}, false},
		"two command lines":      {&pb.HealthConfig{Test: []string{"CMD-SHELL", "a", "b"}}, false},
		"neither":                {&pb.HealthConfig{Test: []string{"test -f /ok"}}, false},
		"microseconds":           {&pb.HealthConfig{Interval: durationpb.New(time.Microsecond)}, false},
		"a negative timeout":     {&pb.HealthConfig{Timeout: durationpb.New(-time.Second)}, false},
		"retries beyond measure": {&pb.HealthConfig{Retries: 1 << 30}, false},
		"an unknown action":      {&pb.HealthConfig{Action: 9}, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkHealth(c.health)
			if c.good != (err == nil) || err != nil && !fault.Is(err, fault.Invalid) {
				t.Errorf("got %v", err)
			}
		})
	}
}
