package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/minid/minid/network/bridge"
)

// TestMain runs everything in a fresh network namespace.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv("MINID_TEST_NETNS") != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), "MINID_TEST_NETNS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

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
	if os.Getuid() != 0 {
		tb.Skip("needs root: network namespaces")
	}
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

func TestTry(t *testing.T) {
	m := openMesh(t)
	w := example()
	w.Services[port(8080)] = Service{Target: 80, Local: addrs("172.30.0.2"), Nodes: map[uint32]uint32{2: 2, 9: 1}}
	w.Services[port(8081)] = Service{Target: 80, Masquerade: true, HostIP: addr("192.0.2.1"), Nodes: map[uint32]uint32{3: 1}}
	if err := m.Set(w); err != nil {
		t.Fatal(err)
	}
	fmt.Println(w.Render())
	out, err := exec.Command("sh", "-c", "nft list tables; nft list table ip minid_mesh; nft list table netdev minid_mesh; ip -d link show mnmesh0; ip route show table all proto 109; ip rule; ip neigh; bridge fdb show dev mnmesh0").CombinedOutput()
	fmt.Println(string(out), err)
	l, err := m.links(false)
	fmt.Println("links", l, err, m.setsIntact(m.session), m.chainsIntact(m.session))
	for _, c := range append(m.wanted.base().frame(), m.image.sortedGroups()[0].chain()) {
		rules, err := m.session.GetRules(table(c.family), c.kernel())
		fmt.Println(c.name, c.sameRules(rules), err, len(rules))
	}
	mustBeIntact(t, m)
}
