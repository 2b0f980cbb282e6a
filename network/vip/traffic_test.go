package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/netns"
)

// client is host 10 of every rig; its VIP is host 100, which is not there.
const (
	client  = 10
	virtual = 100
)

func newClient(t testing.TB, backends ...int) (*rig, *Balancer) {
	r := newRig(t, append(backends, client)...)
	for _, n := range backends {
		r.serve(n)
	}
	return r, open(t, r.hosts[client])
}

func families() map[string]func(int) netip.Addr {
	return map[string]func(int) netip.Addr{"ipv4": v4, "ipv6": v6}
}

func both(backends ...int) Wanted {
	return Wanted{v4(virtual): v4s(backends...), v6(virtual): v6s(backends...)}
}

// TestSpread: new flows go to all backends alike. The limit of chi-square for
// two degrees of freedom is passed by chance once in 50 000 times.
func TestSpread(t *testing.T) {
	r, b := newClient(t, 11, 12, 13)
	must(t, b.Set(both(11, 12, 13)))
	ask := map[string]func(netip.Addr) (int, error){
		"udp": func(vip netip.Addr) (int, error) {
			d, err := dialUDP(vip)
			if err != nil {
				return 0, err
			}
			defer d.Close()
			return d.ask()
		},
		"tcp": func(vip netip.Addr) (int, error) {
			l, err := dial(vip)
			if err != nil {
				return 0, err
			}
			defer l.Close()
			if l.caller != v4(client).String() && l.caller != v6(client).String() {
				return 0, fmt.Errorf("called by %s", l.caller)
			}
			return l.host, nil
		},
	}
	for proto, ask := range ask {
		for name, host := range families() {
			t.Run(proto+"/"+name, func(t *testing.T) {
				const draws = 900
				seen := map[int]float64{}
				r.in(r.hosts[client], func() error {
					for range draws {
						n, err := ask(host(virtual))
						if err != nil {
							return err
						}
						seen[n]++
					}
					return nil
				})
				chi := 0.0
				for n := 11; n <= 13; n++ {
					d := seen[n] - draws/3
					chi += d * d / (draws / 3)
				}
				if chi > 21.6 || len(seen) != 3 {
					t.Errorf("uneven: %v, chi-square %.1f", seen, chi)
				}
			})
		}
	}
}

func TestPing(t *testing.T) {
	r, b := newClient(t, 11)
	must(t, b.Set(both(11)))
	r.in(r.hosts[client], func() error {
		return errors.Join(ping("ip4:icmp", v4(virtual), 8), ping("ip6:ipv6-icmp", v6(virtual), 128))
	})
}

// ping sends an echo request and waits for the answer, which comes from the VIP.
func ping(network string, vip netip.Addr, kind byte) error {
	c, err := net.ListenPacket(network, "")
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	msg := []byte{kind, 0, 0, 0, 0x12, 0x34, 0, 1}
	sum := uint32(kind)<<8 + 0x1234 + 1 // for IPv6 the kernel does it
	binary.BigEndian.PutUint16(msg[2:], ^uint16(sum))
	if _, err := c.WriteTo(msg, &net.IPAddr{IP: vip.AsSlice()}); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("ping %s: %w", vip, err)
		}
		if n >= 8 && buf[0] == answerOf(kind) && from.String() == vip.String() {
			return nil
		}
	}
}

func answerOf(kind byte) byte {
	if kind == 8 {
		return 0
	}
	return 129
}

// TestHairpin: a task is its own backend, and sees its own address.
func TestHairpin(t *testing.T) {
	r, b := newClient(t)
	r.serve(client)
	must(t, b.Set(both(client)))
	for name, host := range families() {
		r.in(r.hosts[client], func() error {
			l, err := dial(host(virtual))
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			defer l.Close()
			if l.host != client || l.caller != host(client).String() {
				t.Errorf("%s: host %d called by %s", name, l.host, l.caller)
			}
			return l.echo()
		})
	}
}

