package mesh

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/minid/minid/network/bridge"
	"github.com/minid/minid/network/gate"
	"github.com/minid/minid/network/netns"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestEveryNodeAnswers(t *testing.T) {
	w := newWorld(t, 3)
	for _, protocol := range []bridge.Protocol{bridge.TCP, bridge.UDP} {
		p := Published{protocol, 8080}
		w.publish(p, Service{Target: 80}, 2, 3)
		for _, h := range w.hosts[1:] {
			seen := make(map[string]int)
			for range 40 {
				who, saw := w.call(w.client, networkOf(p), h.at(p))
				if saw != outside {
					t.Fatalf("by node %d: %s sees %s, the client is %s", h.number, who, saw, outside)
				}
				seen[who]++
			}
			if len(seen) != 2 {
				t.Errorf("by node %d: %v answer, of two tasks", h.number, seen)
			}
		}
	}
}

// The connections differ in nothing but their entry nodes, and all end at one task.
func TestOneClientPortByAllNodes(t *testing.T) {
	w := newWorld(t, 3)
	for _, protocol := range []bridge.Protocol{bridge.TCP, bridge.UDP} {
		p := Published{protocol, 8080}
		w.publish(p, Service{Target: 80}, 2)
		var open []net.Conn
		for _, h := range w.hosts[1:] {
			c, err := w.dial(w.client, networkOf(p), h.at(p), 40000)
			if err != nil {
				t.Fatalf("by node %d: %v", h.number, err)
			}
			defer c.Close()
			open = append(open, c)
		}
		for range 3 {
			for i, c := range open {
				if _, saw, err := ask(c); err != nil || saw.Addr() != outside {
					t.Errorf("%s by node %d: %v, %v", protocol, i+1, saw, err)
				}
			}
		}
	}
}

func TestSpread(t *testing.T) {
	w := newWorld(t, 3)
	p := port(8080)
	w.publish(p, Service{Target: 80}, 2, 2, 2, 3)
	seen := make(map[string]int)
	const calls = 400
	for range calls {
		who, _ := w.call(w.client, "tcp4", w.hosts[1].at(p))
		seen[who]++
	}
	if len(seen) != 4 {
		t.Fatalf("%v answer, of four tasks", seen)
	}
	// Chi-square with 3 degrees of freedom: above 25 once in 65,000 runs.
	chi := 0.0
	for _, n := range seen {
		d := float64(n) - calls/4
		chi += d * d / (calls / 4)
	}
	if chi > 25 {
		t.Errorf("uneven: %v, chi-square %.1f", seen, chi)
	}
}

func TestLocalPreferred(t *testing.T) {
	w := newWorld(t, 3)
	p := port(8080)
	tasks := w.publish(p, Service{Target: 80, PreferLocal: true}, 2, 3)
	for range 20 {
		for i, want := range map[int]string{2: tasks[0].id, 3: tasks[1].id} {
			if who, saw := w.call(w.client, "tcp4", w.hosts[i].at(p)); who != want || saw != outside {
				t.Fatalf("node %d: %s answers and sees %s", i, who, saw)
			}
		}
	}
	if _, saw := w.call(w.client, "tcp4", w.hosts[1].at(p)); saw != outside {
		t.Errorf("a node without a task: %s", saw)
	}
}

// Whoever is on a node reaches every node, whichever of them has the task.
func TestFromInside(t *testing.T) {
	for _, filter := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+filter, func(t *testing.T) { fromInside(t, filter) })
	}
}

func fromInside(t *testing.T, filter string) {
	w := newWorld(t, 3)
	for _, h := range w.hosts[1:] {
		w.do(h.ns, func() error {
			err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(filter), 0)
			if errors.Is(err, os.ErrNotExist) && filter == "0" {
				err = nil // that kernel never does
			}
			return err
		})
	}
	for _, protocol := range []bridge.Protocol{bridge.TCP, bridge.UDP} {
		p := Published{protocol, 8080}
		tasks := w.publish(p, Service{Target: 80}, 2)
		for _, from := range w.hosts[1:] {
			caller := from.run(fmt.Sprintf("caller-%s-%d", protocol, from.number))
			for _, to := range w.hosts[1:] {
				if _, saw := w.call(from.ns, networkOf(p), to.at(p)); from == to && from != tasks[0].host && saw != from.addr {
					t.Errorf("%s: node %d's own call is seen as from %s", protocol, from.number, saw)
				}
				w.call(caller.ns, networkOf(p), to.at(p))
				w.call(tasks[0].ns, networkOf(p), to.at(p)) // the task itself
			}
			w.call(from.ns, networkOf(p), fmt.Sprintf("127.0.0.1:%d", p.Port))
		}
	}
}

