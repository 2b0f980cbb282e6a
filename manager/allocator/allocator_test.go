package allocator_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/minid/minid/proto/minid/v1"
)

const tcp, udp = pb.PortConfig_PROTOCOL_TCP, pb.PortConfig_PROTOCOL_UDP

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestNetworksGetWhatTheyLack(t *testing.T) {
	bridge := network("bridge")
	bridge.Driver = pb.NetworkSpec_DRIVER_BRIDGE
	six := network("six")
	six.Ipv6 = true
	own := network("own")
	own.Vni = 77
	own.Pools = []*pb.AddressPool{{Subnet: "fd11::/64"}, {Subnet: "172.20.0.0/24", Gateway: "172.20.0.9", IpRange: "172.20.0.128/25"}}
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, createNode("n1", "10.16.0.0/19", "192.168.1.0/24"), ingressNetwork())
		pass(time.Second)
		c.must(t, createNetwork(network("a")), createNetwork(bridge), createNetwork(own), createNetwork(six))
		pass(time.Second)
		v := c.View()
		equal(t, "ingress", v.Network("ingress").Allocation, &pb.NetworkAllocation{Vni: 4096, Pools: []*pb.AddressPool{{Subnet: "10.0.0.0/12"}}})
		equal(t, "a", v.Network("a").Allocation, &pb.NetworkAllocation{Vni: 4097, Pools: []*pb.AddressPool{
			{Subnet: "10.16.32.0/20", Gateway: "10.16.32.1"}}})
		equal(t, "bridge", v.Network("bridge").Allocation, &pb.NetworkAllocation{Pools: []*pb.AddressPool{
			{Subnet: "10.16.48.0/20", Gateway: "10.16.48.1"}}})
		equal(t, "own", v.Network("own").Allocation, &pb.NetworkAllocation{Vni: 77, Pools: []*pb.AddressPool{
			{Subnet: "172.20.0.0/24", Gateway: "172.20.0.9", IpRange: "172.20.0.128/25"}, {Subnet: "fd11::/64", Gateway: "fd11::1"}}})
		pools := v.Network("six").Allocation.Pools
		if len(pools) != 2 || !netip.MustParsePrefix("fd00::/8").Overlaps(netip.MustParsePrefix(pools[1].Subnet)) {
			t.Errorf("six has %v", pools)
		}
	})
}

func TestIngressSubnetsOfOtherPools(t *testing.T) {
	for _, c := range []struct {
		pools []string
		want  string
	}{
		{[]string{"10.20.0.0/16"}, "10.20.0.0/20"},
		{[]string{"10.20.0.0/17"}, "10.20.0.0/22"},
		{[]string{"10.20.30.0/24"}, "10.20.30.0/24"},
		{[]string{"10.0.0.0/7"}, "10.0.0.0/12"},
		{[]string{"10.20.30.0/25", "10.9.0.0/16"}, "10.9.0.0/20"},
	} {
		start(t, func(t *testing.T, s *cluster) {
			s.must(t, &pb.Command{Kind: &pb.Command_UpdateClusterSpec{UpdateClusterSpec: &pb.UpdateClusterSpec{
				Spec: &pb.ClusterSpec{Name: "default", DefaultAddressPools: c.pools, SubnetMaskLength: 26}}}}, ingressNetwork())
			pass(time.Second)
			if a := s.View().Ingress().Allocation; len(a.GetPools()) != 1 || a.Pools[0].Subnet != c.want {
				t.Errorf("of %v: %v, want %s", c.pools, a, c.want)
			}
		})
	}
}