// TestRefuse: what leads nowhere says so at once, in every protocol.
func TestRefuse(t *testing.T) {
	r, b := newClient(t, 11)
	for i, w := range []Wanted{both(), both(11), both()} {
		must(t, b.Set(w))
		must(t, b.Change(both(), nil))
		for proto, host := range families() {
			t.Run(fmt.Sprint(i, proto), func(t *testing.T) {
				r.in(r.hosts[client], func() error {
					if l, err := dial(host(virtual)); !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("tcp: %v, %v", l, err)
					}
					d, err := dialUDP(host(virtual))
					if err != nil {
						return err
					}
					defer d.Close()
					if _, err := d.ask(); !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EPERM) {
						t.Errorf("udp: %v", err)
					}
					return nil
				})
			})
		}
	}
}

// TestRefuseGap: a packet that finds no slot is refused, not sent to the VIP.
func TestRefuseGap(t *testing.T) {
	r, b := newClient(t, 11)
	must(t, b.Set(both(11)))
	must(t, remove(b.session.Conn, element{set: set{slots, ipv4}, vip: v4(virtual), to: v4(11)}))
	must(t, b.session.Flush())
	r.in(r.hosts[client], func() error {
		if _, err := dial(v4(virtual)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("no slot: %v", err)
		}
		return nil
	})
}

// TestRemoval: a removed backend keeps its connections, loses its datagrams at
// once, and when it has exited its connections end at once.
func TestRemoval(t *testing.T) {
	r, b := newClient(t, 11, 12)
	must(t, b.Set(both(11)))
	for name, host := range families() {
		var l *line
		var d datagram
		r.in(r.hosts[client], func() (err error) {
			if l, err = dial(host(virtual)); err != nil {
				return err
			}
			d, err = dialUDP(host(virtual))
			return err
		})
		defer l.Close()
		defer d.Close()
		if n, err := d.ask(); n != 11 || err != nil {
			t.Errorf("%s: datagram to %d, %v", name, n, err)
		}
		must(t, b.Change(Wanted{host(virtual): {host(12)}}, nil))
		b.settle(t)
		if n, err := d.ask(); n != 12 || err != nil {
			t.Errorf("%s: datagram to %d after the change, %v", name, n, err)
		}
		r.in(r.hosts[client], func() error {
			again, err := dial(host(virtual))
			if err != nil {
				return err
			}
			defer again.Close()
			if again.host != 12 {
				t.Errorf("%s: a new connection to %d", name, again.host)
			}
			return nil
		})
		if err := l.echo(); err != nil || l.host != 11 {
			t.Errorf("%s: connection to %d: %v", name, l.host, err)
		}
		b.age()
		must(t, b.Sweep())
		if err := l.echo(); err != nil {
			t.Errorf("%s: connection after the sweep: %v", name, err)
		}
		b.Forget([]netip.Addr{host(11)})
		b.settle(t)
		if err := l.echo(); !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
			t.Errorf("%s: connection with a task that is gone: %v", name, err)
		}
	}
}

// TestEarlyDatagrams: flows that began before the VIP was known are led anew.
func TestEarlyDatagrams(t *testing.T) {
	r, b := newClient(t, 11)
	must(t, b.Set(Wanted{v4(virtual + 1): v4s(11)})) // flows are tracked
	var d datagram
	r.in(r.hosts[client], func() (err error) {
		if d, err = dialUDP(v4(virtual)); err == nil {
			_, err = d.Write([]byte("?"))
		}
		return err
	})
	defer d.Close()
	must(t, b.Change(Wanted{v4(virtual): v4s(11)}, nil))
	b.settle(t)
	for {
		// What the kernel queued for the host that is not there comes back as errors.
		n, err := d.ask()
		if errors.Is(err, unix.EHOSTUNREACH) {
			continue
		}
		if n != 11 || err != nil {
			t.Errorf("datagram to %d, %v", n, err)
		}
		return
	}
}

// TestTakeOver: a table that an earlier minid left works on, and the next one
// goes on with it.
func TestTakeOver(t *testing.T) {
	r, b := newClient(t, 11, 12)
	must(t, b.Set(both(11)))
	var l *line
	r.in(r.hosts[client], func() (err error) { l, err = dial(v4(virtual)); return err })
	defer l.Close()
	must(t, b.Close())
	must(t, l.echo())
	later := open(t, r.hosts[client])
	generation, err := later.session.Generation()
	must(t, err)
	must(t, later.Set(both(11)))
	if again, err := later.session.Generation(); again > generation+1 || err != nil { // to own it is one
		t.Errorf("a right table was changed: generation %d, then %d, %v", generation, again, err)
	}
	must(t, later.Change(both(12), nil))
	if err := l.echo(); err != nil || l.host != 11 {
		t.Errorf("connection to %d: %v", l.host, err)
	}
	later.mustBeKnown(t)
}

