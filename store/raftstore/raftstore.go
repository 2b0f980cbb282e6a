// Package raftstore keeps the states of all managers equal: hashicorp/raft
// around package store.
//
// A proposal travels so: Propose stamps and encodes the commands as one entry;
// raft writes it, in a group with what else is waiting, to the leader's disk
// and to a majority; machine decodes it and calls State.Apply on every
// manager; the leader's answer returns to Propose.
//
// Leadership is a scope: Lead runs a function while this node leads.
package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/store"
)

// Config is what a Store needs. NodeID, Addr, Stream and one of Dir and Memory
// are required.
type Config struct {
	// NodeID names this server for good.
	NodeID string
	// Addr is the HOST:PORT that the other managers dial.
	Addr string
	// Dir holds log and snapshots.
	Dir string
	// Memory takes Dir's place in simulations.
	Memory *Memory
	// Stream carries connections between managers.
	Stream Stream
	// Bootstrap makes a new cluster with this node as its only voter, unless
	// there is a log already.
	Bootstrap bool
	// ForceNewCluster recovers from the loss of a majority: what this node has
	// in its log counts as committed, and the node is the only voter.
	ForceNewCluster bool
	// SnapshotInterval is the number of entries between snapshots; 0 means 10000.
	SnapshotInterval uint64
	// MaxSnapshots are kept beside the newest.
	MaxSnapshots int
	// Timing is zero except in tests.
	Timing Timing
	Logger *slog.Logger
}

// Timing sets raft's clocks.
type Timing struct {
	// Heartbeat: a follower that hears nothing for one to two of these asks
	// for votes. The leader sends ten heartbeats in it.
	Heartbeat time.Duration
	// Election: a candidate tries again after one to two of these.
	Election time.Duration
	// Lease: a leader that reaches no majority for so long steps down.
	Lease time.Duration
	// Commit: how soon idle followers learn what is committed.
	Commit time.Duration
	// IO: how long one exchange with a peer may take.
	IO time.Duration
	// SnapshotCheck: how often the log's length is looked at, staggered up to twice that.
	SnapshotCheck time.Duration
}

// lan lets a new leader write some 0.6 to 1.1 s after the old one died, and is
// slow enough for two busy cores. The lease ends before anybody else can be elected.
var lan = Timing{
	Heartbeat:     500 * time.Millisecond,
	Election:      500 * time.Millisecond,
	Lease:         400 * time.Millisecond,
	Commit:        50 * time.Millisecond,
	IO:            3 * time.Second,
	SnapshotCheck: 10 * time.Second,
}

const (
	defaultSnapshotInterval = 10_000
	// trailingLogs stay behind a snapshot, for followers that were away shortly.
	trailingLogs = 2_000
	// groupSize bounds how many proposals share one disk write and message.
	groupSize = 256
	// cachedLogs are kept in memory for followers that are close behind.
	cachedLogs = 512
	// answerTimeout bounds the wait for answers; a leader without a majority
	// gives them when its lease ends.
	answerTimeout = 2 * time.Second
	// maxSnapshots bounds what users may ask to be kept.
	maxSnapshots = 1000
	// shutdownTimeout bounds the wait for raft's goroutines.
	shutdownTimeout = 10 * time.Second
)

// Store is this manager's part of the replicated state. Run must be called
// once after Open; it also closes the store.
type Store struct {
	cfg        Config
	state      *store.State
	raft       *raft.Raft
	disk       *disk
	leadership *leadership
	peers      *peers
	gate       *gate
}

// Open opens or creates the log and starts taking part.
func Open(cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	d, err := openDisk(cfg)
	if err != nil {
		return nil, fmt.Errorf("open raft store in %s: %w", cfg.Dir, err)
	}
	s := &Store{cfg: cfg, state: store.New(), disk: d, leadership: newLeadership(), peers: newPeers(), gate: newGate()}
	if err := s.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start raft: %w", err), d.close())
	}
	return s, nil
}

