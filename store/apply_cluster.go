package store

import (
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func (tx *txn) createCluster(c *pb.CreateCluster) error {
	switch {
	case c.GetCluster().GetId() == "" || c.Cluster.GetSpec() == nil:
		return incomplete("create", "cluster")
	case tx.cluster != nil:
		return fault.New(fault.Exists, "create cluster: this cluster exists already, with id %s", tx.cluster.Id)
	}
	n := shallow(c.Cluster)
	n.Meta = tx.created()
	tx.putCluster(n)
	return nil
}

func (tx *txn) updateClusterSpec(c *pb.UpdateClusterSpec) error {
	old, err := tx.needCluster("update cluster")
	switch {
	case err != nil:
		return err
	case c.GetSpec() == nil:
		return incomplete("update", "cluster")
	case c.Spec.Name != old.GetSpec().GetName():
		return fault.New(fault.Invalid, "update cluster: its name stays %q", old.GetSpec().GetName())
	}
	if err := current("cluster", old.Id, old.Meta, c.IfVersion); err != nil {
		return err
	}
	n := shallow(old)
	n.Meta, n.Spec = tx.updated(old.Meta), c.Spec
	tx.putCluster(n)
	return nil
}

// setJoinTokens leaves the version alone: the tokens are not the spec's.
func (tx *txn) setJoinTokens(c *pb.SetJoinTokens) error {
	old, err := tx.needCluster("set join tokens")
	if err != nil {
		return err
	}
	if c.GetTokens() == nil {
		return fault.New(fault.Invalid, "set join tokens: there are none in the command")
	}
	n := shallow(old)
	n.JoinTokens = c.Tokens
	tx.putCluster(n)
	return nil
}

func (tx *txn) needCluster(verb string) (*pb.Cluster, error) {
	if tx.cluster == nil {
		return nil, fault.New(fault.NotFound, "%s: there is no cluster yet", verb).WithTry("minictl swarm init")
	}
	return tx.cluster, nil
}
