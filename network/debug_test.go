package network

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/realtest"
	"github.com/minid/minid/network/netns"
	"github.com/minid/minid/network/nft"
	pb "github.com/minid/minid/proto/minid/v1"
)

// world is a node in this namespace, told by lines as situations are.
type world struct {
	*situation
	engine *Engine
}

const told = `
node n1 192.0.2.1 number=1 mtu=1500 key=A
node n2 192.0.2.2 number=2 mtu=1500 key=B
network mesh ingress vni=4096 subnet=10.8.0.0/16
network web vni=4097 subnet=10.0.16.0/24,fd12::/64
network vault vni=4098 subnet=10.0.17.0/24 encrypted
keys K
service db network=web vip=10.0.16.2,fd12::2 alias=store port=5432/tcp
service safe network=vault vip=10.0.17.2
endpoint db.1 service=db network=web node=n1 address=10.0.16.3,fd12::3 slot=1 serving
endpoint db.2 service=db network=web node=n2 address=10.0.16.4,fd12::4 slot=2 serving
endpoint safe.2 service=safe network=vault node=n2 address=10.0.17.4 slot=1 serving
task db.1 service=db serving
published db 8080:80/tcp,masquerade 8081:81/udp,192.0.2.1 8082:82/tcp,local
backend db node=n2 serving=2
`

