package task

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

func vars(slot uint64) Vars {
	w := &Wanted{ID: "t1", ServiceID: "s1", ServiceName: "web", Slot: slot, NodeID: "n1", NodeName: "alpha"}
	return NewVars(w, map[string]string{"tier": "front"}, &pb.Platform{Os: "linux", Architecture: "amd64"})
}

func TestExpand(t *testing.T) {
	tests := []struct{ text, want string }{
		{"plain", "plain"},
		{"{{.Service.ID}}/{{.Service.Name}}", "s1/web"},
		{`{{index .Service.Labels "tier"}}`, "front"},
		{"{{.Service.Labels.tier}}-{{.Service.Labels.none}}", "front-"},
		{"{{.Service.Labels}}", "map[tier:front]"},
		{"{{.Node.ID}} {{.Node.Hostname}}", "n1 alpha"},
		{"{{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}", "linux/amd64"},
		{"{{.Task.ID}} {{.Task.Name}} {{.Task.Slot}}", "t1 web.2.t1 2"},
		{`{{join "-" .Service.Name .Task.Slot}}`, "web-2"},
	}
	for _, test := range tests {
		spec := &pb.TaskSpec{Container: &pb.ContainerSpec{Hostname: test.text, Env: []string{"A=" + test.text}, Mounts: []*pb.Mount{{Source: test.text, Target: test.text}}}}
		before := proto.CloneOf(spec)
		want := &pb.TaskSpec{Container: &pb.ContainerSpec{Hostname: test.want, Env: []string{"A=" + test.want}, Mounts: []*pb.Mount{{Source: test.want, Target: test.want}}}}
		got, err := Expand(spec, vars(2))
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.text, diff)
		}
		if !proto.Equal(before, spec) {
			t.Errorf("%s: the stored spec was changed", test.text)
		}
	}
}

func TestExpandGlobal(t *testing.T) {
	spec := &pb.TaskSpec{Container: &pb.ContainerSpec{Hostname: "{{.Task.Slot}}.{{.Task.Name}}"}}
	got, err := Expand(spec, vars(0))
	if err != nil || got.GetContainer().GetHostname() != "n1.web.n1.t1" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestExpandErrors(t *testing.T) {
	for _, text := range []string{"{{", "{{.Task.Color}}", "{{.Nothing}}", "{{env `HOME`}}"} {
		_, err := Expand(&pb.TaskSpec{Container: &pb.ContainerSpec{Env: []string{"A=" + text}}}, vars(1))
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want an invalid template", text, err)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("{{.Task.Slot}}")
	f.Add(`{{join "," "a" .Node.ID}}`)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 100 {
			return // long templates say nothing new
		}
		spec := &pb.TaskSpec{Container: &pb.ContainerSpec{Hostname: text}}
		if _, err := Expand(spec, vars(1)); err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
