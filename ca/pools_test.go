package ca

import (
	"slices"
	"testing"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestBootstrapTakesPoolsInsteadOfTheDefaults(t *testing.T) {
	f, err := Bootstrap(&pb.ClusterSpec{DefaultAddressPools: []string{"10.20.0.0/16", "192.168.0.0/24"}, SubnetMaskLength: 26}, noon)
	if err != nil {
		t.Fatal(err)
	}
	spec := f.Cluster.Spec
	if !slices.Equal(spec.DefaultAddressPools, []string{"10.20.0.0/16", "192.168.0.0/24"}) || spec.SubnetMaskLength != 26 || spec.DataPathPort != 4789 {
		t.Errorf("settings %v", spec)
	}
	if n := f.Network; n.Id == "" || n.Spec.Name != "ingress" || !n.Spec.Ingress {
		t.Errorf("the routing mesh's network is %v", n)
	}
}

func TestBootstrapRefusesPoolsWithoutSubnets(t *testing.T) {
	for what, spec := range map[string]*pb.ClusterSpec{
		"no subnet":       {DefaultAddressPools: []string{"ten"}},
		"an address":      {DefaultAddressPools: []string{"10.0.0.1/8"}},
		"IPv6":            {DefaultAddressPools: []string{"fd00::/48"}},
		"overlapping":     {DefaultAddressPools: []string{"10.0.0.0/8", "10.9.0.0/16"}},
		"a small pool":    {DefaultAddressPools: []string{"10.0.0.0/21"}},
		"no room to mesh": {DefaultAddressPools: []string{"10.0.0.0/25"}, SubnetMaskLength: 28},
		"short mask":      {SubnetMaskLength: 7},
		"long mask":       {SubnetMaskLength: 30},
	} {
		if _, err := Bootstrap(spec, noon); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
