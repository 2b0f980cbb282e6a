package node

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/minid/minid/ca"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestTheDataPathIsTheAdvertisedAddressUnlessToldOtherwise(t *testing.T) {
	for _, c := range []struct{ addr, advertise, listen, want string }{
		{"", "10.0.0.1:2377", "0.0.0.0:2377", "10.0.0.1"},
		{"", "", "10.0.0.2:2377", "10.0.0.2"},
		{"", "lo", "0.0.0.0:2377", "127.0.0.1"},
		{"10.9.0.1", "10.0.0.1", "0.0.0.0:2377", "10.9.0.1"},
		{"lo", "10.0.0.1", "0.0.0.0:2377", "127.0.0.1"},
		{"fd00::7", "10.0.0.1", "0.0.0.0:2377", "fd00::7"},
	} {
		if got, err := dataPath(c.addr, c.advertise, c.listen); got != c.want || err != nil {
			t.Errorf("data path %q, advertised %q, listening at %q: %q, %v; want %q", c.addr, c.advertise, c.listen, got, err, c.want)
		}
	}
	for _, addr := range []string{"nosuch0", "10.0.0.1:4789"} {
		if got, err := dataPath(addr, "10.0.0.1", "0.0.0.0:2377"); err == nil || !strings.Contains(err.Error(), addr) {
			t.Errorf("data path %q: %q, %v", addr, got, err)
		}
	}
}

func TestTheFlagsPortCountsWhereInitNamesNone(t *testing.T) {
	n := &Node{cfg: Defaults()}
	n.cfg.DataPathPort = 5000
	for given, want := range map[uint32]uint32{0: 5000, 6000: 6000} {
		spec := n.foundingSpec(&pb.ClusterSpec{TaskHistoryLimit: 3, DataPathPort: given})
		if spec.DataPathPort != want || spec.TaskHistoryLimit != 3 {
			t.Errorf("told %d: %v, want port %d", given, spec, want)
		}
	}
	if spec := n.foundingSpec(nil); spec.DataPathPort != 5000 {
		t.Errorf("told nothing: %v", spec)
	}
}

func TestADataPathAddressOutlivesARestart(t *testing.T) {
	cfg := Defaults()
	cfg.DataDir = t.TempDir()
	cfg.AdvertiseAddr, cfg.DataPathAddr = "10.0.0.1", "10.8.0.1"
	host := Host{Local: pb.UnimplementedLocalServer{}}
	n, err := New(cfg, host)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		if got, err := n.dataPathAddr(); got != want || err != nil {
			t.Errorf("data path %q, %v; want %q", got, err, want)
		}
	}
	expect("10.8.0.1")
	if err := n.enter(&pb.JoinClusterRequest{DataPathAddr: "10.9.0.1"}, record{}); err != nil {
		t.Fatal(err)
	}
	if n, err = New(cfg, host); err != nil {
		t.Fatal(err)
	}
	expect("10.9.0.1")
	n.cfg.DataPathAddr = "10.7.0.1"
	expect("10.7.0.1")
}

// The first description of a node, before it remembers what init was told,
// names the address of its data path too.
func TestAFoundersDataPathIsKnownAtOnce(t *testing.T) {
	cfg := Defaults()
	cfg.DataDir = t.TempDir()
	founding, err := ca.Bootstrap(nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(cfg, Host{Describe: func(_ context.Context, path string) *pb.NodeDescription {
		return &pb.NodeDescription{DataPathAddr: path}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nobody takes the membership
	n.found(ctx, &pb.InitRequest{AdvertiseAddr: "10.0.0.1", DataPathAddr: "10.9.0.1"}, founding)
	if got := founding.Node.Description.GetDataPathAddr(); got != "10.9.0.1" {
		t.Errorf("data path %q", got)
	}
}
