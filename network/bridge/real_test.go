package bridge

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	rtnl "github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"

	"github.com/minid/minid/network/netns"
)

const (
	patience  = 5 * time.Second
	hostAddr  = "192.0.2.1"
	worldAddr = "192.0.2.2"
)

// openWorld adds a host outside, which knows the way into the pool.
func openWorld(t *testing.T, b *Bridge) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "world")
	inWorld := func(f func() error) error { return netns.Do(path, f) }
	err := netns.Ensure(path)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := vns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	veth := &rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: "uplink"}, PeerName: "eth0", PeerNamespace: rtnl.NsFd(int(ns))}
	lo := &rtnl.Device{LinkAttrs: rtnl.LinkAttrs{Index: 1, Name: "lo"}}
	if err := errors.Join(rtnl.LinkSetUp(lo), rtnl.LinkAdd(veth), setUp("uplink", hostAddr)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(deleteLink("uplink"), netns.Remove(path)); err != nil {
			t.Error(err)
		}
	})
	_, pool, _ := net.ParseCIDR(b.Wanted().Pool.String())
	if err := inWorld(func() error {
		return errors.Join(setUp("eth0", worldAddr), rtnl.RouteAdd(&rtnl.Route{Dst: pool, Gw: net.ParseIP(hostAddr)}))
	}); err != nil {
		t.Fatal(err)
	}
	return path
}

func setUp(name, addr string) error {
	link, err := rtnl.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := rtnl.ParseAddr(addr + "/24")
	return errors.Join(err, rtnl.AddrAdd(link, a), rtnl.LinkSetUp(link))
}

// listen says hello to whoever comes, inside a namespace.
func listen(t *testing.T, ns, at string) {
	t.Helper()
	err := netns.Do(ns, func() error {
		l, err := net.Listen("tcp4", at)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, "hello")
				_ = c.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// reaches tells whether a connection is answered; one that must not be is waited
// for shortly.
func reaches(ns, to string, must bool) bool {
	wait := 300 * time.Millisecond
	if must {
		wait = patience
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	err := netns.Do(ns, func() error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp4", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(wait))
		_, err = io.ReadAll(c)
		return err
	})
	return err == nil
}

func TestWhoReachesWhom(t *testing.T) {
	for _, filter := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+filter, func(t *testing.T) {
			b := openBridge(t)
			err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(filter), 0)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			whoReachesWhom(t, b)
		})
	}
}

func whoReachesWhom(t *testing.T, b *Bridge) {
	ctx := t.Context()
	world := openWorld(t, b)
	ns, addrs := make(map[string]string), make(map[string]netip.Addr)
	for _, id := range []string{"one", "two", "inner"} {
		var err error
		if ns[id], addrs[id], err = b.Attach(ctx, id); err != nil {
			t.Fatal(err)
		}
		listen(t, ns[id], ":80")
	}
	listen(t, world, ":80")
	if _, err := b.Publish(ctx, "one", host(8080)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(ctx, "inner", host(8081)); err != nil {
		t.Fatal(err)
	}
	if err := b.SetInternal("inner", true); err != nil {
		t.Fatal(err)
	}
	b.mustBeListed(t)
	for _, try := range []struct {
		what, from, to string
		want           bool
	}{
		{"the world, a host port", world, hostAddr + ":8080", true},
		{"the world, a host port of an internal task", world, hostAddr + ":8081", true},
		{"the host, a host port", "", "127.0.0.1:8080", true},
		{"the host, a task", "", addrs["one"].String() + ":80", true},
		{"a task, the world", ns["one"], worldAddr + ":80", true},
		{"a task, another's host port", ns["two"], hostAddr + ":8080", true},
		{"a task, its own host port", ns["one"], hostAddr + ":8080", true},
		{"the world, a task", world, addrs["one"].String() + ":80", false},
		{"the world, a port that is not published", world, hostAddr + ":80", false},
		{"a task, another task", ns["two"], addrs["one"].String() + ":80", false},
		{"an internal task, the world", ns["inner"], worldAddr + ":80", false},
	} {
		if reaches(try.from, try.to, try.want) != try.want {
			t.Errorf("%s: reached is %v", try.what, !try.want)
		}
	}
	if err := b.SetInternal("inner", false); err != nil {
		t.Fatal(err)
	}
	if !reaches(ns["inner"], worldAddr+":80", true) {
		t.Error("no longer internal, and yet kept inside")
	}
	b.mustBeListed(t)
}

func TestInternalLasts(t *testing.T) {
	b := openBridge(t)
	if _, _, err := b.Attach(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if err := b.SetInternal("one", true); err != nil {
		t.Fatal(err)
	}
	later, err := Open(b.cfg) // minid restarts
	if err != nil {
		t.Fatal(err)
	}
	if w := later.Wanted(); len(w.inside()) != 1 {
		t.Errorf("forgotten: %v", w.Tasks)
	}
	later.mustBeListed(t)
	if err := b.SetInternal("none", true); err == nil {
		t.Error("a task that is not there is kept inside")
	}
}