func TestMasquerade(t *testing.T) {
	w := newWorld(t, 2)
	p := port(8080)
	w.publish(p, Service{Target: 80, Masquerade: true}, 2)
	if _, saw := w.call(w.client, "tcp4", w.hosts[1].at(p)); saw != NodeAddr(w.wanted(w.hosts[1]).Subnet, 1, 1) {
		t.Errorf("a task elsewhere sees %s, not the entry node", saw)
	}
	if _, saw := w.call(w.client, "tcp4", w.hosts[2].at(p)); saw != netip.MustParseAddr("172.30.0.1") {
		t.Errorf("a task here sees %s, not its own node", saw)
	}
	w.services[p] = Service{Target: 80}
	w.tell(p)
	for _, h := range w.hosts[1:] {
		if _, saw := w.call(w.client, "tcp4", h.at(p)); saw != outside {
			t.Errorf("no longer masqueraded: %s", saw)
		}
	}
}

func TestHostAddress(t *testing.T) {
	w := newWorld(t, 2)
	second := netip.MustParseAddr("10.99.0.101")
	w.do(w.hosts[1].ns, func() error {
		link, _ := netlink.LinkByName("eth0")
		a, _ := netlink.ParseAddr(second.String() + "/24")
		return netlink.AddrAdd(link, a)
	})
	p := port(8080)
	w.publish(p, Service{Target: 80, HostIP: second}, 2)
	if _, saw := w.call(w.client, "tcp4", second.String()+":8080"); saw != outside {
		t.Errorf("on its address: %s", saw)
	}
	for _, h := range w.hosts[1:] {
		if _, err := w.dial(w.client, "tcp4", h.at(p), 0); !refused(err) {
			t.Errorf("on %s: %v", h.addr, err)
		}
	}
}

// Node 1 has not heard yet that node 2 has no task any more. It is not node 2 that
// may refuse a connection, but node 1, once it knows that there is no other task.
func TestStaleSender(t *testing.T) {
	w := newWorld(t, 2)
	p := port(8080)
	left := w.leaving(p)
	type result struct {
		err error
		at  time.Time
	}
	dialed := make(chan result)
	go func() {
		c, err := w.dial(w.client, "tcp4", w.hosts[1].at(p), 0)
		if err == nil {
			c.Close()
		}
		dialed <- result{err, time.Now()}
	}()
	time.Sleep(300 * time.Millisecond)
	told := time.Now()
	w.tell(p, w.hosts[1])
	if r := <-dialed; !refused(r.err) || r.at.Before(told) {
		t.Errorf("after %s left: %v, %v after node 1 was told", left.id, r.err, r.at.Sub(told))
	}
	p.Protocol = bridge.UDP
	w.leaving(p)
	c, err := w.dial(w.client, "udp4", w.hosts[1].at(p), 0)
	if err == nil {
		_, _, err = ask(c)
		c.Close()
	}
	if !refused(err) {
		t.Errorf("a datagram: %v", err)
	}
}

// leaving is a task of node 2 that has left, as node 1 does not know.
func (w *world) leaving(p Published) *task {
	w.tb.Helper()
	w.publish(p, Service{Target: 80}, 2)
	left := w.serving[p][2][0]
	w.serving[p][2] = nil
	w.tell(p, w.hosts[2])
	if who, saw := w.call(w.client, networkOf(p), w.hosts[1].at(p)); who != left.id || saw != outside {
		w.tb.Errorf("%s: while the task drains, %s answers and sees %s", p.Protocol, who, saw)
	}
	left.stop()
	w.do(w.hosts[2].ns, func() error { return w.hosts[2].mesh.Forget([]netip.Addr{left.addr}) })
	return left
}

