package controlapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// allocate plays the allocator for a network.
func (r *rig) allocate(name string, vni uint32, subnet, gateway string) {
	r.t.Helper()
	r.apply(&pb.Command{Kind: &pb.Command_AllocateNetwork{AllocateNetwork: &pb.AllocateNetwork{
		Id: r.state.View().NetworkByName(name).GetId(),
		Allocation: &pb.NetworkAllocation{Vni: vni, Pools: []*pb.AddressPool{
			{Subnet: subnet, Gateway: gateway, IpRange: subnet},
		}},
	}}})
}

// addressed makes a running task with an address on one network.
func (r *rig) addressed(id, service string, slot uint64, node, network, address string) {
	r.t.Helper()
	view := r.state.View()
	r.apply(&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
		Id: id, ServiceId: view.ServiceByName(service).GetId(), ServiceName: service, Slot: slot,
		SpecVersion: view.ServiceByName(service).GetSpecVersion(), DesiredState: pb.TaskState_TASK_STATE_RUNNING,
	}}}}},
		&pb.Command{Kind: &pb.Command_AllocateTasks{AllocateTasks: &pb.AllocateTasks{Tasks: []*pb.TaskAllocation{{
			Id: id, Addresses: []*pb.TaskAddress{{NetworkId: view.NetworkByName(network).GetId(), Addresses: []string{address}}},
		}}}}},
		&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{{Id: id, NodeId: node}}}}},
		report(id, node, pb.TaskState_TASK_STATE_RUNNING),
	)
}

func report(id, node string, state pb.TaskState) *pb.Command {
	return &pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{NodeId: node, Reports: []*pb.TaskStatusReport{{
		Id: id, Status: &pb.TaskStatus{State: state},
	}}}}}
}

// inhabited has web on network front with two tasks, and publishing a port.
func inhabited(t *testing.T) *rig {
	r := newRig(t)
	r.network(&pb.NetworkSpec{Name: "front", Labels: map[string]string{"tier": "web"}})
	r.network(&pb.NetworkSpec{Name: "idle", Driver: pb.NetworkSpec_DRIVER_BRIDGE})
	r.allocate("front", 4097, "10.0.16.0/20", "10.0.16.1")
	spec := web()
	spec.Task.Networks = []*pb.NetworkAttachment{{NetworkName: "front", Aliases: []string{"www"}}}
	spec.Task.Ports = []*pb.PortConfig{{Target: 80}, {Target: 81, Published: 8081, Mode: pb.PortConfig_MODE_HOST}}
	service := r.create(spec)
	chosen := service.Spec.Task.Ports[0]
	chosen.Published = 30000
	r.apply(&pb.Command{Kind: &pb.Command_AllocateService{AllocateService: &pb.AllocateService{
		Id: service.Id, IfVersion: service.Meta.Version, Endpoint: &pb.Endpoint{
			Vips:  []*pb.VirtualIP{{NetworkId: service.Spec.Task.Networks[0].NetworkId, Addresses: []string{"10.0.16.2"}}},
			Ports: []*pb.PortConfig{chosen},
		},
	}}}, &pb.Command{Kind: &pb.Command_AllocateNode{AllocateNode: &pb.AllocateNode{Id: "node-w2", MeshNumber: 2}}})
	r.described("node-w1", &pb.NodeDescription{DataPathAddr: "192.0.2.1"})
	r.described("node-w2", &pb.NodeDescription{DataPathAddr: "192.0.2.2"})
	r.addressed("t2", "web", 2, "node-w1", "front", "10.0.16.4/20")
	r.addressed("t1", "web", 1, "node-w2", "front", "10.0.16.3/20")
	r.addressed("t0", "web", 1, "node-w2", "front", "10.0.16.5/20")
	r.apply(report("t0", "node-w2", pb.TaskState_TASK_STATE_FAILED))
	return r
}

