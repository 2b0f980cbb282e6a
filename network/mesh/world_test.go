package mesh

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/internal/realtest"
	"github.com/minid/minid/network/bridge"
	"github.com/minid/minid/network/netns"
)

// patience is how long a test waits for an answer that must come.
const patience = 5 * time.Second

// world is hosts behind one router, and a client outside, each in a namespace:
//
//	hosts 10.99.0.1… ── router ── client 198.51.100.2
type world struct {
	tb     testing.TB
	dir    string
	hosts  []*host // from 1; 0 is nil
	client string
	router string
	// services as the cluster knows them: on which hosts tasks serve.
	services map[Published]Service
	serving  map[Published]map[int][]*task
}

// host is one node.
type host struct {
	world  *world
	number uint32
	ns     string
	addr   netip.Addr
	bridge *bridge.Bridge
	mesh   *Mesh
}

// task serves all its ports by saying who it is and whom it sees.
type task struct {
	id   string
	host *host
	ns   string
	addr netip.Addr
	open []io.Closer
}

var outside = netip.MustParseAddr("198.51.100.2")

func newWorld(tb testing.TB, hosts int) *world {
	tb.Helper()
	realtest.NeedRoot(tb)
	dir, err := os.MkdirTemp("/tmp", "mnmesh-")
	if err != nil {
		tb.Fatal(err)
	}
	w := &world{
		tb: tb, dir: dir, hosts: make([]*host, 1), services: make(map[Published]Service), serving: make(map[Published]map[int][]*task),
		client: filepath.Join(dir, "client"), router: filepath.Join(dir, "router"),
	}
	tb.Cleanup(w.destroy)
	w.must(netns.Ensure(w.router), netns.Ensure(w.client))
	w.do(w.router, func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "hosts"}}
		return errors.Join(netlink.LinkAdd(br), up("hosts", "10.99.0.254/24"), os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	})
	w.cable("outside", w.client, "198.51.100.2/24", "198.51.100.1")
	w.do(w.router, func() error { return up("outside", "198.51.100.1/24") })
	for i := 1; i <= hosts; i++ {
		w.addHost(i)
	}
	w.setAll()
	return w
}

func (w *world) must(errs ...error) {
	w.tb.Helper()
	if err := errors.Join(errs...); err != nil {
		w.tb.Fatal(err)
	}
}

func (w *world) do(ns string, f func() error) {
	w.tb.Helper()
	w.must(netns.Do(ns, f))
}

func up(name, addr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	lo, _ := netlink.LinkByName("lo")
	a, err := netlink.ParseAddr(addr)
	return errors.Join(err, netlink.AddrAdd(link, a), netlink.LinkSetUp(link), netlink.LinkSetUp(lo))
}

// cable leads from the router to eth0 of a namespace.
func (w *world) cable(name, ns, addr, gateway string) {
	w.do(w.router, func() error {
		far, err := vns.GetFromPath(ns)
		if err != nil {
			return err
		}
		defer far.Close()
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(far))})
	})
	w.do(ns, func() error {
		return errors.Join(up("eth0", addr), netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}))
	})
}

func (w *world) addHost(i int) {
	h := &host{world: w, number: uint32(i), ns: filepath.Join(w.dir, fmt.Sprint("host", i)), addr: netip.AddrFrom4([4]byte{10, 99, 0, byte(i)})}
	w.must(netns.Ensure(h.ns))
	name := fmt.Sprint("host", i)
	w.cable(name, h.ns, h.addr.String()+"/24", "10.99.0.254")
	w.do(w.router, func() error {
		link, err := netlink.LinkByName(name)
		br, _ := netlink.LinkByName("hosts")
		return errors.Join(err, netlink.LinkSetMaster(link, br), netlink.LinkSetUp(link))
	})
	w.hosts = append(w.hosts, h)
	w.do(h.ns, func() (err error) {
		dir := filepath.Join(w.dir, name+".d")
		strict := os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0)
		if h.bridge, err = bridge.Open(bridge.Config{DataDir: dir, RunDir: dir, Pool: netip.MustParsePrefix("172.30.0.0/20")}); err == nil {
			h.mesh, err = Open(Config{Bridge: bridge.LinkName})
		}
		return errors.Join(err, strict)
	})
}

func (w *world) destroy() {
	for _, list := range w.serving {
		for _, tasks := range list {
			for _, t := range tasks {
				t.stop()
			}
		}
	}
	for _, h := range w.hosts[1:] {
		if h.mesh != nil {
			w.do(h.ns, func() error { return errors.Join(h.mesh.Destroy(), h.bridge.Destroy()) })
		}
		w.must(netns.Remove(h.ns))
	}
	w.must(netns.Remove(w.client), netns.Remove(w.router), os.RemoveAll(w.dir))
}

// wanted is what a host is told.
func (w *world) wanted(h *host) Wanted {
	out := Wanted{
		Number: h.number, Subnet: netip.MustParsePrefix("10.0.0.0/12"), VNI: 4096, Port: 4789, MTU: 1450, VTEP: h.addr,
		Peers: make(map[uint32]netip.Addr), Pool: netip.MustParsePrefix("172.30.0.0/20"), Services: make(map[Published]Service),
	}
	for _, other := range w.hosts[1:] {
		if other != h {
			out.Peers[other.number] = other.addr
		}
	}
	for p := range w.services {
		out.Services[p] = w.service(h, p)
	}
	return out
}

