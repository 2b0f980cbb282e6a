package vip

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"

	"github.com/minid/minid/internal/realtest"
	"github.com/minid/minid/network/netns"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newNetns(t testing.TB) string {
	t.Helper()
	realtest.NeedRoot(t)
	path := filepath.Join(t.TempDir(), "ns")
	must(t, netns.Ensure(path))
	t.Cleanup(func() { must(t, netns.Remove(path)) })
	h, err := netns.Handle(path)
	must(t, err)
	defer h.Close()
	lo, err := h.LinkByName("lo")
	must(t, err)
	must(t, h.LinkSetUp(lo))
	return path
}

func open(t testing.TB, ns string) *Balancer {
	t.Helper()
	b, err := Open(ns)
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// settle deletes what is stale, and reports whether there may have been anything.
func (b *Balancer) settle(t testing.TB) bool {
	t.Helper()
	work := b.Stale()
	if work != nil {
		must(t, work())
	}
	return work != nil
}

// rig is a network 10.9.0.0/24 and fd09::/64 of namespaces on one bridge. Host n
// has the addresses ending in n.
type rig struct {
	t     testing.TB
	sw    string // the namespace of the bridge
	hosts map[int]string
}

func newRig(t testing.TB, hosts ...int) *rig {
	r := &rig{t: t, sw: newNetns(t), hosts: map[int]string{}}
	h, err := netns.Handle(r.sw)
	must(t, err)
	defer h.Close()
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", Flags: net.FlagUp}}
	must(t, h.LinkAdd(br))
	for _, n := range hosts {
		r.hosts[n] = newNetns(t)
		r.cable(r.sw, "br0", r.hosts[n], n)
	}
	return r
}

// cable connects a host to the bridge.
func (r *rig) cable(sw, bridge, ns string, n int) {
	h, err := netns.Handle(sw)
	must(r.t, err)
	defer h.Close()
	br, err := h.LinkByName(bridge)
	must(r.t, err)
	target, err := vns.GetFromPath(ns)
	must(r.t, err)
	defer target.Close()
	must(r.t, h.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("p", n), MasterIndex: br.Attrs().Index, Flags: net.FlagUp},
		PeerName:  "eth1", PeerNamespace: netlink.NsFd(int(target)),
	}))
	r.address(ns, "eth1", v4(n).String()+"/24", v6(n).String()+"/64")
}

// unplug takes a host from the bridge.
func (r *rig) unplug(n int) {
	h, err := netns.Handle(r.sw)
	must(r.t, err)
	defer h.Close()
	l, err := h.LinkByName(fmt.Sprint("p", n))
	must(r.t, err)
	must(r.t, h.LinkDel(l))
}

func (r *rig) address(ns, link string, prefixes ...string) {
	h, err := netns.Handle(ns)
	must(r.t, err)
	defer h.Close()
	l, err := h.LinkByName(link)
	must(r.t, err)
	for _, p := range prefixes {
		a, err := netlink.ParseAddr(p)
		must(r.t, err)
		if a.IP.To4() == nil {
			a.Flags = 2 // IFA_F_NODAD: usable at once
		}
		must(r.t, h.AddrAdd(l, a))
	}
	must(r.t, h.LinkSetUp(l))
}

func v4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, 0, byte(n)}) }

func v6(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 9, 14: byte(n >> 8), 15: byte(n)})
}

func v4s(list ...int) (out []netip.Addr) {
	for _, n := range list {
		out = append(out, v4(n))
	}
	return out
}

func v6s(list ...int) (out []netip.Addr) {
	for _, n := range list {
		out = append(out, v6(n))
	}
	return out
}

const port = 8000

// serve answers on TCP and UDP: host n says "n CALLER", then echoes lines.
func (r *rig) serve(n int) {
	t := r.t
	must(t, netns.Do(r.hosts[n], func() error {
		l, err := net.Listen("tcp", fmt.Sprint(":", port))
		if err != nil {
			return err
		}
		p, err := net.ListenPacket("udp", fmt.Sprint(":", port))
		if err != nil {
			return err
		}
		t.Cleanup(func() { _, _ = l.Close(), p.Close() })
		go acceptLines(l, n)
		go func() {
			buf := make([]byte, 2048)
			for {
				_, from, err := p.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = p.WriteTo([]byte(strconv.Itoa(n)), from)
			}
		}()
		return nil
	}))
}

func acceptLines(l net.Listener, n int) {
	var open sync.Map
	defer open.Range(func(c, _ any) bool { return c.(net.Conn).Close() == nil })
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		open.Store(c, true)
		go func() {
			defer c.Close()
			defer open.Delete(c)
			if _, err := fmt.Fprintln(c, n, c.RemoteAddr().(*net.TCPAddr).IP); err != nil {
				return
			}
			_, _ = io.Copy(c, c)
		}()
	}
}

// in calls f in a host's namespace.
func (r *rig) in(ns string, f func() error) {
	r.t.Helper()
	must(r.t, netns.Do(ns, f))
}

// line is a connection to a rig's server.
type line struct {
	net.Conn
	r      *bufio.Reader
	host   int
	caller string
}

// dial connects from the namespace that it is called in.
func dial(vip netip.Addr) (*line, error) {
	c, err := net.DialTimeout("tcp", netip.AddrPortFrom(vip, port).String(), 5*time.Second)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	l := &line{Conn: c, r: bufio.NewReader(c)}
	if _, err := fmt.Fscan(l.r, &l.host, &l.caller); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	_, err = l.r.ReadString('\n')
	return l, err
}

// echo sends a line and waits for it.
func (l *line) echo() error {
	if _, err := l.Write([]byte("hello\n")); err != nil {
		return err
	}
	got, err := l.r.ReadString('\n')
	if err == nil && got != "hello\n" {
		err = fmt.Errorf("echo %q", got)
	}
	return err
}

// datagram is one connected UDP socket.
type datagram struct{ net.Conn }

func dialUDP(vip netip.Addr) (datagram, error) {
	c, err := net.Dial("udp", netip.AddrPortFrom(vip, port).String())
	return datagram{c}, err
}

// ask says which host answers.
func (d datagram) ask() (int, error) {
	_ = d.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := d.Write([]byte("?")); err != nil {
		return 0, err
	}
	buf := make([]byte, 16)
	n, err := d.Read(buf)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(buf[:n]))
}

// sysctl sets a kernel variable of a namespace, by its path.
func sysctl(ns, name, value string) error {
	return netns.Do(ns, func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0) })
}
