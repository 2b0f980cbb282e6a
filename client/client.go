// Package client is the typed client of minid's API, for minictl, the demo and
// tests. All errors are *fault.Error, with the class and the advice that the
// server gave.
package client

import (
	"context"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"

	"google.golang.org/grpc"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
)

const (
	// DefaultHost is the control socket of the node minictl runs on.
	DefaultHost = "unix:///run/minid/minid.sock"
	// HostEnv names the environment variable that replaces DefaultHost.
	HostEnv = "MINICTL_HOST"

	defaultPort = "2377"
)

// Options say who calls, for https hosts; unix sockets need none.
type Options struct {
	// CertFile and KeyFile hold a manager's certificate and key, PEM. They may
	// name the same file, as DATA_DIR/certificates/node.pem.
	CertFile, KeyFile string
	// RootFile holds the cluster's root certificate, PEM. Of a file with
	// several certificates the authorities count.
	RootFile string
	// Dial replaces how connections are opened; nil is the host's network.
	Dial rpc.DialFunc
}

// Client is a connection to one node. It is opened at the first call and again
// when it broke.
type Client struct {
	Control pb.ControlClient
	// Local is answered on unix sockets only.
	Local pb.LocalClient
	// Host is what the client was dialled with.
	Host string

	conn *grpc.ClientConn
}

// Close ends the connection and all calls on it.
func (c *Client) Close() error { return c.conn.Close() }

// Host returns the host to use when the user named none.
func Host() string {
	if h := os.Getenv(HostEnv); h != "" {
		return h
	}
	return DefaultHost
}

// Dial returns a client for unix:///PATH or https://HOST[:PORT]; an empty host
// means Host(). Nothing is sent before the first call.
func Dial(host string, opts Options) (*Client, error) {
	if host == "" {
		host = Host()
	}
	t, err := parseHost(host)
	if err != nil {
		return nil, err
	}
	conn, err := t.connect(host, opts)
	if err != nil {
		return nil, err
	}
	return &Client{Control: pb.NewControlClient(conn), Local: pb.NewLocalClient(conn), Host: host, conn: conn}, nil
}

// target is a parsed host: a socket's path or a network address.
type target struct {
	socket string
	addr   string
}

func parseHost(host string) (target, error) {
	// A path may hold what a URL may not.
	if path, ok := strings.CutPrefix(host, "unix://"); ok && strings.HasPrefix(path, "/") {
		return target{socket: path}, nil
	}
	u, err := url.Parse(host)
	switch {
	case err != nil:
		return target{}, badHost(host)
	case u.Scheme == "https" && u.Hostname() != "" && (u.Path == "" || u.Path == "/"):
		port := u.Port()
		if port == "" {
			port = defaultPort
		}
		return target{addr: net.JoinHostPort(u.Hostname(), port)}, nil
	}
	return target{}, badHost(host)
}

func badHost(host string) error {
	return fault.New(fault.Invalid, "bad host %q: want unix:///PATH or https://HOST:PORT", host).
		WithTry("minictl -H %s", DefaultHost)
}

func (t target) connect(host string, opts Options) (*grpc.ClientConn, error) {
	if t.socket != "" {
		dial := opts.Dial
		if dial == nil {
			dial = dialUnix
		}
		return rpc.Dial(t.socket, nil, dial, rpc.WithUnreachable(func(cause string) *fault.Error {
			return noDaemon(host, cause)
		}))
	}
	conf, err := opts.tls()
	if err != nil {
		return nil, err
	}
	return rpc.Dial(t.addr, conf, opts.Dial)
}

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", path)
}

// noDaemon says why nobody answers on a socket.
func noDaemon(host, cause string) *fault.Error {
	if cause == syscall.EACCES.Error() {
		return fault.New(fault.Denied, "cannot reach minid at %s: permission denied", host).
			WithTry("sudo minictl, or join the group: sudo usermod -aG minid $USER, then log in again")
	}
	return fault.New(fault.Unavailable, "cannot reach minid at %s: is it running? (%s)", host, cause).
		WithTry("systemctl start minid, or name another host with -H or %s", HostEnv)
}
