package allocator

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// world is a store and a book that hears of it late, with proposals that take
// their time, come out of order or get lost.
type world struct {
	*rapid.T
	state *store.State
	watch *store.Watch
	index uint64
	book  *book
	now   time.Time
	// proposed commands are not applied, decided ones not settled yet.
	proposed, decided []*pb.Command
	marks             int
}

func newWorld(t *rapid.T) *world {
	w := &world{T: t, state: store.New(), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	w.apply(&pb.Command{Kind: &pb.Command_CreateCluster{CreateCluster: &pb.CreateCluster{Cluster: &pb.Cluster{Id: "c",
		Spec: &pb.ClusterSpec{Name: "default", DefaultAddressPools: []string{"10.0.0.0/27", "10.8.0.0/28"}, SubnetMaskLength: 28}}}}})
	var view store.View
	view, w.watch = w.state.ViewAndWatch()
	w.book = newBook(view)
	return w
}

func (w *world) apply(cmds ...*pb.Command) {
	w.index++
	w.state.Apply(w.index, &pb.Entry{Commands: cmds, At: timestamppb.New(w.now)})
}

// hear lets the book observe all that has happened.
func (w *world) hear() {
	w.marks++ // so that there is something to hear
	w.apply(&pb.Command{Kind: &pb.Command_CreateSecret{CreateSecret: &pb.CreateSecret{Id: fmt.Sprint(w.marks), Spec: &pb.SecretSpec{Name: fmt.Sprint(w.marks)}}}})
	changes, err := w.watch.Next(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	w.book.observe(changes)
}

func (w *world) pass() {
	w.book.pass(w.state.View(), w.now, func(b []byte) { b[0] = 1 }, func(c *pb.Command) { w.proposed = append(w.proposed, c) })
}

func (w *world) decide(i int, lost bool) {
	c := w.proposed[i]
	w.proposed = slices.Delete(w.proposed, i, i+1)
	if !lost {
		w.apply(proto.CloneOf(c))
	}
	w.decided = append(w.decided, c)
}

func (w *world) settle(i int) {
	c := w.decided[i]
	w.decided = slices.Delete(w.decided, i, i+1)
	w.book.settle(w.state.View(), c)
}

// draw is a number below n; unlike IntRange, as often a large one as a small one.
func (w *world) draw(what string, n int) int {
	return rapid.SampledFrom([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24}[:n]).Draw(w.T, what)
}

func (w *world) id(kind string, n int) string { return fmt.Sprint(kind, w.draw(kind, n)) }

// user draws what happens outside of the allocator.
func (w *world) user() *pb.Command {
	task := w.id("t", 25)
	states := []pb.TaskState{pb.TaskState_TASK_STATE_READY, pb.TaskState_TASK_STATE_RUNNING, pb.TaskState_TASK_STATE_SHUTDOWN, pb.TaskState_TASK_STATE_REMOVE}
	switch w.draw("command", 13) {
	case 0:
		return &pb.Command{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: &pb.Node{Id: w.id("n", 5), Spec: &pb.NodeSpec{},
			Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_READY}}}}}
	case 1:
		routes := [][]string{nil, {"10.0.0.0/28"}, {"10.0.0.16/29", "10.8.0.0/24"}, {"10.0.0.0/28", "0.0.0.0/0"}, {"10.9.0.0/16"}}
		return &pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{Id: w.id("n", 5),
			Description: &pb.NodeDescription{Routes: routes[w.draw("routes", len(routes))]}}}}
	case 2:
		return &pb.Command{Kind: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Id: w.id("n", 5), Force: true}}}
	case 3:
		return w.createNetwork()
	case 4:
		return &pb.Command{Kind: &pb.Command_RemoveNetwork{RemoveNetwork: &pb.RemoveNetwork{Id: w.id("w", 4)}}}
	case 5:
		s := w.service()
		return &pb.Command{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: s.Name, Spec: s}}}
	case 6:
		s := w.service()
		return &pb.Command{Kind: &pb.Command_UpdateServiceSpec{UpdateServiceSpec: &pb.UpdateServiceSpec{Id: s.Name, Spec: s}}}
	case 7:
		return &pb.Command{Kind: &pb.Command_RemoveService{RemoveService: &pb.RemoveService{Id: w.id("s", 3)}}}
	case 8:
		return &pb.Command{Kind: &pb.Command_DeleteService{DeleteService: &pb.DeleteService{Id: w.id("s", 3)}}}
	case 9:
		return &pb.Command{Kind: &pb.Command_DeleteTasks{DeleteTasks: &pb.DeleteTasks{Ids: []string{task, w.id("t", 25), w.id("t", 25)}}}}
	case 10:
		return &pb.Command{Kind: &pb.Command_SetDesired{SetDesired: &pb.SetDesired{Tasks: []*pb.TaskDesired{{Id: task, State: states[w.draw("state", 4)]}}}}}
	}
	create := &pb.CreateTasks{}
	service := w.id("s", 3)
	for range 6 {
		create.Tasks = append(create.Tasks, &pb.Task{Id: w.id("t", 25), ServiceId: service, Slot: 1,
			SpecVersion: w.state.View().Service(service).GetSpecVersion(), DesiredState: pb.TaskState_TASK_STATE_RUNNING})
	}
	return &pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: create}}
}

