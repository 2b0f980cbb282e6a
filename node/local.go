package node

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/agent"
	"github.com/minid/minid/ca"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

// readyTime bounds how long init and join wait for the node to be at work; it
// goes on by itself after.
const readyTime = 20 * time.Second

// departTime bounds the removal of tasks when their node leaves.
const departTime = time.Minute

// local serves the control socket.
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
		Description: n.host.Describe(ctx),
	}
	self, ok := n.keys.Identity()
	if !ok {
		return info, nil
	}
	info.NodeId, info.ClusterId, info.Role = self.NodeID, self.ClusterID, self.Role
	info.CertExpiresAt = timestamppb.New(n.keys.ExpiresAt())
	info.ManagerAddrs = n.saved().Managers
	if m, err := n.present(); err == nil {
		info.TasksRunning = uint64(m.agent.Running())
		if c := m.manager(); c != nil {
			info.Addr, info.Leader = c.addr, c.manager.Leader().Self
		}
	}
	return info, nil
}

// Init makes a new cluster with this node as its first manager.
func (l *local) Init(ctx context.Context, req *pb.InitRequest) (*pb.InitResponse, error) {
	n := l.n
	if !n.changing.TryLock() {
		return nil, busy()
	}
	defer n.changing.Unlock()
	if req.ForceNewCluster {
		return n.forceNewCluster(ctx)
	}
	if n.isMember() {
		return nil, fault.New(fault.State, "cannot make a cluster: this node is already part of one").
			WithTry("minictl swarm leave, to leave it")
	}
	addr, err := advertised(or(req.AdvertiseAddr, n.cfg.AdvertiseAddr), or(req.ListenAddr, n.cfg.ListenAddr))
	if err != nil {
		return nil, err
	}
	founding, err := ca.Bootstrap(req.Spec, time.Now())
	if err != nil {
		return nil, err
	}
	if err := n.prepareFounding(ctx, req, founding); err != nil {
		return nil, err
	}
	m, err := n.begin(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.InitResponse{NodeId: m.self.NodeID, WorkerToken: founding.Cluster.JoinTokens.Worker, Addr: addr}, nil
}

// forceNewCluster makes this manager, with the state it has, the only one: the
// way back when the majority of the managers is lost. The membership is begun
// anew, with raft recovered; tasks go on.
func (n *Node) forceNewCluster(ctx context.Context) (*pb.InitResponse, error) {
	m, err := n.present()
	if err != nil {
		return nil, err
	}
	if m.manager() == nil {
		return nil, fault.New(fault.NotManager, "cannot make a cluster from this node's state: it is no manager and has none").
			WithTry("run it on a manager that is left")
	}
	if err := n.update(func(r *record) { r.Recover = true }); err != nil {
		return nil, err
	}
	m.end(errRestart)
	select {
	case <-m.ended:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if m, err = n.begin(ctx); err != nil {
		return nil, err
	}
	res := &pb.InitResponse{NodeId: m.self.NodeID}
	if c := m.manager(); c != nil {
		res.Addr = c.addr
		res.WorkerToken = c.manager.State().View().Cluster().GetJoinTokens().GetWorker()
	}
	return res, nil
}

// prepareFounding writes all that the new cluster begins with to disk.
func (n *Node) prepareFounding(ctx context.Context, req *pb.InitRequest, f *ca.Founding) error {
	f.Node.Description = n.host.Describe(ctx)
	if req.Availability != pb.NodeAvailability_NODE_AVAILABILITY_UNSPECIFIED {
		f.Node.Spec.Availability = req.Availability
	}
	entry, err := proto.Marshal(&pb.Entry{Commands: []*pb.Command{
		{Kind: &pb.Command_CreateCluster{CreateCluster: &pb.CreateCluster{Cluster: f.Cluster}}},
		{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: f.Node}}},
	}})
	if err != nil {
		return err
	}
	if err := n.keys.Store(f.Material); err != nil {
		return fmt.Errorf("store certificate: %w", err)
	}
	return n.update(func(r *record) {
		*r = record{
			Member: true, Founder: true, Founding: entry,
			ListenAddr: req.ListenAddr, AdvertiseAddr: req.AdvertiseAddr,
		}
	})
}