func (c Config) withDefaults() (Config, error) {
	if c.NodeID == "" || c.Addr == "" || c.Stream == nil || (c.Dir == "") == (c.Memory == nil) {
		return c, fault.New(fault.Invalid, "open raft store: node id, address, stream and either a directory or a memory are required")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.SnapshotInterval == 0 {
		c.SnapshotInterval = defaultSnapshotInterval
	}
	if c.Timing == (Timing{}) {
		c.Timing = lan
	}
	return c, nil
}

// raftConfig fills in raft's own configuration.
func (s *Store) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(s.cfg.NodeID)
	c.HeartbeatTimeout = s.cfg.Timing.Heartbeat
	c.ElectionTimeout = s.cfg.Timing.Election
	c.LeaderLeaseTimeout = s.cfg.Timing.Lease
	c.CommitTimeout = s.cfg.Timing.Commit
	c.SnapshotInterval = s.cfg.Timing.SnapshotCheck
	c.SnapshotThreshold = s.cfg.SnapshotInterval
	c.TrailingLogs = min(trailingLogs, s.cfg.SnapshotInterval)
	c.MaxAppendEntries = groupSize
	c.BatchApplyCh = false     // raft gathers waiting callers as well, and a queue loses them at its end
	c.ShutdownOnRemove = false // the manager decides; pre-vote keeps a removed node harmless
	c.NotifyCh = s.leadership.notify
	c.NoLegacyTelemetry = true
	c.Logger = newLogger(s.cfg.Logger)
	return c
}

func (s *Store) start() error {
	conf := s.raftConfig()
	logs, err := raft.NewLogCache(cachedLogs, s.disk)
	if err != nil {
		return err
	}
	transport := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:                  newStream(s.cfg.Stream, s.cfg.Addr),
		MaxPool:                 3,
		Timeout:                 s.cfg.Timing.IO,
		Logger:                  conf.Logger,
		MsgpackUseNewTimeFormat: true,
	})
	if err := s.prepare(conf, transport); err != nil {
		return errors.Join(err, transport.Close())
	}
	s.raft, err = raft.NewRaft(conf, machine{s.state}, logs, s.disk, s.disk.snapshots, transport)
	if err != nil {
		return errors.Join(err, transport.Close())
	}
	s.raft.RegisterObserver(s.peers.observer())
	return nil
}

// prepare makes the first configuration of a cluster, or a new one by force.
func (s *Store) prepare(conf *raft.Config, transport raft.Transport) error {
	alone := raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: conf.LocalID, Address: raft.ServerAddress(s.cfg.Addr),
	}}}
	exists, err := raft.HasExistingState(s.disk, s.disk, s.disk.snapshots)
	switch {
	case err != nil:
		return err
	case s.cfg.ForceNewCluster && exists:
		// Replayed into a scratch state; NewRaft loads the snapshot that this makes.
		return raft.RecoverCluster(conf, machine{store.New()}, s.disk, s.disk, s.disk.snapshots, transport, alone)
	case s.cfg.ForceNewCluster:
		return fault.New(fault.State, "force a new cluster: there is no raft log in %s", s.cfg.Dir).WithTry("minictl swarm init")
	case s.cfg.Bootstrap && !exists:
		return raft.BootstrapCluster(conf, s.disk, s.disk, s.disk.snapshots, transport, alone)
	}
	return nil
}

// Run takes part until ctx ends, then lets raft answer what was asked, stops it
// and closes the log. Leadership is not handed over; TransferLeadership before
// does that.
func (s *Store) Run(ctx context.Context) error {
	s.leadership.follow(ctx, s.cfg.Logger)
	s.disk.giveUp() // whatever waits for the disk must not hold up the end
	if !s.leadership.ignore(s.gate.close(), answerTimeout) {
		s.cfg.Logger.Warn("raft leaves proposals unanswered")
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.raft.Shutdown().Error() }()
	select {
	case err := <-stopped:
		return errors.Join(err, s.disk.close())
	case <-time.After(shutdownTimeout):
		return fmt.Errorf("stop raft: it did not end within %v", shutdownTimeout)
	}
}

// State returns the replicated state. Write to it with Propose only.
func (s *Store) State() *store.State { return s.state }

// SetMaxSnapshots changes how many snapshots are kept beside the newest.
func (s *Store) SetMaxSnapshots(n uint64) error {
	if files, ok := s.disk.snapshots.(*snapshots); ok {
		return files.keep(int(min(n, maxSnapshots)))
	}
	return nil // in memory there is one
}

// SetSnapshotInterval changes the number of entries between snapshots.
func (s *Store) SetSnapshotInterval(entries uint64) error {
	c := s.raft.ReloadableConfig()
	c.SnapshotThreshold = max(1, entries)
	c.TrailingLogs = min(trailingLogs, c.SnapshotThreshold)
	return s.raft.ReloadConfig(c)
}
