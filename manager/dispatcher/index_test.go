package dispatcher

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// networkName is a network item as KIND/ID=CONTENT.
func networkName(i *pb.Assignment) string {
	switch k := i.Kind.(type) {
	case *pb.Assignment_Network:
		n := k.Network
		return fmt.Sprintf("network/%s=%s %s %d", n.Id, n.Spec.Name, n.Allocation.Pools[0].Subnet, n.DataPathPort)
	case *pb.Assignment_Service:
		s := k.Service
		return fmt.Sprintf("service/%s@%s=%s %v %v %d", s.ServiceId, s.NetworkId, s.Name, s.Aliases, s.Vips, len(s.Ports))
	case *pb.Assignment_Endpoint:
		e := k.Endpoint
		return fmt.Sprintf("endpoint/%s@%s=%s %d %s %v %t", e.TaskId, e.NetworkId, e.ServiceId, e.Slot, e.NodeId, e.Addresses, e.Serving)
	case *pb.Assignment_Peer:
		p := k.Peer
		return fmt.Sprintf("peer/%s=%s %s %d %d %s", p.NodeId, p.Name, p.DataPathAddr, p.DataPathMtu, p.MeshNumber, p.WireguardKey)
	case *pb.Assignment_Published:
		p := k.Published
		return fmt.Sprintf("published/%s=%s %d", p.ServiceId, p.Name, p.Ports[0].Published)
	case *pb.Assignment_Backend:
		return fmt.Sprintf("backend/%s@%s=%d", k.Backend.ServiceId, k.Backend.NodeId, k.Backend.Serving)
	case *pb.Assignment_Keys:
		return fmt.Sprintf("keys/=%d", k.Keys.Keys[len(k.Keys.Keys)-1].Epoch)
	}
	return fmt.Sprintf("unknown/%v", i)
}

// networkOracle adds to k what a node must know of the network, from nothing but
// the view.
func networkOracle(k known, view store.View, node string) {
	on := map[string]bool{}
	for t := range view.Tasks() {
		for _, a := range t.Addresses {
			if t.NodeId == node && t.Status.State >= assignedState && t.Status.State <= running {
				on[a.NetworkId] = true
			}
		}
	}
	for n := range view.Nodes() {
		d := n.Description
		k["peer/"+n.Id] = fmt.Sprintf("%s %s %d %d %s", d.GetHostname(), d.GetDataPathAddr(), d.GetDataPathMtu(), n.MeshNumber, d.GetWireguardKey())
	}
	for n := range view.Networks() {
		if n.Allocation != nil && (n.Spec.Ingress || on[n.Id]) {
			k["network/"+n.Id] = fmt.Sprintf("%s %s %d", n.Spec.Name, n.Allocation.Pools[0].Subnet, view.Cluster().Spec.DataPathPort)
		}
		if c := view.Cluster(); n.Spec.Encrypted && on[n.Id] && len(c.NetworkKeys) > 0 {
			k["keys/"] = fmt.Sprint(c.NetworkKeys[len(c.NetworkKeys)-1].Epoch)
		}
	}
	for s := range view.Services() {
		for _, a := range s.Spec.Task.Networks {
			var vips []string
			for _, v := range s.Endpoint.GetVips() {
				if v.NetworkId == a.NetworkId {
					vips = v.Addresses
				}
			}
			switch dnsrr := s.Spec.EndpointMode == pb.EndpointMode_ENDPOINT_MODE_DNSRR; {
			case !on[a.NetworkId] || !dnsrr && vips == nil:
				continue
			case dnsrr:
				vips = nil
			}
			k["service/"+s.Id+"@"+a.NetworkId] = fmt.Sprintf("%s %v %v %d", s.Spec.Name, a.Aliases, vips, len(s.Spec.Task.Ports))
		}
		if len(s.Endpoint.GetPorts()) > 0 {
			k["published/"+s.Id] = fmt.Sprintf("%s %d", s.Spec.Name, s.Endpoint.Ports[0].Published)
		}
	}
	backends := map[string]int{}
	for t := range view.Tasks() {
		serving := t.Status.State == running && t.DesiredState == running && view.Node(t.NodeId).Status.State != down
		if serving && len(view.Service(t.ServiceId).Endpoint.GetPorts()) > 0 {
			backends["backend/"+t.ServiceId+"@"+t.NodeId]++
		}
		if t.NodeId == "" || t.Status.State < assignedState || t.Status.State > running {
			continue
		}
		for _, a := range t.Addresses {
			if !on[a.NetworkId] || view.Network(a.NetworkId).Spec.Driver == pb.NetworkSpec_DRIVER_BRIDGE && t.NodeId != node {
				continue
			}
			addr, _, _ := strings.Cut(a.Addresses[0], "/")
			k["endpoint/"+t.Id+"@"+a.NetworkId] = fmt.Sprintf("%s %d %s [%s] %t", t.ServiceId, t.Slot, t.NodeId, addr, serving)
		}
	}
	for key, n := range backends {
		k[key] = fmt.Sprint(n)
	}
}

