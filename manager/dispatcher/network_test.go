package dispatcher

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// network makes one that is ready for use.
func (r *rig) network(id string, octet int) {
	r.t.Helper()
	r.apply(&pb.Command{Kind: &pb.Command_CreateNetwork{CreateNetwork: &pb.CreateNetwork{Id: id, Spec: &pb.NetworkSpec{Name: id}}}},
		&pb.Command{Kind: &pb.Command_AllocateNetwork{AllocateNetwork: &pb.AllocateNetwork{Id: id, Allocation: &pb.NetworkAllocation{
			Vni: 4096 + uint32(octet), Pools: []*pb.AddressPool{{Subnet: fmt.Sprintf("10.%d.0.0/16", octet)}},
		}}}})
}

// connected makes a service on a network, with this virtual address.
func (r *rig) connected(id, network, vip string) {
	r.t.Helper()
	r.apply(&pb.Command{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: id, Spec: &pb.ServiceSpec{
		Name: id, Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: 1}},
		Task: &pb.TaskSpec{Container: &pb.ContainerSpec{}, Networks: []*pb.NetworkAttachment{{NetworkId: network}}},
	}}}}, &pb.Command{Kind: &pb.Command_AllocateService{AllocateService: &pb.AllocateService{Id: id, Endpoint: &pb.Endpoint{
		Vips: []*pb.VirtualIP{{NetworkId: network, Addresses: []string{vip}}},
	}}}})
}

// running makes a task with an address and lets it run.
func (r *rig) running(id, service, node, network, addr string) {
	r.t.Helper()
	r.apply(&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
		Id: id, ServiceId: service, SpecVersion: 1, Slot: 1, DesiredState: running,
	}}}}}, &pb.Command{Kind: &pb.Command_AllocateTasks{AllocateTasks: &pb.AllocateTasks{Tasks: []*pb.TaskAllocation{{
		Id: id, Addresses: []*pb.TaskAddress{{NetworkId: network, Addresses: []string{addr + "/16"}}},
	}}}}}, &pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{{Id: id, NodeId: node}}}}})
	r.status(id, node, running)
}

func (r *rig) status(id, node string, state pb.TaskState) {
	r.t.Helper()
	r.apply(&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{
		NodeId: node, Reports: []*pb.TaskStatusReport{{Id: id, Status: &pb.TaskStatus{State: state}}},
	}}})
}

// diff returns the next diff: what is put, less tasks and specs, and what goes.
func (a *agent) diff() []string {
	a.r.t.Helper()
	m := a.next()
	for m.GetDiff() == nil {
		m = a.next()
	}
	return slices.Concat(connections(m.GetDiff().Put), keys(m.GetDiff().Remove))
}

// connections are the names of network items, in order.
func connections(items []*pb.Assignment) []string {
	return slices.Sorted(slices.Values(slices.DeleteFunc(names(items), func(name string) bool {
		return strings.HasPrefix(name, "task/") || strings.HasPrefix(name, "spec/")
	})))
}

func TestNodesHearOfTheNetworksOfTheirTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3)
		r.network("net", 1)
		r.connected("web", "net", "10.1.0.2")
		r.running("t1", "web", "n1", "net", "10.1.0.3")
		first, second, third := r.open("n1"), r.open("n2"), r.open("n3")
		wantNames(t, "set of a node with a task", connections(first.greeted().Items),
			"endpoint/t1@net=web 1 n1 [10.1.0.3] true", "network/net=net 10.1.0.0/16 0", "service/web@net=web [] [10.1.0.2] 0")
		wantNames(t, "set of a node without", connections(second.greeted().Items))
		third.greeted()

		r.running("t2", "web", "n2", "net", "10.1.0.4")
		wantNames(t, "first task of a node", second.diff(),
			"endpoint/t1@net=web 1 n1 [10.1.0.3] true", "endpoint/t2@net=web 1 n2 [10.1.0.4] true",
			"network/net=net 10.1.0.0/16 0", "service/web@net=web [] [10.1.0.2] 0")
		time.Sleep(time.Second)
		for got := first.diff(); !slices.Equal(got, []string{"endpoint/t2@net=web 1 n2 [10.1.0.4] true"}); got = first.diff() {
		}

		r.desire("t2", shutdown)
		wantNames(t, "shutdown, elsewhere", first.diff(), "endpoint/t2@net=web 1 n2 [10.1.0.4] false")
		wantNames(t, "shutdown, on its node", second.diff(), "endpoint/t2@net=web 1 n2 [10.1.0.4] false")
		r.status("t2", "n2", shutdown)
		wantNames(t, "end, elsewhere", first.diff(), "endpoint/t2@net")
		wantNames(t, "end, on its node", second.diff(),
			"endpoint/t1@net", "endpoint/t2@net", "network/net", "service/web@net", "spec/web@1")

		r.desire("t1", shutdown)
		r.running("t9", "web", "n3", "net", "10.1.0.9")
		if got := third.diff(); !slices.Contains(got, "endpoint/t1@net=web 1 n1 [10.1.0.3] false") {
			t.Errorf("the first diff of n3 is %v: it heard of what does not concern it", got)
		}
	})
}

// An address may be another task's at once: what goes is told before what comes.
func TestNetworkItemsGoFirst(t *testing.T) {
	a := &assignments{node: "n1"}
	w := newWorld()
	a.full(w.state.View(), nil)
	network := []*change{{key: endpointKey("old", "net"), had: true}}
	for i := range 2 {
		spec := &pb.NetworkSpec{Name: strings.Repeat("x", maxDiff)}
		network = append(network, &change{key: networkKey(fmt.Sprint(i)), put: &pb.Assignment{Kind: &pb.Assignment_Network{Network: &pb.AssignedNetwork{Spec: spec}}}})
	}
	diffs := a.update(w.state.View(), nil, network)
	if len(diffs) != 2 {
		t.Fatalf("%d diffs", len(diffs))
	}
	wantNames(t, "first", keys(diffs[0].Remove), "endpoint/old@net")
	wantNames(t, "last", keys(diffs[1].Remove))
}

// A session whose agent takes nothing keeps no more than there is.
func TestUnreadChangesAreBounded(t *testing.T) {
	s := newSession("n1", "", nil)
	item := &pb.Assignment{}
	for i := range 10 * maxDirty {
		s.hear([]*change{{key: networkKey(fmt.Sprint(i % 10)), had: i >= 10, put: item}})
	}
	if n := len(s.take().items); n > maxDirty {
		t.Errorf("%d changes are kept of 10 items", n)
	}
}
