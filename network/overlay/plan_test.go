package overlay

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite the golden text")

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func remote(vtep string, list ...string) Remote {
	return Remote{Addresses: addrs(list...), VTEP: netip.MustParseAddr(vtep)}
}

func network(id string, vni uint32) Network {
	return Network{ID: id, VNI: vni, VTEP: netip.MustParseAddr("192.0.2.1"), Port: 4789}
}

func link(task, network string, index int, list ...string) Link {
	return Link{Task: task, Network: network, Netns: "/run/" + task, Index: index, Addresses: prefixes(list...)}
}

type remotes = map[string]map[string]Remote

// situations of a node; each one's Render is a golden file.
func situations() map[string]Wanted {
	web, db := network("web", 4096), network("db", 4097)
	secure := Network{ID: "secure", VNI: 5000, MTU: 1370, VTEP: netip.MustParseAddr("10.0.4.1"), Port: 4789, Encrypted: true}
	six := Network{ID: "six", VNI: 4200, VTEP: netip.MustParseAddr("2001:db8::1"), Port: 4789}
	small := web
	small.MTU = 1280
	odd := db
	odd.Port = 7777
	local := Network{ID: "local"}
	peers := addrs("192.0.2.3", "192.0.2.2", "192.0.2.3")
	one := func(n Network) map[string]Network { return map[string]Network{n.ID: n} }
	two := func(a, b Network) map[string]Network { return map[string]Network{a.ID: a, b.ID: b} }
	return map[string]Wanted{
		"nothing":    {},
		"only peers": {Peers: peers},
		"alone":      {Networks: one(web), Links: []Link{link("a", "web", 1, "10.0.0.2/20")}},
		"ipv4": {
			Networks: one(web), Links: []Link{link("a", "web", 1, "10.0.0.2/20")}, Peers: peers,
			Remotes: remotes{"web": {"b": remote("192.0.2.2", "10.0.0.3"), "c": remote("192.0.2.3", "10.0.0.4")}},
		},
		"dual stack": {
			Networks: one(web), Links: []Link{link("a", "web", 1, "10.0.0.2/20", "fd00::2/64")}, Peers: peers,
			Remotes: remotes{"web": {"b": remote("192.0.2.2", "10.0.0.3", "fd00::3")}},
		},
		"encrypted": {
			Networks: one(secure), Links: []Link{link("a", "secure", 1, "10.0.64.2/24")}, Peers: peers,
			Remotes: remotes{"secure": {"b": remote("10.0.8.2", "10.0.64.3")}},
		},
		"bridge driver": {
			Networks: one(local), Links: []Link{link("a", "local", 1, "10.0.0.2/20"), link("b", "local", 1, "10.0.0.3/20")},
			Remotes: remotes{"local": {"x": remote("192.0.2.2", "10.0.0.9")}},
		},
		"several networks": {
			Networks: two(web, db), Peers: peers,
			Links: []Link{
				link("a", "db", 2, "10.0.16.2/20"), link("a", "web", 1, "10.0.0.2/20"), link("b", "web", 1, "10.0.0.5/20"),
			},
			Remotes: remotes{"web": {"c": remote("192.0.2.2", "10.0.0.3")}, "db": {"c": remote("192.0.2.2", "10.0.16.3")}},
		},
		"clear and encrypted": {
			Networks: two(web, secure), Peers: peers,
			Remotes: remotes{"web": {"c": remote("192.0.2.2", "10.0.0.3")}, "secure": {"c": remote("10.0.8.2", "10.0.64.3")}},
		},
		"small mtu":          {Networks: one(small)},
		"two ports":          {Networks: two(web, odd), Peers: peers},
		"ipv6 underlay":      {Networks: one(six), Remotes: remotes{"six": {"b": remote("2001:db8::2", "10.0.0.3")}}, Peers: addrs("2001:db8::2")},
		"link to no network": {Networks: one(web), Links: []Link{link("a", "gone", 1, "10.9.0.2/20")}},
		"task moved here": {
			Networks: one(web), Links: []Link{link("new", "web", 1, "10.0.0.3/20")}, Peers: peers,
			Remotes: remotes{"web": {"old": remote("192.0.2.2", "10.0.0.3")}},
		},
		"task without address": {
			Networks: one(web), Links: []Link{link("a", "web", 1)},
			Remotes: remotes{"web": {"b": {VTEP: netip.MustParseAddr("192.0.2.2")}}},
		},
	}
}