func TestDescribeNetwork(t *testing.T) {
	r := inhabited(t)
	view, running := r.state.View(), pb.TaskState_TASK_STATE_RUNNING
	service := view.ServiceByName("web")
	for name, want := range map[string]*pb.NetworkDetail{
		"front": {
			Services: []*pb.NetworkMember{{
				ServiceId: service.Id, Name: "web", Vips: []string{"10.0.16.2"}, Aliases: []string{"www"},
				Ports: []*pb.PortConfig{service.Endpoint.Ports[0], service.Spec.Task.Ports[1]},
				Tasks: []*pb.NetworkTask{
					{Id: "t1", Name: "web.1", Addresses: []string{"10.0.16.3"}, NodeId: "node-w2", NodeName: "w2", State: running},
					{Id: "t2", Name: "web.2", Addresses: []string{"10.0.16.4"}, NodeId: "node-w1", NodeName: "w1", State: running},
				},
			}},
			Nodes: []*pb.NetworkNode{
				{Id: "node-w1", Name: "w1", DataPathAddr: "192.0.2.1", Tasks: 1},
				{Id: "node-w2", Name: "w2", DataPathAddr: "192.0.2.2", Tasks: 1},
			},
		},
		"ingress": {
			Services: []*pb.NetworkMember{{ServiceId: service.Id, Name: "web", Ports: service.Endpoint.Ports, Tasks: []*pb.NetworkTask{
				{Id: "t1", Name: "web.1", NodeId: "node-w2", NodeName: "w2", State: running},
				{Id: "t2", Name: "web.2", NodeId: "node-w1", NodeName: "w1", State: running},
			}}},
			Nodes: []*pb.NetworkNode{
				{Id: "node-w1", Name: "w1", DataPathAddr: "192.0.2.1", Tasks: 1},
				{Id: "node-w2", Name: "w2", DataPathAddr: "192.0.2.2", Tasks: 1},
			},
		},
		"idle": {},
	} {
		want.Network = view.NetworkByName(name)
		got, err := r.server.DescribeNetwork(t.Context(), &pb.GetRequest{Ref: name})
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

// A service that left a network is on it as long as its old tasks run.
func TestDescribeNetworkWithOldTasks(t *testing.T) {
	r := inhabited(t)
	spec := r.state.View().ServiceByName("web").GetSpec()
	left := web()
	left.Task.Ports = spec.Task.Ports
	if _, err := r.server.UpdateService(t.Context(), &pb.UpdateServiceRequest{Ref: "web", Spec: left}); err != nil {
		t.Fatal(err)
	}
	got, err := r.server.DescribeNetwork(t.Context(), &pb.GetRequest{Ref: "front"})
	if err != nil || len(got.Services) != 1 || len(got.Services[0].Tasks) != 2 || got.Services[0].Aliases != nil {
		t.Errorf("%v, %v", got, err)
	}
}

// A task without addresses is explained by them, and not by nodes that fit.
func TestExplainTaskWithoutAddresses(t *testing.T) {
	r := inhabited(t)
	r.apply(&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
		Id: "t3", ServiceId: r.state.View().ServiceByName("web").GetId(), ServiceName: "web", Slot: 3, SpecVersion: 1,
		DesiredState: pb.TaskState_TASK_STATE_RUNNING,
	}}}}}, &pb.Command{Kind: &pb.Command_AllocateTasks{AllocateTasks: &pb.AllocateTasks{
		Tasks: []*pb.TaskAllocation{{Id: "t3", Problem: "no free address in network front"}},
	}}})
	e, err := r.server.ExplainTask(t.Context(), &pb.GetRequest{Ref: "t3"})
	if err != nil || e.Summary != "no free address in network front" || e.Hint != "minictl network inspect -v front" || len(e.Nodes) != 3 {
		t.Errorf("%v, %v", e, err)
	}
}

func TestNetworksInTroubleAreAWarning(t *testing.T) {
	r := newRig(t)
	r.network(&pb.NetworkSpec{Name: "front"})
	for name, problem := range map[string]string{"front": "no subnet is free", "ingress": "it is full"} {
		r.apply(&pb.Command{Kind: &pb.Command_AllocateNetwork{AllocateNetwork: &pb.AllocateNetwork{
			Id: r.state.View().NetworkByName(name).GetId(), Allocation: &pb.NetworkAllocation{Problem: problem},
		}}})
	}
	spec := web()
	spec.Task.Networks, spec.Task.Ports = []*pb.NetworkAttachment{{NetworkName: "front"}}, []*pb.PortConfig{{Target: 80}}
	answer, err := r.server.CreateService(t.Context(), &pb.CreateServiceRequest{Spec: spec})
	if want := []string{"network front: no subnet is free", "network ingress: it is full"}; err != nil || !slices.Equal(answer.Warnings, want) {
		t.Errorf("warnings %q, %v", answer.GetWarnings(), err)
	}
}

