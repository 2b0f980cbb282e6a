// Package manager is a manager's life: it replicates the cluster's state and,
// while it leads, runs the loops that turn services into running tasks.
//
// The loops never call each other. Each watches the store, decides, and
// proposes the fields that it owns:
//
//	controlapi    specs                 orchestrator  which tasks there are
//	placement     a task's node         dispatcher    what agents report
//	reaper        what is forgotten     membership    who has a vote
//
// Leadership is a scope: they all start when this manager is elected and have
// all ended before another term begins.
package manager

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/ca"
	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/id"
	"github.com/minid/minid/manager/allocator"
	"github.com/minid/minid/manager/controlapi"
	"github.com/minid/minid/manager/dispatcher"
	"github.com/minid/minid/manager/orchestrator"
	"github.com/minid/minid/manager/placement"
	"github.com/minid/minid/manager/reaper"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
	"github.com/minid/minid/store"
	"github.com/minid/minid/store/raftstore"
)

// Config is what a Manager needs.
type Config struct {
	NodeID string
	// Addr is this manager's control address.
	Addr string
	Raft *raftstore.Store
	// Founding makes the cluster at its first leadership; nil for those who
	// join one. It is proposed until the state has a cluster.
	Founding []*pb.Command
	// JoinRaft asks the leader for a vote at Addr, or to note that Addr changed.
	// It is repeated until it succeeds.
	JoinRaft func(context.Context) error
	Logger   *slog.Logger
}

// handOverTime bounds the wait for a successor when a leader stops.
const handOverTime = 2 * time.Second

// Manager is one member of the replicated state.
type Manager struct {
	cfg        Config
	raft       *raftstore.Store
	state      *store.State
	log        *slog.Logger
	control    *controlapi.Server
	dispatcher *dispatcher.Dispatcher
	ca         *ca.Server
	// ready is set while the leader's loops run.
	ready atomic.Bool
}

// New makes a manager around an open raft store.
func New(cfg Config) *Manager {
	m := &Manager{cfg: cfg, raft: cfg.Raft, state: cfg.Raft.State(), log: cfg.Logger}
	m.dispatcher = dispatcher.New(dispatcher.Config{
		State:    m.state,
		Propose:  m.raft.Propose,
		Managers: m.peers,
		Identify: identify,
		Logger:   cfg.Logger.With("room", "dispatcher"),
	})
	m.control = controlapi.New(controlapi.Config{
		State:    m.state,
		Propose:  m.raft.Propose,
		Attacher: attacher{m.dispatcher},
		RotateTokens: func(ctx context.Context, worker, manager bool) (*pb.JoinTokens, error) {
			return ca.RotateTokens(ctx, m.state, m.raft.Propose, worker, manager)
		},
		Managers: m.managerStatus,
		Logger:   cfg.Logger.With("room", "controlapi"),
	})
	m.ca = ca.NewServer(ca.ServerConfig{
		State:       m.state,
		Propose:     m.raft.Propose,
		RemoveVoter: m.removeVoter,
		Log:         cfg.Logger.With("room", "ca"),
	})
	return m
}

// Register puts the manager's services on a server.
func (m *Manager) Register(s grpc.ServiceRegistrar) {
	pb.RegisterControlServer(s, m.control)
	pb.RegisterDispatcherServer(s, m.dispatcher)
	pb.RegisterCAServer(s, m.ca)
	pb.RegisterMembershipServer(s, &membership{m: m})
}

// State is the replicated state, to read.
func (m *Manager) State() *store.State { return m.state }

// Leader tells who leads. Self is true once this manager's loops run.
func (m *Manager) Leader() rpc.Leader {
	leaderID, addr := m.raft.Leader()
	self := leaderID == m.cfg.NodeID
	if self && !m.ready.Load() {
		leaderID, addr, self = "", "", false // elected, but not ready: callers wait
	}
	if leaderID == "" {
		return rpc.Leader{Trouble: m.raft.Trouble()}
	}
	return rpc.Leader{ID: leaderID, Addr: addr, Self: self}
}

// Standing is the role that the state grants a node now, for package rpc.
func (m *Manager) Standing() func(nodeID string) pb.NodeRole {
	return ca.Standing(m.state, func() string {
		leaderID, _ := m.raft.Leader()
		return leaderID
	})
}

// Run takes part in the cluster until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	// Raft outlives the rest, so that a leader that stops can hand over.
	replicating, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return m.raft.Run(replicating) })
	g.Go(func() error {
		defer stop()
		err := m.raft.Lead(ctx, m.lead)
		m.handOver()
		return err
	})
	g.Go(func() error { return m.ask(ctx) })
	g.Go(func() error { return m.followSettings(ctx) })
	return g.Wait()
}

