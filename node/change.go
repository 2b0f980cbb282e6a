package node

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/ca"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// readyTime bounds how long init and join wait for the node to be at work, and
// leave for somebody to take the vote back.
const readyTime = 20 * time.Second

// change begins an init, join or leave; no other one happens until done.
func (n *Node) change() (done func(), err error) {
	if !n.changing.TryLock() {
		return nil, fault.New(fault.State, "this node is just joining or leaving a cluster").WithTry("minictl info")
	}
	return n.changing.Unlock, nil
}

// Init makes a new cluster with this node as its first manager. When it fails,
// the node is in no cluster, as before.
func (l *local) Init(ctx context.Context, req *pb.InitRequest) (*pb.InitResponse, error) {
	n := l.n
	done, err := n.change()
	if err != nil {
		return nil, err
	}
	defer done()
	if req.ForceNewCluster {
		return n.forceNewCluster(ctx)
	}
	if err := n.mayEnter("make a cluster"); err != nil {
		return nil, err
	}
	founding, err := ca.Bootstrap(n.foundingSpec(req.Spec), time.Now())
	if err != nil {
		return nil, err
	}
	m, err := n.found(ctx, req, founding)
	if err != nil {
		return nil, fmt.Errorf("cannot make a cluster: %w", n.undo(m, err))
	}
	return &pb.InitResponse{
		NodeId: m.self.NodeID, WorkerToken: founding.Cluster.JoinTokens.Worker, Addr: m.manager().addr,
	}, nil
}

// mayEnter refuses to do what is for nodes without a cluster.
func (n *Node) mayEnter(what string) error {
	if !n.saved().Member {
		return nil
	}
	return fault.New(fault.State, "cannot %s: this node is already part of one", what).
		WithTry("minictl swarm leave, to leave it")
}

// foundingSpec adds to a new cluster's settings what this node's flags say.
func (n *Node) foundingSpec(spec *pb.ClusterSpec) *pb.ClusterSpec {
	founding := &pb.ClusterSpec{DataPathPort: uint32(n.cfg.DataPathPort)}
	proto.Merge(founding, spec)
	return founding
}

// found writes all that the new cluster begins with to disk, and begins.
func (n *Node) found(ctx context.Context, req *pb.InitRequest, f *ca.Founding) (*member, error) {
	path, err := n.checkAddresses(req)
	if err != nil {
		return nil, err
	}
	f.Node.Description = n.host.Describe(ctx, path)
	if req.Availability != pb.NodeAvailability_NODE_AVAILABILITY_UNSPECIFIED {
		f.Node.Spec.Availability = req.Availability
	}
	entry, err := proto.Marshal(&pb.Entry{Commands: []*pb.Command{
		{Kind: &pb.Command_CreateCluster{CreateCluster: &pb.CreateCluster{Cluster: f.Cluster}}},
		{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: f.Node}}},
		{Kind: &pb.Command_CreateNetwork{CreateNetwork: f.Network}},
	}})
	if err != nil {
		return nil, err
	}
	if err := n.keys.Store(f.Material); err != nil {
		return nil, err
	}
	if err := n.enter(req, record{Founding: entry}); err != nil {
		return nil, err
	}
	return n.begin(ctx)
}

// addresses is what init and join are told of this node.
type addresses interface {
	GetListenAddr() string
	GetAdvertiseAddr() string
	GetDataPathAddr() string
}

// checkAddresses finds out whether this host has what init or join is told of
// it, and returns the address of the data path.
func (n *Node) checkAddresses(req addresses) (path string, err error) {
	advertise := choice{Addr: req.GetAdvertiseAddr()}.over(n.cfg.AdvertiseAddr)
	listen := choice{Addr: req.GetListenAddr()}.over(n.cfg.ListenAddr)
	if _, err := advertised(advertise, listen); err != nil {
		return "", err
	}
	return dataPath(choice{Addr: req.GetDataPathAddr()}.over(n.cfg.DataPathAddr), advertise, listen)
}

// enter writes the record, with which the node is a member.
func (n *Node) enter(req addresses, rec record) error {
	rec.Member = true
	rec.Listen = choice{Addr: req.GetListenAddr(), Flag: n.cfg.ListenAddr}
	rec.Advertise = choice{Addr: req.GetAdvertiseAddr(), Flag: n.cfg.AdvertiseAddr}
	rec.DataPath = choice{Addr: req.GetDataPathAddr(), Flag: n.cfg.DataPathAddr}
	return n.update(func(r *record) { *r = rec })
}

// begin hands a new membership to life and waits until it is at work, or cannot.
// It returns the membership in any case but one: nobody took it.
func (n *Node) begin(ctx context.Context) (*member, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTime, fault.New(fault.Timeout,
		"no leader has answered this node within %v", readyTime).WithTry("minictl info"))
	defer cancel()
	m := newMember(n)
	select {
	case n.joined <- m:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case <-m.welcomed:
		return m, nil
	case err := <-m.broke:
		return m, err
	case <-m.ended:
		return m, fault.New(fault.Unavailable, "minid is stopping")
	case <-ctx.Done():
		return m, context.Cause(ctx)
	}
}

