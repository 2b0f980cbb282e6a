package controlapi

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

func pool(subnet, gateway, ips string) *pb.AddressPool {
	return &pb.AddressPool{Subnet: subnet, Gateway: gateway, IpRange: ips}
}

func pools(pools ...*pb.AddressPool) *pb.NetworkSpec {
	return &pb.NetworkSpec{Name: "net", Pools: pools}
}

// described gives a node what a test needs of its description.
func (r *rig) described(id string, d *pb.NodeDescription) {
	r.t.Helper()
	d.Hostname = strings.TrimPrefix(id, "node-")
	r.apply(&pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{Id: id, Description: d}}})
}

func TestCreateNetworkRefuses(t *testing.T) {
	bridge := pb.NetworkSpec_DRIVER_BRIDGE
	six := func(spec *pb.NetworkSpec) *pb.NetworkSpec { spec.Ipv6 = true; return spec }
	ingress := func(spec *pb.NetworkSpec) *pb.NetworkSpec { spec.Ingress = true; return spec }
	for _, row := range []struct {
		spec      *pb.NetworkSpec
		want, try string
	}{
		{nil, "name: none is given", ""},
		{&pb.NetworkSpec{Name: "a b"}, `name "a b": it must begin`, ""},
		{&pb.NetworkSpec{Name: "net", Labels: map[string]string{"": "x"}}, `label "": its key`, ""},
		{&pb.NetworkSpec{Name: "net", Driver: 9}, "driver: there is no driver 9", "--driver overlay|bridge"},
		{&pb.NetworkSpec{Name: "net", Driver: bridge, Encrypted: true}, "encrypted: nothing of a network of driver bridge", ""},
		{&pb.NetworkSpec{Name: "net", Driver: bridge, Ingress: true}, "ingress: the routing mesh joins the nodes", ""},
		{&pb.NetworkSpec{Name: "net", Driver: bridge, Vni: 5000}, "vni: a network of driver bridge", ""},
		{&pb.NetworkSpec{Name: "net", Vni: 1 << 24}, "vni: 16777216 is not between 1 and 16777215", ""},
		{&pb.NetworkSpec{Name: "net", Mtu: 575}, "mtu: 575 bytes are not between 576 and 65535", ""},
		{&pb.NetworkSpec{Name: "net", Mtu: 65536}, "mtu: 65536 bytes are not", ""},
		{six(&pb.NetworkSpec{Name: "net", Mtu: 1279}), "mtu: 1279 bytes are not between 1280 and", ""},
		{pools(pool("10.1.0.0", "", "")), `subnet "10.1.0.0": it is none in CIDR form`, "--subnet 10.20.0.0/20"},
		{pools(pool("", "10.1.0.1", "")), "subnet: none is given for the gateway", ""},
		{pools(pool("::ffff:10.1.0.0/120", "", "")), "it is none in CIDR form", ""},
		{pools(pool("10.1.2.3/16", "", "")), "subnet 10.1.2.3/16: its address has bits beyond the /16", "--subnet 10.1.0.0/16"},
		{pools(pool("10.1.0.4/31", "", "")), "subnet 10.1.0.4/31: it is too small for a gateway and a task, a /30", "--subnet 10.1.0.0/26"},
		{six(pools(pool("fd00::/127", "", ""))), "a /126 is the least", ""},
		{pools(pool("127.1.0.0/16", "", "")), "subnet 127.1.0.0/16: 127.0.0.0/8 stays within a host", ""},
		{pools(pool("0.0.0.0/0", "", "")), "subnet 0.0.0.0/0: 0.0.0.0/8 stands for", ""},
		{pools(pool("232.0.0.0/8", "", "")), "224.0.0.0/4 is for multicast", ""},
		{six(pools(pool("fe80::/64", "", ""))), "fe80::/10 is for addresses of one link", ""},
		{pools(pool("fd00:1::/64", "", "")), "subnet fd00:1::/64: the network has no IPv6", "--ipv6 --subnet fd00:1::/64"},
		{pools(pool("10.1.0.0/16", "", ""), pool("10.2.0.0/16", "", "")), "subnet 10.2.0.0/16: the network has 10.1.0.0/16 already", ""},
		{pools(pool("10.1.0.0/16", "10.2.0.1", "")), "gateway 10.2.0.1: it is outside of the subnet 10.1.0.0/16", "--gateway 10.1.0.1"},
		{pools(pool("10.1.0.0/16", "10.1.0.0", "")), "gateway 10.1.0.0: it is the subnet's own", ""},
		{pools(pool("10.1.0.0/16", "10.1.255.255", "")), "gateway 10.1.255.255: it is the subnet's own or its broadcast", ""},
		{pools(pool("10.1.0.0/16", "first", "")), `gateway "first": it is no address`, ""},
		{pools(pool("10.1.0.0/16", "", "10.2.0.0/24")), "ip-range 10.2.0.0/24: it is no part of the subnet", ""},
		{pools(pool("10.1.0.0/16", "", "10.0.0.0/8")), "ip-range 10.0.0.0/8: it is no part of", ""},
		{pools(pool("10.1.0.0/16", "", "10.1.2.3/24")), "ip-range 10.1.2.3/24: its address has bits", "--ip-range 10.1.2.0/24"},
		{pools(pool("10.1.0.0/16", "", "lots")), `ip-range "lots": it is none in CIDR form`, ""},
		{pools(pool("10.1.0.0/16", "", "10.1.0.0/31")), "ip-range 10.1.0.0/31: no address is left for a task", ""},
		{ingress(&pb.NetworkSpec{Name: "net", Encrypted: true}), "so it cannot be encrypted", "leave encrypted out"},
		{ingress(&pb.NetworkSpec{Name: "net", Internal: true}), "so it cannot be internal", ""},
		{ingress(&pb.NetworkSpec{Name: "net", Attachable: true}), "so it cannot be attachable", ""},
		{ingress(six(&pb.NetworkSpec{Name: "net"})), "so it cannot be ipv6", ""},
		{ingress(pools(pool("10.0.0.0/13", "", ""))), "its length must be even and 24 at most", "--subnet 10.0.0.0/12"},
		{ingress(pools(pool("10.1.1.0/26", "", ""))), "its length must be even and 24 at most", "--subnet 10.1.1.0/24"},
		{ingress(pools(pool("10.16.0.0/12", "10.16.0.1", ""))), "neither a gateway nor a range", ""},
		{pools(pool("10.0.0.0/8", "", "")), "subnet 10.0.0.0/8: node w1 has a route to 10.77.0.0/16", ""},
		{pools(pool("10.77.3.0/24", "", "")), "subnet 10.77.3.0/24: node w1 has a route to 10.77.0.0/16", ""},
	} {
		r := newRig(t)
		r.described("node-w1", &pb.NodeDescription{Routes: []string{"0.0.0.0/0", "10.77.0.0/16"}})
		_, err := r.server.CreateNetwork(t.Context(), &pb.CreateNetworkRequest{Spec: row.spec})
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), row.want) || !strings.HasPrefix(err.Error(), "create network") {
			t.Errorf("error %q (%v), want %q", err, fault.ClassOf(err), row.want)
		}
		if got := fault.TryOf(err); row.try != "" && got != row.try {
			t.Errorf("%v: try %q, want %q", err, got, row.try)
		}
	}
}

