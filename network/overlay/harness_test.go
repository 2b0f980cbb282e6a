package overlay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rtnl "github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"

	"github.com/minid/minid/internal/realtest"
	"github.com/minid/minid/network/netns"
)

// TestMain runs everything in a fresh network namespace.
func TestMain(m *testing.M) { realtest.Main(m, nil) }

// host is a simulated one: a namespace with eth0 on the underlay's bridge.
type host struct {
	*Overlay
	t     testing.TB
	dir   string
	netns string
	addr  netip.Addr
}

// underlay makes hosts 192.0.2.1… that reach each other.
func underlay(t testing.TB, count int) []*host {
	t.Helper()
	realtest.NeedRoot(t)
	dir, err := os.MkdirTemp("/tmp", "mno-")
	must(t, err)
	wire := &rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: "under0", Flags: net.FlagUp}}
	must(t, rtnl.LinkAdd(wire))
	t.Cleanup(func() {
		must(t, rtnl.LinkDel(wire))
		must(t, os.RemoveAll(dir))
	})
	hosts := make([]*host, count)
	for i := range hosts {
		hosts[i] = newHost(t, filepath.Join(dir, fmt.Sprint("h", i+1)), wire, i+1)
	}
	return hosts
}

func newHost(t testing.TB, dir string, wire rtnl.Link, number int) *host {
	h := &host{t: t, dir: dir, netns: filepath.Join(dir, "host"), addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(number)})}
	must(t, netns.Ensure(h.netns))
	ns, err := vns.GetFromPath(h.netns)
	must(t, err)
	defer ns.Close()
	must(t, rtnl.LinkAdd(&rtnl.Veth{
		LinkAttrs: rtnl.LinkAttrs{Name: fmt.Sprint("under", number), MasterIndex: wire.Attrs().Index, Flags: net.FlagUp},
		PeerName:  "eth0", PeerNamespace: rtnl.NsFd(int(ns)),
	}))
	must(t, netns.Do(h.netns, func() error {
		link, err := rtnl.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, err := rtnl.ParseAddr(h.addr.String() + "/24")
		return errors.Join(err, rtnl.AddrAdd(link, addr), rtnl.LinkSetUp(link))
	}))
	h.open()
	t.Cleanup(func() {
		h.run(h.Destroy)
		h.Close()
		must(t, deleteByName(fmt.Sprint("under", number)))
		left, _ := filepath.Glob(filepath.Join(h.dir, "netns", "*"))
		for _, path := range append(left, h.netns) {
			must(t, netns.Remove(path))
		}
	})
	return h
}

// open is a start of minid.
func (h *host) open() {
	h.t.Helper()
	h.run(func() (err error) {
		h.Overlay, err = Open(Config{RunDir: h.dir})
		return err
	})
}

// run calls f in the host's namespace.
func (h *host) run(f func() error) {
	h.t.Helper()
	must(h.t, netns.Do(h.netns, f))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// task makes the namespace of a task.
func (h *host) task(id string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, "netns", id)
	must(h.t, netns.Ensure(path))
	return path
}

func (h *host) link(task, network string, index int, list ...string) Link {
	return Link{Task: task, Network: network, Netns: h.task(task), Index: index, Addresses: prefixes(list...)}
}

func (h *host) network(id string, vni uint32) Network {
	return Network{ID: id, VNI: vni, VTEP: h.addr, Port: 4789}
}

func (h *host) remote(list ...string) Remote { return Remote{Addresses: addrs(list...), VTEP: h.addr} }

// mustBeIntact compares the kernel with what should be, by Check and by nft.
func (h *host) mustBeIntact() {
	h.t.Helper()
	h.run(func() error {
		if ok, err := h.checkAll(); !ok || err != nil {
			return fmt.Errorf("kernel differs: %v", err)
		}
		return nil
	})
}

// checkAll is Check when everything is due.
func (h *host) checkAll() (bool, error) {
	for _, s := range h.segments {
		s.compared = time.Time{}
	}
	return h.check(time.Now(), time.Hour)
}

func (h *host) mustDiffer(what string) {
	h.t.Helper()
	h.run(func() error {
		if ok, _ := h.checkAll(); ok {
			return fmt.Errorf("%s is not seen", what)
		}
		return nil
	})
}

const echoPort = 7

// serve answers TCP and UDP in a namespace until the test ends.
func serve(t testing.TB, path string) {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	must(t, netns.Do(path, func() (err error) {
		if l, err = net.Listen("tcp", fmt.Sprint("[::]:", echoPort)); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp", fmt.Sprint("[::]:", echoPort))
		return err
	}))
	t.Cleanup(func() { _, _ = l.Close(), p.Close() })
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
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(buf[:n], from)
		}
	}()
}

// ask sends text from a namespace and waits for it to come back.
func ask(path, protocol, addr string, within time.Duration) error {
	return askText(path, protocol, addr, "hello "+addr, within)
}

func askText(path, protocol, addr, text string, within time.Duration) error {
	var c net.Conn
	err := netns.Do(path, func() (err error) {
		d := net.Dialer{Timeout: within}
		c, err = d.Dial(protocol, net.JoinHostPort(addr, fmt.Sprint(echoPort)))
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(within))
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(c, buf); err != nil {
		return err
	}
	if string(buf) != text {
		return fmt.Errorf("answered %q", buf)
	}
	return nil
}

const (
	patience   = 5 * time.Second
	impatience = 200 * time.Millisecond
)

func mustReach(t testing.TB, from string, list ...string) {
	t.Helper()
	for _, addr := range list {
		for _, protocol := range []string{"tcp", "udp"} {
			if err := ask(from, protocol, addr, patience); err != nil {
				t.Errorf("%s: %s %s: %v", filepath.Base(from), protocol, addr, err)
			}
		}
	}
}

func mustNotReach(t testing.TB, from string, list ...string) {
	t.Helper()
	for _, addr := range list {
		for _, protocol := range []string{"tcp", "udp"} {
			if err := ask(from, protocol, addr, impatience); err == nil {
				t.Errorf("%s reaches %s by %s", filepath.Base(from), addr, protocol)
			}
		}
	}
}

// listed is the host's table as nft lists it, its words sorted by the caller.
func (h *host) listed() string {
	nft := realtest.NeedProgram(h.t, "nft")
	var out []byte
	h.run(func() (err error) {
		out, err = exec.Command(nft, "list", "table", "inet", TableName).CombinedOutput()
		return err
	})
	return strings.TrimSpace(string(out))
}

func runTool(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func ip(args ...string) error { return runTool("ip", args...) }

func linkIndex(t testing.TB, path, name string) int {
	t.Helper()
	index := 0
	must(t, netns.Do(path, func() error {
		link, err := rtnl.LinkByName(name)
		if err == nil {
			index = link.Attrs().Index
		}
		return err
	}))
	return index
}
