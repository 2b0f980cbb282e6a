package overlay

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/network/netns"
)

// stage is three hosts with tasks on two networks: web and db are on all hosts
// and have tasks a1, a2, a3 and b1, b2, b3, and both is on both, at host 1.
type stage struct {
	hosts []*host
	want  []Wanted
}

func newStage(t *testing.T) *stage {
	s := &stage{hosts: underlay(t, 3)}
	for i, h := range s.hosts {
		n := i + 1
		w := Wanted{
			Networks: map[string]Network{"web": h.network("web", 4096), "db": h.network("db", 4097)},
			Links: []Link{
				h.link(fmt.Sprint("a", n), "web", 1, fmt.Sprintf("10.0.0.%d/24", n+1), fmt.Sprintf("fd00::%d/64", n+1)),
				h.link(fmt.Sprint("b", n), "db", 1, fmt.Sprintf("10.0.1.%d/24", n+1), fmt.Sprintf("fd01::%d/64", n+1)),
			},
			Remotes: remotes{"web": {}, "db": {}},
		}
		if n == 1 {
			w.Links = append(w.Links, h.link("both", "web", 1, "10.0.0.100/24"), h.link("both", "db", 2, "10.0.1.100/24"))
		} else {
			w.Remotes["web"]["both"] = s.hosts[0].remote("10.0.0.100")
			w.Remotes["db"]["both"] = s.hosts[0].remote("10.0.1.100")
		}
		for j, other := range s.hosts {
			if j == i {
				continue
			}
			w.Peers = append(w.Peers, other.addr)
			w.Remotes["web"][fmt.Sprint("a", j+1)] = other.remote(fmt.Sprintf("10.0.0.%d", j+2), fmt.Sprintf("fd00::%d", j+2))
			w.Remotes["db"][fmt.Sprint("b", j+1)] = other.remote(fmt.Sprintf("10.0.1.%d", j+2), fmt.Sprintf("fd01::%d", j+2))
		}
		s.want = append(s.want, w)
		h.run(func() error { return h.Set(w) })
		h.mustBeIntact()
	}
	for i, h := range s.hosts {
		serve(t, h.task(fmt.Sprint("a", i+1)))
		serve(t, h.task(fmt.Sprint("b", i+1)))
	}
	serve(t, s.hosts[0].task("both"))
	return s
}

func TestPairs(t *testing.T) {
	s := newStage(t)
	for i, h := range s.hosts {
		for j := range s.hosts {
			a, b := h.task(fmt.Sprint("a", i+1)), h.task(fmt.Sprint("b", i+1))
			mustReach(t, a, fmt.Sprintf("10.0.0.%d", j+2), fmt.Sprintf("fd00::%d", j+2))
			mustReach(t, b, fmt.Sprintf("10.0.1.%d", j+2), fmt.Sprintf("fd01::%d", j+2))
			mustNotReach(t, a, fmt.Sprintf("10.0.1.%d", j+2))
			mustNotReach(t, b, fmt.Sprintf("fd00::%d", j+2))
		}
		mustReach(t, h.task(fmt.Sprint("a", i+1)), "10.0.0.100")
		mustReach(t, h.task(fmt.Sprint("b", i+1)), "10.0.1.100")
	}
	mustReach(t, s.hosts[0].task("both"), "10.0.0.4", "10.0.1.4")
	mustNotReach(t, s.hosts[0].task("a1"), "10.0.0.77") // nobody
}