func TestRender(t *testing.T) {
	for name, w := range situations() {
		file := filepath.Join("testdata", name+".golden")
		got := w.Render()
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestLatestClaim: the news of a task's end may come after a new one has its
// address already.
func TestLatestClaim(t *testing.T) {
	s := newSegment(network("web", 1), nil)
	addr := netip.MustParseAddr("10.0.0.3")
	at := func() string {
		f, _ := s.forward(addr)
		return f.vtep.String()
	}
	s.putRemote("old", remote("192.0.2.2", "10.0.0.3"))
	s.putRemote("new", remote("192.0.2.3", "10.0.0.3"))
	if at() != "192.0.2.3" {
		t.Errorf("leads to %s", at())
	}
	s.removeRemote("old")
	if at() != "192.0.2.3" {
		t.Errorf("leads to %s after the old task is gone", at())
	}
	s.putRemote("old", remote("192.0.2.2", "10.0.0.3"))
	s.removeRemote("old")
	if at() != "192.0.2.3" {
		t.Errorf("leads to %s after a claim was withdrawn", at())
	}
	s.addLink(link("here", "web", 1, "10.0.0.3/20"))
	if f, ok := s.forward(addr); ok {
		t.Errorf("an address of this node leads to %s", f.vtep)
	}
	s.removeLink("here")
	s.removeRemote("new")
	if f, ok := s.forward(addr); ok || len(s.claims) > 0 || len(s.local) > 0 {
		t.Errorf("nobody's address leads to %s", f.vtep)
	}
}

// TestForwardsFromEntries: what is put together from a complete set of entries is
// what they were made from, and any entry that lacks or is too much shows.
func TestForwardsFromEntries(t *testing.T) {
	const vxlan = 7
	rapid.Check(t, func(t *rapid.T) {
		want := drawForwards(t)
		f := entriesOf(want, vxlan)
		have, strange := f.forwards(vxlan)
		if diff := cmp.Diff(want, have, cmp.AllowUnexported(forward{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || len(strange) > 0 {
			t.Fatalf("strange %v, %s", strange, diff)
		}
		if len(want) == 0 {
			return
		}
		damage(t, f, rapid.SampledFrom(sortedAddrs(want)).Draw(t, "victim"))
		have, strange = f.forwards(vxlan)
		if cmp.Equal(want, have, cmp.AllowUnexported(forward{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) && len(strange) == 0 {
			t.Fatal("damage is not seen")
		}
	})
}

func sortedAddrs(m map[netip.Addr]forward) []netip.Addr {
	var out []netip.Addr
	for a := range m {
		if a.Is4() {
			out = append(out, a)
		}
	}
	return out
}

func drawForwards(t *rapid.T) map[netip.Addr]forward {
	s := newSegment(network("web", 1), nil)
	for i := range rapid.IntRange(0, 6).Draw(t, "tasks") {
		v4, v6 := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), netip.MustParseAddr("fd00::a00:0").As16()
		v6[15] = byte(rapid.IntRange(0, 1).Draw(t, "like")*i + 100*(1-i%2) + i) // may end as an IPv4 address
		r := Remote{Addresses: []netip.Addr{v4}, VTEP: netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i%3)})}
		if rapid.Bool().Draw(t, "dual") {
			r.Addresses = append(r.Addresses, netip.AddrFrom16(v6))
		}
		s.putRemote(string(rune('a'+i)), r)
	}
	return s.forwards()
}

func entriesOf(want map[netip.Addr]forward, vxlan int) found {
	f := found{map[netip.Addr]mac{}, map[mac]int{}, map[mac][]netip.Addr{}}
	for addr, fw := range want {
		f.neighbours[addr] = fw.mac
		if fw.vtep.IsValid() {
			f.ports[fw.mac] = vxlan
			f.vteps[fw.mac] = []netip.Addr{fw.vtep}
		}
	}
	return f
}

func damage(t *rapid.T, f found, addr netip.Addr) {
	m := f.neighbours[addr]
	switch rapid.IntRange(0, 5).Draw(t, "damage") {
	case 0:
		delete(f.neighbours, addr)
	case 1:
		delete(f.ports, m)
	case 2:
		delete(f.vteps, m)
	case 3:
		f.vteps[m] = append(f.vteps[m], netip.MustParseAddr("192.0.2.99"))
	case 4:
		f.ports[m] = 3
	case 5:
		f.neighbours[addr] = mac{2, 0x42, 9, 9, 9, 9}
	}
}