func TestNetworksSayWhatIsWrong(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, &pb.Command{Kind: &pb.Command_UpdateClusterSpec{UpdateClusterSpec: &pb.UpdateClusterSpec{
			Spec: &pb.ClusterSpec{Name: "default", DefaultAddressPools: []string{"10.0.0.0/16"}, SubnetMaskLength: 17}}}})
		c.must(t, createNode("n1", "10.0.128.0/24"), createNetwork(network("a")), createNetwork(network("b")), createNetwork(network("x", "10.9.0.0/24")))
		c.must(t, ingressNetwork("10.7.0.0/25"))
		pass(time.Second)
		v := c.View()
		equal(t, "b", v.Network("b").Allocation, &pb.NetworkAllocation{
			Problem: "no subnet of length 17 is left in the default address pools 10.0.0.0/16: networks and the nodes' own routes take all"})
		equal(t, "ingress", v.Network("ingress").Allocation, &pb.NetworkAllocation{
			Problem: "the subnet 10.7.0.0/25 does not suit the routing mesh: its length must be even, and 24 at most"})

		c.must(t, createService(service("s", "b")), tasks("s", 0, 1))
		pass(time.Second)
		v = c.View()
		const why = "network b has no subnet: no subnet of length 17 is left in the default address pools 10.0.0.0/16: networks and the nodes' own routes take all"
		if task, s := v.Task(taskID("s", 0)), v.Service("s"); task.Status.Message != "waiting: "+why || s.Endpoint.GetProblem() != why {
			t.Errorf("task says %q, service %q", task.Status.Message, s.Endpoint.GetProblem())
		}

		c.must(t, describe("n1", "10.9.0.0/16"), createNode("n2", "10.9.0.0/16"))
		pass(time.Second)
		v = c.View()
		if x := v.Network("x").Allocation; x.Problem != "the subnet 10.9.0.0/24 overlaps the route to 10.9.0.0/16 of node host-n1" || x.Vni == 0 {
			t.Errorf("x: %v", x)
		}
		if b := v.Network("b").Allocation; b.Problem != "" || b.Pools[0].Subnet != "10.0.128.0/17" {
			t.Errorf("b, after the route went: %v", b)
		}
		if c.addresses("s", 0) == nil || len(v.Service("s").Endpoint.GetVips()) != 1 {
			t.Errorf("what waited for b still does: %v, %v", v.Task(taskID("s", 0)), v.Service("s").Endpoint)
		}
		c.must(t, removeNode("n1"))
		pass(time.Second)
		if x := c.View().Network("x").Allocation; x.Problem != "the subnet 10.9.0.0/24 overlaps the route to 10.9.0.0/16 of node host-n2" {
			t.Errorf("x, with another node: %v", x)
		}
		c.must(t, describe("n2"))
		pass(time.Second)
		if x := c.View().Network("x").Allocation; x.Problem != "" {
			t.Errorf("x, without routes: %v", x)
		}
	})
}

func TestASubnetComesFreeWithItsNetwork(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, createNetwork(network("a")), createNetwork(network("b")))
		pass(time.Second)
		c.must(t, removeNetwork("a"), createNetwork(network("c")))
		pass(time.Second)
		equal(t, "c", c.View().Network("c").Allocation, &pb.NetworkAllocation{Vni: 4098, Pools: []*pb.AddressPool{
			{Subnet: "10.0.0.0/20", Gateway: "10.0.0.1"}}})
	})
}

func TestTasksAndServicesShareAPool(t *testing.T) {
	six := network("six", "10.2.0.0/24", "fd22::/64")
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, createNetwork(network("web", "10.1.0.0/29")), createNetwork(six))
		c.must(t, createService(service("s", "web", "six")), tasks("s", 0, 3))
		pass(time.Second)
		equal(t, "service", c.View().Service("s").Endpoint, &pb.Endpoint{Vips: []*pb.VirtualIP{
			{NetworkId: "web", Addresses: []string{"10.1.0.2"}},
			{NetworkId: "six", Addresses: []string{"10.2.0.2", "fd22::2"}}}})
		equal(t, "task", c.View().Task(taskID("s", 1)).Addresses, []*pb.TaskAddress{
			{NetworkId: "web", Addresses: []string{"10.1.0.4/29"}},
			{NetworkId: "six", Addresses: []string{"10.2.0.4/24", "fd22::4/64"}}})
		if n := c.allocated("s"); n != 3 {
			t.Errorf("%d of 3 tasks are PENDING", n)
		}
	})
}

