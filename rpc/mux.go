package rpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Protocols that share the control port, as negotiated by ALPN.
const (
	ProtoGRPC = "h2"
	ProtoRaft = "minid-raft/1"
)

const (
	handshakeTime = 5 * time.Second
	// sweepEvery is how soon connections of removed, demoted and expired nodes end.
	sweepEvery = 5 * time.Second
)

// MuxConfig is what the shared port needs from its node.
type MuxConfig struct {
	// TLS is the keystore's ServerTLS.
	TLS *tls.Config
	// Verify checks a caller's certificate chain against the cluster's root
	// (Keystore.Verify). Callers that fail it are let in as strangers, who may
	// only ask to join, and are told why when they ask for more.
	Verify func(chain []*x509.Certificate) (Identity, error)
	// Standing as in ServerConfig.
	Standing func(nodeID string) pb.NodeRole
	Log      *slog.Logger
}

// Mux shares one listener between gRPC and raft. It bounds what strangers can
// cost: handshakes in progress, time per handshake, their connections' number,
// life and bytes.
type Mux struct {
	cfg  MuxConfig
	ln   net.Listener
	grpc *side
	raft *side

	handshakes *gate
	strangers  *gate

	mu    sync.Mutex // protects conns
	conns map[*conn]struct{}
}

// NewMux splits a listener; nothing is accepted before Run.
func NewMux(ln net.Listener, cfg MuxConfig) *Mux {
	return &Mux{
		cfg: cfg, ln: ln,
		grpc:       newSide(ln.Addr()),
		raft:       newSide(ln.Addr()),
		handshakes: newGate(maxHandshakes, maxHandshakesPerSource),
		strangers:  newGate(maxStrangers, maxStrangersPerSource),
		conns:      map[*conn]struct{}{},
	}
}

// GRPC returns the listener for Server.Run.
func (m *Mux) GRPC() net.Listener { return m.grpc }

// Raft returns the listener for raft. Its connections come from managers of
// this cluster, and end when these are removed or demoted.
func (m *Mux) Raft() net.Listener { return m.raft }

// Run accepts connections until ctx ends, then closes the listener and every
// connection that is left.
func (m *Mux) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	unlisten := context.AfterFunc(ctx, func() { m.ln.Close() })
	defer unlisten()
	defer m.closeAll()
	wg.Go(func() { m.sweep(ctx) })
	for {
		raw, err := m.ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				raw.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept connection: %w", err)
		case err != nil: // out of file descriptors, for one: passes
			m.log("cannot accept connections", "err", err)
			pause(ctx, 100*time.Millisecond)
			continue
		}
		release, ok := m.handshakes.enter(raw.RemoteAddr())
		if !ok {
			raw.Close()
			continue
		}
		wg.Go(func() {
			defer release()
			m.admit(ctx, raw)
		})
	}
}

func (m *Mux) log(msg string, args ...any) {
	if m.cfg.Log != nil {
		m.cfg.Log.Warn(msg, args...)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// admit shakes hands, finds out who it is and hands the connection over.
func (m *Mux) admit(ctx context.Context, raw net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	tc := tls.Server(raw, m.cfg.TLS)
	if err := tc.HandshakeContext(ctx); err != nil {
		raw.Close()
		return
	}
	state := tc.ConnectionState()
	c := &conn{Conn: tc, raw: raw, mux: m, auth: m.authenticate(state)}
	to, err := m.sideFor(state.NegotiatedProtocol, c.auth)
	if err != nil {
		m.log("connection refused", "from", raw.RemoteAddr().String(), "err", err)
		raw.Close()
		return
	}
	if c.auth.err != nil && !c.limit(m.strangers) {
		raw.Close()
		return
	}
	m.track(c)
	if !to.hand(ctx, c) {
		c.Close()
	}
}

func (m *Mux) authenticate(state tls.ConnectionState) authInfo {
	auth := authInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	if len(state.PeerCertificates) == 0 {
		auth.err = fault.New(fault.Denied, "the caller has no certificate of this cluster")
		return auth
	}
	auth.id, auth.err = m.cfg.Verify(state.PeerCertificates)
	auth.notAfter = state.PeerCertificates[0].NotAfter
	return auth
}

// sideFor chooses who gets a connection: raft takes none but managers.
func (m *Mux) sideFor(protocol string, auth authInfo) (*side, error) {
	switch protocol {
	case ProtoGRPC:
		return m.grpc, nil
	case ProtoRaft:
		id, err := auth.identity(time.Now(), m.cfg.Standing)
		if err == nil && id.Role != pb.NodeRole_NODE_ROLE_MANAGER {
			err = fault.New(fault.Denied, "raft is for managers: node %s is a worker", id.NodeID)
		}
		return m.raft, err
	}
	return nil, fault.New(fault.Denied, "unknown protocol %q", protocol)
}

func (m *Mux) track(c *conn) {
	if id, err := c.auth.identity(time.Now(), m.cfg.Standing); err == nil {
		c.role = id.Role
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns[c] = struct{}{}
}

func (m *Mux) forget(c *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conns, c)
}

// sweep ends connections whose peer lost what it had when it connected. Peers
// in good standing come back at once with what they have now.
func (m *Mux) sweep(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, sweepEvery)
		for _, c := range m.tracked() {
			id, err := c.auth.identity(time.Now(), m.cfg.Standing)
			if c.auth.err == nil && (err != nil || id.Role < c.role) {
				c.abort()
			}
		}
	}
}

func (m *Mux) tracked() []*conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*conn, 0, len(m.conns))
	for c := range m.conns {
		all = append(all, c)
	}
	return all
}

func (m *Mux) closeAll() {
	m.grpc.Close()
	m.raft.Close()
	for _, c := range m.tracked() {
		c.abort()
	}
}

// authInfo is what the handshake told about a peer.
type authInfo struct {
	credentials.CommonAuthInfo
	id       Identity
	err      error // why the peer counts as a stranger
	notAfter time.Time
}

// AuthType names the protocol for gRPC.
func (authInfo) AuthType() string { return "tls" }

// identity is who the peer is at this moment.
func (a authInfo) identity(now time.Time, standing func(string) pb.NodeRole) (Identity, error) {
	if a.err != nil {
		return Identity{}, a.err
	}
	if now.After(a.notAfter) {
		return Identity{}, fault.New(fault.Denied, "the certificate of node %s expired at %s", a.id.NodeID, a.notAfter.UTC().Format(time.RFC3339))
	}
	return a.id.allowedBy(standing)
}

// handedOver takes the place of a handshake for connections from a Mux, which
// has done it.
type handedOver struct{}

func (handedOver) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := raw.(*conn)
	if !ok {
		return nil, nil, errors.New("serve connection: it did not come through the mux")
	}
	return c, c.auth, nil
}

func (handedOver) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these are a server's credentials")
}

func (handedOver) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (handedOver) Clone() credentials.TransportCredentials { return handedOver{} }

func (handedOver) OverrideServerName(string) error { return nil }