func TestListNetworks(t *testing.T) {
	r := inhabited(t)
	front := r.state.View().NetworkByName("front").Id
	for _, row := range []struct{ filters, want string }{
		{"", "front idle ingress"},
		{"name=i", "idle ingress"},
		{"id=" + front, "front"},
		{"label=tier", "front"},
		{"label=tier=db", ""},
		{"driver=overlay", "front ingress"},
		{"driver=bridge", "idle"},
		{"type=custom", "front idle"},
		{"type=builtin", "ingress"},
		{"scope=swarm name=f", "front"},
		{"scope=local", ""},
		{"dangling=true", "idle"},
		{"dangling=0", "front ingress"},
	} {
		var names []string
		answer, err := r.server.ListNetworks(t.Context(), &pb.ListRequest{Filters: parsedFilters(row.filters)})
		for _, n := range answer.GetNetworks() {
			names = append(names, n.Spec.Name)
		}
		slices.Sort(names)
		if err != nil || strings.Join(names, " ") != row.want {
			t.Errorf("%s lists %v, %v; want %s", row.filters, names, err, row.want)
		}
	}
	for _, bad := range []string{"driver=vlan", "dangling=perhaps", "colour=red"} {
		_, err := r.server.ListNetworks(t.Context(), &pb.ListRequest{Filters: parsedFilters(bad)})
		wantClass(t, err, fault.Invalid)
	}
}

func parsedFilters(text string) []*pb.Filter {
	var out []*pb.Filter
	for _, f := range strings.Fields(text) {
		key, value, _ := strings.Cut(f, "=")
		out = append(out, &pb.Filter{Key: key, Values: []string{value}})
	}
	return out
}

func TestRemoveNetwork(t *testing.T) {
	r := inhabited(t)
	for _, used := range []string{"front", "ingress"} {
		_, err := r.server.RemoveNetwork(t.Context(), &pb.RemoveRequest{Ref: used})
		wantClass(t, err, fault.InUse)
		if err != nil && !strings.Contains(err.Error(), "web") {
			t.Errorf("%q does not name the user", err)
		}
	}
	if _, err := r.server.RemoveNetwork(t.Context(), &pb.RemoveRequest{Ref: "idle"}); err != nil {
		t.Error(err)
	}
	_, err := r.server.GetNetwork(t.Context(), &pb.GetRequest{Ref: "idle"})
	wantClass(t, err, fault.NotFound)
}

func TestPruneNetworks(t *testing.T) {
	for filters, want := range map[string]string{
		"":                  "idle",
		"label=tier":        "", // front is in use
		"until=24h":         "idle",
		"until=1":           "",
		"until=1970-01-02":  "idle",
		"until=1960-01-01":  "",
		"until=1000h label": "refused",
		"until=yesterday":   "refused",
		"driver=bridge":     "refused",
	} {
		r := inhabited(t)
		answer, err := r.server.PruneNetworks(t.Context(), &pb.ListRequest{Filters: parsedFilters(filters)})
		got := "refused"
		if err == nil {
			got = ""
		} else {
			wantClass(t, err, fault.Invalid)
		}
		for _, n := range answer.GetRemoved() {
			got += n.Spec.Name
		}
		if got != want {
			t.Errorf("%q prunes %q (%v), want %q", filters, got, err, want)
		}
		if left := r.state.View().NetworkByName("idle") != nil; left != (want != "idle") {
			t.Errorf("%q leaves idle: %v", filters, left)
		}
	}
}

// What came into use between the look and the commit stays, without an error.
func TestPruneLeavesWhatCameIntoUse(t *testing.T) {
	r := inhabited(t)
	r.server.cfg.Propose = func(ctx context.Context, cmds ...*pb.Command) ([]error, error) {
		r.server.cfg.Propose = r.propose
		spec := web()
		spec.Name = "late"
		spec.Task.Networks = []*pb.NetworkAttachment{{NetworkName: "idle"}}
		r.create(spec)
		return r.propose(ctx, cmds...)
	}
	answer, err := r.server.PruneNetworks(t.Context(), &pb.ListRequest{})
	if err != nil || len(answer.Removed) != 0 || r.state.View().NetworkByName("idle") == nil {
		t.Errorf("%v, %v", answer, err)
	}
}

func TestWatchTellsOfNetworks(t *testing.T) {
	r := newRig(t)
	var got []string
	for e := range r.watch(t, &pb.WatchRequest{Kinds: []pb.Kind{pb.Kind_KIND_NETWORK}}, 3) {
		got = append(got, strings.TrimSpace(e.Action.String()+" "+e.Object.GetNetwork().GetSpec().GetName()))
		if e.Action == pb.WatchEvent_ACTION_SYNCED {
			r.network(&pb.NetworkSpec{Name: "front"})
		}
	}
	if want := []string{"ACTION_PUT ingress", "ACTION_SYNCED", "ACTION_PUT front"}; !slices.Equal(got, want) {
		t.Errorf("watch tells %q, want %q", got, want)
	}
}