// What the store refuses comes through with the other network's name.
func TestCreateNetworkRefusesWhatIsTaken(t *testing.T) {
	for want, spec := range map[string]*pb.NetworkSpec{
		"front":                             {Name: "front"},
		"overlaps that of network front":    pools(pool("10.20.4.0/24", "", "")),
		"its VXLAN id 5000 is that of":      {Name: "net", Vni: 5000},
		"an ingress network already, ingre": {Name: "net", Ingress: true},
	} {
		r := newRig(t)
		r.network(&pb.NetworkSpec{Name: "front", Vni: 5000, Pools: []*pb.AddressPool{pool("10.20.0.0/16", "", "")}})
		_, err := r.server.CreateNetwork(t.Context(), &pb.CreateNetworkRequest{Spec: spec})
		if err == nil || !strings.Contains(err.Error(), want) || fault.ClassOf(err) != fault.Exists && fault.ClassOf(err) != fault.InUse {
			t.Errorf("error %v (%v), want %q", err, fault.ClassOf(err), want)
		}
	}
}

func TestCreatedNetworkIsInNormalForm(t *testing.T) {
	given := &pb.NetworkSpec{Name: "net", Ipv6: true, Pools: []*pb.AddressPool{
		pool("10.20.0.0/16", "10.20.0.254", "10.20.7.0/24"), pool("FD00:0:0:1::/64", "fd00:0:0:1:0:0:0:1", ""),
	}}
	asked := proto.CloneOf(given)
	got := newRig(t).network(asked)
	want := &pb.NetworkSpec{Name: "net", Ipv6: true, Driver: pb.NetworkSpec_DRIVER_OVERLAY, Pools: []*pb.AddressPool{
		pool("10.20.0.0/16", "10.20.0.254", "10.20.7.0/24"), pool("fd00:0:0:1::/64", "fd00:0:0:1::1", ""),
	}}
	if diff := cmp.Diff(want, got.GetSpec(), protocmp.Transform()); diff != "" {
		t.Errorf("stored spec (-want +got):\n%s", diff)
	}
	if !proto.Equal(given, asked) {
		t.Errorf("the request was changed: %v", asked)
	}
}