// TestLateEntry: for three seconds node 1 does not hear that a task of node 2 has
// left, which in that time stops listening, ends, and loses its network. No
// connection fails, by whatever way it came.
func TestLateEntry(t *testing.T) {
	w := newWorld(t, 3)
	p := port(8080)
	left := w.publish(p, Service{Target: 80}, 2, 3)[0]
	w.serving[p][2] = nil
	w.tell(p, w.hosts[2], w.hosts[3])
	w.must(gate.Shut(left.ns))
	left.stop()
	began := time.Now()
	steps := []struct {
		at   time.Duration
		what func()
	}{
		{500 * time.Millisecond, func() {
			w.do(w.hosts[2].ns, func() error { return w.hosts[2].mesh.Forget([]netip.Addr{left.addr}) })
		}},
		{time.Second, func() {
			w.do(w.hosts[2].ns, func() error { return w.hosts[2].bridge.Detach(t.Context(), left.id) })
		}},
		{3 * time.Second, func() { w.tell(p, w.hosts[1]) }},
	}
	var clients sync.WaitGroup
	stop := make(chan struct{})
	var served, delayed atomic.Int64
	for range 20 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
				asked := time.Now()
				c, err := w.dial(w.client, "tcp4", w.hosts[1].at(p), 0)
				if err != nil {
					t.Errorf("%v after the task left: %v", asked.Sub(began), err)
					continue
				}
				if _, _, err := ask(c); err != nil {
					t.Errorf("%v after the task left: no answer: %v", asked.Sub(began), err)
				}
				c.Close()
				served.Add(1)
				if time.Since(asked) > 500*time.Millisecond {
					delayed.Add(1)
				}
			}
		})
	}
	for _, s := range steps {
		time.Sleep(time.Until(began.Add(s.at)))
		s.what()
	}
	time.Sleep(200 * time.Millisecond)
	close(stop)
	clients.Wait()
	t.Logf("%d connections, of which %d late", served.Load(), delayed.Load())
	if delayed.Load() == 0 {
		t.Error("nobody was led to the task that had left: the test shows nothing")
	}
}

