package vip

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/minid/minid/network/netns"
	"github.com/minid/minid/network/nft"
)

// TestRepair: whatever somebody does to the table is seen, and mended while
// connections go on.
func TestRepair(t *testing.T) {
	r, b := newClient(t, 11, 12)
	w := both(11, 12)
	w[v4(virtual+1)] = nil
	must(t, b.Set(w))
	fresh := open(t, newNetns(t))
	must(t, fresh.Set(w))
	want := dump(t, fresh)
	var l *line
	r.in(r.hosts[client], func() (err error) { l, err = dial(v4(virtual)); return err })
	defer l.Close()

	services4, slots4, vips4 := set{services, ipv4}, set{slots, ipv4}, set{vips, ipv4}
	slot := element{set: slots4, vip: v4(virtual), slot: 1, to: b.image.services[v4(virtual)].slots[1]}
	other := slot
	other.to = v4(13)
	high := element{set: slots4, vip: v4(virtual), slot: maxBackends + 1, to: v4(11)}
	verdict := element{set: services4, vip: v4(virtual), count: 2}
	guarded := element{set: vips4, vip: v4(virtual + 1)}
	stranger := element{set: vips4, vip: v4(77)}
	nat := frame()[0]
	for name, damage := range map[string]func(c *nftables.Conn) error{
		"slot deleted":  func(c *nftables.Conn) error { return remove(c, slot) },
		"slot changed":  func(c *nftables.Conn) error { return add(c, remove(c, slot), other) },
		"slot too high": func(c *nftables.Conn) error { return add(c, nil, high) },
		"verdict changed": func(c *nftables.Conn) error {
			e := verdict.kernel()
			e.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: refuse}
			return errors.Join(remove(c, verdict), c.SetAddElements(services4.kernel(), []nftables.SetElement{e}))
		},
		"verdict deleted": func(c *nftables.Conn) error { return remove(c, verdict) },
		"guard deleted":   func(c *nftables.Conn) error { return remove(c, guarded) },
		"stranger added":  func(c *nftables.Conn) error { return add(c, nil, stranger) },
		"map flushed":     func(c *nftables.Conn) error { c.FlushSet(services4.kernel()); return nil },
		"rules flushed":   func(c *nftables.Conn) error { c.FlushChain(nat.kernel()); return nil },
		"table flushed":   func(c *nftables.Conn) error { c.FlushTable(table()); return nil },
		"chain deleted": func(c *nftables.Conn) error {
			c.FlushChain(frame()[1].kernel())
			c.DelChain(frame()[1].kernel())
			return nil
		},
		"chain added": func(c *nftables.Conn) error {
			c.AddChain(&nftables.Chain{Table: table(), Name: "mine"})
			return nil
		},
		"group added": func(c *nftables.Conn) error { addChain(c, group{ipv4, 9}.chain()); return nil },
		"rule added": func(c *nftables.Conn) error {
			c.AddRule(&nftables.Rule{Table: table(), Chain: group{ipv4, 2}.chain().kernel(), Exprs: catch(ipv4).exprs})
			return nil
		},
		"rule changed": func(c *nftables.Conn) error {
			g := group{ipv4, 2}.chain()
			g.rules = group{ipv4, 1}.chain().rules
			c.FlushChain(g.kernel())
			addChain(c, g)
			return nil
		},
		"policy changed": func(c *nftables.Conn) error {
			k, drop := nat.kernel(), nftables.ChainPolicyDrop
			k.Policy = &drop
			c.AddChain(k)
			return nil
		},
		"set added": func(c *nftables.Conn) error {
			return c.AddSet(&nftables.Set{Table: table(), Name: "mine", ID: 99, KeyType: nftables.TypeIPAddr}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, damage(b.session.Conn))
			must(t, b.session.Flush())
			if ok, err := b.Check(); ok || err != nil {
				t.Errorf("not seen: %v", err)
			}
			must(t, b.Set(w))
			b.age()
			must(t, b.Sweep())
			if diff := cmp.Diff(want, dump(t, b)); diff != "" {
				t.Error(diff)
			}
			if ok, err := b.Check(); !ok || err != nil {
				t.Errorf("not mended: %v", err)
			}
			if err := l.echo(); err != nil {
				t.Errorf("a connection ended: %v", err)
			}
			r.in(r.hosts[client], func() error {
				n, err := dial(v4(virtual))
				if err == nil {
					err = n.Close()
				}
				return err
			})
		})
	}
}

