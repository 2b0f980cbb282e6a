package dns

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	rtnl "github.com/vishvananda/netlink"

	"github.com/minid/minid/internal/realtest"
	"github.com/minid/minid/network/netns"
)

// TestMain runs everything in a fresh network namespace.
func TestMain(m *testing.M) { realtest.Main(m, nil) }

const patience = 20 * time.Second

func addrs(list ...string) []netip.Addr {
	out := make([]netip.Addr, len(list))
	for i, text := range list {
		out[i] = netip.MustParseAddr(text)
	}
	return out
}

// namespace makes a network namespace with its loopback up.
func namespace(t testing.TB, name string) string {
	t.Helper()
	realtest.NeedRoot(t)
	path := filepath.Join(t.TempDir(), name)
	if err := netns.Ensure(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Remove(path); err != nil {
			t.Error(err)
		}
	})
	err := netns.Do(path, loopbackUp)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func loopbackUp() error {
	return rtnl.LinkSetUp(&rtnl.Device{LinkAttrs: rtnl.LinkAttrs{Index: 1, Name: "lo"}})
}

// run runs a Server until the test ends.
func run(t testing.TB, s *Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error("run:", err)
			}
		case <-time.After(patience):
			t.Error("the server does not end")
		}
	})
}

// resolver asks 127.0.0.11 from inside a namespace, as a program there would.
func resolver(path string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (c net.Conn, err error) {
		err = netns.Do(path, func() error {
			c, err = new(net.Dialer).DialContext(ctx, network, "127.0.0.11:53")
			return err
		})
		return c, err
	}}
}

// ask sends one question from inside a namespace.
func ask(t testing.TB, path, network string, q *wire.Msg) *wire.Msg {
	t.Helper()
	got, err := tryAsk(path, network, q)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func tryAsk(path, network string, q *wire.Msg) (*wire.Msg, error) {
	var c net.Conn
	err := netns.Do(path, func() (err error) {
		c, err = net.Dial(network, "127.0.0.11:53")
		return err
	})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	got, _, err := (&wire.Client{Net: network, Timeout: patience}).ExchangeWithConn(q, &wire.Conn{Conn: c})
	return got, err
}

func question(name string, kind uint16) *wire.Msg {
	q := new(wire.Msg)
	return q.SetQuestion(wire.Fqdn(name), kind)
}
