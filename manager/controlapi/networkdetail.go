package controlapi

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// DescribeNetwork tells what is on a network: services with their addresses,
// names, ports and tasks, and the nodes that these run on. On the ingress
// network are the services that publish ports, their tasks by their nodes' own
// addresses, and every node that has its number.
func (s *Server) DescribeNetwork(_ context.Context, req *pb.GetRequest) (*pb.NetworkDetail, error) {
	view := s.cfg.State.View()
	n, err := findNetwork(view, req.GetRef())
	if err != nil {
		return nil, err
	}
	detail := &pb.NetworkDetail{Network: n}
	if n.GetSpec().GetIngress() {
		detail.Services = publishers(view)
		detail.Nodes = meshNodes(view, detail.Services)
	} else {
		detail.Services = members(view, n.Id)
		detail.Nodes = memberNodes(view, detail.Services)
	}
	slices.SortFunc(detail.Services, func(a, b *pb.NetworkMember) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(detail.Nodes, func(a, b *pb.NetworkNode) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Id, b.Id))
	})
	return detail, nil
}

// members are the services on a network: those whose spec says so, and those
// that have an address there still.
func members(view store.View, network string) []*pb.NetworkMember {
	on := map[string]bool{}
	for service := range view.ServicesByNetwork(network) {
		on[service.Id] = true
	}
	for _, owner := range view.Addresses(network) {
		on[cmp.Or(owner.Service, view.Task(owner.Task).GetServiceId())] = true
	}
	var out []*pb.NetworkMember
	for serviceID := range maps.Keys(on) {
		if service := view.Service(serviceID); service != nil {
			out = append(out, member(view, service, network))
		}
	}
	return out
}

func member(view store.View, service *pb.Service, network string) *pb.NetworkMember {
	m := &pb.NetworkMember{
		ServiceId: service.Id, Name: service.GetSpec().GetName(),
		Aliases: attachment(service.GetSpec().GetTask(), network).GetAliases(), Ports: allPorts(service),
	}
	for _, vip := range service.GetEndpoint().GetVips() {
		if vip.NetworkId == network {
			m.Vips = vip.Addresses
		}
	}
	m.Tasks = networkTasks(view, service.Id, func(t *pb.Task) ([]string, bool) { return addressesOn(t, network) })
	return m
}

// networkTasks are a service's tasks that have not ended, where they have a place
// on the network.
func networkTasks(view store.View, service string, place func(*pb.Task) (addresses []string, on bool)) (out []*pb.NetworkTask) {
	for t := range view.TasksByService(service) {
		if t.GetStatus().GetState() > pb.TaskState_TASK_STATE_RUNNING {
			continue
		}
		if addresses, on := place(t); on {
			out = append(out, networkTask(view, t, addresses))
		}
	}
	return out
}

// onNode is a task's address on its node, where published ports lead to.
func onNode(t *pb.Task) (addresses []string, on bool) {
	if a := t.GetStatus().GetContainer().GetAddress(); a != "" {
		addresses = []string{a}
	}
	return addresses, t.NodeId != ""
}

// addressesOn returns a task's addresses on a network, without the subnet's length.
func addressesOn(t *pb.Task, network string) (addresses []string, on bool) {
	for _, a := range t.GetAddresses() {
		if a.NetworkId != network {
			continue
		}
		for _, text := range a.Addresses {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				text = prefix.Addr().String()
			}
			addresses = append(addresses, text)
		}
		return addresses, true
	}
	return nil, false
}

func networkTask(view store.View, t *pb.Task, addresses []string) *pb.NetworkTask {
	return &pb.NetworkTask{
		Id: t.Id, Name: fmt.Sprintf("%s.%s", t.ServiceName, slotName(t)), Addresses: addresses,
		NodeId: t.NodeId, NodeName: view.Node(t.NodeId).GetDescription().GetHostname(), State: t.GetStatus().GetState(),
	}
}

// allPorts are a service's ports of both modes; of mode ingress with the
// published port that was chosen.
func allPorts(service *pb.Service) []*pb.PortConfig {
	var ports []*pb.PortConfig
	for _, p := range service.GetSpec().GetTask().GetPorts() {
		ports = append(ports, chosenPort(service, p))
	}
	return ports
}

func chosenPort(service *pb.Service, wanted *pb.PortConfig) *pb.PortConfig {
	if wanted.Published != 0 || wanted.Mode != pb.PortConfig_MODE_INGRESS {
		return wanted
	}
	for _, p := range service.GetEndpoint().GetPorts() {
		if p.Target == wanted.Target && p.Protocol == wanted.Protocol {
			return p
		}
	}
	return wanted
}

// memberNodes are the nodes of the members' tasks.
func memberNodes(view store.View, services []*pb.NetworkMember) []*pb.NetworkNode {
	return withTasks(view, map[string]*pb.NetworkNode{}, services)
}

// withTasks adds the nodes of the members' tasks to those there are.
func withTasks(view store.View, byID map[string]*pb.NetworkNode, services []*pb.NetworkMember) []*pb.NetworkNode {
	for _, service := range services {
		for _, t := range service.Tasks {
			if t.NodeId == "" {
				continue
			}
			if byID[t.NodeId] == nil {
				byID[t.NodeId] = networkNode(t.NodeId, view.Node(t.NodeId))
			}
			byID[t.NodeId].Tasks++
		}
	}
	return slices.Collect(maps.Values(byID))
}

func networkNode(nodeID string, n *pb.Node) *pb.NetworkNode {
	return &pb.NetworkNode{Id: nodeID, Name: n.GetDescription().GetHostname(), DataPathAddr: n.GetDescription().GetDataPathAddr()}
}

// publishers are the services with ports on every node.
func publishers(view store.View) []*pb.NetworkMember {
	var out []*pb.NetworkMember
	for service := range view.Services() {
		ports := slices.DeleteFunc(allPorts(service), func(p *pb.PortConfig) bool { return !store.Ingress(p) })
		if len(ports) > 0 {
			out = append(out, &pb.NetworkMember{
				ServiceId: service.Id, Name: service.GetSpec().GetName(), Ports: ports, Tasks: networkTasks(view, service.Id, onNode),
			})
		}
	}
	return out
}

// meshNodes are the nodes that take part in the routing mesh, with or without
// tasks, and those of publishers' tasks that do not yet.
func meshNodes(view store.View, services []*pb.NetworkMember) []*pb.NetworkNode {
	byID := map[string]*pb.NetworkNode{}
	for n := range view.Nodes() {
		if n.MeshNumber != 0 {
			byID[n.Id] = networkNode(n.Id, n)
		}
	}
	return withTasks(view, byID, services)
}
