package containerd

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/agent"
	"github.com/minid/minid/agent/task"
	pb "github.com/minid/minid/proto/minid/v1"
)

// healthcheck is what docker writes into an image's configuration; durations
// are nanoseconds. OCI's own configuration has no such thing.
type healthcheck struct {
	Test          []string
	Interval      time.Duration
	Timeout       time.Duration
	StartPeriod   time.Duration
	StartInterval time.Duration
	Retries       uint32
}

// imageHealth reads the health check of an image's configuration, nil if it has
// none. One that is malformed counts as none, as with docker.
func imageHealth(config []byte) *pb.HealthConfig {
	var image struct {
		Config struct{ Healthcheck *healthcheck } `json:"config"`
	}
	if json.Unmarshal(config, &image) != nil || image.Config.Healthcheck == nil {
		return nil
	}
	h := image.Config.Healthcheck
	return &pb.HealthConfig{
		Test: h.Test, Retries: h.Retries,
		Interval: durationpb.New(h.Interval), Timeout: durationpb.New(h.Timeout),
		StartPeriod: durationpb.New(h.StartPeriod), StartInterval: durationpb.New(h.StartInterval),
	}
}

// Probe is task.Runtime's: an exec whose output is cut.
func (r *Runtime) Probe(ctx context.Context, id string, command []string) (int32, string, error) {
	out := &capped{}
	code, err := r.Exec(ctx, id, &pb.ExecStart{Command: command}, agent.ExecIO{Stdout: out, Stderr: out})
	return code, out.String(), err
}

// Serve is task.Runtime's.
func (r *Runtime) Serve(ctx context.Context, id string) error { return r.cfg.Network.Serve(ctx, id) }

// Withhold is task.Runtime's.
func (r *Runtime) Withhold(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	return r.cfg.Network.Drain(ctx, id)
}

// capped keeps the beginning of what is written to it, by two streams at once.
type capped struct {
	mu   sync.Mutex
	data []byte
}

// Write takes all and keeps what fits.
func (c *capped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data = append(c.data, p[:min(len(p), task.MaxProbeOutput-len(c.data))]...)
	return len(p), nil
}

// String is what was kept.
func (c *capped) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.data)
}