// undo takes back what a failed init did. It returns why init failed.
func (n *Node) undo(m *member, why error) error {
	err := error(nil)
	if m == nil {
		err = n.forget()
	} else {
		m.leave()
		<-m.ended
		err = m.departure
	}
	if err != nil {
		n.log.Error("cannot take back what init did", "err", err)
	}
	return why
}

// JoinCluster makes the node part of a cluster.
func (l *local) JoinCluster(ctx context.Context, req *pb.JoinClusterRequest) (*pb.JoinClusterResponse, error) {
	n := l.n
	done, err := n.change()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := n.mayEnter("join a cluster"); err != nil {
		return nil, err
	}
	cert, err := n.join(ctx, req)
	if err != nil {
		return nil, err
	}
	if _, err := n.begin(ctx); err != nil {
		try := fault.TryOf(err)
		return nil, fault.New(fault.ClassOf(err), "this node joined the cluster as %s, but cannot work yet, and goes on trying: %w", cert.NodeId, err).WithTry("%s", try)
	}
	return &pb.JoinClusterResponse{NodeId: cert.NodeId, Role: cert.Role}, nil
}

// join gets a certificate and writes the record.
func (n *Node) join(ctx context.Context, req *pb.JoinClusterRequest) (*pb.Certificate, error) {
	path, err := n.checkAddresses(req)
	if err != nil {
		return nil, err
	}
	var addrs []string
	for _, addr := range req.Addrs {
		addrs = append(addrs, withPort(addr))
	}
	cert, err := ca.Join(ctx, n.keys, ca.JoinOptions{
		Addrs: addrs, Token: req.Token, Availability: req.Availability,
		Description: n.host.Describe(ctx, path), Dial: n.host.Dial,
	})
	if err != nil {
		return nil, err
	}
	if len(cert.ManagerAddrs) > 0 {
		addrs = cert.ManagerAddrs
	}
	if err := n.enter(req, record{Managers: addrs}); err != nil {
		return nil, n.undo(nil, err)
	}
	return cert, nil
}

// forceNewCluster makes this manager, with the state it has, the only one: the
// way back when the majority of the managers is lost. Raft begins anew, tasks
// go on.
func (n *Node) forceNewCluster(ctx context.Context) (*pb.InitResponse, error) {
	m, err := n.present()
	if err != nil {
		return nil, err
	}
	before := m.manager()
	if before == nil {
		return nil, fault.New(fault.NotManager, "cannot make a cluster from this node's state: no manager works here").
			WithTry("run it on a manager that is left; minictl info")
	}
	if err := n.update(func(r *record) { r.Recover = true }); err != nil {
		return nil, err
	}
	m.lookAgain()
	c, err := m.successor(ctx, before)
	if err != nil {
		if err := n.update(func(r *record) { r.Recover = false }); err != nil {
			n.log.Error("cannot take back that a new cluster is to be made", "err", err)
		}
		return nil, fmt.Errorf("cannot make a cluster from this node's state: %w", err)
	}
	return &pb.InitResponse{
		NodeId: m.self.NodeID, Addr: c.addr,
		WorkerToken: c.manager.State().View().Cluster().GetJoinTokens().GetWorker(),
	}, nil
}

// successor waits until another control than the one before leads.
func (m *member) successor(ctx context.Context, before *control) (*control, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTime, fault.New(fault.Timeout,
		"the manager does not lead after %v", readyTime).WithTry("minictl info"))
	defer cancel()
	for {
		if c := m.manager(); c != nil && c != before && c.manager.Leader().Self {
			return c, nil
		}
		select {
		case <-m.ended:
			return nil, fault.New(fault.Unavailable, "minid is stopping")
		case <-ctx.Done():
			if err := m.problem(); err != nil {
				return nil, err
			}
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Leave takes the node out of its cluster and ends its tasks.
func (l *local) Leave(ctx context.Context, req *pb.LeaveRequest) (*pb.LeaveResponse, error) {
	n := l.n
	done, err := n.change()
	if err != nil {
		return nil, err
	}
	defer done()
	m, err := n.present()
	if err != nil {
		return nil, err
	}
	if m.isManager() {
		if !req.Force {
			return nil, fault.New(fault.State, "this node is a manager: when it leaves, the cluster has one manager less to decide with").
				WithTry("minictl node demote %s, or minictl swarm leave --force", n.cfg.Name)
		}
		m.giveVoteBack(ctx)
	}
	m.leave()
	select {
	case <-m.ended:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &pb.LeaveResponse{}, m.departure
}

// giveVoteBack tries to; who is forced to leave leaves anyway.
func (m *member) giveVoteBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		err := m.leaveRaft(ctx)
		if err == nil || fault.Is(err, fault.State) { // the last manager has nobody to tell
			return
		}
		select {
		case <-ctx.Done():
			m.n.log.Warn("leaving without having given the vote back", "err", err)
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}
