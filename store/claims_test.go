package store_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// holdings are the slow oracle of what only one may have: read from the objects.
type holdings struct {
	*rapid.T
	addresses map[string]map[netip.Addr]store.Owner
	ports     map[string][]string // by protocol and port, the services
	ingress   map[string]string   // the same, the one that publishes on all nodes
}

func (h *holdings) hold(network string, texts []string, owner store.Owner) {
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if p, perr := netip.ParsePrefix(text); perr == nil {
			addr, err = p.Addr(), nil
		}
		if err != nil {
			continue
		}
		if h.addresses[network] == nil {
			h.addresses[network] = map[netip.Addr]store.Owner{}
		}
		if other, held := h.addresses[network][addr]; held && other != owner {
			h.Fatalf("%v in %s is held by %v and %v", addr, network, other, owner)
		}
		h.addresses[network][addr] = owner
	}
}

func (h *holdings) publish(s *pb.Service, p *pb.PortConfig) {
	key := fmt.Sprint(store.Protocol(p), p.Published)
	if p.Published == 0 {
		return
	}
	if !slices.Contains(h.ports[key], s.Id) {
		h.ports[key] = append(h.ports[key], s.Id)
	}
	if store.Ingress(p) {
		h.ingress[key] = s.Id
	}
	if h.ingress[key] != "" && len(h.ports[key]) > 1 {
		h.Fatalf("port %s is published by %v", key, h.ports[key])
	}
}

// checkClaims compares the indexes of what is given with all objects, and
// checks that nothing was given twice.
func checkClaims(t *rapid.T, v store.View) {
	h := &holdings{t, map[string]map[netip.Addr]store.Owner{}, map[string][]string{}, map[string]string{}}
	for task := range v.Tasks() {
		if task.Status.State <= running {
			for _, a := range task.Addresses {
				h.hold(a.NetworkId, a.Addresses, store.Owner{Task: task.Id})
			}
		}
		if networks := store.TaskSpec(v.Service(task.ServiceId), task.SpecVersion).GetNetworks(); task.Status.State <= running &&
			(task.Status.State == 0) != (len(networks) > 0 && len(task.Addresses) == 0) {
			t.Fatalf("task %v, with networks %v", task, networks)
		}
	}
	for s := range v.Services() {
		for _, vip := range s.Endpoint.GetVips() {
			h.hold(vip.NetworkId, vip.Addresses, store.Owner{Service: s.Id})
		}
		for _, p := range slices.Concat(s.Spec.Task.Ports, s.Endpoint.GetPorts()) {
			h.publish(s, p)
		}
	}
	for _, network := range []string{"w1", "w2", "w3"} {
		if got := maps.Collect(v.Addresses(network)); !maps.Equal(got, h.addresses[network]) {
			t.Fatalf("%s: held are %v, want %v", network, got, h.addresses[network])
		}
	}
	h.checkPorts(v)
	checkNetworks(t, v)
}

func (h *holdings) checkPorts(v store.View) {
	for _, protocol := range []pb.PortConfig_Protocol{pb.PortConfig_PROTOCOL_TCP, pb.PortConfig_PROTOCOL_UDP} {
		for _, port := range []uint32{80, 81, 30000} {
			key := fmt.Sprint(protocol, port)
			if owner := v.PortOwner(protocol, port); owner == nil != (len(h.ports[key]) == 0) || owner != nil && !slices.Contains(h.ports[key], owner.Id) {
				h.Fatalf("port %s belongs to %v, want %v", key, owner, h.ports[key])
			}
		}
	}
}

// checkNetworks compares what networks hold, and who is on them.
func checkNetworks(t *rapid.T, v store.View) {
	subnets, vnis := map[netip.Prefix]string{}, map[uint32]string{}
	ingress := 0
	for n := range v.Networks() {
		if v.NetworkByName(n.Spec.Name) != n {
			t.Fatalf("network %s has another name", n.Id)
		}
		for _, p := range slices.Concat(n.Spec.Pools, n.Allocation.GetPools()) {
			subnet := netip.MustParsePrefix(p.Subnet)
			for other, holder := range subnets {
				if other.Overlaps(subnet) && other != subnet || other == subnet && holder != n.Id {
					t.Fatalf("%v of %s and %v of %s overlap", other, holder, subnet, n.Id)
				}
			}
			subnets[subnet] = n.Id
		}
		if vni := max(n.Allocation.GetVni(), n.Spec.Vni); n.Allocation.GetVni() == 0 || n.Spec.Vni == 0 {
			if vni != 0 && vnis[vni] != "" {
				t.Fatalf("%s and %s have VNI %d", n.Id, vnis[vni], vni)
			}
			vnis[vni] = n.Id
		}
		if n.Spec.Ingress {
			ingress++
		}
	}
	if ingress > 1 || (v.Ingress() != nil) != (ingress == 1) {
		t.Fatalf("%d ingress networks, found %v", ingress, v.Ingress())
	}
	for _, text := range []string{"10.0.0.0/29", "10.0.0.0/30", "10.0.0.8/29", "10.0.0.0/8", "fd00::/64", "fd00::/8"} {
		asked, want := netip.MustParsePrefix(text), false
		for subnet := range subnets {
			want = want || subnet.Overlaps(asked)
		}
		if (v.Overlapping(asked) != nil) != want {
			t.Fatalf("%v overlaps %v, of %v", asked, v.Overlapping(asked), subnets)
		}
	}
	numbers := map[uint32]string{}
	for n := range v.Nodes() {
		if n.MeshNumber != 0 && (numbers[n.MeshNumber] != "" || v.NodeByNumber(n.MeshNumber) != n) {
			t.Fatalf("nodes %s and %s have number %d", n.Id, numbers[n.MeshNumber], n.MeshNumber)
		}
		numbers[n.MeshNumber] = n.Id
	}
	for s := range v.Services() {
		for _, a := range s.Spec.Task.Networks {
			if v.Network(a.NetworkId) == nil || !slices.Contains(ids(v.ServicesByNetwork(a.NetworkId)), s.Id) {
				t.Fatalf("service %s is on network %s, which does not know", s.Id, a.NetworkId)
			}
		}
	}
}