func (w *world) createNetwork() *pb.Command {
	s := &pb.NetworkSpec{Name: w.id("w", 4), Ipv6: w.draw("six", 3) == 0, Encrypted: w.draw("encrypted", 3) == 0}
	switch w.draw("kind", 4) {
	case 0:
		s.Ingress = true
		if w.draw("own", 2) == 0 {
			s.Pools = []*pb.AddressPool{{Subnet: "10.7.0.0/24"}}
		}
	case 1:
		s.Pools = []*pb.AddressPool{{Subnet: []string{"10.0.0.0/29", "10.0.0.8/29", "10.9.0.0/30"}[w.draw("subnet", 3)]}}
	case 2:
		s.Driver = pb.NetworkSpec_DRIVER_BRIDGE
	}
	return &pb.Command{Kind: &pb.Command_CreateNetwork{CreateNetwork: &pb.CreateNetwork{Id: s.Name, Spec: s}}}
}

func (w *world) service() *pb.ServiceSpec {
	s := &pb.ServiceSpec{Name: w.id("s", 3), Task: &pb.TaskSpec{ForceUpdate: uint64(w.draw("force", 2))}, Mode: &pb.ServiceSpec_Replicated{}}
	for n := range w.state.View().Networks() {
		if !n.Spec.Ingress && w.draw("attached", 2) == 0 {
			s.Task.Networks = append(s.Task.Networks, &pb.NetworkAttachment{NetworkId: n.Id})
		}
	}
	for range w.draw("ports", 3) {
		published := []uint32{0, 0, 80, 30000, 30001}[w.draw("published", 5)]
		s.Task.Ports = append(s.Task.Ports, &pb.PortConfig{Published: published, Target: uint32(w.draw("target", 3) + 1)})
	}
	s.EndpointMode = pb.EndpointMode(w.draw("mode", 3))
	return s
}

func (w *world) step() {
	switch w.draw("step", 9) {
	case 0:
		w.hear()
	case 1:
		w.pass()
	case 2, 3:
		if len(w.proposed) > 0 {
			w.decide(w.draw("which", min(25, len(w.proposed))), w.draw("lost", 6) == 0)
		}
	case 4:
		if len(w.decided) > 0 {
			w.settle(w.draw("which", min(25, len(w.decided))))
		}
	case 5:
		w.now = w.now.Add(time.Hour)
	default:
		w.apply(w.user(), w.user())
	}
}

// rest lets everything in flight come to its end, until nothing is left to do.
func (w *world) rest() {
	for range 60 {
		w.hear()
		w.pass()
		if len(w.proposed) == 0 && len(w.decided) == 0 {
			return
		}
		for len(w.proposed) > 0 {
			w.decide(0, false)
		}
		for len(w.decided) > 0 {
			w.settle(0)
		}
	}
	w.Fatalf("it does not come to rest: still proposes %v", w.proposed)
}

// However late the news and whatever gets lost: in the end the book is what
// one read afresh would be, and nothing waits for what is there.
func TestTheBookIsRightInTheEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(20, 300).Draw(t, "steps") {
			w.step()
		}
		w.rest()
		v := w.state.View()
		w.compare(newBook(v))
		w.complete(v)
		w.distinct(v)
	})
}