func (w *world) service(h *host, p Published) Service {
	s := w.services[p]
	s.Local, s.Nodes = nil, make(map[uint32]uint32)
	for i, tasks := range w.serving[p] {
		switch {
		case i == int(h.number):
			for _, t := range tasks {
				s.Local = append(s.Local, t.addr)
			}
		case len(tasks) > 0:
			s.Nodes[uint32(i)] = uint32(len(tasks))
		}
	}
	return s
}

func (w *world) setAll() {
	w.tb.Helper()
	for _, h := range w.hosts[1:] {
		w.do(h.ns, func() error { return h.mesh.Set(w.wanted(h)) })
	}
}

// tell gives hosts the present state of a port; none named: all.
func (w *world) tell(p Published, hosts ...*host) {
	w.tb.Helper()
	if len(hosts) == 0 {
		hosts = w.hosts[1:]
	}
	for _, h := range hosts {
		w.do(h.ns, func() error { return h.mesh.Change(map[Published]Service{p: w.service(h, p)}, nil) })
	}
}

// publish has a port lead to one new task on each of the hosts named.
func (w *world) publish(p Published, s Service, hosts ...int) []*task {
	w.tb.Helper()
	w.services[p] = s
	var out []*task
	for _, i := range hosts {
		out = append(out, w.serve(p, i))
	}
	w.tell(p)
	return out
}

func (w *world) serve(p Published, i int) *task {
	w.tb.Helper()
	if w.serving[p] == nil {
		w.serving[p] = make(map[int][]*task)
	}
	t := w.hosts[i].run(fmt.Sprintf("task-%d-%s-%d-%d", i, p.Protocol, p.Port, len(w.serving[p][i])))
	t.listen(p.Protocol, w.services[p].Target)
	w.serving[p][i] = append(w.serving[p][i], t)
	return t
}

// run makes a task that serves nothing.
func (h *host) run(id string) *task {
	h.world.tb.Helper()
	t := &task{id: id, host: h}
	h.world.do(h.ns, func() (err error) {
		t.ns, t.addr, err = h.bridge.Attach(h.world.tb.Context(), id)
		return err
	})
	return t
}

func (t *task) listen(protocol bridge.Protocol, port uint16) {
	t.host.world.tb.Helper()
	t.host.world.do(t.ns, func() error {
		at := fmt.Sprintf(":%d", port)
		if protocol == bridge.UDP {
			c, err := net.ListenPacket("udp4", at)
			if err == nil {
				t.open = append(t.open, c)
				go t.answerPackets(c)
			}
			return err
		}
		l, err := net.Listen("tcp4", at)
		if err == nil {
			t.open = append(t.open, l)
			go t.answerStreams(l)
		}
		return err
	})
}

func (t *task) stop() {
	for _, c := range t.open {
		_ = c.Close()
	}
	t.open = nil
}

// says is the answer to who comes from an address.
func (t *task) says(from net.Addr) string { return t.id + " " + from.String() + "\n" }

func (t *task) answerPackets(c net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		_, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = c.WriteTo([]byte(t.says(from)), from)
	}
}

func (t *task) answerStreams(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for lines := bufio.NewScanner(c); lines.Scan(); {
				if _, err := io.WriteString(c, t.says(c.RemoteAddr())); err != nil {
					return
				}
			}
		}()
	}
}

// dial opens a connection inside a namespace. A source port of 0 is any; others
// may be shared.
func (w *world) dial(ns, network, to string, sourcePort int) (c net.Conn, err error) {
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) (err error) {
		return errors.Join(raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}), err)
	}}
	d.LocalAddr = &net.TCPAddr{Port: sourcePort}
	if network == "udp4" {
		d.LocalAddr = &net.UDPAddr{Port: sourcePort}
	}
	err = netns.Do(ns, func() error {
		c, err = d.Dial(network, to)
		return err
	})
	return c, err
}

// ask says something and returns which task answered and whom it saw.
func ask(c net.Conn) (who string, saw netip.AddrPort, err error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", saw, err
	}
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return "", saw, err
	}
	answer := make([]byte, 200)
	n, err := c.Read(answer)
	if err != nil {
		return "", saw, err
	}
	who, from, _ := strings.Cut(strings.TrimSpace(string(answer[:n])), " ")
	saw, err = netip.ParseAddrPort(from)
	return who, saw, err
}

// call is one connection with one question.
func (w *world) call(ns, network, to string) (who string, saw netip.Addr) {
	w.tb.Helper()
	c, err := w.dial(ns, network, to, 0)
	if err != nil {
		w.tb.Fatalf("%s to %s: %v", network, to, err)
	}
	defer c.Close()
	who, from, err := ask(c)
	if err != nil {
		w.tb.Fatalf("%s to %s: no answer: %v", network, to, err)
	}
	return who, from.Addr()
}

func (h *host) at(p Published) string { return netip.AddrPortFrom(h.addr, p.Port).String() }

func networkOf(p Published) string { return p.Protocol.String() + "4" }

// refused tells whether a connection is refused at once, rather than not answered.
func refused(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET)
}
