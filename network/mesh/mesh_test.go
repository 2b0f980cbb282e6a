package mesh

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"pgregory.net/rapid"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/realtest"
	"github.com/minid/minid/network/bridge"
)

// TestMain runs everything in a fresh network namespace.
func TestMain(m *testing.M) { realtest.Main(m, nil) }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, addr(s))
	}
	return out
}

// example is node 1 of three.
func example() Wanted {
	return Wanted{
		Number: 1, Subnet: netip.MustParsePrefix("10.0.0.0/12"), VNI: 4096, Port: 4789, MTU: 1450,
		VTEP: addr("192.0.2.1"), Peers: map[uint32]netip.Addr{2: addr("192.0.2.2"), 3: addr("192.0.2.3")},
		Pool:     netip.MustParsePrefix("172.30.0.0/20"),
		Services: map[Published]Service{},
	}
}

func port(n uint16) Published { return Published{bridge.TCP, n} }

// openMesh prepares this namespace as a node's.
func openMesh(tb testing.TB) *Mesh {
	tb.Helper()
	realtest.NeedRoot(tb)
	local := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge.LinkName}}
	uplink := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "world"}
	for _, l := range []netlink.Link{local, uplink} {
		if err := errors.Join(netlink.LinkAdd(l), netlink.LinkSetUp(l)); err != nil {
			tb.Fatal(err)
		}
	}
	vtep, _ := netlink.ParseAddr("192.0.2.1/24")
	if err := netlink.AddrAdd(uplink, vtep); err != nil {
		tb.Fatal(err)
	}
	m, err := Open(Config{Bridge: bridge.LinkName})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := errors.Join(m.Destroy(), netlink.LinkDel(uplink), netlink.LinkDel(local)); err != nil {
			tb.Error(err)
		}
	})
	return m
}

func mustBeIntact(t *testing.T, m *Mesh) {
	t.Helper()
	m.generation = 0
	if ok, err := m.Check(); !ok || err != nil {
		t.Fatalf("kernel is not as it was left: %v, %v", ok, err)
	}
}

// mustBeListed compares the kernel's tables, as nft lists them, with the rendered ones.
func mustBeListed(t *testing.T, w Wanted) {
	t.Helper()
	nft := realtest.NeedProgram(t, "nft")
	out, err := exec.Command(nft, "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	_, want, _ := strings.Cut(w.Render(), "\ntable ip")
	timeouts := regexp.MustCompile(`ct timeout handshake \{(.*\n)*?\t\}\n`) // as the host has them
	if out = timeouts.ReplaceAll(out, nil); strings.Contains(string(out), "l3proto") {
		t.Errorf("nft lists timeouts in another way: %s", out)
	}
	// The kernel lists maps and chains in an order of its own.
	normal := func(s string) []string {
		return slices.Sorted(strings.FieldsSeq(strings.ReplaceAll(s, ",", " ")))
	}
	if diff := cmp.Diff(normal("table ip"+want), normal(string(out))); diff != "" {
		t.Error("nft lists otherwise:", diff)
	}
}

func TestRepair(t *testing.T) {
	m := openMesh(t)
	w := example()
	w.Services[port(8080)] = Service{Target: 80, Local: addrs("172.30.0.2"), Nodes: map[uint32]uint32{2: 2, 9: 1}}
	w.Services[port(8081)] = Service{Target: 80, Masquerade: true, HostIP: addr("192.0.2.1"), Nodes: map[uint32]uint32{3: 1}}
	if err := m.Set(w); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]string{
		"link":         "ip link del mnmesh0",
		"link down":    "ip link set mnmesh0 down",
		"MTU":          "ip link set mnmesh0 mtu 1300",
		"address":      "ip addr flush dev mnmesh0",
		"other one":    "ip addr add 10.0.4.9/32 dev mnmesh0",
		"neighbour":    "ip neigh del 10.0.8.1 dev mnmesh0",
		"forwarding":   "bridge fdb del 02:6e:6d:00:00:02 dev mnmesh0",
		"stray":        "bridge fdb append 02:6e:6d:00:00:07 dst 192.0.2.7 dev mnmesh0",
		"route":        "ip route del 10.0.0.0/12",
		"local route":  "ip route del local 10.0.4.0/22 dev lo table local",
		"answers":      "ip route flush table 28014",
		"rule":         "ip rule del pref 1090",
		"table":        "nft delete table ip minid_mesh",
		"netdev table": "nft delete table netdev minid_mesh",
		"all tables":   "nft flush ruleset",
		"element":      "nft delete element ip minid_mesh ports '{ tcp . 8080 }'",
		"slot":         "nft add element ip minid_mesh everywhere '{ tcp . 8080 . 7 : 1.2.3.4 . 5 }'",
		"rules":        "nft flush chain ip minid_mesh entry",
		"own rule":     "nft insert rule ip minid_mesh entry drop",
		"stray chain":  "nft add chain ip minid_mesh stray",
		"forward":      "echo 0 > /proc/sys/net/ipv4/ip_forward",
		"rp_filter":    "echo 1 > /proc/sys/net/ipv4/conf/mnmesh0/rp_filter",
		"localnet":     "echo 0 > /proc/sys/net/ipv4/conf/mnlocal0/route_localnet",
	} {
		if out, err := exec.Command("sh", "-c", damage).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		if ok, _ := m.Check(); ok {
			t.Errorf("%s: damage is not seen", name)
		}
		if err := m.Set(w); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		mustBeIntact(t, m)
		mustBeListed(t, w)
	}
}