func TestAFullNetworkLetsTasksWait(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, createNetwork(network("web", "10.0.16.0/29")), createNetwork(network("big")))
		dnsrr := service("s", "big", "web")
		dnsrr.EndpointMode = pb.EndpointMode_ENDPOINT_MODE_DNSRR
		c.must(t, createService(dnsrr), tasks("s", 0, 7), createService(service("vip", "web")))
		pass(time.Second)
		if n := c.allocated("s"); n != 4 || c.View().Service("s").Endpoint != nil {
			t.Errorf("%d tasks have addresses beside the VIP, endpoint %v", n, c.View().Service("s").Endpoint)
		}
		const why = "no free address in network web (10.0.16.0/29, 5 of 5 used)"
		last := c.View().Task(taskID("s", 6))
		if last.Status.Message != "waiting: "+why || last.Status.State != pb.TaskState_TASK_STATE_NEW {
			t.Errorf("the last says %v", last.Status)
		}
		c.must(t, createService(service("late", "web")))
		pass(time.Second)
		if problem := c.View().Service("late").Endpoint.GetProblem(); problem != why {
			t.Errorf("the service says %q", problem)
		}
		before := c.count()
		pass(time.Hour)
		if after := c.count(); after != before {
			t.Errorf("%d commands while nothing changed", after-before)
		}

		freed := c.addresses("s", 1)[1]
		c.must(t, end("s", 1)...)
		pass(10 * time.Millisecond)
		if late := c.View().Service("late").Endpoint; len(late.GetVips()) != 1 || late.Vips[0].Addresses[0]+"/29" != freed {
			t.Errorf("freed %s, the service has %v", freed, late)
		}
		c.must(t, end("s", 0, 5)...)
		pass(10 * time.Millisecond)
		if n := c.allocated("s"); n != 3 || c.addresses("s", 4) == nil || c.addresses("s", 6) != nil {
			t.Errorf("%d tasks have addresses; the first one waiting %v, the last %v", n, c.addresses("s", 4), c.addresses("s", 6))
		}
		c.must(t, removeService("vip")...)
		pass(10 * time.Millisecond)
		if n := c.allocated("s"); n != 4 {
			t.Errorf("%d tasks have addresses after a VIP was freed", n)
		}
	})
}

func TestAddressesGoRound(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, createNetwork(network("web", "10.1.0.0/28")), createService(service("s", "web")))
		pass(time.Second)
		seen := []string{c.View().Service("s").Endpoint.Vips[0].Addresses[0] + "/28"}
		for i := range 12 {
			c.must(t, tasks("s", i, 1))
			pass(time.Second)
			addr := c.addresses("s", i)[0]
			if slices.Contains(seen, addr) {
				t.Errorf("task %d has %s again", i, addr)
			}
			seen = append(seen, addr)
			c.must(t, end("s", i)...)
		}
	})
}

func TestEndpointsFollowTheSpec(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		endpoint := func() *pb.Endpoint { return c.View().Service("s").Endpoint }
		c.must(t, createNetwork(network("a", "10.1.0.0/24")), createNetwork(network("b", "10.2.0.0/24")), createNode("n1"))
		c.must(t, createService(publish(publish(service("s", "a", "b"), tcp, 8080, 80), udp, 0, 53)))
		pass(time.Second)
		vips := []*pb.VirtualIP{{NetworkId: "a", Addresses: []string{"10.1.0.2"}}, {NetworkId: "b", Addresses: []string{"10.2.0.2"}}}
		ports := publish(publish(service("s"), tcp, 8080, 80), udp, 30000, 53).Task.Ports
		equal(t, "created", endpoint(), &pb.Endpoint{Vips: vips, Ports: ports})

		more := publish(publish(publish(service("s", "b", "a"), udp, 0, 53), udp, 0, 54), tcp, 30000, 443)
		more.Task.Ports[0].Policy = pb.PortConfig_POLICY_LOCAL
		c.must(t, updateService(more))
		pass(time.Second)
		ports = publish(publish(publish(service("s"), udp, 30000, 53), udp, 30001, 54), tcp, 30000, 443).Task.Ports
		ports[0].Policy = pb.PortConfig_POLICY_LOCAL
		equal(t, "updated", endpoint(), &pb.Endpoint{Vips: []*pb.VirtualIP{vips[1], vips[0]}, Ports: ports})

		c.must(t, updateService(service("s", "b")))
		pass(time.Second)
		equal(t, "detached", endpoint(), &pb.Endpoint{Vips: vips[1:]})
		if owner := c.View().AddressOwner("a", netip.MustParseAddr("10.1.0.2")); owner.Service != "" {
			t.Errorf("the address of the network left belongs to %v", owner)
		}
		dnsrr := service("s", "b")
		dnsrr.EndpointMode = pb.EndpointMode_ENDPOINT_MODE_DNSRR
		c.must(t, updateService(dnsrr))
		pass(time.Second)
		if e := endpoint(); e != nil {
			t.Errorf("without VIPs: %v", e)
		}
	})
}

