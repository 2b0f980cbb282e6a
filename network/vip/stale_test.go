package vip

import (
	"io"
	"net/netip"
	"testing"

	"github.com/google/nftables"
)

// datagram sends one from the client, and keeps its socket open.
func (r *rig) datagram(to netip.Addr) (d datagram) {
	r.t.Helper()
	r.in(r.hosts[client], func() (err error) {
		if d, err = dialUDP(to); err == nil {
			_, err = d.Write([]byte("?"))
		}
		return err
	})
	return d
}

func (r *rig) connection(to netip.Addr) (l *line) {
	r.t.Helper()
	r.in(r.hosts[client], func() (err error) { l, err = dial(to); return err })
	return l
}

const other = virtual + 1

// TestStale: flows are looked through only where one may be wrong.
func TestStale(t *testing.T) {
	for name, host := range families() {
		all := Wanted{host(virtual): {host(11)}, host(other): {host(13)}}
		for _, test := range []struct {
			name string
			// before anything changes
			flows func(r *rig) []io.Closer
			// whether flows are looked through when a backend leaves the VIP, when it
			// has ended, and when a VIP is new.
			change, forget, fresh bool
		}{
			{name: "none", flows: func(*rig) []io.Closer { return nil }},
			{name: "around the VIP", flows: func(r *rig) []io.Closer {
				return []io.Closer{r.connection(host(13)), r.datagram(host(13))}
			}},
			{name: "to another VIP", flows: func(r *rig) []io.Closer {
				return []io.Closer{r.connection(host(other)), r.datagram(host(other))}
			}},
			{name: "connection", forget: true, flows: func(r *rig) []io.Closer {
				return []io.Closer{r.connection(host(virtual))}
			}},
			{name: "datagram", change: true, flows: func(r *rig) []io.Closer {
				d := r.datagram(host(virtual))
				if _, err := d.ask(); err != nil { // its answer comes before the change
					r.t.Error(err)
				}
				return []io.Closer{d}
			}},
			{name: "early", fresh: true, flows: func(r *rig) []io.Closer {
				return []io.Closer{r.datagram(host(other + 1))}
			}},
		} {
			t.Run(name+"/"+test.name, func(t *testing.T) {
				r, b := newClient(t, 11, 12, 13)
				must(t, b.Set(all))
				b.settle(t)
				for _, c := range test.flows(r) {
					defer c.Close()
				}
				must(t, b.Change(Wanted{host(virtual): {host(12)}}, nil))
				if got := b.settle(t); got != test.change {
					t.Errorf("a backend leaves: looked through is %v", got)
				}
				b.Forget([]netip.Addr{host(11)})
				if got := b.settle(t); got != test.forget {
					t.Errorf("a backend has ended: looked through is %v", got)
				}
				must(t, b.Change(Wanted{host(other + 1): nil}, nil))
				if got := b.settle(t); got != test.fresh {
					t.Errorf("a VIP is new: looked through is %v", got)
				}
				if b.settle(t) || len(b.led) > 0 {
					t.Error("something stays to be done")
				}
			})
		}
	}
}

// TestStaleAfterTakeOver: the next minid knows which VIPs the task talked to, but
// not which backends they led to.
func TestStaleAfterTakeOver(t *testing.T) {
	for _, talks := range []bool{true, false} {
		r, b := newClient(t, 11, 12)
		must(t, b.Set(both(11)))
		to := v4(11)
		if talks {
			to = v4(virtual)
		}
		l := r.connection(to)
		defer l.Close()
		must(t, b.Change(both(12), nil))
		must(t, b.Close())
		later := open(t, r.hosts[client])
		must(t, later.Set(both(12)))
		later.settle(t)
		later.Forget(v4s(11))
		if got := later.settle(t); got != talks {
			t.Errorf("a task whose talk to VIPs is %v is looked through: %v", talks, got)
		}
		if err := l.echo(); (err != nil) != talks {
			t.Errorf("connection of a task whose talk to VIPs is %v: %v", talks, err)
		}
	}
}

// TestStaleAfterRepair: nobody knows what a table noted that somebody deleted.
func TestStaleAfterRepair(t *testing.T) {
	r, b := newClient(t, 11, 12)
	must(t, b.Set(both(11)))
	l := r.connection(v4(virtual))
	defer l.Close()
	b.session.FlushSet(set{met, ipv4}.kernel())
	b.session.FlushChain(frame()[0].kernel())
	must(t, b.session.Flush())
	if ok, err := b.Check(); ok || err != nil {
		t.Fatal("damage is not seen", err)
	}
	must(t, b.Set(both(12)))
	b.settle(t)
	b.Forget(v4s(11))
	if !b.settle(t) {
		t.Error("taken for a task that talked to nobody")
	}
	if err := l.echo(); err == nil {
		t.Error("the connection goes on")
	}
}

// TestStaleWhenFull: a flow that is not noted for want of room is led as well,
// and looked for as well.
func TestStaleWhenFull(t *testing.T) {
	r, b := newClient(t, 11, 12)
	must(t, b.Set(both(11)))
	full := set{met, ipv4}
	var list []nftables.SetElement
	for i := range maxMet {
		e := element{set: full, vip: netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}), proto: 1}
		list = append(list, e.kernel())
	}
	must(t, b.session.SetAddElements(full.kernel(), list[:maxMet/2]))
	must(t, b.session.SetAddElements(full.kernel(), list[maxMet/2:]))
	must(t, b.session.Flush())
	l := r.connection(v4(virtual))
	defer l.Close()
	if l.host != 11 {
		t.Errorf("led to %d", l.host)
	}
	must(t, b.Change(both(12), nil))
	b.settle(t)
	b.Forget(v4s(11))
	if !b.settle(t) {
		t.Error("not looked for")
	}
	if err := l.echo(); err == nil {
		t.Error("the connection goes on")
	}
}
