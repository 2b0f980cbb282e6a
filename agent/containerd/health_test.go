package containerd

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/agent/task"
	sample "github.com/minid/minid/integration/sample/image"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestImageHealth(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		want   *pb.HealthConfig
	}{
		"none":      {`{"config":{"Cmd":["x"]}}`, nil},
		"malformed": {`{"config":{"Healthcheck":"x"}}`, nil},
		"a check": {`{"config":{"Healthcheck":{"Test":["CMD-SHELL","test -f /ok"],"Interval":5000000000,"Retries":2}}}`, &pb.HealthConfig{
			Test: []string{"CMD-SHELL", "test -f /ok"}, Interval: durationpb.New(5 * time.Second), Retries: 2,
			Timeout: durationpb.New(0), StartPeriod: durationpb.New(0), StartInterval: durationpb.New(0),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, imageHealth([]byte(c.config)), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestProbe tests a task whose check is its image's: it is led to only when
// asked, tests run as its own user with its environment, and one that takes too
// long is killed.
func TestProbe(t *testing.T) {
	r := open(t)
	img, err := sample.Build(t.Context(), sample.Options{Version: "checked", User: "user", Health: &v1.HealthConfig{
		Test: []string{"CMD", "sample", "env"}, Interval: 7 * time.Second,
	}})
	if err != nil {
		t.Fatal(err)
	}
	const ref = "localhost/minid/sample:checked"
	if err := r.load(t.Context(), ref, img); err != nil {
		t.Fatal(err)
	}
	w := wanted("sleep")
	w.Spec.Container.Image, w.Spec.Container.Env, w.Spec.Container.Workdir = ref, []string{"A=1"}, "/tmp"
	id := r.start(t, w)
	o, err := r.runtime.Inspect(t.Context(), id)
	if err != nil || o.Health.GetInterval().AsDuration() != 7*time.Second || o.Health.GetRetries() != 3 {
		t.Fatalf("observed %+v, %v", o, err)
	}
	if calls := r.network.of(id); slices.Contains(calls, "serve") {
		t.Errorf("it is led to before it is healthy: %v", calls)
	}
	if err := r.runtime.Serve(t.Context(), id); err != nil || !slices.Contains(r.network.of(id), "serve") {
		t.Errorf("serve: %v", err)
	}
	code, output, err := r.runtime.Probe(t.Context(), id, []string{"sample", "env"})
	if err != nil || code != 0 || !strings.Contains(output, "uid=1000") || !strings.Contains(output, "A=1") || !strings.Contains(output, "dir=/tmp") {
		t.Errorf("code %d, %v: %s", code, err, output)
	}
	if code, output, err = r.runtime.Probe(t.Context(), id, []string{"/bin/sh", "-c", "stat /nothing"}); err != nil || code != 1 || !strings.Contains(output, "/nothing") {
		t.Errorf("a failing test: code %d, %v: %s", code, err, output)
	}
	if code, output, err = r.runtime.Probe(t.Context(), id, []string{"sample", "lines", "2000"}); err != nil || code != 0 || len(output) != task.MaxProbeOutput {
		t.Errorf("a test that says much: code %d, %v, %d bytes", code, err, len(output))
	}
	if _, _, err = r.runtime.Probe(t.Context(), id, []string{"/no/such"}); err == nil || !strings.Contains(err.Error(), "not in image") {
		t.Errorf("a test that does not exist: %v", err)
	}
	r.slowProbe(t, id)
	r.reopen(t)
	if o, err := r.runtime.Inspect(t.Context(), id); err != nil || o.Health.GetInterval().AsDuration() != 7*time.Second {
		t.Errorf("after a restart of minid: %+v, %v", o.Health, err)
	}
}

// slowProbe makes a test that ignores SIGTERM, and looks for what is left of it.
func (r *rig) slowProbe(t *testing.T, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, _, err := r.runtime.Probe(ctx, id, []string{"sample", "stubborn"}); err == nil {
		t.Error("a test without end: no error")
	}
	eventually(t, "the test is killed", func() bool {
		_, output, err := r.runtime.Probe(t.Context(), id, []string{"sample", "ls", "/proc"})
		if err != nil {
			t.Fatal(err)
		}
		processes := 0
		for _, name := range strings.Fields(output) {
			if strings.Trim(name, "0123456789") == "" {
				processes++
			}
		}
		return processes == 2 // the task's, and this test's
	})
}