// found runs a check and returns what it finds, in order.
func (r *rig) found(ctx context.Context, nodes ...string) ([]string, error) {
	stream, out := collect[pb.ProbeResult](ctx), make(chan []string)
	go func() {
		var lines []string
		for p := range stream.sent {
			lines = append(lines, strings.TrimRight(fmt.Sprintf("%s>%s %s %v %s", p.FromName, p.ToName, p.What, p.Ok, p.Detail), " "))
		}
		slices.Sort(lines)
		out <- lines
	}()
	err := r.server.CheckNetwork(&pb.CheckNetworkRequest{Nodes: nodes}, stream)
	close(stream.sent)
	return <-out, err
}

// probed is an attachment on which a node has told something, and what then.
func probed(broken error, ups ...*pb.AttachUp) *pipe {
	p := newPipe()
	p.broken = broken
	for _, up := range ups {
		p.up <- up
	}
	close(p.up)
	return p
}

func finding(to, what string) *pb.AttachUp {
	return &pb.AttachUp{Kind: &pb.AttachUp_Probe{Probe: &pb.ProbeResult{
		FromName: "liar", ToId: to, ToName: "liar", What: what, Ok: true,
	}}}
}

func TestCheckNetwork(t *testing.T) {
	r := newRig(t)
	r.attach = func(_ context.Context, node string, req *pb.Attach) (AttachStream, error) {
		targets := strings.Join(req.GetProbe().GetNodeIds(), " ")
		switch node {
		case "node-m1":
			return probed(nil, finding("node-w1", targets), finding("", "names")), nil
		case "node-w1":
			return nil, fault.New(fault.Unavailable, "the node is not connected")
		}
		return probed(errors.New("reset"), finding("node-m1", targets)), nil
	}
	for _, row := range []struct{ nodes, want []string }{
		{nil, []string{
			"m1> names true", "m1>w1 node-m1 node-w1 node-w2 true", "w1> probe false the node is not connected",
			"w2> probe false connection to the node lost: reset", "w2>m1 node-m1 node-w1 node-w2 true",
		}},
		{[]string{"m1"}, []string{"m1> names true", "m1>w1 node-m1 node-w1 node-w2 true"}},
		{[]string{"m1", "w1"}, []string{"m1> names true", "m1>w1 node-m1 node-w1 true", "w1> probe false the node is not connected"}},
	} {
		got, err := r.found(t.Context(), row.nodes...)
		if err != nil || !slices.Equal(got, row.want) {
			t.Errorf("check of %v finds %q, %v; want %q", row.nodes, got, err, row.want)
		}
	}
	_, err := r.found(t.Context(), "nobody")
	wantClass(t, err, fault.NotFound)
}

func TestCheckNetworkOfNodesThatAreNotReady(t *testing.T) {
	r := newRig(t)
	r.attach = func(context.Context, string, *pb.Attach) (AttachStream, error) {
		return probed(nil, &pb.AttachUp{Kind: &pb.AttachUp_Error{Error: "there is no network"}}), nil
	}
	r.apply(&pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{
		Id: "node-w1", Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_DOWN, Message: "missed 3 heartbeats"},
	}}})
	for _, row := range []struct{ nodes, want []string }{
		{nil, []string{"m1> probe false there is no network", "w2> probe false there is no network"}},
		{[]string{"w1"}, []string{"w1> probe false the node is not ready: missed 3 heartbeats"}},
	} {
		if got, err := r.found(t.Context(), row.nodes...); err != nil || !slices.Equal(got, row.want) {
			t.Errorf("check of %v finds %q, %v; want %q", row.nodes, got, err, row.want)
		}
	}
}

// Nodes that say nothing are waited for, not for ever, and a few at a time.
func TestCheckNetworkEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for i := range 40 {
			r.node(fmt.Sprintf("node-x%02d", i), fmt.Sprintf("x%02d", i), pb.NodeRole_NODE_ROLE_WORKER)
		}
		var asked atomic.Int32
		r.attach = func(context.Context, string, *pb.Attach) (AttachStream, error) {
			asked.Add(1)
			return newPipe(), nil
		}
		begin := time.Now()
		got, err := r.found(t.Context())
		if err != nil || len(got) != 43 || got[0] != "m1> probe false the node has not finished within 1m0s" {
			t.Errorf("%d findings %q, %v", len(got), got, err)
		}
		if took := time.Since(begin); took != checkTimeout || asked.Load() != probersAtOnce {
			t.Errorf("it took %v and asked %d nodes", took, asked.Load())
		}
	})
}

func TestCheckNetworkEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.attach = func(context.Context, string, *pb.Attach) (AttachStream, error) { return newPipe(), nil }
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("the caller is gone")
		time.AfterFunc(time.Second, func() { cancel(gone) })
		if _, err := r.found(ctx); !errors.Is(err, gone) {
			t.Errorf("error %v", err)
		}
	})
}