// TestSameAddresses: networks with the same addresses and hosts of the same
// names do not disturb each other.
func TestSameAddresses(t *testing.T) {
	hosts := underlay(t, 2)
	for i, h := range hosts {
		other := hosts[1-i]
		w := Wanted{Networks: map[string]Network{}, Remotes: remotes{}, Peers: []netip.Addr{other.addr}}
		for n := range 2 {
			id := fmt.Sprint("net", n)
			w.Networks[id] = h.network(id, uint32(4096+n))
			w.Links = append(w.Links, h.link(fmt.Sprintf("t%d-%d", n, i), id, 1, fmt.Sprintf("10.0.0.%d/24", i+2)))
			w.Remotes[id] = map[string]Remote{fmt.Sprintf("t%d-%d", n, 1-i): other.remote(fmt.Sprintf("10.0.0.%d", 3-i))}
		}
		h.run(func() error { return h.Set(w) })
	}
	serve(t, hosts[1].task("t0-1"))
	mustReach(t, hosts[0].task("t0-0"), "10.0.0.3")
	mustNotReach(t, hosts[0].task("t1-0"), "10.0.0.3") // its own 10.0.0.3 does not serve
	hosts[0].run(func() error { return hosts[0].DropNetwork("net1") })
	mustReach(t, hosts[0].task("t0-0"), "10.0.0.3")
	hosts[0].mustBeIntact()
}

func TestTaskMoves(t *testing.T) {
	s := newStage(t)
	h1, h2, h3 := s.hosts[0], s.hosts[1], s.hosts[2]
	a1 := h1.task("a1")
	mustReach(t, a1, "10.0.0.3")

	// a2's address goes to a new task on host 3 while a2's end is not yet known.
	h3.run(func() error { return h3.Plug(h3.link("new", "web", 1, "10.0.0.3/24", "fd00::99/64")) })
	serve(t, h3.task("new"))
	h2.run(func() error { return h2.Unplug("a2") })
	for _, h := range []*host{h1, h2} {
		h.run(func() error {
			return h.Change("web", map[string]Remote{"new": h3.remote("10.0.0.3", "fd00::99")}, nil)
		})
	}
	mustReach(t, a1, "10.0.0.3", "fd00::99")
	for _, h := range []*host{h1, h3} {
		h.run(func() error { return h.Change("web", nil, []string{"a2"}) })
	}
	mustReach(t, a1, "10.0.0.3", "fd00::99")
	mustReach(t, h3.task("a3"), "10.0.0.3")
	for _, h := range s.hosts {
		h.mustBeIntact()
	}

	// It ends, and the address is used by a task of host 1 itself.
	h3.run(func() error { return h3.Unplug("new") })
	h1.run(func() error { return h1.Plug(h1.link("here", "web", 1, "10.0.0.3/24")) })
	serve(t, h1.task("here"))
	mustReach(t, a1, "10.0.0.3")
	h1.run(func() error { return h1.Change("web", nil, []string{"new"}) })
	mustReach(t, a1, "10.0.0.3")
	h1.mustBeIntact()
}

// TestReusedIPv6Address: its hardware address follows from the other address, so
// the tasks' caches are wrong when a new task has it.
func TestReusedIPv6Address(t *testing.T) {
	s := newStage(t)
	h1, h2, h3 := s.hosts[0], s.hosts[1], s.hosts[2]
	mustReach(t, h1.task("a1"), "fd00::3")
	mustReach(t, h3.task("a3"), "fd00::3")
	h2.run(func() error { return h2.Unplug("a2") })
	h3.run(func() error { return h3.Plug(h3.link("new", "web", 1, "10.0.0.50/24", "fd00::3/64")) })
	serve(t, h3.task("new"))
	h1.run(func() error {
		return h1.Change("web", map[string]Remote{"new": h3.remote("10.0.0.50", "fd00::3")}, []string{"a2"})
	})
	h3.run(func() error { return h3.Change("web", nil, []string{"a2"}) })
	mustReach(t, h1.task("a1"), "fd00::3", "10.0.0.50")
	mustReach(t, h3.task("a3"), "fd00::3", "10.0.0.50")
}

