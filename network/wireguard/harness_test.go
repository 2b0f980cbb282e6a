package wireguard

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	rtnl "github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/internal/realtest"
	"github.com/minid/minid/network/netns"
	"github.com/minid/minid/network/overlay"
)

// TestMain runs everything in a fresh network namespace.
func TestMain(m *testing.M) { realtest.Main(m, nil) }

// host is a simulated one: a namespace with eth0 on the underlay's bridge, the
// device, and an encrypted network with one task.
type host struct {
	*Device
	t       testing.TB
	number  byte
	dir     string
	netns   string
	overlay *overlay.Overlay
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func underlay(t testing.TB, count byte) []*host {
	t.Helper()
	realtest.NeedRoot(t)
	dir, err := os.MkdirTemp("/tmp", "mnw-")
	must(t, err)
	wire := &rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: "under0", Flags: net.FlagUp}}
	must(t, rtnl.LinkAdd(wire))
	t.Cleanup(func() {
		must(t, rtnl.LinkDel(wire))
		must(t, os.RemoveAll(dir))
	})
	var hosts []*host
	for number := byte(1); number <= count; number++ {
		hosts = append(hosts, newHost(t, filepath.Join(dir, fmt.Sprint("h", number)), wire, number))
	}
	return hosts
}

func newHost(t testing.TB, dir string, wire rtnl.Link, number byte) *host {
	h := &host{t: t, number: number, dir: dir, netns: filepath.Join(dir, "host")}
	must(t, netns.Ensure(h.netns))
	ns, err := vns.GetFromPath(h.netns)
	must(t, err)
	defer ns.Close()
	veth := &rtnl.Veth{
		LinkAttrs: rtnl.LinkAttrs{Name: fmt.Sprint("under", number), MasterIndex: wire.Attrs().Index, Flags: net.FlagUp},
		PeerName:  "eth0", PeerNamespace: rtnl.NsFd(int(ns)),
	}
	must(t, rtnl.LinkAdd(veth))
	h.run(func() error {
		link, err := rtnl.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, err := rtnl.ParseAddr(h.outside().Addr().String() + "/24")
		// A way out, by which what the device does not take could leave in clear.
		way := &rtnl.Route{Gw: net.IPv4(192, 0, 2, 254)}
		return errors.Join(err, rtnl.AddrAdd(link, addr), rtnl.LinkSetUp(link), rtnl.RouteAdd(way))
	})
	h.open()
	h.run(func() (err error) {
		h.overlay, err = overlay.Open(overlay.Config{RunDir: dir})
		return err
	})
	t.Cleanup(func() {
		h.run(func() error { return errors.Join(h.overlay.Destroy(), h.Set(nil), h.Close()) })
		h.overlay.Close()
		must(t, rtnl.LinkDel(veth))
		for _, path := range []string{h.task(), h.netns} {
			must(t, netns.Remove(path))
		}
	})
	return h
}

// open is a start of minid.
func (h *host) open() {
	h.t.Helper()
	h.run(func() (err error) {
		h.Device, err = Open(Config{DataDir: h.dir})
		return err
	})
}

// run calls f in the host's namespace.
func (h *host) run(f func() error) {
	h.t.Helper()
	must(h.t, netns.Do(h.netns, f))
}

func (h *host) outside() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, h.number}), 51820)
}

func (h *host) behind() netip.Addr { return netip.AddrFrom4([4]byte{10, 9, h.number, h.number}) }

func (h *host) task() string { return filepath.Join(h.dir, "task") }

func (h *host) taskAddr() string { return fmt.Sprint("10.0.0.", h.number+1) }

// set makes the host's device know the others by a preshared key.
func (h *host) set(shared byte, others []*host) {
	h.t.Helper()
	w := &Wanted{Port: 51820, Address: h.behind(), MTU: 1440}
	for _, o := range others {
		if o != h {
			w.Peers = append(w.Peers, Peer{
				PublicKey: [32]byte(o.PublicKey()), PresharedKey: [32]byte{shared}, Endpoint: o.outside(), Address: o.behind(),
			})
		}
	}
	h.run(func() error { return h.Set(w) })
	h.mustBeIntact()
}

func (h *host) mustBeIntact() {
	h.t.Helper()
	h.run(func() error {
		if ok, err := h.Check(); !ok || err != nil {
			return fmt.Errorf("device differs: %v", err)
		}
		return nil
	})
}

const secretVNI = 5000

