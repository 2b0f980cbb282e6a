package store

import (
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Rebalancing tells whether a service's tasks are being spread anew.
func Rebalancing(s *pb.Service) bool {
	return s.GetRebalance().GetAskedAt() != nil && s.Rebalance.CompletedAt == nil
}

// setRebalance takes a new request, or news of the last one. One asked for
// before that is overtaken, and so is one beside another that goes on.
func (tx *txn) setRebalance(c *pb.SetRebalance) error {
	old := tx.services.Get(c.GetId())
	if old == nil {
		return missing("rebalance", "service", c.GetId())
	}
	name := old.GetSpec().GetName()
	was, asked := old.Rebalance.GetAskedAt().AsTime(), c.GetRebalance().GetAskedAt().AsTime()
	switch {
	case c.Rebalance.GetAskedAt() == nil:
		return fault.New(fault.Invalid, "rebalance service %s: the command is incomplete: the time is required", name)
	case old.Spec.GetReplicated() == nil:
		return fault.New(fault.State, "rebalance service %s: only replicated services can be spread anew", name)
	case old.Removing:
		return fault.New(fault.State, "rebalance service %s: it is being removed", name)
	case old.Rebalance != nil && asked.Before(was):
		return fault.New(fault.Stale, "rebalance service %s: it was asked for again since", name)
	case Rebalancing(old) && asked.After(was):
		return fault.New(fault.State, "rebalance service %s: that goes on already", name)
	case proto.Equal(old.Rebalance, c.Rebalance):
		return nil
	}
	n := shallow(old)
	n.Rebalance = c.Rebalance
	tx.putService(n)
	return nil
}