func TestRepair(t *testing.T) {
	s := newStage(t)
	h := s.hosts[0]
	web := h.Path("web")
	inWeb := func(command ...string) func() {
		return func() { must(t, netns.Do(web, func() error { return ip(command...) })) }
	}
	for name, damage := range map[string]func(){
		"table": func() { h.run(h.deleteTable) },
		"flush": func() { h.run(func() error { return runTool("nft", "flush", "ruleset") }) },
		"peer": func() {
			h.run(func() error { return runTool("nft", "delete element inet minid_overlay peers4 { 192.0.2.2 }") })
		},
		"vxlan":       inWeb("link", "del", "mnvx4096"),
		"vxlan down":  inWeb("link", "set", "mnvx4096", "down"),
		"vxlan loose": inWeb("link", "set", "mnvx4096", "nomaster"),
		"bridge":      inWeb("link", "del", BridgeName),
		"bridge down": inWeb("link", "set", BridgeName, "down"),
		"mtu":         inWeb("link", "set", "mnvx4096", "mtu", "1300"),
		"cable":       inWeb("link", "del", linkName("a1")),
		"cable loose": inWeb("link", "set", linkName("a1"), "nomaster"),
		"cable in task": func() {
			must(t, netns.Do(h.task("a1"), func() error { return ip("link", "del", "eth1") }))
		},
		"namespace":    func() { must(t, netns.Remove(web)) },
		"neighbours":   inWeb("neigh", "flush", "nud", "permanent", "dev", "mnvx4096"),
		"neighbour v6": inWeb("neigh", "del", "fd00::3", "dev", "mnvx4096"),
		"fdb self": func() {
			must(t, netns.Do(web, func() error { return runTool("bridge", "fdb", "del", "02:42:0a:00:00:03", "dev", "mnvx4096", "self") }))
		},
		"fdb master": func() {
			must(t, netns.Do(web, func() error { return runTool("bridge", "fdb", "del", "02:42:0a:00:00:03", "dev", "mnvx4096", "master") }))
		},
		"fdb other": func() {
			must(t, netns.Do(web, func() error {
				return runTool("bridge", "fdb", "replace", "02:42:0a:00:00:03", "dev", "mnvx4096", "dst", "192.0.2.9", "self")
			}))
		},
		"fdb own": func() {
			must(t, netns.Do(web, func() error {
				return runTool("bridge", "fdb", "del", "02:42:0a:00:00:02", "dev", linkName("a1"), "master")
			}))
		},
		"stranger": func() {
			must(t, netns.Do(web, func() error {
				return runTool("bridge", "fdb", "add", "02:42:0a:00:00:09", "dev", "mnvx4096", "dst", "192.0.2.9", "self")
			}))
		},
	} {
		damage()
		h.mustDiffer(name)
		h.run(func() error { return h.Set(s.want[0]) })
		h.mustBeIntact()
		mustReach(t, h.task("a1"), "10.0.0.3", "fd00::4")
		mustReach(t, s.hosts[1].task("a2"), "10.0.0.2")
		if t.Failed() {
			t.Fatal("after repair of", name)
		}
	}
	mustReach(t, h.task("b1"), "10.0.1.3")
}

// TestRestart: a new minid takes over what is there without cutting anything,
// and removes what is not wanted any more.
func TestRestart(t *testing.T) {
	s := newStage(t)
	h := s.hosts[0]
	before := linkIndex(t, h.Path("web"), "mnvx4096")
	h.Close()
	h.open()
	w := s.want[0]
	w.Networks = maps.Clone(w.Networks)
	delete(w.Networks, "db")
	w.Links = slices.DeleteFunc(slices.Clone(w.Links), func(l Link) bool { return l.Task == "both" })
	h.run(func() error { return h.Set(w) })
	h.mustBeIntact()
	if after := linkIndex(t, h.Path("web"), "mnvx4096"); after != before {
		t.Error("VXLAN device was made anew")
	}
	mustReach(t, h.task("a1"), "10.0.0.3")
	mustNotReach(t, s.hosts[1].task("a2"), "10.0.0.100")
	if netns.Exists(h.Path("db")) {
		t.Error("namespace of a network that is not wanted")
	}
	// Killed and restarted with another network of the same VXLAN id.
	h.Close()
	h.open()
	again := w
	again.Networks = map[string]Network{"next": h.network("next", 4096)}
	again.Links = nil
	h.run(func() error { return h.Set(again) })
	h.mustBeIntact()
}

