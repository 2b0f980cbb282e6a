package manager

import (
	"testing"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Only a demoted manager that is down cannot change its role itself.
func TestAbandoned(t *testing.T) {
	const (
		manager, worker      = pb.NodeRole_NODE_ROLE_MANAGER, pb.NodeRole_NODE_ROLE_WORKER
		ready, unknown, down = pb.NodeState_NODE_STATE_READY, pb.NodeState_NODE_STATE_UNKNOWN, pb.NodeState_NODE_STATE_DOWN
	)
	tests := map[string]struct {
		role, wanted pb.NodeRole
		state        pb.NodeState
		want         bool
	}{
		"manager":               {manager, manager, ready, false},
		"manager, down":         {manager, manager, down, false},
		"demoted":               {manager, worker, ready, false},
		"demoted, after a vote": {manager, worker, unknown, false},
		"demoted, down":         {manager, worker, down, true},
		"worker, down":          {worker, worker, down, false},
		"promoted, down":        {worker, manager, down, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			n := &pb.Node{Role: test.role, Spec: &pb.NodeSpec{Role: test.wanted}, Status: &pb.NodeStatus{State: test.state}}
			if got := abandoned(n); got != test.want {
				t.Errorf("abandoned: %t", got)
			}
		})
	}
	if abandoned(nil) {
		t.Error("a node that was removed is abandoned")
	}
}
