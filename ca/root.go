// Package ca is the cluster's trust: its root, the tokens that admit nodes,
// the certificates that say what a node is, and their renewal.
//
// A certificate names the cluster (O), the role (OU, and as DNS name) and the
// node (CN). Peers verify role and cluster, never host names: nodes may be
// dialled by any address.
package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

const (
	// rootLife is Swarm's: longer than the cluster's machines.
	rootLife = 20 * 365 * 24 * time.Hour
	// backdate forgives clocks that are behind.
	backdate = time.Hour
	// minExpiry keeps renewals from becoming the cluster's main work.
	minExpiry = time.Hour
)

// Root is the cluster's root: the certificate that all nodes trust and, on
// managers, its key.
//
// A second root to trust during a rotation would stand beside Cert in the
// pool, and Key would be sealed by the managers' unlock key.
type Root struct {
	Cert *x509.Certificate
	// Key is nil where the root is only verified against.
	Key *ecdsa.PrivateKey

	pool *x509.CertPool
}

// Subject is what a certificate says of its node.
type Subject struct {
	NodeID    string
	ClusterID string
	Role      pb.NodeRole
}

// NewRoot makes the root of a new cluster.
func NewRoot(clusterID string, now time.Time) (*Root, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{Organization: []string{clusterID}, CommonName: "minid-root"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make root certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse new root certificate: %w", err)
	}
	return rootOf(cert, key), nil
}

// ParseRoot reads a root from PEM. keyPEM may be empty, for those who only
// verify.
func ParseRoot(certPEM, keyPEM []byte) (*Root, error) {
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("parse root certificate: %w", err)
	}
	if !cert.IsCA || len(cert.Subject.Organization) != 1 {
		return nil, fault.New(fault.Invalid, "parse root certificate: it is not the root of a minid cluster")
	}
	if err := strongKey(cert.PublicKey); err != nil {
		return nil, fmt.Errorf("parse root certificate: %w", err)
	}
	if len(keyPEM) == 0 {
		return rootOf(cert, nil), nil
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("parse root key: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fault.New(fault.Invalid, "parse root key: it does not belong to the root certificate")
	}
	return rootOf(cert, key), nil
}

func rootOf(cert *x509.Certificate, key *ecdsa.PrivateKey) *Root {
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &Root{Cert: cert, Key: key, pool: pool}
}

// ClusterID returns the cluster that the root is of.
func (r *Root) ClusterID() string { return r.Cert.Subject.Organization[0] }

// CertPEM returns the root certificate.
func (r *Root) CertPEM() []byte { return encode(pemCert, r.Cert.Raw) }

// KeyPEM returns the root's key, nil if it is not known.
func (r *Root) KeyPEM() []byte {
	if r.Key == nil {
		return nil
	}
	return keyPEM(r.Key)
}

// Issue makes a node's certificate, PEM, valid for expiry from now and at most
// as long as the root. Of the request only the public key counts: a node
// cannot choose what it is.
func (r *Root) Issue(csrPEM []byte, s Subject, expiry time.Duration, now time.Time) ([]byte, error) {
	if r.Key == nil {
		return nil, fault.New(fault.Internal, "issue certificate: the root's key is not known here")
	}
	public, err := parseRequest(csrPEM)
	if err != nil {
		return nil, err
	}
	role := rpc.RoleName(s.Role)
	if role == "" || s.NodeID == "" || s.ClusterID != r.ClusterID() {
		return nil, fault.New(fault.Internal, "issue certificate: bad subject %+v", s)
	}
	notAfter := now.Add(max(expiry, minExpiry))
	if notAfter.After(r.Cert.NotAfter) {
		notAfter = r.Cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{Organization: []string{s.ClusterID}, OrganizationalUnit: []string{role}, CommonName: s.NodeID},
		DNSNames:     []string{role},
		NotBefore:    now.Add(-backdate),
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},

		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, r.Cert, public, r.Key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	return encode(pemCert, der), nil
}

// Verify checks that a certificate was issued by this root, for its cluster,
// and is valid at now. It returns whose it is; refusals are fault.Denied and
// say what to do.
func (r *Root) Verify(cert *x509.Certificate, now time.Time) (rpc.Identity, error) {
	id, err := rpc.IdentityOf(cert)
	if err != nil {
		return rpc.Identity{}, err
	}
	_, err = cert.Verify(x509.VerifyOptions{
		Roots: r.pool, CurrentTime: clamp(now, cert.NotBefore, cert.NotAfter),
		DNSName:   rpc.RoleName(id.Role),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil || id.ClusterID != r.ClusterID() {
		return rpc.Identity{}, fault.New(fault.Denied, "bad certificate of node %s: another cluster's CA issued it", id.NodeID).
			WithTry("minictl swarm leave --force, then minictl swarm join with a token of this cluster")
	}
	if err := inDate(cert, now); err != nil {
		return rpc.Identity{}, err
	}
	return id, nil
}

// inDate says whether a node's certificate is valid at now.
func inDate(cert *x509.Certificate, now time.Time) error {
	node := cert.Subject.CommonName
	switch {
	case now.Before(cert.NotBefore):
		return fault.New(fault.Denied, "the certificate of node %s is valid from %s only: a clock is wrong", node, stamp(cert.NotBefore)).
			WithTry("timedatectl, on both machines")
	case now.After(cert.NotAfter):
		return fault.New(fault.Denied, "the certificate of node %s expired at %s: the node was off or cut off for too long", node, stamp(cert.NotAfter)).
			WithTry("minictl swarm leave --force, then minictl swarm join --token TOKEN HOST:2377")
	}
	return nil
}

// clamp moves t into the span, so that the chain is judged apart from the
// clock, which deserves an error of its own.
func clamp(t, from, to time.Time) time.Time {
	switch {
	case t.Before(from):
		return from
	case t.After(to):
		return to
	}
	return t
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand panics by itself
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

// strongKey admits only the one kind of key that minid makes.
func strongKey(public any) error {
	key, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return fault.New(fault.Invalid, "bad key: %T, want ECDSA P-256", public)
	}
	if key.Curve != elliptic.P256() {
		return fault.New(fault.Invalid, "bad key: ECDSA %s, want ECDSA P-256", key.Curve.Params().Name)
	}
	return nil
}