func TestForeignVXLAN(t *testing.T) {
	h := underlay(t, 1)[0]
	h.run(func() error {
		return ip("link", "add", "foreign", "type", "vxlan", "id", "4096", "dstport", "4789", "local", h.addr.String())
	})
	h.run(func() error {
		err := h.SetNetwork(h.network("web", 4096), nil)
		if !fault.Is(err, fault.InUse) || !strings.Contains(err.Error(), "another program") {
			return fmt.Errorf("VXLAN id of another program: %v", err)
		}
		if ok, _ := h.Check(); ok {
			t.Error("not seen to be missing")
		}
		return ip("link", "del", "foreign")
	})
	h.run(func() error { return h.SetNetwork(h.network("web", 4096), nil) })
	h.mustBeIntact()
}

// TestTaskIsGone: a namespace may end before its links are unplugged, and one
// that is missing hinders nobody else.
func TestTaskIsGone(t *testing.T) {
	s := newStage(t)
	h := s.hosts[0]
	must(t, netns.Remove(h.task("b1")))
	h.run(func() error { return h.Unplug("b1") })
	h.run(func() error { return h.Unplug("b1") })
	h.mustBeIntact()
	h.run(func() error { return h.DropNetwork("web") })
	w := s.want[0]
	h.run(func() error {
		if err := h.Set(w); err == nil {
			return fmt.Errorf("no error for a task without namespace")
		}
		return nil
	})
	mustReach(t, h.task("a1"), "10.0.0.3")
	mustReach(t, h.task("both"), "10.0.1.4")
}

func TestNetworkChanges(t *testing.T) {
	s := newStage(t)
	for i, h := range s.hosts {
		n := h.network("web", 4100)
		n.MTU, n.Port = 1280, 5000
		h.run(func() error { return h.SetNetwork(n, s.want[i].Remotes["web"]) })
		h.mustBeIntact()
	}
	mustReach(t, s.hosts[0].task("a1"), "10.0.0.3", "fd00::4")
	big := strings.Repeat("x", 10_000) // in fragments
	if err := askText(s.hosts[0].task("a1"), "udp", "10.0.0.3", big, patience); err != nil {
		t.Error(err)
	}
}

func TestIPv6Underlay(t *testing.T) {
	hosts := underlay(t, 2)
	at := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprint("2001:db8::", i+1)) }
	for i, h := range hosts {
		n := h.network("web", 4096)
		n.VTEP, n.MTU = at(i), 1430
		w := Wanted{
			Networks: map[string]Network{"web": n},
			Links:    []Link{h.link(fmt.Sprint("a", i), "web", 1, fmt.Sprintf("10.0.0.%d/24", i+2), fmt.Sprintf("fd00::%d/64", i+2))},
			Remotes:  remotes{"web": {"other": remote(at(1-i).String(), fmt.Sprintf("10.0.0.%d", 3-i), fmt.Sprintf("fd00::%d", 3-i))}},
			Peers:    []netip.Addr{at(1 - i)},
		}
		h.run(func() error {
			return errors.Join(ip("addr", "add", at(i).String()+"/64", "dev", "eth0", "nodad"), h.Set(w))
		})
		h.mustBeIntact()
	}
	h := hosts[0]
	serve(t, hosts[1].task("a1"))
	mustReach(t, h.task("a0"), "10.0.0.3", "fd00::3")
	h.run(func() error { return h.SetPeers(nil) })
	mustNotReach(t, h.task("a0"), "10.0.0.3")
	h.run(func() error {
		return errors.Join(h.SetPeers([]netip.Addr{at(1)}), h.Change("web", nil, []string{"other"}))
	})
	mustNotReach(t, h.task("a0"), "fd00::3")
	h.mustBeIntact()
	h.run(func() error {
		return h.Change("web", map[string]Remote{"other": remote(at(1).String(), "10.0.0.3")}, nil)
	})
	mustReach(t, h.task("a0"), "10.0.0.3")
}

