package faketask

import (
	"context"
	"maps"
	"slices"
	"sync"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Network is an agent.Network that only remembers.
type Network struct {
	// Results are what Probe emits.
	Results []*pb.ProbeResult

	mu       sync.Mutex
	items    map[pb.ItemKind]map[string]*pb.Assignment
	replaced int
	probes   []*pb.ProbeAttach
}

// Replace implements agent.Network.
func (n *Network) Replace(items []*pb.Assignment) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.replaced++
	n.items = map[pb.ItemKind]map[string]*pb.Assignment{}
	n.put(items)
}

// Change implements agent.Network.
func (n *Network) Change(put []*pb.Assignment, remove []*pb.AssignmentKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, key := range remove {
		delete(n.items[key.GetKind()], key.GetId())
	}
	n.put(put)
}

func (n *Network) put(items []*pb.Assignment) {
	for _, item := range items {
		kind, id := keyOf(item)
		if n.items[kind] == nil {
			n.items[kind] = map[string]*pb.Assignment{}
		}
		n.items[kind][id] = item
	}
}

// Probe implements agent.Network.
func (n *Network) Probe(_ context.Context, req *pb.ProbeAttach, emit func(*pb.ProbeResult) error) error {
	n.mu.Lock()
	n.probes = append(n.probes, req)
	n.mu.Unlock()
	for _, r := range n.Results {
		if err := emit(r); err != nil {
			return err
		}
	}
	return nil
}

// Items lists the ids of what the network knows of a kind, in order.
func (n *Network) Items(kind pb.ItemKind) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.items[kind]))
}

// Item returns what the network knows by a key, nil for nothing.
func (n *Network) Item(kind pb.ItemKind, id string) *pb.Assignment {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.items[kind][id]
}

// Replaced counts how often all was replaced.
func (n *Network) Replaced() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.replaced
}

// Probes are the requests to probe.
func (n *Network) Probes() []*pb.ProbeAttach {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.probes)
}

// keyOf names an item by its kind and id, as AssignmentKey does.
func keyOf(item *pb.Assignment) (pb.ItemKind, string) {
	switch k := item.GetKind().(type) {
	case *pb.Assignment_Task:
		return pb.ItemKind_ITEM_KIND_TASK, k.Task.GetId()
	case *pb.Assignment_Network:
		return pb.ItemKind_ITEM_KIND_NETWORK, k.Network.GetId()
	case *pb.Assignment_Service:
		return pb.ItemKind_ITEM_KIND_SERVICE, k.Service.GetServiceId() + "@" + k.Service.GetNetworkId()
	case *pb.Assignment_Endpoint:
		return pb.ItemKind_ITEM_KIND_ENDPOINT, k.Endpoint.GetTaskId() + "@" + k.Endpoint.GetNetworkId()
	case *pb.Assignment_Peer:
		return pb.ItemKind_ITEM_KIND_PEER, k.Peer.GetNodeId()
	case *pb.Assignment_Published:
		return pb.ItemKind_ITEM_KIND_PUBLISHED, k.Published.GetServiceId()
	case *pb.Assignment_Backend:
		return pb.ItemKind_ITEM_KIND_BACKEND, k.Backend.GetServiceId() + "@" + k.Backend.GetNodeId()
	case *pb.Assignment_Keys:
		return pb.ItemKind_ITEM_KIND_KEYS, ""
	}
	return pb.ItemKind_ITEM_KIND_UNSPECIFIED, ""
}
