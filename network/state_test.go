package network

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/minid/minid/network/dns"
	"github.com/minid/minid/network/mesh"
	"github.com/minid/minid/network/overlay"
	"github.com/minid/minid/network/vip"
	pb "github.com/minid/minid/proto/minid/v1"
)

var byAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// data is what the parts of the data path have been told: a kernel made of maps.
type data struct {
	remotes map[string]map[string]overlay.Remote
	vips    map[string]vip.Wanted
	zones   map[string]map[string]dns.Service
	ports   map[mesh.Published]mesh.Service
}

// whole is what a node that starts now would make.
func whole(s *State) data {
	d := data{remotes: map[string]map[string]overlay.Remote{}, vips: map[string]vip.Wanted{}, zones: s.Zones(), ports: map[mesh.Published]mesh.Service{}}
	for id, seg := range s.networks {
		if len(seg.locals) == 0 {
			continue
		}
		d.remotes[id] = s.remotes(seg)
		d.vips[id] = vip.Wanted{}
		for service := range seg.services {
			s.balance(seg, service, d.vips[id])
		}
	}
	for service := range s.published {
		s.publish(service, d.ports)
	}
	return d
}

// follow does what the engine does with what changed.
func (d *data) follow(s *State) {
	dirty := s.Take()
	c := s.changes(dirty)
	if dirty.Resync {
		*d = whole(s)
		return
	}
	for id, r := range c.remotes {
		if d.remotes[id] == nil {
			continue // made whole below
		}
		for task, to := range r.put {
			d.remotes[id][task] = to
		}
		for _, task := range r.remove {
			delete(d.remotes[id], task)
		}
	}
	for id, v := range c.balances {
		if d.vips[id] == nil {
			continue
		}
		for addr, to := range v.put {
			d.vips[id][addr] = to
		}
		for _, addr := range v.remove {
			delete(d.vips[id], addr)
		}
	}
	for id, z := range c.zones {
		if d.zones[id] == nil {
			continue
		}
		for _, service := range z.put {
			d.zones[id][service.ID] = service
		}
		for _, service := range z.remove {
			delete(d.zones[id], service)
		}
	}
	for port, to := range c.ports.put {
		d.ports[port] = to
	}
	for _, port := range c.ports.remove {
		delete(d.ports, port)
	}
	// Networks that a task here was the first or last on.
	fresh := whole(s)
	for id := range fresh.remotes {
		if d.remotes[id] == nil {
			d.remotes[id], d.vips[id], d.zones[id] = fresh.remotes[id], fresh.vips[id], fresh.zones[id]
		}
	}
	for id := range d.remotes {
		if fresh.remotes[id] == nil {
			delete(d.remotes, id)
			delete(d.vips, id)
			delete(d.zones, id)
		}
	}
}

// draw makes one thing that the managers may say, out of few names so that
// things meet.
func draw(t *rapid.T) *pb.Assignment {
	pick := func(kind string, n int) string { return fmt.Sprint(kind, rapid.IntRange(0, n-1).Draw(t, kind)) }
	node, network, service, n := pick("n", 3), pick("net", 3), pick("s", 4), rapid.IntRange(0, 7).Draw(t, "task")
	task := fmt.Sprint("t", n)
	switch rapid.IntRange(0, 6).Draw(t, "what") {
	case 0:
		return &pb.Assignment{Kind: &pb.Assignment_Network{Network: segmentOf(network, rapid.Bool().Draw(t, "encrypted"))}}
	case 1:
		v := &pb.NetworkService{ServiceId: service, NetworkId: network, Name: service}
		if rapid.Bool().Draw(t, "vip") {
			v.Vips = []string{fmt.Sprintf("10.0.%s.%s%d", network[3:], "1"+service[1:], rapid.IntRange(0, 5).Draw(t, "address"))}
		}
		return &pb.Assignment{Kind: &pb.Assignment_Service{Service: v}}
	case 2:
		place := rapid.SampledFrom(addressesOf(n)).Draw(t, "place")
		return &pb.Assignment{Kind: &pb.Assignment_Endpoint{Endpoint: &pb.NetworkEndpoint{
			TaskId: task, NetworkId: place.NetworkId, ServiceId: fmt.Sprint("s", n%4), NodeId: fmt.Sprint("n", n%3),
			Addresses: addrTexts(place), Serving: rapid.Bool().Draw(t, "serving"),
		}}}
	case 3:
		return &pb.Assignment{Kind: &pb.Assignment_Peer{Peer: peerOf(node)}}
	case 4:
		return &pb.Assignment{Kind: &pb.Assignment_Published{Published: &pb.PublishedService{
			ServiceId: service, Ports: []*pb.PortConfig{{Target: 80, Published: 8000 + 10*uint32(service[1]) + uint32(rapid.IntRange(0, 3).Draw(t, "port"))}},
		}}}
	case 5:
		return &pb.Assignment{Kind: &pb.Assignment_Backend{Backend: &pb.PublishedBackend{
			ServiceId: service, NodeId: node, Serving: uint32(rapid.IntRange(0, 3).Draw(t, "serving tasks")),
		}}}
	}
	return &pb.Assignment{Kind: &pb.Assignment_Task{Task: &pb.AssignedTask{
		Id: task, ServiceId: fmt.Sprint("s", n%4), Serving: rapid.Bool().Draw(t, "serving"), Addresses: addressesOf(n),
	}}}
}

