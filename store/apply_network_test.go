package store_test

import (
	"net/netip"
	"testing"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// published is a spec that publishes one port.
func published(name string, port uint32, mode pb.PortConfig_Mode) *pb.ServiceSpec {
	s := webSpec(name, "nginx")
	s.Task.Ports = []*pb.PortConfig{{Published: port, Target: 80, Mode: mode}}
	return s
}

// refusedWith expects a refusal in exactly these words.
func (m *machine) refusedWith(class fault.Class, words string, cmd *pb.Command) {
	m.t.Helper()
	m.refused(class, cmd)
	if err := m.try(cmd); err == nil || err.Error() != words {
		m.t.Errorf("refused with\n%v, want\n%s", err, words)
	}
}

func TestNetworkRefusals(t *testing.T) {
	m := newMachine(t)
	m.must(createNetwork("w1", &pb.NetworkSpec{Name: "web", Vni: 7, Pools: []*pb.AddressPool{{Subnet: "10.0.0.0/24"}}}))
	m.must(createNetwork("in", &pb.NetworkSpec{Name: "ingress", Ingress: true}))
	m.must(createService("s", withNetwork(webSpec("shop", "nginx"), "w1")), createService("p", published("proxy", 80, pb.PortConfig_MODE_INGRESS)))
	m.must(createNetwork("w2", &pb.NetworkSpec{Name: "other"}), allocateNetwork("w2", &pb.NetworkAllocation{Vni: 8, Pools: []*pb.AddressPool{{Subnet: "10.1.0.0/24"}}}))
	for _, c := range []struct {
		class fault.Class
		words string
		cmd   *pb.Command
	}{
		{fault.Exists, "create network web: the name is taken", createNetwork("x", &pb.NetworkSpec{Name: "web"})},
		{fault.Exists, "create network two: the cluster has an ingress network already, ingress", createNetwork("x", &pb.NetworkSpec{Name: "two", Ingress: true})},
		{fault.InUse, "create network x: its subnet 10.0.0.128/25 overlaps that of network web",
			createNetwork("x", &pb.NetworkSpec{Name: "x", Pools: []*pb.AddressPool{{Subnet: "10.0.0.128/25"}}})},
		{fault.InUse, "create network x: its subnet 10.0.0.0/15 overlaps that of network web",
			createNetwork("x", &pb.NetworkSpec{Name: "x", Pools: []*pb.AddressPool{{Subnet: "10.0.0.0/15"}}})},
		{fault.InUse, "create network x: its VXLAN id 8 is that of network other", createNetwork("x", &pb.NetworkSpec{Name: "x", Vni: 8})},
		{fault.Invalid, `create network x: there is no subnet "ten"`, createNetwork("x", &pb.NetworkSpec{Name: "x", Pools: []*pb.AddressPool{{Subnet: "ten"}}})},
		{fault.State, "allocate network other: it has its subnets and VXLAN id, which stay",
			allocateNetwork("w2", &pb.NetworkAllocation{Vni: 8, Pools: []*pb.AddressPool{{Subnet: "10.2.0.0/24"}}})},
		{fault.InUse, "remove network web: it is used by service shop", removeNetwork("w1")},
		{fault.InUse, "remove network ingress: ports are published by service proxy", removeNetwork("in")},
		{fault.NotFound, "create service x: there is no network net-w9 (id w9)", createService("x", withNetwork(webSpec("x", "a"), "w9"))},
		{fault.Invalid, "create service x: network ingress is the routing mesh's own, no task can be on it", createService("x", withNetwork(webSpec("x", "a"), "in"))},
		{fault.Invalid, "update service shop: network web is named twice", updateService("s", 0, withNetwork(withNetwork(webSpec("shop", "a"), "w1"), "w1"))},
		{fault.InUse, "create service x: port 80/tcp is published by service proxy", createService("x", published("x", 80, pb.PortConfig_MODE_INGRESS))},
		{fault.InUse, "update service shop: port 80/tcp is published by service proxy", updateService("s", 0, published("shop", 80, pb.PortConfig_MODE_HOST))},
	} {
		m.refusedWith(c.class, c.words, c.cmd)
	}
	m.must(removeService("p"))
	m.refusedWith(fault.InUse, "create service x: port 80/tcp is published by service proxy, which is still stopping its tasks",
		createService("x", published("x", 80, pb.PortConfig_MODE_INGRESS)))
	m.must(deleteService("p"), removeNetwork("in"), createService("x", published("x", 80, pb.PortConfig_MODE_HOST)))
	m.must(createService("y", published("y", 80, pb.PortConfig_MODE_HOST))) // their tasks are kept apart
}

func TestAddressesAreHeldUntilTheEnd(t *testing.T) {
	m := newMachine(t).must(readyWorker("n1")...)
	m.must(createNetwork("w1", &pb.NetworkSpec{Name: "web"}), createService("s", withNetwork(webSpec("shop", "nginx"), "w1")))
	m.must(createTasks(task("t1", "s", 1), task("t2", "s", 2)))
	give := func(id, addr string) *pb.Command {
		return allocateTasks(&pb.TaskAllocation{Id: id, Addresses: []*pb.TaskAddress{{NetworkId: "w1", Addresses: []string{addr}}}})
	}
	owner := func() store.Owner { return m.View().AddressOwner("w1", netip.MustParseAddr("10.0.0.2")) }
	m.must(allocateTasks(&pb.TaskAllocation{Id: "t1", Problem: "none is left"}))
	if s := m.View().Task("t1").Status; s.State != 0 || s.Message != "waiting: none is left" {
		t.Errorf("with a problem: %v", s)
	}
	m.must(give("t1", "10.0.0.2/20"), give("t2", "10.0.0.2/20"))
	if v := m.View(); owner().Task != "t1" || v.Task("t1").Status.State != pending || v.Task("t2").Status.State != 0 {
		t.Errorf("given twice: %v, %v", v.Task("t1"), v.Task("t2"))
	}
	m.refused(fault.InUse, allocateService("s", 0, &pb.Endpoint{Vips: []*pb.VirtualIP{{NetworkId: "w1", Addresses: []string{"10.0.0.2"}}}}))
	m.must(assign("n1", "t1"), reportState("n1", "t1", running), desire(shutdown, "t1"))
	if owner().Task != "t1" {
		t.Error("a task that is about to end lost its address")
	}
	m.must(updateService("s", 0, webSpec("shop", "nginx")))
	m.refused(fault.InUse, removeNetwork("w1"))
	m.must(reportState("n1", "t1", shutdown), give("t2", "10.0.0.2/20"))
	if owner().Task != "t2" {
		t.Errorf("after the end the address is held by %v", owner())
	}
	m.must(desire(remove, "t2"), removeNetwork("w1"))
	if (owner() != store.Owner{}) {
		t.Errorf("held by %v", owner())
	}
}

func TestEndpointsOfAStaleSpecAreRefused(t *testing.T) {
	m := newMachine(t).must(createService("s", published("shop", 0, pb.PortConfig_MODE_INGRESS)))
	version := m.View().Service("s").Meta.Version
	chosen := &pb.Endpoint{Ports: []*pb.PortConfig{{Published: 30000, Target: 80}}}
	m.must(allocateService("s", version, chosen))
	if m.View().PortOwner(pb.PortConfig_PROTOCOL_TCP, 30000).GetId() != "s" || m.View().Service("s").Meta.Version != version {
		t.Error("the chosen port is not the service's, or its version changed")
	}
	m.must(updateService("s", 0, webSpec("shop", "nginx")), createService("x", published("x", 30000, pb.PortConfig_MODE_INGRESS)))
	if e := m.View().Service("s").Endpoint; len(e.Ports) != 0 {
		t.Errorf("an update left %v published", e.Ports)
	}
	m.refused(fault.Stale, allocateService("s", version, chosen))
	m.refused(fault.Invalid, allocateService("s", 0, chosen))
}

func TestNumbersAndKeysGoForward(t *testing.T) {
	m := newMachine(t).must(createCluster(), createNode("n1", worker), createNode("n2", worker))
	m.must(allocateNode("n1", 1), networkKeys(1))
	m.refused(fault.InUse, allocateNode("n2", 1))
	m.must(removeNode("n1", true), allocateNode("n2", 1), networkKeys(1, 2))
	m.refused(fault.Stale, networkKeys(1, 2))
	m.refused(fault.Invalid, networkKeys(4, 3))
}