func TestUDPMoves(t *testing.T) {
	w := newWorld(t, 3)
	p := Published{bridge.UDP, 8080}
	tasks := w.publish(p, Service{Target: 80}, 2, 3)
	var flows []net.Conn
	for _, h := range w.hosts[1:] {
		for range 4 {
			c, err := w.dial(w.client, "udp4", h.at(p), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, _, err := ask(c); err != nil {
				t.Fatal(err)
			}
			flows = append(flows, c)
		}
	}
	w.serving[p][2] = nil
	w.tell(p)
	for _, c := range flows {
		if who, saw, err := ask(c); err != nil || who != tasks[1].id || saw.Addr() != outside {
			t.Errorf("after the other task left: %s sees %s, %v", who, saw, err)
		}
	}
}

// What was sent before a port led anywhere must not keep its flow from being led.
func TestFlowsFromBefore(t *testing.T) {
	w := newWorld(t, 2)
	p := Published{bridge.UDP, 8080}
	w.publish(p, Service{Target: 80})
	var sink net.PacketConn
	w.do(w.hosts[1].ns, func() (err error) {
		sink, err = net.ListenPacket("udp4", ":8080") // so that nothing is refused
		return err
	})
	defer sink.Close()
	c, err := w.dial(w.client, "udp4", w.hosts[1].at(p), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "too early\n"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := sink.ReadFrom(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	w.serve(p, 2)
	w.tell(p)
	if _, saw, err := ask(c); err != nil || saw.Addr() != outside {
		t.Errorf("%v, %v", saw, err)
	}
}

func TestStreamsSurvive(t *testing.T) {
	w := newWorld(t, 3)
	p := port(8080)
	tasks := w.publish(p, Service{Target: 80}, 2)
	var open []net.Conn
	for _, h := range w.hosts[1:] {
		c, err := w.dial(w.client, "tcp4", h.at(p), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	w.serving[p] = nil
	w.serve(p, 3)
	w.tell(p)
	time.Sleep(grace)
	for _, h := range w.hosts[1:] {
		w.do(h.ns, h.mesh.Sweep)
		mustBe(t, w, h)
		if who, _ := w.call(w.client, "tcp4", h.at(p)); who == tasks[0].id {
			t.Errorf("node %d leads new connections to the task that left", h.number)
		}
	}
	for i, c := range open {
		if who, saw, err := ask(c); err != nil || who != tasks[0].id || saw.Addr() != outside {
			t.Errorf("by node %d: %s sees %s, %v", i+1, who, saw, err)
		}
	}
	tasks[0].vanish()
	w.do(w.hosts[2].ns, func() error { return w.hosts[2].mesh.Forget([]netip.Addr{tasks[0].addr}) })
	for i, c := range open {
		if _, _, err := ask(c); !refused(err) {
			t.Errorf("by node %d, after the task's end: %v", i+1, err)
		}
	}
}

// vanish ends a task's network without a word to its clients.
func (t *task) vanish() {
	t.host.world.do(t.ns, func() error {
		link, err := netlink.LinkByName("eth0")
		return errors.Join(err, netlink.LinkSetDown(link))
	})
}

// mustBe checks that a host's kernel is as it was left.
func mustBe(t *testing.T, w *world, h *host) {
	t.Helper()
	w.do(h.ns, func() error {
		h.mesh.generation = 0
		if ok, err := h.mesh.Check(); !ok || err != nil {
			return fmt.Errorf("node %d is not as it was left: %v", h.number, err)
		}
		return nil
	})
}

func TestOnlyPublishedIsReached(t *testing.T) {
	w := newWorld(t, 2)
	p := port(8080)
	tasks := w.publish(p, Service{Target: 80}, 1, 2)
	tasks[0].listen(bridge.TCP, 81)
	subnet := w.wanted(w.hosts[1]).Subnet
	other := w.hosts[1].run("other")
	// The client's neighbours know the way into the pool and the mesh.
	for _, prefix := range []string{"172.30.0.0/20", subnet.String()} {
		_, dst, _ := net.ParseCIDR(prefix)
		w.do(w.client, func() error { return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP("198.51.100.1")}) })
		w.do(w.router, func() error { return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: w.hosts[1].addr.AsSlice()}) })
	}
	for what, try := range map[string]struct{ from, to string }{
		"a task from outside":              {w.client, tasks[0].addr.String() + ":80"},
		"a task's other port from outside": {w.client, tasks[0].addr.String() + ":81"},
		"the other port at the node":       {w.client, w.hosts[1].addr.String() + ":81"},
		"the target port at the node":      {w.client, w.hosts[1].addr.String() + ":80"},
		"the mesh from outside":            {w.client, NodeAddr(subnet, 2, 1).String() + ":8080"},
		"a task from a task":               {other.ns, tasks[0].addr.String() + ":80"},
	} {
		var c net.Conn
		err := netns.Do(try.from, func() (err error) {
			c, err = net.DialTimeout("tcp4", try.to, 300*time.Millisecond)
			return err
		})
		if err == nil {
			c.Close()
			t.Errorf("%s is reached", what)
		}
	}
	w.call(w.client, "tcp4", w.hosts[1].at(p))
}

// Ports of mode host lead as before.
func TestBesideHostPorts(t *testing.T) {
	w := newWorld(t, 2)
	w.publish(port(8080), Service{Target: 80}, 2)
	h := w.hosts[1]
	own := h.run("own")
	own.listen(bridge.TCP, 80)
	defer own.stop()
	w.do(h.ns, func() error {
		_, err := h.bridge.Publish(t.Context(), "own", []*pb.PortConfig{{Target: 80, Published: 9090, Mode: pb.PortConfig_MODE_HOST}})
		return err
	})
	if who, saw := w.call(w.client, "tcp4", h.addr.String()+":9090"); who != "own" || saw != outside {
		t.Errorf("host port: %s sees %s", who, saw)
	}
	if who, saw := w.call(w.client, "tcp4", h.at(port(8080))); who == "own" || saw != outside {
		t.Errorf("published port: %s sees %s", who, saw)
	}
}

// Both ends announce segments that the link does not take.
func TestLargeTransfers(t *testing.T) {
	w := newWorld(t, 2)
	p := port(8080)
	w.publish(p, Service{Target: 80}, 2)
	for _, from := range []string{w.client, w.hosts[1].ns} {
		for _, to := range []string{w.hosts[1].at(p), "127.0.0.1:8080"} {
			if from == w.client && to == "127.0.0.1:8080" {
				continue
			}
			c, err := w.dial(from, "tcp4", to, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			const lines = 20000
			go func() { _, _ = c.Write(bytes.Repeat([]byte("x\n"), lines)) }()
			if _, err := io.CopyN(io.Discard, c, 20*lines); err != nil {
				t.Errorf("to %s: %v", to, err)
			}
		}
	}
}

// No connection fails while the tasks behind a port change all the time.
func TestChangesUnderLoad(t *testing.T) {
	w := newWorld(t, 3)
	p := port(8080)
	w.publish(p, Service{Target: 80}, 1, 2, 2, 3)
	all := w.serving[p]
	var calls, failed atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := w.dial(w.client, "tcp4", w.hosts[1+i%3].at(p), 0)
				if err == nil {
					_, _, err = ask(c)
					c.Close()
				}
				if calls.Add(1); err != nil && failed.Add(1) == 1 {
					t.Log(err)
				}
			}
		})
	}
	for i := range 100 {
		w.serving[p] = map[int][]*task{1: all[1], 2: all[2][:i%3], 3: all[3][:i%2]}
		if i%5 == 0 {
			delete(w.serving[p], 1)
			w.serving[p][2] = all[2]
		}
		w.tell(p) // tasks that left still answer: they drain
		for _, h := range w.hosts[1:] {
			w.do(h.ns, h.mesh.Sweep)
		}
	}
	close(stop)
	wg.Wait()
	if failed.Load() > 0 || calls.Load() == 0 {
		t.Errorf("%d of %d calls failed", failed.Load(), calls.Load())
	}
}