// netWorld is a world with networks, and services and tasks on them.
type netWorld struct {
	*world
	addresses, services, epoch int
	nets                       []string
}

func newNetWorld() *netWorld {
	w := &netWorld{world: newWorld(), nets: []string{"over", "lone", "safe"}}
	w.apply(&pb.Command{Kind: &pb.Command_CreateCluster{CreateCluster: &pb.CreateCluster{Cluster: &pb.Cluster{
		Id: "c", Spec: &pb.ClusterSpec{Name: "default", DataPathPort: 4789},
	}}}})
	for i, spec := range []*pb.NetworkSpec{
		{Name: "over"}, {Name: "lone", Driver: pb.NetworkSpec_DRIVER_BRIDGE}, {Name: "safe", Encrypted: true}, {Name: "ingress", Ingress: true},
	} {
		w.apply(&pb.Command{Kind: &pb.Command_CreateNetwork{CreateNetwork: &pb.CreateNetwork{Id: spec.Name, Spec: spec}}},
			&pb.Command{Kind: &pb.Command_AllocateNetwork{AllocateNetwork: &pb.AllocateNetwork{Id: spec.Name, Allocation: &pb.NetworkAllocation{
				Vni: uint32(4096 + i), Pools: []*pb.AddressPool{{Subnet: fmt.Sprintf("10.%d.0.0/16", i+1)}},
			}}}})
	}
	return w
}

// address makes one that nobody had before.
func (w *netWorld) address(network string) string {
	w.addresses++
	return fmt.Sprintf("10.%d.%d.%d", slices.Index(w.nets, network)+1, w.addresses/250, 2+w.addresses%250)
}

func (w *netWorld) step(t *rapid.T) {
	switch rapid.IntRange(0, 9).Draw(t, "what") {
	case 0:
		w.service(t)
	case 1:
		w.endpoint(t)
	case 2:
		w.node(t)
	case 3:
		w.epoch++
		w.apply(&pb.Command{Kind: &pb.Command_SetNetworkKeys{SetNetworkKeys: &pb.SetNetworkKeys{
			Keys: []*pb.NetworkKey{{Epoch: uint64(w.epoch), Key: make([]byte, 32)}},
		}}})
	case 4, 5, 6:
		w.task(t)
	default:
		w.world.step(t)
	}
}

// spec draws the networks, ports and mode of a service.
func (w *netWorld) spec(t *rapid.T, name string) *pb.ServiceSpec {
	spec := &pb.TaskSpec{Container: &pb.ContainerSpec{}}
	for _, n := range rapid.SliceOfNDistinct(rapid.SampledFrom(w.nets), 0, 2, rapid.ID).Draw(t, "networks") {
		spec.Networks = append(spec.Networks, &pb.NetworkAttachment{NetworkId: n, Aliases: []string{"also-" + name}})
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "ports") {
		spec.Ports = append(spec.Ports, &pb.PortConfig{Target: uint32(80 + i), Mode: pb.PortConfig_MODE_INGRESS})
	}
	mode := rapid.SampledFrom([]pb.EndpointMode{pb.EndpointMode_ENDPOINT_MODE_VIP, pb.EndpointMode_ENDPOINT_MODE_DNSRR}).Draw(t, "mode")
	return &pb.ServiceSpec{Name: name, Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{}}, Task: spec, EndpointMode: mode}
}

func (w *netWorld) name(t *rapid.T) string {
	return fmt.Sprintf("x%d", rapid.IntRange(0, w.services).Draw(t, "service"))
}

// service makes, changes, or removes a service.
func (w *netWorld) service(t *rapid.T) {
	name := w.name(t)
	switch {
	case w.state.View().Service(name) == nil:
		w.services++
		w.apply(&pb.Command{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: name, Spec: w.spec(t, name)}}})
	case rapid.IntRange(0, 4).Draw(t, "remove") > 0:
		w.apply(&pb.Command{Kind: &pb.Command_UpdateServiceSpec{UpdateServiceSpec: &pb.UpdateServiceSpec{Id: name, Spec: w.spec(t, name)}}})
	default:
		var ids []string
		for task := range w.state.View().TasksByService(name) {
			ids = append(ids, task.Id)
		}
		w.apply(&pb.Command{Kind: &pb.Command_RemoveService{RemoveService: &pb.RemoveService{Id: name}}},
			&pb.Command{Kind: &pb.Command_DeleteTasks{DeleteTasks: &pb.DeleteTasks{Ids: ids}}},
			&pb.Command{Kind: &pb.Command_DeleteService{DeleteService: &pb.DeleteService{Id: name}}})
	}
}