// openWorld makes the node, with one task on two networks.
func openWorld(t *testing.T) *world {
	t.Helper()
	realtest.NeedRoot(t)
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "path0"}}
	must(t, netlink.LinkAdd(link))
	t.Cleanup(func() { must(t, netlink.LinkDel(link)) })
	addr, err := netlink.ParseAddr("192.0.2.1/24")
	must(t, err)
	must(t, netlink.AddrAdd(link, addr))
	must(t, netlink.LinkSetUp(link))
	e, err := Open(Config{DataDir: t.TempDir(), RunDir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	must(t, err)
	t.Cleanup(func() { must(t, e.Destroy(context.Background())) })
	e.Join("n1")
	w := &world{situation: newSituation(t), engine: e}
	w.tell(told)
	_, _, err = e.Attach(t.Context(), &pb.TaskNetwork{TaskId: "db.1", ServiceId: "db", Addresses: []*pb.TaskAddress{
		{NetworkId: "web", Addresses: []string{"10.0.16.3/24", "fd12::3/64"}},
		{NetworkId: "vault", Addresses: []string{"10.0.17.3/24"}},
	}})
	must(t, err)
	_, err = e.Publish(t.Context(), "db.1", []*pb.PortConfig{{Protocol: pb.PortConfig_PROTOCOL_TCP, Target: 80, Published: 9090, Mode: pb.PortConfig_MODE_HOST}})
	must(t, err)
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tell gives the engine a full set.
func (w *world) tell(lines string) {
	w.t.Helper()
	var set []*pb.Assignment
	for line := range strings.Lines(lines) {
		if f := strings.Fields(line); len(f) > 1 {
			set = append(set, w.item(f[0], f[1], parseWords(f[1:])))
		}
	}
	w.engine.Replace(set)
	w.engine.apply()
}

// parts by name, all or those asked for.
func (w *world) parts(name string) map[string]Part {
	w.t.Helper()
	out := map[string]Part{}
	must(w.t, w.engine.Debug(name, func(p Part) error { out[p.Name] = p; return nil }))
	return out
}

// TestDebugIntact: what was just made is as wanted, line by line, in every part;
// and so is what changed since.
func TestDebugIntact(t *testing.T) {
	w := openWorld(t)
	check := func(t *testing.T) {
		t.Helper()
		parts := w.parts("")
		for _, name := range []string{"bridge", "overlay", "wireguard", "mesh", "names", "vip/db.1", "dns/db.1"} {
			p, ok := parts[name]
			if !ok || p.Wanted == "" {
				t.Errorf("%s: nothing is told of it", name)
			}
			if diff := cmp.Diff(p.Wanted, p.Actual); diff != "" || !p.Intact || p.Problem != "" {
				t.Errorf("%s: intact %v, problem %q (-wanted +actual):\n%s", name, p.Intact, p.Problem, diff)
			}
		}
	}
	check(t)
	w.engine.Change([]*pb.Assignment{
		w.item("endpoint", "db.3", parseWords(strings.Fields("db.3 service=db network=web node=n2 address=10.0.16.1,fd12::1 slot=3 serving"))),
		w.item("backend", "db", parseWords(strings.Fields("db node=n2 serving=1"))),
	}, []*pb.AssignmentKey{{Kind: pb.ItemKind_ITEM_KIND_ENDPOINT, Id: "db.2@web"}})
	check(t)
	must(t, w.engine.Drain(t.Context(), "db.1"))
	check(t)
}

func TestDebugOfOnePart(t *testing.T) {
	w := openWorld(t)
	for ask, want := range map[string]string{
		"mesh": "mesh", "vip": "vip/db.1", "vip/db.1": "vip/db.1", "dns/d": "dns/db.1",
	} {
		parts := w.parts(ask)
		if _, ok := parts[want]; !ok || len(parts) != 1 {
			t.Errorf("%s: %d parts, not %s alone", ask, len(parts), want)
		}
	}
	for _, ask := range []string{"vi", "vip/x", "mesh/", "nonsense"} {
		if err := w.engine.Debug(ask, func(Part) error { return nil }); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v", ask, err)
		}
	}
}

// TestDebugDamage: what someone else did is a line that differs, in the part
// that it was done to.
func TestDebugDamage(t *testing.T) {
	w := openWorld(t)
	ns := w.engine.state.Local("db.1").Netns
	overlay := filepath.Join(w.engine.cfg.RunDir, "overlay", "web")
	for _, c := range []struct {
		name, part string
		damage     func() error
		// missing is in a line that is no more there, foreign in one that is new.
		missing, foreign string
		// harmless things stay; owned are tables that only minid may change.
		harmless, owned bool
	}{
		{"balancer flushed", "vip/db.1", inTable(ns, nftables.TableFamilyINet, "minid_vip", func(c *nftables.Conn, t *nftables.Table) {
			c.FlushChain(&nftables.Chain{Table: t, Name: "output"})
		}), "vmap @services", "", false, true},
		{"link deleted", "mesh", deletes("", "mnmesh0"), "# link mnmesh0", "", false, false},
		{"table deleted", "overlay", inTable("", nftables.TableFamilyINet, "minid_overlay", func(c *nftables.Conn, t *nftables.Table) {
			c.DelTable(t)
		}), "table inet minid_overlay", "", false, false},
		{"rule replaced", "overlay", inTable("", nftables.TableFamilyINet, "minid_overlay", func(c *nftables.Conn, t *nftables.Table) {
			c.FlushChain(&nftables.Chain{Table: t, Name: "sent"})
			c.AddRule(&nftables.Rule{Table: t, Chain: &nftables.Chain{Name: "sent"}, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
		}), "oifname != ", "not minid's: accept", false, false},
		{"VXLAN deleted", "overlay", deletes(overlay, "mnvx4097"), "neighbour 10.0.16.4", "", false, false},
		{"task's link deleted", "overlay", deletes(ns, "eth1"), "task db.1", "", false, false},
		{"device deleted", "wireguard", deletes("", "mnwg0"), "# link mnwg0", "", false, false},
		{"foreign rule", "mesh", inTable("", nftables.TableFamilyIPv4, "minid_mesh", func(c *nftables.Conn, t *nftables.Table) {
			c.AddRule(&nftables.Rule{Table: t, Chain: &nftables.Chain{Name: "forward"}, Exprs: nil})
		}), "", "not minid's", false, false},
		{"rules flushed", "bridge", inTable("", nftables.TableFamilyIPv4, "minid_local", func(c *nftables.Conn, t *nftables.Table) {
			c.FlushChain(&nftables.Chain{Table: t, Name: "outbound"})
		}), "masquerade", "", false, false},
		{"foreign chain", "bridge", inTable("", nftables.TableFamilyIPv4, "minid_local", func(c *nftables.Conn, t *nftables.Table) {
			c.AddChain(&nftables.Chain{Table: t, Name: "stranger"})
		}), "", "chain stranger", true, false},
		{"foreign set", "dns/db.1", inTable(ns, nftables.TableFamilyIPv4, "minid_dns", func(c *nftables.Conn, t *nftables.Table) {
			_ = c.AddSet(&nftables.Set{Table: t, Name: "stranger", KeyType: nftables.TypeIPAddr}, nil)
		}), "", "set stranger", true, false},
		{"table of names deleted", "dns/db.1", inTable(ns, nftables.TableFamilyIPv4, "minid_dns", func(c *nftables.Conn, t *nftables.Table) {
			c.DelTable(t)
		}), "table ip minid_dns", "", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.damage(); errors.Is(err, unix.EPERM) && c.owned {
				return // as the kernel lets nobody else change the table
			} else {
				must(t, err)
			}
			p := w.parts(c.part)[c.part]
			if p.Intact {
				t.Fatalf("nobody noticed:\n%s", p.Actual)
			}
			if !strings.Contains(p.Wanted, c.missing) || c.missing != "" && strings.Count(p.Actual, c.missing) >= strings.Count(p.Wanted, c.missing) {
				t.Errorf("%q is not missing:\n%s", c.missing, p.Actual)
			}
			if c.foreign != "" && !strings.Contains(p.Actual, c.foreign) {
				t.Errorf("%q is not there:\n%s", c.foreign, p.Actual)
			}
			if c.harmless {
				return
			}
			must(t, w.engine.bridge.Repair())
			w.engine.check()
			w.checkAll()
			if p := w.parts(c.part)[c.part]; !p.Intact {
				t.Errorf("not repaired: %s (-wanted +actual):\n%s", p.Problem, cmp.Diff(p.Wanted, p.Actual))
			}
		})
	}
}

// checkAll has all tasks' namespaces checked, not only the next ones.
func (w *world) checkAll() {
	for range int(checkTasksEvery / checkEvery) {
		w.engine.check()
	}
}

func deletes(path, link string) func() error {
	return func() error {
		return netns.Do(path, func() error {
			l, err := netlink.LinkByName(link)
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		})
	}
}

func inTable(path string, family nftables.TableFamily, name string, change func(*nftables.Conn, *nftables.Table)) func() error {
	return func() error {
		c, err := nft.Connect(path)
		if err != nil {
			return err
		}
		defer c.CloseLasting()
		change(c, &nftables.Table{Family: family, Name: name})
		return c.Flush()
	}
}

// TestDebugUntold: before the managers' word nothing is known to be wrong.
func TestDebugUntold(t *testing.T) {
	realtest.NeedRoot(t)
	e, err := Open(Config{DataDir: t.TempDir(), RunDir: t.TempDir()})
	must(t, err)
	t.Cleanup(func() { must(t, e.Destroy(context.Background())) })
	var names []string
	must(t, e.Debug("", func(p Part) error {
		names = append(names, p.Name)
		if !p.Intact || (p.Problem == "") != (p.Name == "bridge") {
			t.Errorf("%s: intact %v, %q", p.Name, p.Intact, p.Problem)
		}
		return nil
	}))
	if want := []string{"bridge", "overlay", "wireguard", "mesh", "names"}; !slices.Equal(names, want) {
		t.Errorf("parts %v", names)
	}
}