func segmentOf(id string, encrypted bool) *pb.AssignedNetwork {
	return &pb.AssignedNetwork{Id: id, Spec: &pb.NetworkSpec{Name: id, Encrypted: encrypted}, Allocation: &pb.NetworkAllocation{Vni: 4096 + uint32(id[3]-'0')}}
}

func peerOf(node string) *pb.NetworkPeer {
	number := uint32(node[1]-'0') + 1
	return &pb.NetworkPeer{NodeId: node, Name: node, DataPathAddr: fmt.Sprintf("192.0.2.%d", number), MeshNumber: number, DataPathMtu: 1500}
}

// addressesOf puts task n on networks n%3 and, every second one, on the next too.
func addressesOf(n int) []*pb.TaskAddress {
	out := []*pb.TaskAddress{{NetworkId: fmt.Sprint("net", n%3), Addresses: []string{fmt.Sprintf("10.0.%d.%d/24", n%3, n+2)}}}
	if n%2 == 0 {
		out = append(out, &pb.TaskAddress{NetworkId: fmt.Sprint("net", (n+1)%3), Addresses: []string{fmt.Sprintf("10.0.%d.%d/24", (n+1)%3, n+2)}})
	}
	return out
}

func addrTexts(place *pb.TaskAddress) (out []string) {
	for _, p := range parsePrefixes(place.Addresses) {
		out = append(out, p.Addr().String())
	}
	return out
}

func localOf(n int) *Local {
	return &Local{
		TaskNetwork: &pb.TaskNetwork{TaskId: fmt.Sprint("t", n), ServiceId: fmt.Sprint("s", n%4), Addresses: addressesOf(n)},
		Netns:       fmt.Sprint("/run/", n), Address: netip.AddrFrom4([4]byte{172, 30, 0, byte(n + 2)}),
	}
}

func keyOf(item *pb.Assignment) *pb.AssignmentKey {
	switch k := item.GetKind().(type) {
	case *pb.Assignment_Network:
		return &pb.AssignmentKey{Kind: pb.ItemKind_ITEM_KIND_NETWORK, Id: k.Network.Id}
	case *pb.Assignment_Service:
		return &pb.AssignmentKey{Kind: pb.ItemKind_ITEM_KIND_SERVICE, Id: k.Service.ServiceId + "@" + k.Service.NetworkId}
	case *pb.Assignment_Endpoint:
		return &pb.AssignmentKey{Kind: pb.ItemKind_ITEM_KIND_ENDPOINT, Id: k.Endpoint.TaskId + "@" + k.Endpoint.NetworkId}
	case *pb.Assignment_Peer:
		return &pb.AssignmentKey{Kind: pb.ItemKind_ITEM_KIND_PEER, Id: k.Peer.NodeId}
	case *pb.Assignment_Published:
		return &pb.AssignmentKey{Kind: pb.ItemKind_ITEM_KIND_PUBLISHED, Id: k.Published.ServiceId}
	case *pb.Assignment_Backend:
		return &pb.AssignmentKey{Kind: pb.ItemKind_ITEM_KIND_BACKEND, Id: k.Backend.ServiceId + "@" + k.Backend.NodeId}
	}
	return &pb.AssignmentKey{Kind: pb.ItemKind_ITEM_KIND_TASK, Id: item.GetTask().GetId()}
}

// TestChangesAddUp: whatever is said and done in whatever order, what the parts
// were told piece by piece is what a fresh node would be told at once.
func TestChangesAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewState("n0")
		s.Take()
		said := map[string]*pb.Assignment{}
		d := whole(s)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			for range rapid.IntRange(1, 3).Draw(t, "batch") {
				step(t, s, said)
			}
			d.follow(s)
			if diff := cmp.Diff(whole(s), d, cmp.AllowUnexported(data{}), byAddr); diff != "" {
				t.Fatalf("piece by piece differs from the whole (-whole +pieces):\n%s", diff)
			}
		}
		again := NewState("n0")
		for id, l := range s.Locals() {
			saved := *l
			saved.Withdrawn = s.withdrawn[id]
			again.Attach(&saved)
		}
		for id := range s.withdrawn { // detached ones are known to no disk, but not for long
			again.withdrawn[id] = true
		}
		var items []*pb.Assignment
		for _, item := range said {
			items = append(items, item)
		}
		again.Replace(items)
		s.Replace(items)
		if diff := cmp.Diff(whole(again), whole(s), cmp.AllowUnexported(data{}), byAddr); diff != "" {
			t.Fatalf("a restarted node differs (-restarted +this):\n%s", diff)
		}
	})
}

func step(t *rapid.T, s *State, said map[string]*pb.Assignment) {
	task := rapid.IntRange(0, 7).Draw(t, "local task")
	switch rapid.IntRange(0, 10).Draw(t, "step") {
	case 0:
		if s.Local(fmt.Sprint("t", task)) == nil && task%3 == 0 { // those of node n0
			s.Attach(localOf(task))
		}
	case 1:
		s.Detach(fmt.Sprint("t", task))
	case 2:
		s.Withdraw(fmt.Sprint("t", task))
	case 3:
		s.Serve(fmt.Sprint("t", task))
		if rapid.Bool().Draw(t, "well again") {
			s.Readmit(fmt.Sprint("t", task))
		}
	case 4, 5:
		if len(said) == 0 {
			return
		}
		keys := make([]string, 0, len(said))
		for k := range said {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		k := rapid.SampledFrom(keys).Draw(t, "forgotten")
		s.Remove(keyOf(said[k]))
		delete(said, k)
	default:
		item := draw(t)
		s.Put(item)
		said[keyOf(item).String()] = item
	}
}
