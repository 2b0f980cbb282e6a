package spec

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/minid/minid/proto/minid/v1"
)

func TestGenericResource(t *testing.T) {
	set := pflag.NewFlagSet("create", pflag.ContinueOnError)
	f := CreateFlags(set)
	if err := set.Parse([]string{"--generic-resource", "gpu=2", "--generic-resource", "fpga=1", "--generic-resource", "gpu=3"}); err != nil {
		t.Fatal(err)
	}
	s, err := f.Create("a", nil, Environment{})
	if err != nil {
		t.Fatal(err)
	}
	want := []*pb.GenericRequest{{Kind: "fpga", Count: 1}, {Kind: "gpu", Count: 3}}
	if diff := cmp.Diff(want, s.Task.Resources.Generic, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	set = pflag.NewFlagSet("update", pflag.ContinueOnError)
	f = UpdateFlags(set)
	if err := set.Parse([]string{"--generic-resource-rm", "fpga", "--generic-resource-rm", "nosuch", "--generic-resource-add", "gpu=1"}); err != nil {
		t.Fatal(err)
	}
	if s, err = f.Update(s, Environment{}); err != nil {
		t.Fatal(err)
	}
	want = []*pb.GenericRequest{{Kind: "gpu", Count: 1}}
	if diff := cmp.Diff(want, s.Task.Resources.Generic, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{"gpu", "gpu=0", "gpu=-1", "gpu=x", "=2", "gpu=a,b"} {
		set := pflag.NewFlagSet("create", pflag.ContinueOnError)
		f := CreateFlags(set)
		if err := set.Parse([]string{"--generic-resource", bad}); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Create("a", nil, Environment{}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
