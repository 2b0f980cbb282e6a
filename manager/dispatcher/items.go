package dispatcher

import (
	"net/netip"
	"slices"

	pb "github.com/minid/minid/proto/minid/v1"
)

// itemKey names a network item as AssignmentKey does, for maps.
type itemKey struct {
	kind pb.ItemKind
	id   string
}

var keysKey = itemKey{kind: pb.ItemKind_ITEM_KIND_KEYS}

func networkKey(id string) itemKey { return itemKey{pb.ItemKind_ITEM_KIND_NETWORK, id} }
func peerKey(node string) itemKey  { return itemKey{pb.ItemKind_ITEM_KIND_PEER, node} }
func publishedKey(service string) itemKey {
	return itemKey{pb.ItemKind_ITEM_KIND_PUBLISHED, service}
}
func serviceKey(service, network string) itemKey {
	return itemKey{pb.ItemKind_ITEM_KIND_SERVICE, service + "@" + network}
}
func endpointKey(task, network string) itemKey {
	return itemKey{pb.ItemKind_ITEM_KIND_ENDPOINT, task + "@" + network}
}
func backendKey(service, node string) itemKey {
	return itemKey{pb.ItemKind_ITEM_KIND_BACKEND, service + "@" + node}
}

// isServing tells whether new connections may go to a task: it runs, it is to
// go on running, its health check does not hold it back, and its node is not
// down.
func isServing(t *pb.Task, down bool) bool {
	return !down && !t.GetStatus().GetHealth().GetUnready() &&
		t.GetStatus().GetState() == pb.TaskState_TASK_STATE_RUNNING && t.GetDesiredState() == pb.TaskState_TASK_STATE_RUNNING
}

func isDown(n *pb.Node) bool {
	return n == nil || n.GetStatus().GetState() == pb.NodeState_NODE_STATE_DOWN
}

// networkItem is a network as agents see it; nil before it has its subnet.
func networkItem(n *pb.Network, port uint32) *pb.Assignment {
	if len(n.GetAllocation().GetPools()) == 0 {
		return nil
	}
	return &pb.Assignment{Kind: &pb.Assignment_Network{Network: &pb.AssignedNetwork{
		Id: n.Id, Spec: n.Spec, Allocation: n.Allocation, DataPathPort: port,
	}}}
}

// serviceItem is a service on a network that its present spec names. It is nil
// while a virtual address is wanted and not there: the name must not lead to
// single tasks for that moment.
func serviceItem(s *pb.Service, on *pb.NetworkAttachment) *pb.Assignment {
	var vips []string
	if s.GetSpec().GetEndpointMode() != pb.EndpointMode_ENDPOINT_MODE_DNSRR {
		if vips = vipsOn(s, on.GetNetworkId()); len(vips) == 0 {
			return nil
		}
	}
	return &pb.Assignment{Kind: &pb.Assignment_Service{Service: &pb.NetworkService{
		ServiceId: s.Id, NetworkId: on.GetNetworkId(), Name: s.GetSpec().GetName(), Aliases: on.GetAliases(),
		Vips: vips, Ports: s.GetSpec().GetTask().GetPorts(),
	}}}
}

func vipsOn(s *pb.Service, network string) []string {
	for _, vip := range s.GetEndpoint().GetVips() {
		if vip.GetNetworkId() == network {
			return vip.GetAddresses()
		}
	}
	return nil
}

// endpointItem is a task on one of its networks.
func endpointItem(t *pb.Task, on *pb.TaskAddress, serving bool) *pb.Assignment {
	return &pb.Assignment{Kind: &pb.Assignment_Endpoint{Endpoint: &pb.NetworkEndpoint{
		TaskId: t.Id, NetworkId: on.GetNetworkId(), ServiceId: t.ServiceId, Slot: t.Slot, NodeId: t.NodeId,
		Addresses: withoutLengths(on.GetAddresses()), Serving: serving,
	}}}
}

func withoutLengths(prefixes []string) []string {
	var addrs []string
	for _, text := range prefixes {
		if p, err := netip.ParsePrefix(text); err == nil {
			addrs = append(addrs, p.Addr().String())
		}
	}
	return addrs
}

func peerItem(n *pb.Node) *pb.Assignment {
	d := n.GetDescription()
	return &pb.Assignment{Kind: &pb.Assignment_Peer{Peer: &pb.NetworkPeer{
		NodeId: n.Id, Name: d.GetHostname(), MeshNumber: n.GetMeshNumber(),
		DataPathAddr: d.GetDataPathAddr(), DataPathMtu: d.GetDataPathMtu(), WireguardKey: d.GetWireguardKey(),
	}}}
}

// publishedItem is a service with its published ports, nil when it has none.
func publishedItem(s *pb.Service) *pb.Assignment {
	if len(s.GetEndpoint().GetPorts()) == 0 {
		return nil
	}
	return &pb.Assignment{Kind: &pb.Assignment_Published{Published: &pb.PublishedService{
		ServiceId: s.Id, Name: s.GetSpec().GetName(), Ports: s.GetEndpoint().GetPorts(),
	}}}
}

func backendItem(service, node string, serving uint32) *pb.Assignment {
	return &pb.Assignment{Kind: &pb.Assignment_Backend{Backend: &pb.PublishedBackend{
		ServiceId: service, NodeId: node, Serving: serving,
	}}}
}

// keysItem is the cluster's network keys, nil before there are any.
func keysItem(c *pb.Cluster) *pb.Assignment {
	if len(c.GetNetworkKeys()) == 0 {
		return nil
	}
	return &pb.Assignment{Kind: &pb.Assignment_Keys{Keys: &pb.NetworkKeys{Keys: slices.Clone(c.NetworkKeys)}}}
}
