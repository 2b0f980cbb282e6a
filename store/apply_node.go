package store

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func (tx *txn) createNode(c *pb.CreateNode) error {
	id := c.GetNode().GetId()
	switch {
	case id == "" || c.Node.GetSpec() == nil:
		return incomplete("create", "node")
	case tx.nodes.Get(id) != nil:
		return fault.New(fault.Exists, "create node %s: it exists already", id)
	}
	n := shallow(c.Node)
	n.Meta, n.ManagerStatus = tx.created(), nil
	n.DrainStartedAt = tx.drainStart(nil, n.Spec)
	tx.putNode(n)
	return nil
}

// updateNodeSpec keeps at least one node that is wanted as a manager.
func (tx *txn) updateNodeSpec(c *pb.UpdateNodeSpec) error {
	old := tx.nodes.Get(c.GetId())
	switch {
	case old == nil:
		return missing("update", "node", c.GetId())
	case c.GetSpec() == nil:
		return incomplete("update", "node")
	}
	if err := current("node", old.Id, old.Meta, c.IfVersion); err != nil {
		return err
	}
	demoted := wantedManager(old) && c.Spec.Role != pb.NodeRole_NODE_ROLE_MANAGER
	if demoted && !tx.otherManager(old.Id) {
		return fault.New(fault.State, "demote node %s: it is the last manager of the cluster", old.Id).
			WithTry("minictl node promote ANOTHER_NODE")
	}
	n := shallow(old)
	n.Meta, n.Spec = tx.updated(old.Meta), c.Spec
	n.DrainStartedAt = tx.drainStart(old, c.Spec)
	tx.putNode(n)
	return nil
}

func wantedManager(n *pb.Node) bool { return n.GetSpec().GetRole() == pb.NodeRole_NODE_ROLE_MANAGER }

// otherManager says whether any node but this one is wanted as a manager.
func (tx *txn) otherManager(id string) bool {
	for n := range tx.nodes.All() {
		if n.Id != id && wantedManager(n) {
			return true
		}
	}
	return false
}

// setNodeRole follows the certificate. A worker has no control port.
func (tx *txn) setNodeRole(c *pb.SetNodeRole) error {
	old := tx.nodes.Get(c.GetId())
	switch {
	case old == nil:
		return missing("set role of", "node", c.GetId())
	case c.Role != pb.NodeRole_NODE_ROLE_WORKER && c.Role != pb.NodeRole_NODE_ROLE_MANAGER:
		return fault.New(fault.Invalid, "set role of node %s: there is no role %v", c.Id, c.Role)
	}
	n := shallow(old)
	n.Role = c.Role
	if c.Role == pb.NodeRole_NODE_ROLE_WORKER {
		n.ManagerAddr = ""
	}
	if !proto.Equal(n, old) {
		tx.putNode(n)
	}
	return nil
}

func (tx *txn) reportNode(c *pb.ReportNode) error {
	old := tx.nodes.Get(c.GetId())
	if old == nil {
		return missing("report", "node", c.GetId())
	}
	n := shallow(old)
	if c.Status != nil {
		n.Status = c.Status
	}
	if n.JoinedAt == nil && c.Status.GetState() == pb.NodeState_NODE_STATE_READY {
		n.JoinedAt = tx.at
	}
	if c.Description != nil {
		n.Description = c.Description
	}
	if !proto.Equal(n, old) {
		tx.putNode(n)
	}
	return nil
}

func (tx *txn) setManagerAddr(c *pb.SetManagerAddr) error {
	old := tx.nodes.Get(c.GetId())
	switch {
	case old == nil:
		return missing("set manager address of", "node", c.GetId())
	case old.Role != pb.NodeRole_NODE_ROLE_MANAGER && !wantedManager(old):
		return fault.New(fault.State, "set manager address of node %s: it is a worker", c.Id).
			WithTry("minictl node promote %s", c.Id)
	case old.ManagerAddr == c.Addr:
		return nil
	}
	n := shallow(old)
	n.ManagerAddr = c.Addr
	tx.putNode(n)
	return nil
}

// removeNode forgets a node. What it ran, nobody will report on any more.
func (tx *txn) removeNode(c *pb.RemoveNode) error {
	old := tx.nodes.Get(c.GetId())
	switch {
	case old == nil:
		return missing("remove", "node", c.GetId())
	case old.Role == pb.NodeRole_NODE_ROLE_MANAGER || wantedManager(old):
		return fault.New(fault.State, "remove node %s: it is a manager", old.Id).
			WithTry("minictl node demote %s", old.Id)
	case old.GetStatus().GetState() == pb.NodeState_NODE_STATE_READY && !c.Force:
		return fault.New(fault.State, "remove node %s: it is up", old.Id).
			WithTry("minictl swarm leave on that node, or minictl node rm --force %s", old.Id)
	}
	tasks := slices.Collect(View{&tx.tables}.TasksByNode(old.Id))
	tx.deleteNode(old)
	for _, t := range tasks {
		if t.GetStatus().GetState() <= pb.TaskState_TASK_STATE_RUNNING {
			tx.endTask(t, pb.TaskState_TASK_STATE_ORPHANED, "its node was removed from the cluster")
		}
	}
	return nil
}