func (w *world) compare(fresh *book) {
	if len(w.book.networks) != len(fresh.networks) || len(w.book.chosen) != 0 || len(w.book.flying) != 0 {
		w.Fatalf("book has %d networks, %v chosen, %v in flight; there are %d", len(w.book.networks), w.book.chosen, w.book.flying, len(fresh.networks))
	}
	for id, want := range fresh.networks {
		got := w.book.networks[id]
		if len(got.pools) != len(want.pools) || !slices.Equal(got.held, want.held) {
			w.Fatalf("network %s has %d pools and %v, should have %d and %v", id, len(got.pools), got.held, len(want.pools), want.held)
		}
		for i, p := range want.pools {
			for at := p.first; at < p.end && at-p.first < 300; at++ {
				if got.pools[i].has(at) != p.has(at) {
					w.Fatalf("network %s: %v counts as used: %v", id, addrAt(p.subnet, at), got.pools[i].has(at))
				}
			}
		}
	}
	if !slices.Equal(w.book.subnets.all(), fresh.subnets.all()) || !slices.Equal(w.book.routes.all(), fresh.routes.all()) {
		w.Fatalf("subnets %v, should be %v; routes %v, should be %v", w.book.subnets.all(), fresh.subnets.all(), w.book.routes.all(), fresh.routes.all())
	}
}

// complete checks that what has not all that it should says why, and that the
// reason is true.
func (w *world) complete(v store.View) {
	for n := range v.Networks() {
		if len(n.Allocation.GetPools()) == 0 && n.Allocation.GetProblem() == "" {
			w.Fatalf("network %v has neither subnet nor problem", n)
		}
	}
	for t := range v.Tasks() {
		if t.Status.State == pb.TaskState_TASK_STATE_NEW && t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING &&
			(!w.lacking(store.TaskSpec(v.Service(t.ServiceId), t.SpecVersion)) || t.Status.Message == "waiting for its addresses") {
			w.Fatalf("task %v waits for nothing", t)
		}
	}
	for s := range v.Services() {
		if s.Removing {
			continue
		}
		vips, ports := len(s.Spec.Task.Networks), len(s.Spec.Task.Ports)
		if s.Spec.EndpointMode == pb.EndpointMode_ENDPOINT_MODE_DNSRR {
			vips = 0
		}
		done := len(s.Endpoint.GetVips()) == vips && len(s.Endpoint.GetPorts()) == ports
		if done != (s.Endpoint.GetProblem() == "") || !done && !w.lacking(s.Spec.Task) {
			w.Fatalf("service %v is not complete", s)
		}
	}
	limit := int(numbers(v.Ingress().GetAllocation()))
	numbered, nodes := 0, 0
	for n := range v.Nodes() {
		nodes++
		if n.MeshNumber != 0 {
			numbered++
		}
	}
	if limit > 0 && numbered != min(nodes, limit) {
		w.Fatalf("%d of %d nodes have numbers, there are %d", numbered, nodes, limit)
	}
}

// lacking tells whether any of a spec's networks has no address to give.
func (w *world) lacking(spec *pb.TaskSpec) bool {
	return slices.ContainsFunc(spec.GetNetworks(), func(a *pb.NetworkAttachment) bool {
		n := w.book.networks[a.NetworkId]
		return len(n.pools) == 0 || n.full() != nil
	})
}

// distinct checks that nothing was given twice.
func (w *world) distinct(v store.View) {
	holders := map[string]string{}
	give := func(what, to string) {
		if other := holders[what]; other != "" && other != to {
			w.Fatalf("%s was given to %s and %s", what, other, to)
		}
		holders[what] = to
	}
	for t := range v.Tasks() {
		for _, a := range store.TaskAddresses(t) {
			for _, addr := range a.Addresses {
				give(fmt.Sprint(a.NetworkId, readAddr(addr)), t.Id)
			}
		}
	}
	for s := range v.Services() {
		for _, vip := range s.Endpoint.GetVips() {
			for _, addr := range vip.Addresses {
				give(fmt.Sprint(vip.NetworkId, readAddr(addr)), s.Id)
			}
		}
		for _, p := range s.Endpoint.GetPorts() {
			give(fmt.Sprint(store.Protocol(p), p.Published), s.Id)
		}
	}
}
