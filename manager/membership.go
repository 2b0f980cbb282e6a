package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
	"github.com/minid/minid/store"
)

// membership lets managers ask for a vote and give it back. Package rpc passes
// its calls on to the leader.
type membership struct {
	pb.UnimplementedMembershipServer
	m *Manager
}

// JoinRaft gives the calling manager a vote, or takes note of its new address.
func (s *membership) JoinRaft(ctx context.Context, req *pb.JoinRaftRequest) (*pb.JoinRaftResponse, error) {
	nodeID, err := identify(ctx)
	if err != nil {
		return nil, err
	}
	node := s.m.state.View().Node(nodeID)
	if node.GetSpec().GetRole() != pb.NodeRole_NODE_ROLE_MANAGER {
		return nil, fault.New(fault.Denied, "join raft: node %s is not to be a manager", nodeID).
			WithTry("minictl node promote %s", nodeID)
	}
	if err := s.m.raft.AddVoter(ctx, nodeID, req.Addr); err != nil {
		return nil, err
	}
	if err := s.m.publish(ctx, nodeID, req.Addr); err != nil {
		return nil, err
	}
	res := &pb.JoinRaftResponse{}
	for _, p := range s.m.peers() {
		res.ManagerAddrs = append(res.ManagerAddrs, p.Addr)
	}
	return res, nil
}

// publish tells everybody where a manager is.
func (m *Manager) publish(ctx context.Context, nodeID, addr string) error {
	if m.state.View().Node(nodeID).GetManagerAddr() == addr {
		return nil
	}
	refused, err := m.raft.Propose(ctx, &pb.Command{Kind: &pb.Command_SetManagerAddr{
		SetManagerAddr: &pb.SetManagerAddr{Id: nodeID, Addr: addr},
	}})
	return errors.Join(append(refused, err)...)
}

// LeaveRaft takes the calling manager's vote back.
func (s *membership) LeaveRaft(ctx context.Context, req *pb.LeaveRaftRequest) (*pb.LeaveRaftResponse, error) {
	caller, _ := rpc.IdentityFrom(ctx)
	if err := s.m.mayLose(caller.NodeID); err != nil && !req.Force {
		return nil, err
	}
	return &pb.LeaveRaftResponse{}, s.m.removeVoter(ctx, caller.NodeID)
}

// mayLose refuses when the managers left could not decide anything any more.
func (m *Manager) mayLose(nodeID string) error {
	left, reachable := 0, 0
	for _, v := range m.raft.Voters() {
		if v.ID == nodeID {
			continue
		}
		left++
		if m.raft.Reachable(v.ID) {
			reachable++
		}
	}
	if left == 0 {
		return fault.New(fault.State, "this is the last manager: without it the cluster's state is lost").
			WithTry("minictl swarm leave --force")
	}
	if reachable <= left/2 {
		return fault.New(fault.State, "only %d of the %d managers left are reachable: they could not decide anything", reachable, left).
			WithTry("minictl node ls")
	}
	return nil
}

// removeVoter takes a vote away. A leader that is to lose its own hands the
// lead over first, and its successor removes it.
func (m *Manager) removeVoter(ctx context.Context, nodeID string) error {
	if nodeID != m.cfg.NodeID {
		return m.raft.RemoveServer(ctx, nodeID)
	}
	if len(m.raft.Voters()) == 1 {
		return fault.New(fault.State, "remove manager %s: it is the last one", nodeID)
	}
	if err := m.raft.TransferLeadership(ctx); err != nil {
		return fmt.Errorf("hand the lead over: %w", err)
	}
	return fault.New(fault.Unavailable, "the lead went to another manager, which removes this one")
}

// keepMembers makes the raft configuration follow the nodes: who is removed or
// demoted loses its vote. It ends the role of demoted managers that are gone.
func (m *Manager) keepMembers(ctx context.Context) error {
	for {
		view, watch := m.state.ViewAndWatch(pb.Kind_KIND_NODE)
		err := m.publish(ctx, m.cfg.NodeID, m.cfg.Addr)
		if err == nil {
			err = m.removeUnwanted(ctx, view)
		}
		if err == nil {
			err = m.endRoles(ctx, view)
		}
		if err != nil && ctx.Err() == nil {
			m.log.Warn("cannot bring the managers in line with the nodes yet", "err", err)
			err = pause(ctx, time.Second)
		} else {
			err = nextMembership(ctx, watch)
		}
		watch.Close()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && !fault.Is(err, fault.Lagged) {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// nextMembership waits for a change that concerns who should have a vote;
// status reports of nodes do not, unless a demoted manager went down.
func nextMembership(ctx context.Context, watch *store.Watch) error {
	for {
		changes, err := watch.Next(ctx)
		if err != nil {
			return err
		}
		for _, c := range changes {
			before, _ := c.Old.(*pb.Node)
			after, _ := c.New.(*pb.Node)
			if before.GetSpec().GetRole() != after.GetSpec().GetRole() || before.GetManagerAddr() != after.GetManagerAddr() || abandoned(after) && !abandoned(before) {
				return nil
			}
		}
	}
}

// abandoned reports whether a manager was demoted and is not there to take its
// certificate as a worker. Without one its role would never change, and nobody
// could remove it from the list of nodes.
func abandoned(n *pb.Node) bool {
	return n.GetRole() == pb.NodeRole_NODE_ROLE_MANAGER &&
		n.GetSpec().GetRole() == pb.NodeRole_NODE_ROLE_WORKER &&
		n.GetStatus().GetState() == pb.NodeState_NODE_STATE_DOWN
}

// endRoles makes workers of abandoned managers, whose votes are gone by now.
func (m *Manager) endRoles(ctx context.Context, view store.View) error {
	var ends []*pb.Command
	for n := range view.Nodes() {
		if abandoned(n) {
			ends = append(ends, &pb.Command{Kind: &pb.Command_SetNodeRole{
				SetNodeRole: &pb.SetNodeRole{Id: n.Id, Role: pb.NodeRole_NODE_ROLE_WORKER},
			}})
		}
	}
	if len(ends) == 0 {
		return nil
	}
	refused, err := m.raft.Propose(ctx, ends...)
	return errors.Join(append(refused, err)...)
}

func (m *Manager) removeUnwanted(ctx context.Context, view store.View) error {
	var errs []error
	for _, v := range m.raft.Voters() {
		if view.Node(v.ID).GetSpec().GetRole() == pb.NodeRole_NODE_ROLE_MANAGER {
			continue
		}
		m.log.Info("removing manager", "node", v.ID)
		errs = append(errs, m.removeVoter(ctx, v.ID))
	}
	return errors.Join(errs...)
}