// JoinCluster makes the node part of a cluster.
func (l *local) JoinCluster(ctx context.Context, req *pb.JoinClusterRequest) (*pb.JoinClusterResponse, error) {
	n := l.n
	if !n.changing.TryLock() {
		return nil, busy()
	}
	defer n.changing.Unlock()
	if n.isMember() {
		return nil, fault.New(fault.State, "cannot join: this node is already part of a cluster").
			WithTry("minictl swarm leave, to leave it")
	}
	if _, err := advertised(or(req.AdvertiseAddr, n.cfg.AdvertiseAddr), or(req.ListenAddr, n.cfg.ListenAddr)); err != nil {
		return nil, err
	}
	var addrs []string
	for _, addr := range req.Addrs {
		addrs = append(addrs, withPort(addr))
	}
	cert, err := ca.Join(ctx, n.keys, ca.JoinOptions{
		Addrs: addrs, Token: req.Token, Availability: req.Availability,
		Description: n.host.Describe(ctx), Dial: n.host.Dial,
	})
	if err != nil {
		return nil, err
	}
	if len(cert.ManagerAddrs) > 0 {
		addrs = cert.ManagerAddrs
	}
	err = n.update(func(r *record) {
		*r = record{Member: true, ListenAddr: req.ListenAddr, AdvertiseAddr: req.AdvertiseAddr, Managers: addrs}
	})
	if err != nil {
		return nil, err
	}
	if _, err := n.begin(ctx); err != nil {
		return nil, err
	}
	return &pb.JoinClusterResponse{NodeId: cert.NodeId, Role: cert.Role}, nil
}

// begin wakes life and waits until the node is at work.
func (n *Node) begin(ctx context.Context) (*member, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTime, fault.New(fault.Timeout,
		"this node is part of the cluster, but no leader has answered it within %v; it goes on trying", readyTime).
		WithTry("minictl info"))
	defer cancel()
	select {
	case n.joined <- struct{}{}:
	default:
	}
	for {
		if m, err := n.present(); err == nil {
			select {
			case <-m.welcomed:
				return m, nil
			case <-m.ended:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Leave takes the node out of its cluster and ends its tasks.
func (l *local) Leave(ctx context.Context, req *pb.LeaveRequest) (*pb.LeaveResponse, error) {
	n := l.n
	if !n.changing.TryLock() {
		return nil, busy()
	}
	defer n.changing.Unlock()
	m, err := n.present()
	if err != nil {
		return nil, err
	}
	if c := m.manager(); c != nil {
		if err := c.mayLeave(ctx, req.Force); err != nil {
			return nil, err
		}
	}
	m.end(errLeft)
	select {
	case <-m.ended:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &pb.LeaveResponse{}, m.departure
}

// mayLeave gives the vote back. Leaving is refused to managers unless forced.
func (c *control) mayLeave(ctx context.Context, force bool) error {
	if !force {
		return fault.New(fault.State, "this node is a manager: when it leaves, the cluster has one manager less to decide with").
			WithTry("minictl node demote %s, or minictl swarm leave --force", c.m.n.cfg.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for ctx.Err() == nil {
		err := c.leaveRaft(ctx, true)
		if err == nil || fault.Is(err, fault.State) { // the last manager has nobody to tell
			return nil
		}
		c.m.n.log.Info("giving the vote back", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	c.m.n.log.Warn("leaving without having given the vote back: no leader answers")
	return nil
}

// depart ends what a membership leaves behind: its containers, its identity and
// its part of the cluster's state.
func (m *member) depart() error {
	ctx, cancel := context.WithTimeout(context.Background(), departTime)
	defer cancel()
	if err := agent.Clear(ctx, m.runtime); err != nil {
		m.n.log.Warn("cannot remove all containers", "err", err)
	}
	return m.n.forget()
}

// forget wipes the cluster from disk and memory.
func (n *Node) forget() error {
	n.mu.Lock()
	n.record = record{}
	n.mu.Unlock()
	if err := n.keys.Remove(); err != nil {
		return err
	}
	return wipe(n.cfg.DataDir)
}

func busy() error {
	return fault.New(fault.State, "this node is just joining or leaving a cluster").WithTry("minictl info")
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