// endpoint gives a service all that it wants, a part, or nothing.
func (w *netWorld) endpoint(t *rapid.T) {
	s := w.state.View().Service(w.name(t))
	if s == nil {
		return
	}
	e := &pb.Endpoint{}
	for _, a := range s.Spec.Task.Networks {
		if rapid.Bool().Draw(t, "vip") {
			e.Vips = append(e.Vips, &pb.VirtualIP{NetworkId: a.NetworkId, Addresses: []string{w.address(a.NetworkId)}})
		}
	}
	if len(s.Spec.Task.Ports) > 0 && rapid.Bool().Draw(t, "publish") {
		w.addresses++
		e.Ports = []*pb.PortConfig{{Target: 80, Published: uint32(30000 + w.addresses), Mode: pb.PortConfig_MODE_INGRESS}}
	}
	w.apply(&pb.Command{Kind: &pb.Command_AllocateService{AllocateService: &pb.AllocateService{Id: s.Id, IfVersion: s.Meta.Version, Endpoint: e}}})
}

// node lets a node go down or come up, describe itself, or get its number.
func (w *netWorld) node(t *rapid.T) {
	node := rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "node")
	if w.state.View().Node(node) == nil {
		w.apply(createNode(node, pb.NodeState_NODE_STATE_READY))
		return
	}
	w.addresses++
	report := &pb.ReportNode{Id: node}
	switch rapid.IntRange(0, 3).Draw(t, "report") {
	case 0:
		report.Status = &pb.NodeStatus{State: rapid.SampledFrom([]pb.NodeState{down, pb.NodeState_NODE_STATE_READY, pb.NodeState_NODE_STATE_UNKNOWN}).Draw(t, "state")}
	case 1:
		report.Description = &pb.NodeDescription{Hostname: node, DataPathAddr: w.address("over"), DataPathMtu: 1500, WireguardKey: []byte("k")}
	case 2:
		w.apply(&pb.Command{Kind: &pb.Command_AllocateNode{AllocateNode: &pb.AllocateNode{Id: node, MeshNumber: uint32(w.addresses)}}})
		return
	case 3:
		if node != "n1" {
			w.apply(&pb.Command{Kind: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Id: node, Force: true}}})
		}
		return
	}
	w.apply(&pb.Command{Kind: &pb.Command_ReportNode{ReportNode: report}})
}

// task makes one of a service on networks, and sets it going.
func (w *netWorld) task(t *rapid.T) {
	s := w.state.View().Service(w.name(t))
	node := rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "node")
	if s == nil {
		return
	}
	id := fmt.Sprintf("t%03d", len(w.tasks))
	w.tasks = append(w.tasks, id)
	given := &pb.TaskAllocation{Id: id}
	for _, a := range s.Spec.Task.Networks {
		given.Addresses = append(given.Addresses, &pb.TaskAddress{NetworkId: a.NetworkId, Addresses: []string{w.address(a.NetworkId) + "/16"}})
	}
	w.apply(&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
		Id: id, ServiceId: s.Id, SpecVersion: s.SpecVersion, Slot: 1, DesiredState: running,
	}}}}})
	if len(given.Addresses) > 0 {
		w.apply(&pb.Command{Kind: &pb.Command_AllocateTasks{AllocateTasks: &pb.AllocateTasks{Tasks: []*pb.TaskAllocation{given}}}})
	}
	w.apply(&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{{Id: id, NodeId: node}}}}})
	if rapid.Bool().Draw(t, "runs") {
		w.apply(&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{
			NodeId: node, Reports: []*pb.TaskStatusReport{{Id: id, Status: &pb.TaskStatus{State: running}}},
		}}})
	}
}

// listener is one node's session without its stream.
type listener struct {
	s    *session
	told *assignments
	has  known
}

// listen registers a session that has been told nothing yet.
func listen(tm *term, node string) *listener {
	s := newSession(node, "", nil)
	tm.mu.Lock()
	tm.sessions[node] = s
	tm.mu.Unlock()
	return &listener{s: s, told: &assignments{node: node}}
}

// flush does what the session's writer does at first, and then with its notes.
func (l *listener) flush(t *rapid.T, tm *term) {
	if l.has == nil {
		l.has = known{}
		set, rest := l.told.full(tm.begin(l.s))
		l.has.put(set.Items)
		for _, diff := range rest {
			l.has.put(diff.Put)
		}
	}
	n, view := tm.take(l.s)
	if n.all {
		n.tasks = l.told.candidates(view)
	}
	for _, diff := range l.told.update(view, n.tasks, n.items) {
		l.has.remove(t, diff.Remove)
		l.has.put(diff.Put)
	}
}

