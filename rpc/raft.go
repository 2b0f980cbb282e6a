package rpc

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/minid/minid/fault"
)

// DialRaft opens a connection to a manager's raft. tlsConf is the keystore's
// ClientTLS, which checks that the peer is a manager of this cluster; a nil
// dial uses TCP. ctx bounds dial and handshake.
func DialRaft(ctx context.Context, addr string, tlsConf *tls.Config, dial DialFunc) (net.Conn, error) {
	if dial == nil {
		dial = dialTCP
	}
	raw, err := dial(ctx, addr)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "cannot reach manager at %s: %s", addr, causeOf(err))
	}
	conf := tlsConf.Clone()
	conf.NextProtos = []string{ProtoRaft}
	c := tls.Client(raw, conf)
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fault.New(fault.Unavailable, "cannot reach manager at %s: %s", addr, causeOf(err))
	}
	if c.ConnectionState().NegotiatedProtocol != ProtoRaft {
		c.Close()
		return nil, fault.New(fault.Unavailable, "cannot reach manager at %s: it does not speak raft there", addr)
	}
	return c, nil
}

// RaftLayer is raft's network: connections from Mux.Raft in, DialRaft out.
type RaftLayer struct {
	net.Listener
	TLS *tls.Config
	// DialFunc reaches peers; nil is TCP.
	DialFunc DialFunc
}

// Dial opens a connection to another manager's raft within timeout.
func (l *RaftLayer) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return DialRaft(ctx, addr, l.TLS, l.DialFunc)
}
