package scheduler

import (
	"testing"

	pb "github.com/minid/minid/proto/minid/v1"
)

func reachedBy(dataPath, key string) nodeOption {
	return func(n *pb.Node) {
		n.Description.DataPathAddr, n.Description.WireguardKey = dataPath, []byte(key)
	}
}

func TestNetworksNeedReachableNodes(t *testing.T) {
	overlay := &pb.Network{Spec: &pb.NetworkSpec{Driver: pb.NetworkSpec_DRIVER_OVERLAY}}
	unset := &pb.Network{Spec: &pb.NetworkSpec{}}
	encrypted := &pb.Network{Spec: &pb.NetworkSpec{Encrypted: true}}
	bridge := &pb.Network{Spec: &pb.NetworkSpec{Driver: pb.NetworkSpec_DRIVER_BRIDGE, Encrypted: true}}
	s := setOf(testNode("n1"), testNode("n2", reachedBy("10.0.0.2", "")), testNode("n3", reachedBy("10.0.0.3", "key")))
	for _, c := range []struct {
		what     string
		networks []*pb.Network
		fit      string
		why      string
	}{
		{"no network", nil, "3 of 3 nodes fit", ""},
		{"bridge", []*pb.Network{bridge}, "3 of 3 nodes fit", ""},
		{"overlay", []*pb.Network{bridge, overlay}, "2 of 3 nodes fit", "1 has no data path address for its networks' traffic"},
		{"no driver named", []*pb.Network{unset}, "2 of 3 nodes fit", "1 has no data path address for its networks' traffic"},
		{"encrypted", []*pb.Network{overlay, encrypted}, "1 of 3 nodes fit",
			"1 has no WireGuard key for encrypted networks, 1 has no data path address for its networks' traffic"},
	} {
		g := groupFor(c.what, &pb.TaskSpec{}, 9)
		g.Need = Compile(&pb.TaskSpec{}, c.networks...)
		e := s.Explain(g, g.Tasks[0])
		if e.Headline() != c.fit || e.Reasons() != c.why {
			t.Errorf("%s: %s", c.what, e.Summary())
		}
		if got := place(t, s, g); len(got) != e.Fit {
			t.Errorf("%s: placed on %v", c.what, got)
		}
	}
}

func TestUnreachedNodesAreHintedAt(t *testing.T) {
	for _, c := range []struct{ dataPath, hint string }{
		{"", "minid --data-path-addr ADDRESS, on node n1"},
		{"10.0.0.1", "minid check, on node n1"},
	} {
		s := setOf(testNode("n1", reachedBy(c.dataPath, "")))
		g := groupFor("web", &pb.TaskSpec{}, 1)
		g.Need = Compile(&pb.TaskSpec{}, &pb.Network{Spec: &pb.NetworkSpec{Encrypted: true}})
		if e := s.Explain(g, g.Tasks[0]); e.Hint != c.hint {
			t.Errorf("hint %q, want %q", e.Hint, c.hint)
		}
		s.PutNode(testNode("n1", reachedBy("10.0.0.1", "key")))
		if got := place(t, s, g); got["n1"] != 1 {
			t.Error("the node does not fit once it can be reached")
		}
	}
}
