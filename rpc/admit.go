package rpc

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// leaderWait bounds the wait for an election before a call is refused.
	leaderWait = 2 * time.Second
	leaderPoll = 25 * time.Millisecond
)

// admit decides whether and where a call is carried out: an empty leader
// address means here.
//
// Certificates are judged by every manager. What the cluster still grants to
// their nodes is judged where the call is carried out: a follower may not have
// heard yet of a node that was just admitted.
func (s *Server) admit(ctx context.Context, method string) (context.Context, string, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, "", err
	}
	r, err := permit(method, c.id)
	if err != nil {
		return nil, "", c.refused(method, err)
	}
	leader, err := s.whereTo(ctx, r.route)
	switch {
	case err != nil:
		return nil, "", err
	case leader != "" && c.forwarded != nil:
		return nil, "", fault.New(fault.Unavailable, "the leader changed while the call was passed on")
	case leader != "":
		return WithIdentity(ctx, c.id), leader, nil
	}
	id, err := c.granted(s.cfg.Standing)
	if err != nil {
		if r.allow&anyone == 0 {
			return nil, "", err
		}
		id = Identity{Addr: c.id.Addr}
	}
	if _, err := permit(method, id); err != nil {
		return nil, "", err
	}
	return WithIdentity(ctx, id), "", nil
}

// caller is what a call says about where it comes from.
type caller struct {
	// id is the peer's, by its certificate.
	id Identity
	// stranger is why the peer has no identity.
	stranger error
	// forwarded is whom the peer, a manager, speaks for.
	forwarded *Identity
}

// caller reads the peer's certificate and forwarding metadata.
func (s *Server) caller(ctx context.Context) (c caller, err error) {
	if s.local {
		c.id = s.cfg.Self()
		c.id.Local = true
	} else if c, err = peerOf(ctx); err != nil {
		return c, err
	}
	c.forwarded, err = forwardedFrom(ctx)
	switch {
	case err != nil:
		return c, err
	case c.forwarded != nil && (c.id.Local || c.id.Role != pb.NodeRole_NODE_ROLE_MANAGER):
		return c, fault.New(fault.Denied, "only managers may pass on calls of others")
	}
	return c, nil
}

// refused says why the caller may not call a method: what is wrong with its
// certificate, if anything is.
func (c caller) refused(method string, why error) error {
	if c.stranger == nil {
		return why
	}
	return fault.New(fault.Denied, "cannot call %s: %w", shortName(method), c.stranger).
		WithTry("%s", fault.TryOf(c.stranger))
}

func peerOf(ctx context.Context) (caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return caller{}, errors.New("call without a peer")
	}
	auth, ok := p.AuthInfo.(authInfo)
	if !ok {
		return caller{}, errors.New("call without TLS")
	}
	id, err := auth.identity(time.Now(), nil)
	id.Addr = p.Addr.String()
	return caller{id: id, stranger: err}, nil
}

// granted is the identity for which the call is carried out, as far as the
// cluster still stands by it and by the manager that speaks for it. Callers
// without a certificate stay the strangers that they are.
func (c caller) granted(standing func(string) pb.NodeRole) (Identity, error) {
	if c.id.Local || c.id.NodeID == "" {
		return c.id, nil
	}
	via, err := c.id.allowedBy(standing)
	if err != nil || c.forwarded == nil {
		return via, err
	}
	if via.Role != pb.NodeRole_NODE_ROLE_MANAGER {
		return Identity{}, fault.New(fault.Denied, "only managers may pass on calls of others")
	}
	id := *c.forwarded
	if id.NodeID == "" {
		return id, nil
	}
	id.ClusterID = via.ClusterID
	return id.allowedBy(standing)
}

// whereTo returns the leader's address, empty when this manager is in charge.
func (s *Server) whereTo(ctx context.Context, r route) (string, error) {
	if r == here || s.cfg.Leader == nil {
		return "", nil
	}
	if r == onLeader {
		return "", s.mustLead()
	}
	leader, err := s.awaitLeader(ctx)
	if leader.Self {
		return "", err
	}
	return leader.Addr, err
}

// mustLead refuses unless this manager leads.
func (s *Server) mustLead() error {
	leader := s.cfg.Leader()
	if leader.Self {
		return nil
	}
	where := "there is none"
	if leader.Addr != "" {
		where = "it is " + leader.Addr
	}
	detail := &pb.NotLeader{LeaderId: leader.ID, LeaderAddr: leader.Addr}
	return statusOf(fault.Unavailable, "this manager is not the leader: "+where, "", detail).Err()
}

// awaitLeader bridges elections, which take a second or two: it waits for a
// leader that is in reach.
func (s *Server) awaitLeader(ctx context.Context) (Leader, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, leaderWait, errNoLeader)
	defer cancel()
	for {
		leader := s.cfg.Leader()
		if leader.Self || leader.Addr != "" && s.forward.inReach(ctx, leader.Addr) {
			return leader, nil
		}
		select {
		case <-ctx.Done():
			if leader.Addr != "" && context.Cause(ctx) == errNoLeader {
				return leader, nil // the call itself finds out why it is out of reach
			}
			if leader.Trouble != nil && context.Cause(ctx) == errNoLeader {
				return Leader{}, cannotLead(leader.Trouble)
			}
			return Leader{}, context.Cause(ctx)
		case <-time.After(leaderPoll):
		}
	}
}

// cannotLead is the answer of a manager that knows what hinders it.
func cannotLead(trouble error) error {
	return fault.New(fault.Unavailable, "the cluster has no leader, and this manager cannot lead: %w", trouble).
		WithTry("minictl info, on each manager")
}

// errNoLeader is the answer when the wait for a leader is over.
var errNoLeader error = fault.New(fault.Unavailable, "the cluster has no leader: more than half of the managers must be up and in reach").
	WithTry("minictl info, on each manager")