func TestNetworkWarnings(t *testing.T) {
	key := make([]byte, 32)
	for _, row := range []struct {
		spec *pb.NetworkSpec
		want []string
	}{
		{pools(pool("10.20.0.0/27", "", "")), nil},
		{pools(pool("10.20.0.0/29", "", "")), []string{"subnet 10.20.0.0/29 has room for 5 tasks and services"}},
		{pools(pool("10.20.0.0/16", "10.20.9.2", "10.20.9.0/30")), []string{"has room for 3 tasks"}},
		{&pb.NetworkSpec{Name: "net", Attachable: true}, []string{"attachable changes nothing"}},
		{&pb.NetworkSpec{Name: "net", Encrypted: true}, []string{"node w1 has no key for WireGuard"}},
		{&pb.NetworkSpec{Name: "net", Mtu: 1450}, nil},
		{&pb.NetworkSpec{Name: "net", Mtu: 1451}, []string{"mtu 1451 needs packets of 1501 bytes between the nodes, and node m1 sends 1500"}},
		{&pb.NetworkSpec{Name: "net", Mtu: 1400, Encrypted: true}, []string{"node w1 has no key", "mtu 1400 needs packets of 1510"}},
		{&pb.NetworkSpec{Name: "net", Mtu: 9000, Driver: pb.NetworkSpec_DRIVER_BRIDGE}, nil},
	} {
		r := newRig(t)
		r.described("node-m1", &pb.NodeDescription{DataPathMtu: 1500, WireguardKey: key})
		r.described("node-w1", &pb.NodeDescription{DataPathMtu: 9000})
		r.described("node-w2", &pb.NodeDescription{WireguardKey: key})
		answer, err := r.server.CreateNetwork(t.Context(), &pb.CreateNetworkRequest{Spec: row.spec})
		if err != nil || len(answer.Warnings) != len(row.want) {
			t.Errorf("%v: warnings %q, %v; want %q", row.spec, answer.GetWarnings(), err, row.want)
			continue
		}
		for i, want := range row.want {
			if !strings.Contains(answer.Warnings[i], want) {
				t.Errorf("%v: warning %q does not say %q", row.spec, answer.Warnings[i], want)
			}
		}
	}
}