// handOver gives the lead to another manager, so that nobody has to notice that
// this one is gone. Without another one there is nothing to do.
func (m *Manager) handOver() {
	if !m.raft.IsLeader() || len(m.raft.Voters()) < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handOverTime)
	defer cancel()
	if err := m.raft.TransferLeadership(ctx); err != nil {
		m.log.Warn("cannot hand the lead over", "err", err)
	}
}

// ask asks for a vote until it is granted; at every start, because this
// manager's address may have changed.
func (m *Manager) ask(ctx context.Context) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := m.cfg.JoinRaft(ctx)
		if err == nil {
			m.log.Info("manager has a vote", "addr", m.cfg.Addr)
			return nil
		}
		m.log.Debug("cannot get a vote yet", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// lead is one term of leadership.
func (m *Manager) lead(ctx context.Context) error {
	m.log.Info("leading the cluster")
	if err := m.found(ctx); err != nil {
		return fmt.Errorf("found cluster: %w", err)
	}
	propose := m.raft.Propose
	room := func(name string) *slog.Logger { return m.log.With("room", name) }
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.dispatcher.Run(ctx) })
	g.Go(func() error {
		return orchestrator.New(orchestrator.Config{State: m.state, Propose: propose, NewID: id.New, Logger: room("orchestrator")}).Run(ctx)
	})
	g.Go(func() error {
		return allocator.New(allocator.Config{State: m.state, Propose: propose, Random: random, Logger: room("allocator")}).Run(ctx)
	})
	g.Go(func() error {
		return placement.New(placement.Config{State: m.state, Propose: propose, Logger: room("placement")}).Run(ctx)
	})
	g.Go(func() error {
		return reaper.New(reaper.Config{State: m.state, Propose: propose, Logger: room("reaper")}).Run(ctx)
	})
	g.Go(func() error { return m.keepMembers(ctx) })
	m.ready.Store(true)
	defer m.ready.Store(false)
	err := g.Wait()
	if errors.Is(err, raftstore.ErrLeadershipLost) {
		m.log.Info("another manager leads the cluster, or none")
	}
	return err
}

// random never fails: crypto/rand panics by itself.
func random(b []byte) { _, _ = rand.Read(b) }

// found proposes the first entries of a new cluster.
func (m *Manager) found(ctx context.Context) error {
	if len(m.cfg.Founding) == 0 || m.state.View().Cluster() != nil {
		return nil
	}
	refused, err := m.raft.Propose(ctx, m.cfg.Founding...)
	return errors.Join(append(refused, err)...)
}

// followSettings applies the cluster's settings to this manager's raft.
func (m *Manager) followSettings(ctx context.Context) error {
	var applied *pb.ClusterSpec
	for {
		view, watch := m.state.ViewAndWatch(pb.Kind_KIND_CLUSTER)
		if spec := view.Cluster().GetSpec(); spec != nil && !proto.Equal(spec, applied) {
			err := errors.Join(m.raft.SetSnapshotInterval(spec.SnapshotInterval), m.raft.SetMaxSnapshots(spec.MaxSnapshots))
			if err != nil {
				m.log.Warn("cannot change how snapshots are taken", "err", err)
			}
			applied = spec
		}
		_, err := watch.Next(ctx)
		watch.Close()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !fault.Is(err, fault.Lagged) {
			return err
		}
	}
}

// peers lists the managers that agents may turn to.
func (m *Manager) peers() []*pb.ManagerPeer {
	var peers []*pb.ManagerPeer
	for n := range m.state.View().Nodes() {
		if n.ManagerAddr != "" {
			peers = append(peers, &pb.ManagerPeer{NodeId: n.Id, Addr: n.ManagerAddr})
		}
	}
	return peers
}

// managerStatus is how this leader sees the voters.
func (m *Manager) managerStatus() map[string]*pb.ManagerStatus {
	status := map[string]*pb.ManagerStatus{}
	leaderID, _ := m.raft.Leader()
	for _, v := range m.raft.Voters() {
		status[v.ID] = &pb.ManagerStatus{Leader: v.ID == leaderID, Reachable: m.raft.Reachable(v.ID), Addr: v.Addr}
	}
	return status
}

func identify(ctx context.Context) (string, error) {
	caller, ok := rpc.IdentityFrom(ctx)
	if !ok || caller.NodeID == "" {
		return "", fault.New(fault.Denied, "the caller has no certificate")
	}
	return caller.NodeID, nil
}

// attacher lets controlapi reach agents through the dispatcher.
type attacher struct{ d *dispatcher.Dispatcher }

func (a attacher) Attach(ctx context.Context, nodeID string, req *pb.Attach) (controlapi.AttachStream, error) {
	return a.d.OpenAttach(ctx, nodeID, req)
}
