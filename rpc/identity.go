// Package rpc is how the parts of a cluster speak to each other: mutual TLS on
// one port for gRPC and raft, a role for every method, calls passed on to the
// leader, and errors that keep their class and advice across the wire.
//
// Nothing here dials or listens by itself: listeners and a DialFunc come from
// outside, so that whole clusters run in memory and in virtual time.
package rpc

import (
	"context"
	"crypto/x509"
	"net"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Names in certificates: the organizational unit and the DNS name of a role.
// Whoever dials expects the name of a role, whatever the address it dials.
const (
	ManagerName = "minid-manager"
	WorkerName  = "minid-worker"
)

// DialFunc opens a connection to HOST:PORT, or to whatever address form the
// caller's network uses.
type DialFunc func(ctx context.Context, addr string) (net.Conn, error)

// Identity is who makes a call. The zero value is somebody without a
// certificate.
type Identity struct {
	NodeID    string
	ClusterID string
	Role      pb.NodeRole
	// Local is set for those who hold the node's own unix socket.
	Local bool
	// Addr is the HOST:PORT that the call comes from, also when another
	// manager passed it on; empty for local callers.
	Addr string
}

// RoleName returns the name of a role in certificates, empty for no role.
func RoleName(role pb.NodeRole) string {
	switch role {
	case pb.NodeRole_NODE_ROLE_MANAGER:
		return ManagerName
	case pb.NodeRole_NODE_ROLE_WORKER:
		return WorkerName
	}
	return ""
}

// IdentityOf reads the identity in a certificate, which it does not verify.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	s := cert.Subject
	if len(s.Organization) != 1 || len(s.OrganizationalUnit) != 1 || s.CommonName == "" {
		return Identity{}, fault.New(fault.Denied, "bad certificate: it is not one of a minid node")
	}
	id := Identity{NodeID: s.CommonName, ClusterID: s.Organization[0]}
	switch s.OrganizationalUnit[0] {
	case ManagerName:
		id.Role = pb.NodeRole_NODE_ROLE_MANAGER
	case WorkerName:
		id.Role = pb.NodeRole_NODE_ROLE_WORKER
	default:
		return Identity{}, fault.New(fault.Denied, "bad certificate: unknown role %q", s.OrganizationalUnit[0])
	}
	return id, nil
}

type identityKey struct{}

// WithIdentity returns a context that carries the caller's identity.
func WithIdentity(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}

// IdentityFrom returns the identity that the server found for a call; false
// outside of one.
func IdentityFrom(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(identityKey{}).(Identity)
	return id, ok
}

// allowedBy narrows an identity to what the cluster still grants its node: a
// certificate outlives a demotion, its authority does not.
func (id Identity) allowedBy(standing func(nodeID string) pb.NodeRole) (Identity, error) {
	if standing == nil {
		return id, nil
	}
	granted := standing(id.NodeID)
	if granted == pb.NodeRole_NODE_ROLE_UNSPECIFIED {
		return Identity{}, fault.New(fault.NotFound, "node %s is no longer part of the cluster: it was removed", id.NodeID).
			WithTry("minictl swarm leave --force, then join again")
	}
	id.Role = min(id.Role, granted)
	return id, nil
}