// A mesh that another minid left is taken over.
func TestTakeOver(t *testing.T) {
	m := openMesh(t)
	w := example()
	w.Services[port(8080)] = Service{Target: 80, Nodes: map[uint32]uint32{2: 2}}
	if err := m.Set(w); err != nil {
		t.Fatal(err)
	}
	later, err := Open(Config{Bridge: bridge.LinkName})
	if err != nil {
		t.Fatal(err)
	}
	w.Number, w.VNI = 3, 5000
	w.Peers = map[uint32]netip.Addr{2: addr("192.0.2.2")}
	w.Services = nil
	if err := later.Set(w); err != nil {
		t.Fatal(err)
	}
	mustBeIntact(t, later)
	mustBeListed(t, w)
	if err := later.Destroy(); err != nil {
		t.Fatal(err)
	}
	if ok, err := later.Check(); !ok || err != nil {
		t.Errorf("after the end: %v, %v", ok, err)
	}
	out, err := exec.Command("sh", "-c", "nft list tables; ip rule show pref 1090; ip route show table all proto 109; ip -o link show mnmesh0 2>&1 | grep -v 'not exist'; true").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("left behind: %s, %v", out, err)
	}
}

func TestRefuses(t *testing.T) {
	m, err := Open(Config{Bridge: bridge.LinkName})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Wanted){
		"odd subnet":   func(w *Wanted) { w.Subnet = netip.MustParsePrefix("10.0.0.0/13") },
		"small subnet": func(w *Wanted) { w.Subnet = netip.MustParsePrefix("10.0.0.0/26") },
		"no number":    func(w *Wanted) { w.Number = 0 },
		"high number":  func(w *Wanted) { w.Number = 1023 },
		"no VNI":       func(w *Wanted) { w.VNI = 0 },
		"no port":      func(w *Wanted) { w.Port = 0 },
		"no VTEP":      func(w *Wanted) { w.VTEP = netip.Addr{} },
		"no pool":      func(w *Wanted) { w.Pool = netip.Prefix{} },
		"small MTU":    func(w *Wanted) { w.MTU = 500 },
	} {
		w := example()
		change(&w)
		if err := m.Set(w); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := m.Change(nil, []Published{port(1)}); !fault.Is(err, fault.State) {
		t.Errorf("a change before the first Set: %v", err)
	}
}

// drawServices draws what three nodes may be told.
func drawServices(t *rapid.T, name string) map[Published]Service {
	out := make(map[Published]Service)
	for _, p := range drawPorts(t, name) {
		s := Service{
			Target: rapid.Uint16Range(1, 3).Draw(t, "target"), PreferLocal: rapid.Bool().Draw(t, "prefer local"),
			Masquerade: rapid.Bool().Draw(t, "masquerade"), Nodes: make(map[uint32]uint32),
		}
		if rapid.IntRange(0, 3).Draw(t, "host") == 0 {
			s.HostIP = addr("192.0.2.1")
		}
		for i := range rapid.IntRange(0, 2).Draw(t, "local") {
			s.Local = append(s.Local, addr(fmt.Sprintf("172.30.0.%d", 2+i+rapid.IntRange(0, 1).Draw(t, "shift"))))
		}
		for range rapid.IntRange(0, 2).Draw(t, "nodes") {
			s.Nodes[rapid.Uint32Range(2, 5).Draw(t, "node")] = rapid.Uint32Range(0, 3).Draw(t, "weight")
		}
		out[p] = s
	}
	return out
}

func drawPorts(t *rapid.T, name string) (out []Published) {
	n := rapid.SampledFrom([]int{0, 1, 1, 2, 4}).Draw(t, name)
	for range n {
		out = append(out, Published{
			rapid.SampledFrom([]bridge.Protocol{bridge.TCP, bridge.UDP, bridge.SCTP}).Draw(t, "protocol"),
			rapid.Uint16Range(80, 82).Draw(t, "port"),
		})
	}
	return out
}

func drawPeers(t *rapid.T) map[uint32]netip.Addr {
	out := make(map[uint32]netip.Addr)
	for _, n := range rapid.SliceOfN(rapid.Uint32Range(2, 5), 0, 3).Draw(t, "peers") {
		out[n] = addr(fmt.Sprintf("192.0.2.%d", n+10*rapid.Uint32Range(0, 1).Draw(t, "moved")))
	}
	return out
}