// A node that is gone lets its connections go.
func TestPeerLeaves(t *testing.T) {
	w := newWorld(t, 3)
	p := port(8080)
	w.publish(p, Service{Target: 80}, 2)
	c, err := w.dial(w.client, "tcp4", w.hosts[1].at(p), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := ask(c); err != nil {
		t.Fatal(err)
	}
	peers := w.wanted(w.hosts[1]).Peers
	delete(peers, 2)
	w.do(w.hosts[1].ns, func() error { return w.hosts[1].mesh.SetPeers(peers) })
	if _, _, err := ask(c); !refused(err) {
		t.Errorf("a connection to a node that is gone: %v", err)
	}
	w.do(w.hosts[1].ns, func() error { return w.hosts[1].mesh.SetPeers(w.wanted(w.hosts[1]).Peers) })
	if _, saw := w.call(w.client, "tcp4", w.hosts[1].at(p)); saw != outside {
		t.Errorf("after it came back: %s", saw)
	}
}

// The nodes try their links by echoes, full packets among them.
func TestLinkEchoes(t *testing.T) {
	w := newWorld(t, 2)
	to := NodeAddr(w.wanted(w.hosts[1]).Subnet, 2, 1)
	w.do(w.hosts[1].ns, func() error {
		c, err := net.Dial("ip4:icmp", to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		echo := make([]byte, 1450-20)
		echo[0] = 8
		sum := uint32(0x0800)
		echo[2], echo[3] = byte(^sum>>8), byte(^sum)
		if _, err := c.Write(echo); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1500))
		return err
	})
}

func TestRepairUnderTraffic(t *testing.T) {
	w := newWorld(t, 2)
	p := port(8080)
	w.publish(p, Service{Target: 80}, 2)
	c, err := w.dial(w.client, "tcp4", w.hosts[1].at(p), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, h := range w.hosts[1:] {
		w.do(h.ns, func() error {
			link, err := netlink.LinkByName(LinkName)
			err = errors.Join(err, netlink.LinkDel(link), os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0))
			if ok, _ := h.mesh.Check(); ok {
				t.Error("a deleted link is not seen")
			}
			return errors.Join(err, h.mesh.Set(w.wanted(h)))
		})
		mustBe(t, w, h)
	}
	if _, saw, err := ask(c); err != nil || saw.Addr() != outside {
		t.Errorf("a connection from before: %v, %v", saw, err)
	}
	if _, saw := w.call(w.client, "tcp4", w.hosts[1].at(p)); saw != outside {
		t.Errorf("a new connection: %v", saw)
	}
}
