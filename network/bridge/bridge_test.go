package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rtnl "github.com/vishvananda/netlink"
	"pgregory.net/rapid"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/realtest"
	"github.com/minid/minid/network/netns"
	pb "github.com/minid/minid/proto/minid/v1"
)

// TestMain runs everything in a fresh network namespace.
func TestMain(m *testing.M) { realtest.Main(m, nil) }

const golden = `# bridge mnlocal0 172.30.0.1/20
# task a: mnca978112 -> eth0 172.30.0.2 02:42:ac:1e:00:02 in /run/a
# task b: mn3e23e816 -> eth0 172.30.0.3 02:42:ac:1e:00:03 in /run/b
table ip minid_local {
	map ports {
		type inet_proto . inet_service : ipv4_addr . inet_service
		elements = { tcp . 8080 : 172.30.0.2 . 80,
			     udp . 53 : 172.30.0.3 . 5353 }
	}

	set internal {
		type ipv4_addr
		elements = { 172.30.0.3 }
	}

	chain guard {
		type filter hook prerouting priority raw; policy accept;
		iifname "mnlocal0" ip daddr 127.0.0.0/8 drop
	}

	chain inbound {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local dnat ip to meta l4proto . th dport map @ports
	}

	chain local {
		type nat hook output priority -100; policy accept;
		fib daddr type local dnat ip to meta l4proto . th dport map @ports
	}

	chain between {
		type filter hook prerouting priority dstnat + 1; policy accept;
		iifname "mnlocal0" ip daddr 172.30.0.0/20 ct status dnat meta mark set 0x0000026d
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		ct state established,related accept
		iifname "mnlocal0" ip saddr @internal drop
		oifname "mnlocal0" ct status dnat accept
		oifname "mnlocal0" drop
	}

	chain outbound {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 172.30.0.0/20 oifname != "mnlocal0" masquerade
		ip saddr 172.30.0.0/20 ip daddr 172.30.0.0/20 ct status dnat masquerade
		ip saddr 127.0.0.0/8 oifname "mnlocal0" masquerade
	}
}
table bridge minid_local {
	chain isolate {
		type filter hook forward priority filter; policy accept;
		iifname "mn*" oifname "mn*" meta mark != 0x0000026d drop
	}
}
`

func example() Wanted {
	return Wanted{
		Pool: netip.MustParsePrefix("172.30.0.0/20"),
		Tasks: []Endpoint{
			{ID: "b", Netns: "/run/b", Address: netip.MustParseAddr("172.30.0.3"), Ports: []Port{{UDP, 53, 5353}}, Internal: true},
			{ID: "a", Netns: "/run/a", Address: netip.MustParseAddr("172.30.0.2"), Ports: []Port{{TCP, 8080, 80}}},
		},
	}
}

func TestRender(t *testing.T) {
	if diff := cmp.Diff(golden, example().Render()); diff != "" {
		t.Error(diff)
	}
}

func TestPoolReusesLast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPool(netip.MustParsePrefix("10.0.0.0/28")) // 13 for tasks
		held := rapid.IntRange(0, 12).Draw(t, "held")
		seen := make(map[netip.Addr]bool)
		for range held {
			a, err := p.take()
			if err != nil || seen[a] || !p.prefix.Contains(a) {
				t.Fatalf("took %v, %v", a, err)
			}
			seen[a] = true
		}
		for range 13 - held {
			a, err := p.take()
			if err != nil || seen[a] {
				t.Fatalf("%v is given again with others unused, %v", a, err)
			}
			seen[a] = true
			p.free(a)
		}
	})
}

func TestFreePool(t *testing.T) {
	for _, test := range []struct{ used, want string }{
		{"", "172.30.0.0/20"},
		{"172.30.0.0/16", "172.31.0.0/20"},
		{"172.16.0.0/12", "192.168.0.0/20"},
		{"172.30.5.0/24", "172.30.16.0/20"},
	} {
		var used []netip.Prefix
		if test.used != "" {
			used = append(used, netip.MustParsePrefix(test.used))
		}
		if got, ok := freePool(used); !ok || got.String() != test.want {
			t.Errorf("beside %s: %v, want %s", test.used, got, test.want)
		}
	}
}