// Any sequence of changes ends where a fresh image of the last value begins.
func TestImage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := example()
		img, now := imageOf(w), time.Unix(1, 0)
		for range rapid.IntRange(0, 12).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 1500).Draw(t, "ms")) * time.Millisecond)
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				w.Services = drawServices(t, "all")
				check(t, img, img.set(w, now))
			case 1:
				w.Peers = drawPeers(t)
				check(t, img, img.set(w, now))
			case 2:
				img.sweep(now)
			case 3:
				img.end(map[netip.Addr]bool{addr("172.30.0.2"): true}, now)
			default:
				w.Services = maps.Clone(w.Services)
				put := drawServices(t, "put")
				maps.Copy(w.Services, put)
				remove := drawPorts(t, "remove")
				for _, p := range remove {
					delete(w.Services, p)
				}
				check(t, img, img.change(w, slices.AppendSeq(remove, maps.Keys(put)), now))
			}
		}
		img.sweep(now.Add(grace)) // slots, and then the chains that led to them
		img.sweep(now.Add(2 * grace))
		fresh := imageOf(w)
		if diff := cmp.Diff(rendered(fresh), rendered(img)); diff != "" {
			t.Fatal(diff)
		}
		if len(img.worn) > 0 || len(img.services) != len(fresh.services) {
			t.Fatalf("kept: %v, %v", img.worn, img.services)
		}
	})
}

func rendered(img *image) string {
	var b strings.Builder
	img.render(&b, example().base())
	return b.String()
}

// check is what both phases of a change must keep to: nothing leads to a chain
// or slot that is not there.
func check(t *rapid.T, img *image, c *change) {
	for _, p := range c.first.delete {
		replaced := slices.ContainsFunc(c.first.add, func(q pair) bool { return q.key == p.key })
		if p.key.kind != nodes && !replaced {
			t.Fatalf("the first phase takes away %s", text(p.key, p.value))
		}
	}
	for k, v := range img.elements {
		if !k.kind.leads() {
			continue
		}
		if _, there := img.groups[v.group]; !there {
			t.Fatalf("%s leads nowhere", text(k, v))
		}
		for i := range v.group.count {
			if _, there := img.elements[key{kind: v.group.slots, port: k.port, slot: i}]; !there {
				t.Fatalf("%s may draw %d, which is not there", text(k, v), i)
			}
		}
	}
}

// The same in the kernel, with links and peers.
func TestChangesInKernel(t *testing.T) {
	m := openMesh(t)
	rapid.Check(t, func(rt *rapid.T) {
		w := example()
		if err := m.Set(w); err != nil {
			rt.Fatal(err)
		}
		for range rapid.IntRange(0, 4).Draw(rt, "steps") {
			var err error
			switch rapid.IntRange(0, 2).Draw(rt, "step") {
			case 0:
				w.Services = drawServices(rt, "all")
				err = m.Set(w)
			case 1:
				w.Peers = drawPeers(rt)
				err = m.SetPeers(w.Peers)
			default:
				w.Services = maps.Clone(w.Services)
				put, remove := drawServices(rt, "put"), drawPorts(rt, "remove")
				for _, p := range remove {
					delete(w.Services, p)
				}
				maps.Copy(w.Services, put)
				err = m.Change(put, remove)
			}
			if err != nil {
				rt.Fatal(err)
			}
		}
		for i := range 2 {
			if err := m.commit(m.image.sweep(time.Now().Add(time.Duration(i+1) * grace))); err != nil {
				rt.Fatal(err)
			}
		}
		if diff := cmp.Diff(rendered(imageOf(w)), rendered(m.image)); diff != "" {
			rt.Fatal(diff)
		}
		m.generation = 0
		if ok, err := m.Check(); !ok || err != nil {
			rt.Fatalf("kernel differs: %v, %v", ok, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(byte(3), []byte{6, 0, 0, 0, 0, 80, 0, 0}, []byte{})
	f.Fuzz(func(t *testing.T, of byte, k, v []byte) {
		kind := kinds[int(of)%len(kinds)]
		key, value, ok := parse(kind, nftables.SetElement{Key: k, Val: v})
		if ok && !kind.leads() && text(key, value) == "" {
			t.Error("an element without a text")
		}
	})
}

func TestNodeAddr(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(2, 12).Draw(t, "half of the bits") * 2
		subnet := netip.PrefixFrom(addr("10.0.0.0"), bits).Masked()
		highest := uint32(1)<<halfBits(subnet) - 2
		draw := rapid.Uint32Range(1, highest)
		a, b, c, d := draw.Draw(t, "a"), draw.Draw(t, "b"), draw.Draw(t, "c"), draw.Draw(t, "d")
		x, y := NodeAddr(subnet, a, b), NodeAddr(subnet, c, d)
		if (x == y) != (a == c && b == d) || !subnet.Contains(x) {
			t.Fatalf("%d.%d is %s, %d.%d is %s", a, b, x, c, d, y)
		}
		if nodePrefix(subnet, a).Contains(y) != (a == c) {
			t.Fatalf("%s of node %d, %s of node %d", nodePrefix(subnet, a), a, y, c)
		}
	})
}
