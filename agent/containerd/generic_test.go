package containerd

import (
	"slices"
	"strings"
	"testing"

	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func wanting(id, service string, slot uint64, kind string, count int64) *task.Wanted {
	return &task.Wanted{ID: id, ServiceID: service, Slot: slot,
		Spec: &pb.TaskSpec{Resources: &pb.ResourceRequirements{Generic: []*pb.GenericRequest{{Kind: kind, Count: count}}}}}
}

func TestGenericResourcesAreGivenOut(t *testing.T) {
	r := &Runtime{
		cfg:     Config{Generic: []*pb.GenericResource{{Kind: "gpu-x", Count: 3, Ids: []string{"g0", "g1", "g2"}}, {Kind: "seat", Count: 4}}},
		records: map[string]*record{}, grants: map[string]*grant{},
	}
	// expect prepares a task, up to its record, and compares what it is told.
	expect := func(w *task.Wanted, want string) {
		t.Helper()
		g, err := r.grant(w)
		if err != nil {
			t.Fatalf("%s: %v", w.ID, err)
		}
		r.remember(w.ID, &record{Grant: g})
		if got := strings.Join(g.environment(w.Spec), " "); got != want {
			t.Errorf("%s is told %q, want %q", w.ID, got, want)
		}
	}
	expect(wanting("a1", "a", 1, "gpu-x", 1), "DOCKER_RESOURCE_GPU_X=g0")
	expect(wanting("b1", "b", 1, "gpu-x", 2), "DOCKER_RESOURCE_GPU_X=g1,g2")
	expect(wanting("c1", "c", 1, "seat", 4), "DOCKER_RESOURCE_SEAT=4")
	// A second try gets the same.
	expect(wanting("b1", "b", 1, "gpu-x", 2), "DOCKER_RESOURCE_GPU_X=g1,g2")
	// The one that takes another's place gets what that has.
	expect(wanting("a1b", "a", 1, "gpu-x", 1), "DOCKER_RESOURCE_GPU_X=g0")
	if _, err := r.grant(wanting("d1", "d", 1, "gpu-x", 1)); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v for a fourth", err)
	}
	// What has ended needs nothing any more, what is gone neither.
	r.remember("b1", &record{Grant: r.grants["b1"], Exit: &exit{}})
	expect(wanting("d1", "d", 1, "gpu-x", 1), "DOCKER_RESOURCE_GPU_X=g1")
	r.forget("d1")
	// Free ids come before those of the one that is replaced, which may run on.
	expect(wanting("a1c", "a", 1, "gpu-x", 1), "DOCKER_RESOURCE_GPU_X=g1")
	// A restarted minid knows from the records.
	next := &Runtime{cfg: r.cfg, records: map[string]*record{}, grants: map[string]*grant{}}
	for id, rec := range r.records {
		next.remember(id, rec)
	}
	if g, err := next.grant(wanting("e1", "e", 1, "gpu-x", 1)); err != nil || !slices.Equal(g.IDs["gpu-x"], []string{"g2"}) {
		t.Errorf("after a restart: %v, %v", g, err)
	}
}

func TestATaskReadsWhatItWasGiven(t *testing.T) {
	w := wanting("a1", "a", 1, "gpu", 1)
	w.Spec.Container = &pb.ContainerSpec{Env: []string{"DOCKER_RESOURCE_GPU=mine"}}
	g := &grant{IDs: map[string][]string{"gpu": {"g7"}}}
	env := environment(specInput{Wanted: w, Image: &image{}, Granted: g.environment(w.Spec)})
	if !slices.Contains(env, "DOCKER_RESOURCE_GPU=g7") || slices.Contains(env, "DOCKER_RESOURCE_GPU=mine") {
		t.Errorf("the environment is %q", env)
	}
}
