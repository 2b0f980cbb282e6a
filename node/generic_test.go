package node

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/minid/minid/proto/minid/v1"
)

func TestGenericList(t *testing.T) {
	for _, c := range []struct {
		given []string
		want  []*pb.GenericResource
	}{
		{nil, nil},
		{[]string{"gpu=2", "fpga=a"}, []*pb.GenericResource{{Kind: "gpu", Count: 2}, {Kind: "fpga", Count: 1, Ids: []string{"a"}}}},
		{[]string{"gpu=a, b", "gpu=c"}, []*pb.GenericResource{{Kind: "gpu", Count: 3, Ids: []string{"a", "b", "c"}}}},
		// As they come out of the environment.
		{[]string{"gpu=0", "1", "fpga=2"}, []*pb.GenericResource{{Kind: "gpu", Count: 2, Ids: []string{"0", "1"}}, {Kind: "fpga", Count: 2}}},
	} {
		got, err := Config{GenericResources: c.given}.GenericList()
		if err != nil {
			t.Errorf("%q: %v", c.given, err)
		}
		if diff := cmp.Diff(c.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.given, diff)
		}
	}
	for _, c := range []struct{ given, says string }{
		{"gpu", "use KIND=N or KIND=ID,ID"},
		{"gpu=", "use KIND=N or KIND=ID,ID"},
		{"=2", "a kind begins with a letter"},
		{"my gpu=2", "a kind begins with a letter"},
		{"gpu=0", "from 1 on"},
		{"gpu=-1", "from 1 on"},
		{"gpu=a,,b", "an id is empty"},
		{"gpu=a,a", "given twice"},
		{"gpu=a|gpu=a", "given twice"},
		{"gpu=2|gpu=3", "has a number already"},
		{"gpu=2|gpu=a", "has a number already"},
	} {
		cfg := Defaults()
		cfg.GenericResources = strings.Split(c.given, "|")
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v, want %q", c.given, err, c.says)
		}
	}
}
