package ca

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

// joinTime bounds the talk with one manager: an election may fall into it.
const joinTime = 15 * time.Second

// JoinOptions say where and as what a node joins.
type JoinOptions struct {
	// Addrs are managers, HOST:PORT, tried in order.
	Addrs []string
	// Token decides the role and pins the cluster's root.
	Token        string
	Availability pb.NodeAvailability
	Description  *pb.NodeDescription
	// Dial reaches the managers; nil is TCP.
	Dial rpc.DialFunc
}

// Join makes the node a member of a cluster and stores its new identity. The
// answer holds the node's id and role and the managers' addresses.
func Join(ctx context.Context, k *Keystore, opts JoinOptions) (*pb.Certificate, error) {
	if id, ok := k.Identity(); ok {
		return nil, fault.New(fault.State, "cannot join: this node is part of cluster %s already", id.ClusterID).
			WithTry("minictl swarm leave")
	}
	token, err := ParseToken(opts.Token)
	if err != nil {
		return nil, err
	}
	if len(opts.Addrs) == 0 {
		return nil, fault.New(fault.Invalid, "cannot join: no manager's address given").
			WithTry("minictl swarm join --token TOKEN HOST:2377")
	}
	var failures []error
	for _, addr := range opts.Addrs {
		answer, err := joinAt(ctx, k, addr, token, opts)
		if err == nil {
			return answer, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil || final(err) {
			break
		}
	}
	return nil, joinFailure(failures)
}

// refused is a cluster's own word, which another of its managers would repeat.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

func final(err error) bool {
	_, ok := errors.AsType[refused](err)
	return ok && !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.Timeout)
}

// joinFailure reports all that failed, with the class and advice of the last.
func joinFailure(failures []error) error {
	last := failures[len(failures)-1]
	if len(failures) == 1 || final(last) {
		return fmt.Errorf("cannot join: %w", last)
	}
	texts := make([]string, len(failures))
	for i, err := range failures {
		texts[i] = err.Error()
	}
	f := fault.New(fault.ClassOf(last), "cannot join: %s", strings.Join(texts, "; "))
	f.Try, f.Err = fault.TryOf(last), last
	return f
}

// joinAt joins by way of one manager.
func joinAt(ctx context.Context, k *Keystore, addr string, token Token, opts JoinOptions) (*pb.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	root, err := fetchRoot(ctx, addr, token, opts.Dial)
	if err != nil {
		return nil, err
	}
	key, csr, err := newRequest()
	if err != nil {
		return nil, err
	}
	conf := managerTLS(func(state tls.ConnectionState) (rpc.Identity, error) {
		return root.Verify(state.PeerCertificates[0], time.Now())
	})
	conn, err := rpc.Dial(addr, conf, opts.Dial)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answer, err := pb.NewCAClient(conn).Join(ctx, &pb.JoinRequest{
		Csr: csr, Token: opts.Token, Availability: opts.Availability, Description: opts.Description,
	})
	if err != nil {
		return nil, refused{err}
	}
	if err := k.Store(Material{Key: keyPEM(key), Cert: answer.Cert, Root: root.CertPEM()}); err != nil {
		return nil, refused{err}
	}
	return answer, nil
}

// fetchRoot asks a manager, not yet trusted, for the root and trusts it if the
// token names it.
func fetchRoot(ctx context.Context, addr string, token Token, dial rpc.DialFunc) (*Root, error) {
	conn, err := rpc.Dial(addr, &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{rpc.ProtoGRPC},
		ServerName: rpc.ManagerName,
		// Nothing secret is sent, and the answer is checked by its digest.
		InsecureSkipVerify: true,
	}, dial)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answer, err := pb.NewCAClient(conn).GetRoot(ctx, &pb.GetRootRequest{})
	if err != nil {
		return nil, err
	}
	root, err := ParseRoot(answer.RootCaCert, nil)
	if err != nil {
		return nil, fmt.Errorf("read the root certificate of the manager at %s: %w", addr, err)
	}
	if !token.Pins(root.Cert) {
		return nil, fault.New(fault.Denied, "the manager at %s presents another cluster's CA than the token names", addr).
			WithTry("check the address, and the token with: %s", tokenTry)
	}
	return root, nil
}