// TestMTUChanges in place: a node with a smaller one may join at any time, and
// connections have to go on.
func TestMTUChanges(t *testing.T) {
	s := newStage(t)
	h := s.hosts[0]
	var c net.Conn
	must(t, netns.Do(h.task("a1"), func() (err error) {
		c, err = net.DialTimeout("tcp", "10.0.0.3:7", patience)
		return err
	}))
	defer c.Close()
	before := linkIndex(t, h.task("a1"), "eth1")
	for i, h := range s.hosts {
		n := h.network("web", 4096)
		n.MTU = 1300
		h.run(func() error { return h.SetNetwork(n, s.want[i].Remotes["web"]) })
		h.mustBeIntact()
	}
	if after := linkIndex(t, h.task("a1"), "eth1"); after != before {
		t.Error("the task's link was made anew")
	}
	must(t, netns.Do(h.task("a1"), func() error {
		link, err := rtnl.LinkByName("eth1")
		if err == nil && link.Attrs().MTU != 1300 {
			t.Errorf("the task's MTU is %d", link.Attrs().MTU)
		}
		return err
	}))
	_ = c.SetDeadline(time.Now().Add(patience))
	text := []byte(strings.Repeat("x", 20_000))
	go func() { _, _ = c.Write(text) }()
	if _, err := io.ReadFull(c, make([]byte, len(text))); err != nil {
		t.Error(err)
	}
}

// TestStrangersAreNotHeard: VXLAN from an address that is no peer's is dropped.
func TestStrangersAreNotHeard(t *testing.T) {
	s := newStage(t)
	h := s.hosts[0]
	h.run(func() error { return h.SetPeers([]netip.Addr{s.hosts[1].addr}) })
	mustReach(t, h.task("a1"), "10.0.0.3")
	mustNotReach(t, h.task("a1"), "10.0.0.4")
	h.run(func() error { return h.SetPeers([]netip.Addr{s.hosts[1].addr, s.hosts[2].addr}) })
	mustReach(t, h.task("a1"), "10.0.0.4")
}

// TestTableIsAsRendered compares what nft lists with the rendered text.
func TestTableIsAsRendered(t *testing.T) {
	h := underlay(t, 1)[0]
	for name, w := range situations() {
		h.Overlay.segments = map[string]*segment{}
		for _, n := range w.Networks {
			h.expect(n, nil)
		}
		h.peers = w.Peers
		h.run(h.setTable)
		_, want, _ := strings.Cut(w.Render(), "table inet")
		normal := func(s string) []string {
			s = strings.ReplaceAll(s, "type 0", "type integer") // nft has no word for one of 3 bytes
			return slices.Sorted(strings.FieldsSeq(strings.ReplaceAll(s, ",", " ")))
		}
		if got := h.listed(); got != "" {
			if diff := cmp.Diff(normal("table inet"+want), normal(got)); diff != "" {
				t.Errorf("%s: nft lists otherwise: %s\n%s", name, diff, got)
			}
		}
	}
	h.Overlay.segments = map[string]*segment{}
}

// TestNoHandlesLeak: networks and tasks come and go, files do not pile up.
func TestNoHandlesLeak(t *testing.T) {
	h := underlay(t, 1)[0]
	count := func() int { list, _ := filepath.Glob("/proc/self/fd/*"); return len(list) }
	cycle := func() {
		h.run(func() error { return h.SetNetwork(h.network("web", 4096), nil) })
		h.run(func() error { return h.Plug(h.link("x", "web", 1, "10.0.0.2/24", "fd00::2/64")) })
		h.run(func() error { return h.Unplug("x") })
		h.run(func() error { return h.DropNetwork("web") })
	}
	cycle()
	before := count()
	for range 10 {
		cycle()
	}
	if after := count(); after > before+3 {
		t.Errorf("%d file handles, %d before", after, before)
	}
}