func TestChosenPortsRunOut(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		all := service("all")
		for i := range uint32(2768) {
			publish(all, tcp, 30000+i, 1+i)
		}
		c.must(t, createService(all), createService(publish(service("s"), tcp, 0, 80)))
		pass(time.Second)
		if e := c.View().Service("s").Endpoint; e.GetProblem() != "no published port for port 80 of the tasks: all from 30000 to 32767 are taken" || len(e.Ports) != 0 {
			t.Errorf("with none left: %v", e)
		}
		all = service("all")
		publish(all, tcp, 30000, 1)
		c.must(t, updateService(all))
		pass(time.Second)
		equal(t, "with one free", c.View().Service("s").Endpoint, &pb.Endpoint{Ports: publish(service("s"), tcp, 30001, 80).Task.Ports})
	})
}

func TestNodesAreNumbered(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		number := func(id string) uint32 { return c.View().Node(id).MeshNumber }
		c.must(t, createNode("b"), createNode("a"))
		pass(time.Second)
		if number("a") != 0 {
			t.Error("a number without an ingress network")
		}
		c.must(t, ingressNetwork())
		pass(time.Second)
		c.must(t, createNode("c"))
		pass(time.Second)
		if number("a") != 1 || number("b") != 2 || number("c") != 3 {
			t.Errorf("numbers %d, %d, %d", number("a"), number("b"), number("c"))
		}
		c.must(t, removeNode("b"))
		pass(time.Second)
		c.must(t, createNode("d"), createNode("e"))
		pass(time.Second)
		if number("d") != 2 || number("e") != 4 {
			t.Errorf("numbers %d, %d", number("d"), number("e"))
		}
	})
}

func TestAnIngressNetworkTooSmall(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, ingressNetwork("10.7.0.0/24"))
		for i := range 16 {
			c.must(t, createNode(fmt.Sprintf("n%02d", i)))
		}
		pass(time.Second)
		without := 0
		for n := range c.View().Nodes() {
			if n.MeshNumber == 0 {
				without++
			} else if n.MeshNumber > 14 {
				t.Errorf("number %d in four bits", n.MeshNumber)
			}
		}
		if without != 2 {
			t.Errorf("%d nodes without a number", without)
		}
		if p := c.View().Ingress().Allocation.Problem; p != "published ports do not reach 2 of 16 nodes: the subnet 10.7.0.0/24 has numbers for 14" {
			t.Errorf("the network says %q", p)
		}
		before := c.count()
		pass(time.Hour)
		if after := c.count(); after != before {
			t.Errorf("%d commands while nothing changed", after-before)
		}
		c.must(t, removeNode("n03"), removeNode("n04"))
		pass(time.Second)
		for n := range c.View().Nodes() {
			if n.MeshNumber == 0 {
				t.Errorf("node %s has no number", n.Id)
			}
		}
		if p := c.View().Ingress().Allocation.Problem; p != "" {
			t.Errorf("the network still says %q", p)
		}
	})
}

func TestNetworkKeysAreRenewed(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		keys := func() (epochs []uint64, bytes []byte) {
			for _, k := range c.View().Cluster().NetworkKeys {
				epochs, bytes = append(epochs, k.Epoch), append(bytes, k.Key[31])
			}
			return epochs, bytes
		}
		c.must(t, createNetwork(network("open")))
		pass(24 * time.Hour)
		if epochs, _ := keys(); epochs != nil {
			t.Errorf("keys %v that nobody needs", epochs)
		}
		secret := network("secret")
		secret.Encrypted = true
		c.must(t, createNetwork(secret))
		for i, want := range [][]uint64{{1}, {1, 2}, {2, 3}, {3, 4}} {
			pass(time.Minute)
			if epochs, bytes := keys(); !slices.Equal(epochs, want) || uint64(bytes[len(bytes)-1]) != want[len(want)-1] {
				t.Errorf("after %d lives: %v filled with %v, want %v", i, epochs, bytes, want)
			}
			pass(12*time.Hour - time.Minute)
		}
	})
}

