package node

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

// local serves the control socket: what a node tells of itself here, how it
// enters and leaves a cluster in change.go.
type local struct {
	pb.LocalServer // what is about the machine
	n              *Node
}

// localServer passes calls about the cluster on to the leader, as every
// manager does, be the leader this very node.
func (n *Node) localServer() *rpc.Server {
	s := rpc.NewLocalServer(rpc.ServerConfig{
		Self:   n.keys.Self,
		Leader: n.leader,
		TLS:    n.keys.ClientTLS(),
		Dial:   n.host.Dial,
		Log:    n.log.With("room", "local"),
	})
	pb.RegisterLocalServer(s, &local{LocalServer: n.host.Local, n: n})
	pb.RegisterControlServer(s, pb.UnimplementedControlServer{})
	return s
}

// leader is where the control socket's calls go.
func (n *Node) leader() rpc.Leader {
	m, err := n.present()
	if err != nil {
		return rpc.Leader{}
	}
	c := m.manager()
	if c == nil {
		return rpc.Leader{}
	}
	leader := c.manager.Leader()
	if leader.Self {
		leader.Self, leader.Addr = false, c.addr
	}
	return leader
}

// Info tells what the node is.
func (l *local) Info(ctx context.Context, _ *pb.InfoRequest) (*pb.InfoResponse, error) {
	n := l.n
	info := &pb.InfoResponse{
		Name: n.cfg.Name, Version: n.cfg.Version, DataDir: n.cfg.DataDir,
		Description: n.describe(ctx),
	}
	self, ok := n.keys.Identity()
	if !ok {
		return info, nil
	}
	info.NodeId, info.ClusterId, info.Role = self.NodeID, self.ClusterID, self.Role
	info.CertExpiresAt = timestamppb.New(n.keys.ExpiresAt())
	info.ManagerAddrs = n.saved().Managers
	m, err := n.present()
	if err != nil {
		return info, nil
	}
	info.TasksRunning = uint64(m.running())
	if c := m.manager(); c != nil {
		info.Addr, info.Leader = c.addr, c.manager.Leader().Self
	}
	if err := m.problem(); err != nil {
		info.Error = withTry(err)
	}
	return info, nil
}
