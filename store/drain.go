package store

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
)

// defaultDrainDeadline is how long a node that drains waits for replacements.
const defaultDrainDeadline = 10 * time.Minute

// Draining tells whether a node's tasks have to move elsewhere.
func Draining(n *pb.Node) bool {
	return n.GetSpec().GetAvailability() == pb.NodeAvailability_NODE_AVAILABILITY_DRAIN
}

// DrainEnd is when a node that drains stops what is left on it; zero for one
// that does not drain, or of which nobody knows since when it does.
func DrainEnd(n *pb.Node) time.Time {
	if !Draining(n) || n.DrainStartedAt == nil {
		return time.Time{}
	}
	deadline := defaultDrainDeadline
	if d := n.GetSpec().DrainDeadline; d != nil {
		deadline = d.AsDuration()
	}
	return n.DrainStartedAt.AsTime().Add(deadline)
}

// drainStart is what a node's drain_started_at becomes with another spec.
func (tx *txn) drainStart(old *pb.Node, spec *pb.NodeSpec) *timestamppb.Timestamp {
	switch {
	case spec.GetAvailability() != pb.NodeAvailability_NODE_AVAILABILITY_DRAIN:
		return nil
	case Draining(old):
		return old.DrainStartedAt
	}
	return tx.at
}

// Serves tells whether a task does what its service is for: it runs, is wanted
// to, and is in rotation.
func Serves(t *pb.Task) bool {
	s := t.GetStatus()
	return s.GetState() == pb.TaskState_TASK_STATE_RUNNING && t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING &&
		!s.GetHealth().GetUnready()
}

// LeastServing is how many slots of a replicated service have to serve before
// another may be stopped for a drain's or a rebalancing's sake: the update
// settings' parallelism may be out at a time, 0 being all.
func LeastServing(s *pb.Service) int {
	replicas, out := s.GetSpec().GetReplicated().GetReplicas(), Rollout(s).GetParallelism()
	if out == 0 || out > replicas {
		return 0
	}
	return int(replicas - out)
}