func remove(c *nftables.Conn, e element) error {
	return c.SetDeleteElements(e.set.kernel(), []nftables.SetElement{e.kernel()})
}

func add(c *nftables.Conn, before error, e element) error {
	if before != nil {
		return before
	}
	return c.SetAddElements(e.set.kernel(), []nftables.SetElement{e.kernel()})
}

// owners tells whether the kernel, from 6.9 on, keeps tables for their owners.
func owners(t *testing.T, r *rig) bool {
	t.Helper()
	s, err := nft.Dial(r.hosts[client])
	must(t, err)
	own, err := s.Own(&nftables.Table{Family: nftables.TableFamilyINet, Name: "minid_try"})
	must(t, err)
	if own {
		s.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "minid_try"})
		must(t, s.Flush())
	}
	must(t, s.CloseLasting())
	return own
}

// TestFlush: flushing all rules by hand does nothing to a table that minid owns,
// and where the kernel knows no owners the table is made anew.
func TestFlush(t *testing.T) {
	for name, owned := range map[string]bool{"owned": true, "ordinary": false} {
		t.Run(name, func(t *testing.T) {
			r, b := newClient(t, 11)
			owned := owned && owners(t, r)
			if !owned { // a table that has begun without an owner gets none
				c, err := nft.Connect(r.hosts[client])
				must(t, err)
				c.AddTable(table())
				must(t, c.Flush())
				must(t, c.CloseLasting())
			}
			must(t, b.Set(both(11)))
			r.in(r.hosts[client], func() error { return exec.Command("nft", "flush", "ruleset").Run() })
			if ok, err := b.Check(); ok != owned || err != nil {
				t.Errorf("after the flush intact is %v, %v", ok, err)
			}
			must(t, b.Set(both(11)))
			if ok, err := b.Check(); !ok || err != nil {
				t.Errorf("not mended: %v", err)
			}
			r.in(r.hosts[client], func() error {
				l, err := dial(v6(virtual))
				if err == nil {
					err = l.Close()
				}
				return err
			})
			must(t, b.Change(both(), nil))
			b.age()
			must(t, b.Sweep())
		})
	}
}

// TestChangeFails: a change that the kernel refuses changes nothing, and the
// next call looks at what is there.
func TestChangeFails(t *testing.T) {
	ns := newNetns(t)
	b := open(t, ns)
	must(t, b.Set(both(11, 12)))
	b.image.services[v4(virtual)].slots[1] = v4(99) // does not exist: cannot be deleted
	b.image.services[v4(virtual)].slots = append(b.image.services[v4(virtual)].slots, v4(98))
	if err := b.Change(both(11, 12, 13), nil); err == nil {
		t.Fatal("deleting what is not there succeeded")
	}
	if ok, err := b.Check(); ok || err != nil {
		t.Errorf("intact after a failure: %v, %v", ok, err)
	}
	must(t, b.Change(both(11, 12, 13), nil))
	b.mustBeKnown(t)
	if got := b.image.services[v4(virtual)].count; got != 3 {
		t.Errorf("%d backends", got)
	}
}

// TestLarge: more elements than one message or one receive buffer holds.
func TestLarge(t *testing.T) {
	b := open(t, newNetns(t))
	w := large(300, 12)
	must(t, b.Set(w))
	b.mustBeKnown(t)
	must(t, b.Set(Wanted{}))
	b.age()
	must(t, b.Sweep())
	b.mustBeKnown(t)
	if len(b.image.services) > 0 || len(b.image.groups) > 0 {
		t.Errorf("%d services and %d groups stay", len(b.image.services), len(b.image.groups))
	}
}

// TestSocketsEnd: a closed balancer does not hold the namespace.
func TestSocketsEnd(t *testing.T) {
	ns := newNetns(t)
	b := open(t, ns)
	must(t, b.Set(both(11)))
	must(t, b.Close())
	if err := netns.Do(ns, func() error { return nil }); err != nil {
		t.Error(err)
	}
	if ok, err := b.Check(); ok || err != nil {
		t.Errorf("a closed balancer is intact: %v", err)
	}
}
