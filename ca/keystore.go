package ca

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

// identityFile holds key, certificate and root, in that order. One file, so
// that no crash can leave a key without its certificate.
const identityFile = "node.pem"

// Material is what a node needs to be somebody.
type Material struct {
	// Key is the node's own, PEM.
	Key []byte
	// Cert is its certificate, PEM.
	Cert []byte
	// Root is the cluster's root certificate, PEM.
	Root []byte
}

// Keystore is a node's identity, on disk and in use. TLS configurations taken
// from it follow every change without being taken again. It may be empty: a
// node without a cluster.
type Keystore struct {
	dir     string
	present atomic.Pointer[keyPair]

	mu sync.Mutex // one change at a time
}

// keyPair is a Material, parsed and found consistent.
type keyPair struct {
	id   rpc.Identity
	cert *x509.Certificate
	tls  *tls.Certificate
	root *Root
}

// OpenKeystore loads the identity under a directory, if there is one; the
// directory is made by the first Store. A damaged identity is an error, an
// expired one is not (Check).
func OpenKeystore(dir string) (*Keystore, error) {
	k := &Keystore{dir: dir}
	data, err := os.ReadFile(k.path())
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read node certificate: %w", err)
	}
	pair, err := splitIdentity(data).parse()
	if err != nil {
		return nil, fault.New(fault.Internal, "read node certificate %s: %w", k.path(), err).
			WithTry("restore the file, or minictl swarm leave --force and join again")
	}
	k.present.Store(pair)
	return k, nil
}

func (k *Keystore) path() string { return filepath.Join(k.dir, identityFile) }

// splitIdentity finds the parts of an identity file; missing ones stay empty.
func splitIdentity(data []byte) Material {
	var m Material
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return m
		}
		data = rest
		encoded := pem.EncodeToMemory(block)
		switch {
		case block.Type == pemKey:
			m.Key = encoded
		case m.Cert == nil:
			m.Cert = encoded
		default:
			m.Root = encoded
		}
	}
}

// parse checks that the parts belong together; the clock is not asked.
func (m Material) parse() (*keyPair, error) {
	root, err := ParseRoot(m.Root, nil)
	if err != nil {
		return nil, err
	}
	cert, err := parseCert(m.Cert)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	key, err := parseKey(m.Key)
	if err != nil {
		return nil, fmt.Errorf("parse key: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fault.New(fault.Invalid, "the key does not belong to the certificate")
	}
	id, err := root.Verify(cert, cert.NotAfter)
	if err != nil {
		return nil, err
	}
	return &keyPair{id: id, cert: cert, root: root, tls: tlsPair(cert, key)}, nil
}

func tlsPair(cert *x509.Certificate, key *ecdsa.PrivateKey) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// Store replaces the identity, on disk first. New TLS handshakes use it as
// soon as Store returns.
func (k *Keystore) Store(m Material) error {
	pair, err := m.parse()
	if err != nil {
		return fmt.Errorf("store node certificate: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return fmt.Errorf("store node certificate: %w", err)
	}
	if err := replaceFile(k.path(), slices.Concat(m.Key, m.Cert, m.Root)); err != nil {
		return fmt.Errorf("store node certificate: %w", err)
	}
	k.present.Store(pair)
	return nil
}

// Remove forgets the identity, for a node that leaves its cluster.
func (k *Keystore) Remove() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := os.Remove(k.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove node certificate: %w", err)
	}
	k.present.Store(nil)
	return syncDir(k.dir)
}

// Identity returns who the node is; false without a cluster.
func (k *Keystore) Identity() (rpc.Identity, bool) {
	if p := k.present.Load(); p != nil {
		return p.id, true
	}
	return rpc.Identity{}, false
}

// Self is Identity as rpc.ServerConfig wants it.
func (k *Keystore) Self() rpc.Identity {
	id, _ := k.Identity()
	return id
}

// ExpiresAt returns the end of the certificate's life, zero without one.
func (k *Keystore) ExpiresAt() time.Time {
	if p := k.present.Load(); p != nil {
		return p.cert.NotAfter
	}
	return time.Time{}
}

// RootPEM returns the root certificate that the node trusts, nil without a
// cluster.
func (k *Keystore) RootPEM() []byte {
	if p := k.present.Load(); p != nil {
		return p.root.CertPEM()
	}
	return nil
}

// Check says whether the certificate is good at now. The error for an expired
// one tells how the node comes back.
func (k *Keystore) Check(now time.Time) error {
	p := k.present.Load()
	if p == nil {
		return errNoIdentity()
	}
	return inDate(p.cert, now)
}

func errNoIdentity() error {
	return fault.New(fault.NotManager, "this node is not part of a cluster").
		WithTry("minictl swarm init, or minictl swarm join --token TOKEN HOST:2377")
}

// Verify checks a peer's certificate chain (leaf first) against the present
// root and clock.
func (k *Keystore) Verify(chain []*x509.Certificate) (rpc.Identity, error) {
	p := k.present.Load()
	switch {
	case p == nil:
		return rpc.Identity{}, errNoIdentity()
	case len(chain) == 0:
		return rpc.Identity{}, fault.New(fault.Denied, "the peer has no certificate")
	}
	return p.root.Verify(chain[0], time.Now())
}

// ServerTLS returns the configuration of the control port, for rpc.Mux. It
// asks callers for certificates but leaves their judgement to the Mux (with
// Verify): refusing in the handshake could not tell a node why.
func (k *Keystore) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{rpc.ProtoGRPC, rpc.ProtoRaft},
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if p := k.present.Load(); p != nil {
				return p.tls, nil
			}
			return nil, errNoIdentity()
		},
	}
}

// ClientTLS returns the configuration for dialling managers: it shows the
// node's certificate and insists on a manager of the same cluster.
func (k *Keystore) ClientTLS() *tls.Config {
	conf := managerTLS(func(state tls.ConnectionState) (rpc.Identity, error) { return k.Verify(state.PeerCertificates) })
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if p := k.present.Load(); p != nil {
			return p.tls, nil
		}
		return nil, errNoIdentity()
	}
	return conf
}

// managerTLS is a client's configuration that accepts managers only.
func managerTLS(verify func(tls.ConnectionState) (rpc.Identity, error)) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{rpc.ProtoGRPC},
		ServerName: rpc.ManagerName,
		// Replaces the verification by host name with VerifyConnection.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			id, err := verify(state)
			if err != nil {
				return err
			}
			if id.Role != pb.NodeRole_NODE_ROLE_MANAGER {
				return fault.New(fault.Denied, "node %s answered, which is not a manager", id.NodeID)
			}
			return nil
		},
	}
}

// replaceFile writes a private file that is either old or new after a crash.
func replaceFile(path string, data []byte) (err error) {
	// Always the same name: what a crash leaves is overwritten by the next try.
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename or removal durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
