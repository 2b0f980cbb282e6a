package controlapi

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// ListNodes returns the nodes that pass the filters.
func (s *Server) ListNodes(_ context.Context, req *pb.ListRequest) (*pb.ListNodesResponse, error) {
	passes, err := nodeFilters().compile(req.GetFilters())
	if err != nil {
		return nil, err
	}
	managers := s.cfg.Managers()
	answer := &pb.ListNodesResponse{}
	for n := range s.cfg.State.View().Nodes() {
		if passes(n) {
			answer.Nodes = append(answer.Nodes, withManagerStatus(n, managers))
		}
	}
	return answer, nil
}

// GetNode finds a node by id, hostname or id prefix.
func (s *Server) GetNode(_ context.Context, req *pb.GetRequest) (*pb.Node, error) {
	n, err := findNode(s.cfg.State.View(), req.GetRef())
	if err != nil {
		return nil, err
	}
	return withManagerStatus(n, s.cfg.Managers()), nil
}

// withManagerStatus adds how the leader sees a node, if it is a manager.
func withManagerStatus(n *pb.Node, managers map[string]*pb.ManagerStatus) *pb.Node {
	status := managers[n.Id]
	if status == nil {
		return n
	}
	n = proto.CloneOf(n)
	n.ManagerStatus = status
	return n
}

// UpdateNode replaces a node's spec: labels, availability and wanted role.
func (s *Server) UpdateNode(ctx context.Context, req *pb.UpdateNodeRequest) (*pb.Node, error) {
	n, err := findNode(s.cfg.State.View(), req.GetRef())
	if err != nil {
		return nil, err
	}
	spec := normalNodeSpec(n, req.GetSpec())
	if err := checkNodeSpec(n, spec); err != nil {
		return nil, err
	}
	if n.GetSpec().GetRole() == pb.NodeRole_NODE_ROLE_MANAGER && spec.Role == pb.NodeRole_NODE_ROLE_WORKER {
		if err := mayDemote(n, s.cfg.State.View(), s.cfg.Managers()); err != nil {
			return nil, err
		}
	}
	err = s.propose(ctx, &pb.Command{Kind: &pb.Command_UpdateNodeSpec{UpdateNodeSpec: &pb.UpdateNodeSpec{
		Id: n.Id, IfVersion: req.GetIfVersion(), Spec: spec,
	}}})
	if err != nil {
		return nil, err
	}
	return s.GetNode(ctx, &pb.GetRequest{Ref: n.Id})
}

// normalNodeSpec keeps the role and availability that the request leaves open.
func normalNodeSpec(n *pb.Node, spec *pb.NodeSpec) *pb.NodeSpec {
	if spec == nil {
		spec = n.GetSpec()
	}
	spec = proto.CloneOf(spec)
	if spec.Role == pb.NodeRole_NODE_ROLE_UNSPECIFIED {
		spec.Role = n.GetSpec().GetRole()
	}
	if spec.Availability == pb.NodeAvailability_NODE_AVAILABILITY_UNSPECIFIED {
		spec.Availability = n.GetSpec().GetAvailability()
	}
	return spec
}

func checkNodeSpec(n *pb.Node, spec *pb.NodeSpec) error {
	name := n.GetDescription().GetHostname()
	if pb.NodeRole_name[int32(spec.Role)] == "" {
		return fault.New(fault.Invalid, "update node %s: there is no role %d", name, spec.Role).
			WithTry("minictl node update --role worker|manager %s", name)
	}
	if pb.NodeAvailability_name[int32(spec.Availability)] == "" {
		return fault.New(fault.Invalid, "update node %s: there is no availability %d", name, spec.Availability).
			WithTry("minictl node update --availability active|pause|drain %s", name)
	}
	if d := spec.GetDrainDeadline(); d != nil && d.AsDuration() < 0 {
		return fault.New(fault.Invalid, "update node %s: the drain deadline %v is negative", name, d.AsDuration()).
			WithTry("minictl node update --drain-deadline 10m %s", name)
	}
	if err := checkLabels(spec.Labels); err != nil {
		return prefixed(err, "update node %s", name)
	}
	return nil
}

// mayDemote refuses what would leave the cluster without a manager or without
// a majority of its managers. Managers whose demotion is under way count as gone.
func mayDemote(n *pb.Node, view store.View, managers map[string]*pb.ManagerStatus) error {
	name := n.GetDescription().GetHostname()
	var left, reachable int
	for id, m := range managers {
		if id == n.Id || view.Node(id).GetSpec().GetRole() != pb.NodeRole_NODE_ROLE_MANAGER {
			continue
		}
		left++
		if m.GetReachable() {
			reachable++
		}
	}
	if left == 0 {
		return fault.New(fault.State, "demote node %s: it is the last manager of the cluster", name).
			WithTry("minictl node promote ANOTHER_NODE")
	}
	if need := left/2 + 1; reachable < need {
		return fault.New(fault.State, "demote node %s: of the %d managers left only %d would be reachable, a majority is %d",
			name, left, reachable, need).WithTry("minictl node ls, then bring an unreachable manager back or demote that one first")
	}
	return nil
}

// RemoveNode forgets a node; the store refuses while it is up or a manager.
func (s *Server) RemoveNode(ctx context.Context, req *pb.RemoveNodeRequest) (*pb.RemoveResponse, error) {
	n, err := findNode(s.cfg.State.View(), req.GetRef())
	if err != nil {
		return nil, err
	}
	err = s.propose(ctx, &pb.Command{Kind: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Id: n.Id, Force: req.GetForce()}}})
	if err != nil {
		return nil, err
	}
	return &pb.RemoveResponse{Id: n.Id}, nil
}