// TestNetworkKeyPeriod: the cluster may say how long a key is used; a shorter time
// counts at once, for the key that is in use.
func TestNetworkKeyPeriod(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		secret := network("secret")
		secret.Encrypted = true
		c.must(t, createNetwork(secret))
		newest := func() uint64 {
			keys := c.View().Cluster().NetworkKeys
			return keys[len(keys)-1].Epoch
		}
		period := func(d time.Duration) {
			spec := proto.CloneOf(c.View().Cluster().Spec)
			spec.NetworkKeyPeriod = durationpb.New(d)
			c.must(t, &pb.Command{Kind: &pb.Command_UpdateClusterSpec{UpdateClusterSpec: &pb.UpdateClusterSpec{Spec: spec}}})
		}
		pass(time.Hour)
		if got := newest(); got != 1 {
			t.Fatalf("key %d after an hour", got)
		}
		period(time.Minute)
		pass(time.Second)
		if got := newest(); got != 2 {
			t.Errorf("key %d when one of an hour is too old", got)
		}
		pass(10 * time.Minute)
		if got := newest(); got != 12 {
			t.Errorf("key %d after ten periods more", got)
		}
		period(24 * time.Hour)
		pass(20 * time.Hour)
		if got := newest(); got != 12 {
			t.Errorf("key %d before its day is over", got)
		}
	})
}

func TestANewLeaderGoesOnWithTheKeys(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		secret := network("secret")
		secret.Encrypted = true
		c.must(t, createNetwork(secret))
		pass(11 * time.Hour)
		stop := c.run(t) // two leaders for a while do no harm either
		defer stop()
		pass(30 * time.Minute)
		if n := len(c.View().Cluster().NetworkKeys); n != 1 {
			t.Errorf("%d keys before the first is old", n)
		}
		pass(time.Hour)
		if n := len(c.View().Cluster().NetworkKeys); n != 2 {
			t.Errorf("%d keys when the first is old", n)
		}
	})
}

func TestLostProposalsAreMadeAgain(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.before(func([]*pb.Command) error { return errors.New("no leader") })
		secret := network("secret", "10.1.0.0/29")
		secret.Encrypted = true
		c.must(t, createNode("n1"), ingressNetwork(), createNetwork(secret), createService(publish(service("s", "secret"), tcp, 0, 80)), tasks("s", 0, 4))
		pass(time.Minute)
		if n := c.count(); n > 5*610 {
			t.Errorf("%d commands in a minute without a leader", n)
		}
		c.before(nil)
		pass(time.Second)
		// Once more, when only addresses are missing.
		c.must(t, end("s", 0, 1)...)
		c.before(func([]*pb.Command) error { return errors.New("no leader") })
		c.must(t, tasks("s", 4, 2))
		pass(time.Second)
		c.before(nil)
		pass(time.Second)
		v := c.View()
		if n := c.allocated("s"); n != 4 || len(v.Cluster().NetworkKeys) != 1 || v.Node("n1").MeshNumber != 1 || v.Service("s").Endpoint.GetPorts()[0].Published != 30000 {
			t.Errorf("%d tasks, keys %v, number %d, endpoint %v", n, v.Cluster().NetworkKeys, v.Node("n1").MeshNumber, v.Service("s").Endpoint)
		}
	})
}

func TestANewLeaderReadsWhatIsGiven(t *testing.T) {
	start(t, func(t *testing.T, c *cluster) {
		c.must(t, createNetwork(network("web", "10.1.0.0/29")), createService(service("s", "web")), tasks("s", 0, 2))
		pass(time.Second)
		second := c.run(t)
		defer second()
		pass(time.Second)
		c.must(t, tasks("s", 2, 4), createNetwork(network("other")))
		pass(time.Second)
		held := map[string]bool{}
		for i := range 6 {
			for _, a := range c.addresses("s", i) {
				held[a] = true
			}
		}
		if len(held) != 4 || c.allocated("s") != 4 {
			t.Errorf("%d tasks hold %v", c.allocated("s"), held)
		}
		c.must(t, end("s", 0, 1, 2, 3, 4, 5)...)
		pass(time.Second)
		c.must(t, tasks("s", 6, 5))
		pass(time.Second)
		if n := c.allocated("s"); n != 4 {
			t.Errorf("%d of 4 addresses are given after all came back", n)
		}
	})
}