// TestBehind: networks behind the task, as of containers in its container, are
// balanced too, and refused too.
func TestBehind(t *testing.T) {
	r, b := newClient(t, 11, 12)
	inner := newNetns(t)
	r.nest(r.hosts[client], inner)
	for _, n := range []int{11, 12} { // nobody translates the inner addresses here
		r.route(r.hosts[n], "172.16.0.0/24", v4(client))
	}
	must(t, b.Set(both(11, 12)))
	seen := map[int]bool{}
	r.in(inner, func() error {
		for range 40 {
			l, err := dial(v4(virtual))
			if err != nil {
				return err
			}
			seen[l.host] = true
			if err := errors.Join(l.echo(), l.Close()); err != nil {
				return err
			}
		}
		return nil
	})
	if len(seen) != 2 {
		t.Errorf("only %v answer", seen)
	}
	must(t, b.Change(both(), nil))
	r.in(inner, func() error {
		if _, err := dial(v4(virtual)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("no backends: %v", err)
		}
		return nil
	})
}

// nest puts a namespace behind another, which forwards.
func (r *rig) nest(outer, inner string) {
	h, err := netns.Handle(outer)
	must(r.t, err)
	defer h.Close()
	target, err := vns.GetFromPath(inner)
	must(r.t, err)
	defer target.Close()
	must(r.t, h.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "nest"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(target)),
	}))
	r.address(outer, "nest", "172.16.0.1/24")
	r.address(inner, "eth0", "172.16.0.2/24")
	r.route(inner, "0.0.0.0/0", netip.MustParseAddr("172.16.0.1"))
	must(r.t, sysctl(outer, "net/ipv4/ip_forward", "1"))
}

func (r *rig) route(ns, to string, via netip.Addr) {
	h, err := netns.Handle(ns)
	must(r.t, err)
	defer h.Close()
	_, dst, err := net.ParseCIDR(to)
	must(r.t, err)
	must(r.t, h.RouteAdd(&netlink.Route{Dst: dst, Gw: via.AsSlice()}))
}

// TestNoneFail: while a backend comes and goes as fast as the kernel can, no
// new connection fails, and none goes to a host that was never a backend.
func TestNoneFail(t *testing.T) {
	r, b := newClient(t, 11, 12, 13)
	must(t, sysctl(r.hosts[client], "net/ipv4/tcp_tw_reuse", "1"))
	must(t, b.Set(Wanted{v4(virtual): v4s(11, 12, 13)}))
	var stop atomic.Bool
	var dials, failed atomic.Int64
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			if err := netns.Do(r.hosts[client], func() error {
				for !stop.Load() {
					dials.Add(1)
					l, err := dial(v4(virtual))
					if err != nil {
						failed.Add(1)
						return err
					}
					l.abort()
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	flips := 0
	swept := time.Now()
	const least = 1000
	begun := time.Now()
	for ; time.Since(begun) < 3*time.Second || flips < least && time.Since(begun) < time.Minute; flips++ {
		list := v4s(11, 12, 13)
		if flips%2 == 0 {
			list = append(list[:flips/2%3], list[flips/2%3+1:]...)
		}
		if err := b.flip(Wanted{v4(virtual): list}); err != nil {
			t.Error(err)
			break
		}
		if time.Since(swept) > grace {
			swept = time.Now()
			if err := b.Sweep(); err != nil {
				t.Error(err)
			}
		}
	}
	stop.Store(true)
	workers.Wait()
	t.Logf("%d connections, %d changes, %d failed", dials.Load(), flips, failed.Load())
	if failed.Load() > 0 || flips < least {
		t.Errorf("%d of %d connections failed during %d changes", failed.Load(), dials.Load(), flips)
	}
}

// flip is Change without the look at the flows, which would make it rare.
func (b *Balancer) flip(w Wanted) error {
	return b.carryOut(b.image.change(w, nil, time.Now()), nil)
}

// abort closes with a reset, so that no port is left waiting.
func (l *line) abort() {
	_ = l.Conn.(*net.TCPConn).SetLinger(0)
	_ = l.Close()
}