// Through whatever changes, in whatever portions, with sessions that come late
// and changes that get lost, each agent knows exactly what it must.
func TestAgentsKnowExactlyTheirNetwork(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newNetWorld()
		for range rapid.IntRange(0, 20).Draw(t, "before") {
			w.step(t)
		}
		tm, watch := newTerm(&Config{State: w.state, Logger: slog.New(slog.DiscardHandler), Managers: func() []*pb.ManagerPeer { return nil }})
		defer func() { watch.Close() }()
		listeners := map[string]*listener{}
		for round := range rapid.IntRange(1, 12).Draw(t, "rounds") {
			for range rapid.IntRange(0, 6).Draw(t, "steps") {
				w.step(t)
			}
			if rapid.IntRange(0, 9).Draw(t, "lag") == 0 {
				watch.Close()
				watch = tm.resync()
			} else {
				// Something changes in any case, so that Next does not wait.
				w.apply(&pb.Command{Kind: &pb.Command_UpdateClusterSpec{UpdateClusterSpec: &pb.UpdateClusterSpec{
					Spec: &pb.ClusterSpec{Name: "default", DataPathPort: uint32(4000 + round)},
				}}})
				changes, err := watch.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				// The first part is behind the view already.
				cut := rapid.IntRange(0, len(changes)).Draw(t, "cut")
				tm.deliver(changes[:cut])
				tm.deliver(changes[cut:])
			}
			for _, node := range []string{"n1", "n2"} {
				if w.state.View().Node(node) == nil {
					delete(listeners, node)
					continue
				}
				draw := rapid.IntRange(0, 3).Draw(t, "session")
				if draw == 0 || listeners[node] == nil {
					listeners[node] = listen(tm, node)
				}
				if draw <= 1 {
					continue // its writer is slow
				}
				listeners[node].flush(t, tm)
				want := oracle(w.state.View(), node)
				networkOracle(want, w.state.View(), node)
				if diff := cmp.Diff(want, listeners[node].has.settled(w.state.View())); diff != "" {
					t.Fatalf("%s differs from what it must know (-want +got):\n%s", node, diff)
				}
			}
		}
	})
}

// What is coalesced brings an agent to the same state as the changes one by one.
func TestCoalesceKeepsTheOutcome(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		has := map[string]bool{}
		for _, id := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), rapid.ID).Draw(t, "before") {
			has[id] = true
		}
		before := maps.Clone(has)
		var changes []*change
		for range rapid.IntRange(0, 12).Draw(t, "changes") {
			id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "id")
			c := &change{key: networkKey(id), had: has[id]}
			if !has[id] || rapid.Bool().Draw(t, "put") {
				c.put = &pb.Assignment{}
			}
			has[id] = c.put != nil
			changes = append(changes, c)
		}
		for _, c := range coalesce(changes) {
			if c.had != before[c.key.id] {
				t.Fatalf("%s: had is %t", c.key.id, c.had)
			}
			before[c.key.id] = c.put != nil
		}
		maps.DeleteFunc(has, func(_ string, there bool) bool { return !there })
		maps.DeleteFunc(before, func(_ string, there bool) bool { return !there })
		if !maps.Equal(has, before) {
			t.Fatalf("%v, want %v", before, has)
		}
	})
}

// Who leaves and comes back within a round, or comes and leaves, only hears what
// those do who stayed, or nothing.
func TestTopicForgetsBriefVisits(t *testing.T) {
	for _, test := range []struct {
		name  string
		steps string // of the node b: + joins, - leaves
		begin bool   // whether it was there before
		want  []string
	}{
		{"stays", "", true, []string{"new"}},
		{"one reason for another", "+-", true, []string{"new"}},
		{"away and back", "-+", true, []string{"new"}},
		{"comes", "+", false, []string{"new", "old"}},
		{"comes and goes", "+-", false, nil},
		{"goes", "-", true, []string{"-new", "-old", "new"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			topic := newTopic()
			topic.join("a")
			if test.begin {
				topic.join("b")
			}
			topic.set(networkKey("old"), &pb.Assignment{})
			topic.settle()
			topic.set(networkKey("new"), &pb.Assignment{})
			for _, step := range test.steps {
				if step == '+' {
					topic.join("b")
				} else {
					topic.leave("b")
				}
			}
			heard := map[string][]string{}
			topic.publish(func(node string, changes []*change) {
				for _, c := range changes {
					name := c.key.id
					if c.put == nil {
						name = "-" + name
					}
					heard[node] = append(heard[node], name)
				}
			})
			slices.Sort(heard["b"])
			wantNames(t, "b", heard["b"], test.want...)
			wantNames(t, "a", heard["a"], "new")
		})
	}
}