func TestServicesFindTheirNetworks(t *testing.T) {
	r := newRig(t)
	front, back := r.network(&pb.NetworkSpec{Name: "front"}), r.network(&pb.NetworkSpec{Name: "back"})
	spec := web()
	spec.Task.Networks = []*pb.NetworkAttachment{
		{NetworkName: "front", Aliases: []string{"www", "my_web"}}, {NetworkId: back.Id[:len(back.Id)-1]},
	}
	want := []*pb.NetworkAttachment{
		{NetworkId: front.Id, NetworkName: "front", Aliases: []string{"www", "my_web"}}, {NetworkId: back.Id, NetworkName: "back"},
	}
	service := r.create(spec)
	if diff := cmp.Diff(want, service.Spec.Task.Networks, protocmp.Transform()); diff != "" {
		t.Errorf("networks (-want +got):\n%s", diff)
	}
	updated, err := r.server.UpdateService(t.Context(), &pb.UpdateServiceRequest{Ref: "web", Spec: service.Spec})
	if err != nil || updated.Service.SpecVersion != service.SpecVersion {
		t.Errorf("sending back what was answered: %v, version %d", err, updated.GetService().GetSpecVersion())
	}
	other := web()
	other.Name = "other"
	r.create(other)
	listed, err := r.server.ListServices(t.Context(), &pb.ListRequest{Filters: []*pb.Filter{{Key: "network", Values: []string{"back"}}}})
	if err != nil || len(listed.Services) != 1 || listed.Services[0].Spec.Name != "web" {
		t.Errorf("services on back: %v, %v", listed, err)
	}
	spec.Task.Networks = []*pb.NetworkAttachment{{NetworkName: "nope"}}
	_, err = r.server.UpdateService(t.Context(), &pb.UpdateServiceRequest{Ref: "web", Spec: spec})
	wantClass(t, err, fault.NotFound)
	if got := fault.TryOf(err); got != "minictl network create nope" {
		t.Errorf("try %q", got)
	}
}

func TestOrdinaryResolversPass(t *testing.T) {
	if err := checkDNS(&pb.DNSConfig{
		Servers: []string{"9.9.9.9", "2620:fe::fe", "127.0.0.53"}, Search: []string{"example.org", "corp.", ".", "_tcp.a_b.c"},
		Options: []string{"ndots:2", "rotate", "single-request-reopen", "timeout:30"},
	}); err != nil {
		t.Error(err)
	}
}

// Whatever passes has an address for a task, and a gateway beside it.
func FuzzPool(f *testing.F) {
	for _, p := range []*pb.AddressPool{
		pool("10.1.0.0/16", "10.1.0.1", "10.1.4.0/24"), pool("10.1.0.0/30", "10.1.0.2", "10.1.0.1/32"), pool("fd00::/126", "", "fd00::3/128"),
		pool("255.255.255.0/24", "", ""), pool("fd00::/64", "fd00::%1", "fd00::/0"),
	} {
		f.Add(p.Subnet, p.Gateway, p.IpRange)
	}
	f.Fuzz(func(t *testing.T, subnet, gateway, ips string) {
		spec := normalNetwork(&pb.NetworkSpec{Name: "net", Ipv6: true, Pools: []*pb.AddressPool{pool(subnet, gateway, ips)}})
		if again := normalNetwork(spec); !proto.Equal(spec, again) {
			t.Errorf("%v becomes %v", spec, again)
		}
		err := checkNetwork(spec)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%v: %v", spec, err)
			}
			return
		}
		p := spec.Pools[0]
		prefix := netip.MustParsePrefix(p.Subnet)
		if usable(p, prefix, 1) == 0 || p.Gateway != "" && !prefix.Contains(netip.MustParseAddr(p.Gateway)) {
			t.Errorf("%v passes", spec)
		}
		if checkRoutes(store.New().View(), prefix) != nil {
			t.Errorf("%v is in the way of no node", spec)
		}
	})
}