// join puts a task on the encrypted network.
func (h *host) join(others []*host) {
	h.t.Helper()
	must(h.t, netns.Ensure(h.task()))
	w := overlay.Wanted{
		Networks: map[string]overlay.Network{
			"secret": {ID: "secret", VNI: secretVNI, MTU: 1390, VTEP: h.behind(), Port: 4789, Encrypted: true},
			"clear":  {ID: "clear", VNI: secretVNI + 1, VTEP: h.outside().Addr(), Port: 4789},
		},
		Links: []overlay.Link{
			{Task: "t", Network: "secret", Netns: h.task(), Index: 1, Addresses: []netip.Prefix{netip.MustParsePrefix(h.taskAddr() + "/24")}},
			{Task: "t", Network: "clear", Netns: h.task(), Index: 2, Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.0.1.%d/24", h.number+1))}},
		},
		Remotes: map[string]map[string]overlay.Remote{"secret": {}},
	}
	for _, o := range others {
		if o != h {
			w.Remotes["secret"][fmt.Sprint(o.number)] = overlay.Remote{Addresses: []netip.Addr{netip.MustParseAddr(o.taskAddr())}, VTEP: o.behind()}
			w.Peers = append(w.Peers, o.outside().Addr())
		}
	}
	h.run(func() error { return h.overlay.Set(w) })
}

const echoPort = 7

// serve answers TCP in a namespace until the test ends.
func serve(t testing.TB, path string) {
	t.Helper()
	var l net.Listener
	must(t, netns.Do(path, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprint(":", echoPort))
		return err
	}))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

func dial(path, addr string, within time.Duration) (c net.Conn, err error) {
	err = netns.Do(path, func() (err error) {
		d := net.Dialer{Timeout: within}
		c, err = d.Dial("tcp", net.JoinHostPort(addr, fmt.Sprint(echoPort)))
		return err
	})
	return c, err
}

// planted is what no packet on the underlay may contain.
var planted = []byte("planted-payload-that-nobody-may-read")

func exchange(c net.Conn, within time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(within))
	if _, err := c.Write(planted); err != nil {
		return err
	}
	buf := make([]byte, len(planted))
	if _, err := io.ReadFull(c, buf); err != nil {
		return err
	}
	if !bytes.Equal(buf, planted) {
		return fmt.Errorf("answered %q", buf)
	}
	return nil
}

const (
	patience   = 10 * time.Second
	impatience = 300 * time.Millisecond
)

func ask(path, addr string, within time.Duration) error {
	c, err := dial(path, addr, within)
	if err != nil {
		return err
	}
	defer c.Close()
	return exchange(c, within)
}

func mustReach(t testing.TB, path, addr string) {
	t.Helper()
	if err := ask(path, addr, patience); err != nil {
		t.Errorf("%s: %v", addr, err)
	}
}

func mustNotReach(t testing.TB, path, addr string) {
	t.Helper()
	if err := ask(path, addr, impatience); err == nil {
		t.Errorf("%s is reached", addr)
	}
}

// capture reads every packet on the underlay.
type capture struct {
	fd                     int
	seen, encrypted, clear atomic.Int64
	readable               atomic.Int64
	done                   sync.WaitGroup
}

func startCapture(t testing.TB) *capture {
	t.Helper()
	const all = 0x0300 // ETH_P_ALL in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	must(t, err)
	timeout := unix.NsecToTimeval(int64(50 * time.Millisecond))
	must(t, errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
	))
	c := &capture{fd: fd}
	stop := make(chan struct{})
	c.done.Go(func() {
		buf := make([]byte, 128<<10)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err == nil {
				c.look(buf[:n])
				continue
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		c.done.Wait()
		_ = unix.Close(fd)
	})
	return c
}

func (c *capture) look(frame []byte) {
	c.seen.Add(1)
	if bytes.Contains(frame, planted) {
		c.readable.Add(1)
	}
	const udpPort = 14 + 20 + 2
	if len(frame) < udpPort+2 || frame[12] != 8 || frame[13] != 0 || frame[23] != unix.IPPROTO_UDP {
		return
	}
	switch uint16(frame[udpPort])<<8 | uint16(frame[udpPort+1]) {
	case 51820:
		c.encrypted.Add(1)
	case 4789:
		c.clear.Add(1)
	}
}

// mustBeBlind fails when anything was readable, or when nothing was seen.
func (c *capture) mustBeBlind(t testing.TB) {
	t.Helper()
	time.Sleep(100 * time.Millisecond) // what is still on its way
	if c.readable.Load() > 0 || c.clear.Load() > 0 || c.encrypted.Load() == 0 {
		t.Errorf("of %d packets %d contain the payload, %d are clear VXLAN, %d encrypted",
			c.seen.Load(), c.readable.Load(), c.clear.Load(), c.encrypted.Load())
	}
}