func openBridge(t *testing.T) *Bridge {
	t.Helper()
	realtest.NeedRoot(t)
	dir, err := os.MkdirTemp("/tmp", "mnb-")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(Config{DataDir: dir, RunDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(b.Destroy(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return b
}

func host(published uint32) []*pb.PortConfig {
	return []*pb.PortConfig{{Target: 80, Published: published, Mode: pb.PortConfig_MODE_HOST}}
}

func TestLifeOfTasks(t *testing.T) {
	b := openBridge(t)
	ctx := t.Context()
	ns, addr, err := b.Attach(ctx, "one")
	if err != nil || !netns.Exists(ns) {
		t.Fatal(ns, err)
	}
	if _, again, err := b.Attach(ctx, "one"); err != nil || again != addr {
		t.Errorf("second attach: %v, %v", again, err)
	}
	if _, _, err := b.Attach(ctx, "two"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(ctx, "one", host(8080)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(ctx, "two", host(8080)); !fault.Is(err, fault.InUse) {
		t.Errorf("a port given twice: %v", err)
	}
	if got, err := b.Publish(ctx, "two", host(0)); err != nil || got[0].Published < firstPort {
		t.Errorf("chosen port: %v, %v", got, err)
	}
	b.mustBeListed(t)

	later, err := Open(b.cfg) // minid restarts
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.Wanted().Render(), later.Wanted().Render()); diff != "" {
		t.Error("not taken over:", diff)
	}
	if err := b.Detach(ctx, "one"); err != nil {
		t.Error(err)
	}
	if netns.Exists(ns) {
		t.Error("namespace outlives its task")
	}
	if _, err := b.Publish(ctx, "two", host(8080)); err != nil {
		t.Errorf("port of a removed task: %v", err)
	}
	b.mustBeListed(t)
}

// mustBeListed compares the kernel's table with the rendered one.
func (b *Bridge) mustBeListed(t *testing.T) {
	t.Helper()
	if ok, err := b.kernel.Check(); !ok || err != nil {
		t.Errorf("kernel differs: %v", err)
	}
	nft := realtest.NeedProgram(t, "nft")
	out, err := exec.Command(nft, "-s", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	_, want, _ := strings.Cut(b.Wanted().Render(), "table ip")
	// The kernel lists a map in no order.
	normal := func(s string) []string {
		return slices.Sorted(strings.FieldsSeq(strings.ReplaceAll(s, ",", " ")))
	}
	if diff := cmp.Diff(normal("table ip"+want), normal(string(out))); diff != "" {
		t.Error("nft lists otherwise:", diff)
	}
}

func TestRepair(t *testing.T) {
	b := openBridge(t)
	if _, _, err := b.Attach(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(t.Context(), "one", host(8080)); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func() error{
		"table":         func() error { return (&Kernel{}).Destroy() },
		"cable":         func() error { return deleteLink(hostLink("one")) },
		"bridge":        func() error { return deleteLink(LinkName) },
		"way out":       func() error { return setDown(LinkName) },
		"cable's state": func() error { return setDown(hostLink("one")) },
		"hardware address": func() error {
			return exec.Command("ip", "link", "set", LinkName, "address", "02:00:00:00:00:01").Run()
		},
		"gateway": func() error { return exec.Command("ip", "addr", "flush", "dev", LinkName).Run() },
	} {
		if err := damage(); err != nil {
			t.Fatal(name, err)
		}
		if ok, _ := b.kernel.Check(); ok {
			t.Errorf("damaged %s is not seen", name)
		}
		if err := b.Repair(); err != nil {
			t.Errorf("repair %s: %v", name, err)
		}
		b.mustBeListed(t)
	}
}

// TestGatewayStays: tasks that come and go change nothing about the gateway that
// the others have in their caches.
func TestGatewayStays(t *testing.T) {
	b := openBridge(t)
	want := mac(b.Wanted().Gateway().Addr()).String()
	var cables []string
	see := func(when string) {
		t.Helper()
		link, err := rtnl.LinkByName(LinkName)
		if err != nil {
			t.Fatal(err)
		}
		if got := link.Attrs().HardwareAddr.String(); got != want {
			t.Errorf("%s the gateway is %s, was %s", when, got, want)
		}
	}
	see("without tasks")
	for i := range 4 {
		id := fmt.Sprint("task", i)
		if _, _, err := b.Attach(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		cables = append(cables, hostLink(id))
		see("with " + id)
	}
	for _, cable := range cables {
		if err := deleteLink(cable); err != nil {
			t.Fatal(err)
		}
		see("without " + cable)
	}
}

func setDown(link string) error { return exec.Command("ip", "link", "set", link, "down").Run() }

func TestNoHandlesLeak(t *testing.T) {
	b := openBridge(t)
	count := func() int { list, _ := filepath.Glob("/proc/self/fd/*"); return len(list) }
	cycle := func() {
		if _, _, err := b.Attach(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
		if err := b.Detach(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
	}
	cycle()
	before := count()
	for range 20 {
		cycle()
	}
	if after := count(); after > before+3 {
		t.Errorf("%d file handles, %d before", after, before)
	}
}

// TestLeaving: the kernel takes the cable with the namespace, and if a process
// is left in that it is cut; till then its address is nobody's.
func TestLeaving(t *testing.T) {
	b := openBridge(t)
	isThere := func(id string) bool {
		names, err := linkNames()
		if err != nil {
			t.Fatal(err)
		}
		return names[hostLink(id)]
	}
	detach := func(id string) {
		t.Helper()
		for range 2 {
			if err := b.Detach(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
	}
	attach := func(id string) (string, netip.Addr) {
		ns, addr, err := b.Attach(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return ns, addr
	}
	sweep := func(now time.Time) {
		if err := b.sweep(now); err != nil {
			t.Fatal(err)
		}
	}
	attach("brief")
	detach("brief")
	since := b.leaving[hostLink("brief")].since
	for end := time.Now().Add(20 * time.Second); len(b.leaving) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the cable stays")
		}
		b.mustBeListed(t)
		sweep(since)
	}

	ns, addr := attach("left")
	process, err := os.Open(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer process.Close()
	detach("left")
	b.mustBeListed(t)
	left := b.leaving[hostLink("left")]
	sweep(left.since)
	if !isThere("left") || left.address != addr || !b.pool.used[addr] {
		t.Error("the address is free while the cable is there")
	}
	sweep(left.since.Add(goneWithin))
	if isThere("left") || b.pool.used[addr] {
		t.Error("the cable is kept by a process")
	}

	ns, _ = attach("again")
	again, err := os.Open(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	detach("again")
	if attach("again"); len(b.leaving) > 0 || !isThere("again") {
		t.Error("a task that is back is treated as leaving")
	}
	detach("again")
	if err := b.Destroy(); err != nil {
		t.Fatal(err)
	}
	if isThere("again") || isThere(LinkName) || len(b.pool.used) > 0 {
		t.Error("Destroy leaves something")
	}
}
