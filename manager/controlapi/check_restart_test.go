package controlapi

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestMaxDelay(t *testing.T) {
	const unset = -time.Nanosecond
	for _, c := range []struct {
		delay, longest time.Duration
		want           string
	}{
		{unset, 5 * time.Second, ""},
		{time.Second, time.Minute, ""},
		{time.Second, -time.Second, "restart-max-delay: -1s"},
		{unset, 3 * time.Second, "restart-max-delay: 3s is less than the first delay, 5s"},
		{unset, 0, "restart-max-delay: 0s is less than the first delay, 5s"},
		{0, time.Minute, "restart-max-delay: a delay of 0 stays 0"},
	} {
		spec := web()
		spec.Task.Restart = &pb.RestartPolicy{MaxDelay: durationpb.New(c.longest)}
		if c.delay != unset {
			spec.Task.Restart.Delay = durationpb.New(c.delay)
		}
		_, err := newRig(t).server.CreateService(t.Context(), &pb.CreateServiceRequest{Spec: spec})
		if c.want == "" && err != nil || c.want != "" && (!fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v growing to %v: %v, want %q", c.delay, c.longest, err, c.want)
		}
	}
}
