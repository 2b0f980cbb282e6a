package raftstore

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/minid/minid/fault"
)

// Member is one manager in raft's configuration.
type Member struct {
	ID   string
	Addr string
}

// dialTimeout bounds the test of a new member's address.
const dialTimeout = 5 * time.Second

// peers remembers which peers miss this leader's heartbeats.
type peers struct {
	mu     sync.Mutex
	failed map[raft.ServerID]time.Time // since when
}

func newPeers() *peers { return &peers{failed: map[raft.ServerID]time.Time{}} }

// observer listens in its filter, which raft calls in place: nothing can be
// dropped and no goroutine is needed.
func (p *peers) observer() *raft.Observer {
	return raft.NewObserver(nil, false, func(o *raft.Observation) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch seen := o.Data.(type) {
		case raft.FailedHeartbeatObservation:
			if _, known := p.failed[seen.PeerID]; !known {
				p.failed[seen.PeerID] = time.Now()
			}
		case raft.ResumedHeartbeatObservation:
			delete(p.failed, seen.PeerID)
		case raft.PeerObservation:
			delete(p.failed, seen.Peer.ID)
		case raft.RaftState: // a new term of office begins without prejudice
			clear(p.failed)
		}
		return false
	})
}

// Reachable says whether a member answered this leader's last heartbeat. On a
// follower it is true of everybody.
func (s *Store) Reachable(id string) bool {
	s.peers.mu.Lock()
	defer s.peers.mu.Unlock()
	_, failed := s.peers.failed[raft.ServerID(id)]
	return !failed
}

// LastContact returns when this node last heard from the leader; zero if never,
// now if it leads.
func (s *Store) LastContact() time.Time {
	if s.IsLeader() {
		return time.Now()
	}
	return s.raft.LastContact()
}

// Voters returns the members in order of id, as this node last heard of them.
func (s *Store) Voters() []Member {
	future := s.raft.GetConfiguration()
	if future.Error() != nil {
		return nil
	}
	var members []Member
	for _, server := range future.Configuration().Servers {
		members = append(members, Member{ID: string(server.ID), Addr: string(server.Address)})
	}
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	return members
}

// AddVoter makes a node a member, or changes the address of one. Only the
// leader can. The address is dialled before: a member that nobody reaches could
// cost the majority.
func (s *Store) AddVoter(ctx context.Context, id, addr string) error {
	if s.IsLeader() && slices.Contains(s.Voters(), Member{id, addr}) {
		return nil
	}
	if id != s.cfg.NodeID {
		conn, err := s.cfg.Stream.Dial(addr, dialTimeout)
		if err != nil {
			return fault.New(fault.Unavailable, "add manager %s: cannot reach it at %s: %w", id, addr, err).
				WithTry("check --advertise-addr of that node and the firewall between")
		}
		if err := conn.Close(); err != nil {
			return fault.New(fault.Unavailable, "add manager %s: close test connection: %w", id, err)
		}
	}
	// A known node with a new address is a new member: raft 1.7.3 would change
	// the address while the goroutine that replicates to it reads it.
	if id != s.cfg.NodeID {
		if err := s.RemoveServer(ctx, id); err != nil {
			return err
		}
	}
	return s.change(ctx, "add manager "+id, func() raft.IndexFuture {
		return s.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(addr), 0, enqueueTimeout)
	})
}

// RemoveServer takes a member out. Only the leader can; it can remove itself.
// For one that is not a member nothing happens.
func (s *Store) RemoveServer(ctx context.Context, id string) error {
	member := func(m Member) bool { return m.ID == id }
	if s.IsLeader() && !slices.ContainsFunc(s.Voters(), member) {
		return nil
	}
	return s.change(ctx, "remove manager "+id, func() raft.IndexFuture {
		return s.raft.RemoveServer(raft.ServerID(id), 0, enqueueTimeout)
	})
}

func (s *Store) change(ctx context.Context, what string, question func() raft.IndexFuture) error {
	_, err := ask(ctx, s.gate, question)
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case errors.Is(err, raft.ErrNotLeader):
		return fault.New(fault.Unavailable, "%s: this manager does not lead: %w", what, err)
	}
	return fault.New(fault.Unavailable, "%s: %w", what, err)
}
