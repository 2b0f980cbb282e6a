package machine

import (
	"context"
	"net/netip"

	"github.com/minid/minid/network/bridge"
	pb "github.com/minid/minid/proto/minid/v1"
)

// localNetwork is a network of the bridge alone: no task is in any balancer.
type localNetwork struct{ *bridge.Bridge }

// Attach is containerd.Network's.
func (n localNetwork) Attach(ctx context.Context, t *pb.TaskNetwork) (string, netip.Addr, error) {
	return n.Bridge.Attach(ctx, t.GetTaskId())
}

// Drain is containerd.Network's.
func (localNetwork) Drain(context.Context, string) error { return nil }