// TestBatchTellsWhatFailed: each failure is its own address's, wherever in the
// batches it is, and what comes after it is done.
func TestBatchTellsWhatFailed(t *testing.T) {
	h := underlay(t, 1)[0]
	h.run(func() error { return h.SetNetwork(h.network("web", 4096), nil) })
	s := h.segments["web"]
	bad := map[netip.Addr]bool{}
	const count = 2*perSend + 7
	for i := range count {
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i%250 + 1)})
		e := entry{addr: addr, family: family(addr), state: rtnl.NUD_PERMANENT, index: s.vxlan, destination: addr, mac: macOf(addr)}
		if i%50 == 0 || i == count-1 {
			e.index, bad[addr] = 9999, true
		}
		s.batch.add(e)
		s.batch.add(entry{remove: true, addr: addr, family: unix.AF_INET, index: s.vxlan, destination: netip.MustParseAddr("10.9.9.9")})
	}
	failed := s.batch.flush()
	for addr := range bad {
		if failed[addr] == nil {
			t.Errorf("%s did not fail", addr)
		}
	}
	d, err := s.dump()
	if err != nil || len(failed) != len(bad) || len(d.neighbours) != count-len(bad) {
		t.Errorf("%d failed, want %d; %d of %d are there, %v", len(failed), len(bad), len(d.neighbours), count-len(bad), err)
	}
	if failed := s.batch.flush(); len(failed) > 0 {
		t.Errorf("nothing fails: %v", failed)
	}
	h.mustDiffer("strange neighbours")
	h.run(func() error { return h.SetNetwork(h.network("web", 4096), nil) })
	h.mustBeIntact()
}

// TestEncryptedStaysOut: VXLAN of an encrypted network is neither sent nor taken
// other than by the encrypting device, whatever the routes say.
func TestEncryptedStaysOut(t *testing.T) {
	hosts := underlay(t, 2)
	h1, h2 := hosts[0], hosts[1]
	for i, h := range hosts {
		other := hosts[1-i]
		n := h.network("secret", 5000)
		w := Wanted{
			Networks: map[string]Network{"secret": n, "clear": h.network("clear", 5001)},
			Links: []Link{
				h.link(fmt.Sprint("s", i), "secret", 1, fmt.Sprintf("10.0.0.%d/24", i+2)),
				h.link(fmt.Sprint("c", i), "clear", 1, fmt.Sprintf("10.0.1.%d/24", i+2)),
			},
			Remotes: remotes{
				"secret": {"s": other.remote(fmt.Sprintf("10.0.0.%d", 3-i))},
				"clear":  {"c": other.remote(fmt.Sprintf("10.0.1.%d", 3-i))},
			},
			Peers: []netip.Addr{other.addr},
		}
		h.run(func() error { return h.Set(w) })
	}
	serve(t, h2.task("s1"))
	serve(t, h2.task("c1"))
	mustReach(t, h1.task("s0"), "10.0.0.3")
	setSecret := func(h *host, encrypted bool) {
		n := h.network("secret", 5000)
		n.Encrypted = encrypted
		other := hosts[0]
		if h == other {
			other = hosts[1]
		}
		h.run(func() error {
			return h.SetNetwork(n, map[string]Remote{"s": other.remote(fmt.Sprintf("10.0.0.%d", 2+slices.Index(hosts, other)))})
		})
		h.mustBeIntact()
	}
	for _, encrypting := range hosts { // first the receiver's side, then the sender's
		for _, h := range hosts {
			setSecret(h, h == encrypting)
		}
		mustNotReach(t, h1.task("s0"), "10.0.0.3")
		mustReach(t, h1.task("c0"), "10.0.1.3")
	}
	for _, h := range hosts {
		setSecret(h, false)
	}
	mustReach(t, h1.task("s0"), "10.0.0.3")
}

// TestRounds: entries that someone removed are missed within half a minute, and
// each network has its turn when comparing all takes too long for once.
func TestRounds(t *testing.T) {
	h := underlay(t, 1)[0]
	w := Wanted{Networks: map[string]Network{}, Remotes: remotes{}}
	for i, id := range []string{"web", "db"} {
		w.Networks[id] = h.network(id, uint32(4096+i))
		w.Remotes[id] = map[string]Remote{"far": remote("192.0.2.9", "10.0.0.9")}
	}
	h.run(func() error { return h.Set(w) })
	h.mustBeIntact()
	for id, s := range h.segments {
		must(t, netns.Do(h.Path(id), func() error { return ip("neigh", "flush", "nud", "permanent", "dev", s.net.vxlanName()) }))
	}
	compared := time.Now()
	for _, s := range h.segments {
		s.compared = compared
	}
	intact := func(at time.Duration) (intact bool) {
		h.run(func() (err error) { intact, err = h.check(compared.Add(at), 0); return err })
		return intact
	}
	if !intact(compareEvery - time.Second) {
		t.Error("compared before it was due")
	}
	if intact(compareEvery) {
		t.Error("nobody missed the entries")
	}
	h.run(func() error { return h.segments["db"].set(h.host) })
	h.segments["db"].compared = compared.Add(-time.Second) // the next in turn
	if !intact(compareEvery) {
		t.Error("more compared than there is time for")
	}
	if intact(compareEvery) {
		t.Error("the other network has no turn")
	}
	h.run(func() error { return h.Set(w) })
	h.mustBeIntact()
}

// TestNamespaceEnds: the kernel takes the cable of a namespace that ends.
func TestNamespaceEnds(t *testing.T) {
	h := newStage(t).hosts[0]
	s := h.segments["db"]
	h.run(func() error { return h.Plug(h.link("brief", "db", 1, "10.0.1.50/24")) })
	must(t, netns.Remove(h.task("brief")))
	h.run(func() error { return h.Unplug("brief") })
	since := s.leaving[linkName("brief")]
	for end := time.Now().Add(4 * patience); len(s.leaving) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the cable stays")
		}
		h.mustBeIntact()
		must(t, s.sweep(since))
	}
	h.mustBeIntact()
}

// TestNamespaceStays: a process that is left in a task's namespace keeps neither
// the address nor, for long, the cable.
func TestNamespaceStays(t *testing.T) {
	stage := newStage(t)
	h := stage.hosts[0]
	s, far := h.segments["db"], stage.hosts[1].task("b2")
	must(t, netns.Remove(h.task("b1"))) // where a server has sockets
	h.run(func() error { return h.Unplug("b1") })
	h.mustBeIntact()
	cable := func() rtnl.Link {
		links, err := s.linksByName()
		must(t, err)
		return links[linkName("b1")]
	}
	if cable() == nil {
		t.Fatal("nothing kept the namespace")
	}
	h.run(func() error { return h.Plug(h.link("heir", "db", 1, "10.0.1.2/24", "fd01::2/64")) })
	mustNotReach(t, far, "10.0.1.2", "fd01::2")
	serve(t, h.task("heir"))
	mustReach(t, far, "10.0.1.2", "fd01::2")
	since := s.leaving[linkName("b1")]
	must(t, s.sweep(since.Add(goneWithin-time.Millisecond)))
	if cable() == nil {
		t.Error("cut before the kernel had time for it")
	}
	must(t, s.sweep(since.Add(goneWithin)))
	if cable() != nil || len(s.leaving) > 0 {
		t.Error("the cable stays")
	}
	mustReach(t, far, "10.0.1.2", "fd01::2")
	h.mustBeIntact()
	h.run(func() error { return h.Plug(h.link("b1", "db", 1, "10.0.1.60/24")) }) // the task's name is free
	h.mustBeIntact()
}

// TestMTUStays: the kernel gives a bridge without ports another MTU, unless it
// was told one.
func TestMTUStays(t *testing.T) {
	h := underlay(t, 1)[0]
	h.run(func() error { return h.SetNetwork(Network{ID: "web"}, nil) })
	h.run(func() error { return h.Plug(h.link("a", "web", 1, "10.0.0.2/24")) })
	h.run(func() error { return h.Unplug("a") })
	h.mustBeIntact()
}
