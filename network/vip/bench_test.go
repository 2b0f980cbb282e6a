package vip

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/internal/realtest"
	"github.com/minid/minid/network/netns"
)

// large is n services of so many backends each.
func large(n, backends int) Wanted {
	w := make(Wanted, n)
	for i := range n {
		vip := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		for j := range backends {
			k := i*backends + j
			w[vip] = append(w[vip], netip.AddrFrom4([4]byte{10, byte(100 + k>>16), byte(k >> 8), byte(k)}))
		}
	}
	return w
}

// processor reports how long an operation keeps a processor busy: on a machine
// with other work the time that passes says little.
func processor(b *testing.B) func() {
	busy := func() time.Duration {
		var u unix.Rusage
		must(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begin := busy()
	return func() { b.ReportMetric(float64((busy()-begin).Microseconds())/float64(b.N), "cpu-us/op") }
}

// BenchmarkLoad makes the table of 5000 services with 5 backends each.
func BenchmarkLoad(b *testing.B) {
	w := large(5000, 5)
	defer processor(b)()
	for b.Loop() {
		b.StopTimer()
		ns := newNetns(b)
		v := open(b, ns)
		b.StartTimer()
		must(b, v.Set(w))
		b.StopTimer()
		must(b, v.Close())
		b.StartTimer()
	}
}

// BenchmarkTakeOver reads that table, as the next minid does.
func BenchmarkTakeOver(b *testing.B) {
	w := large(5000, 5)
	ns := newNetns(b)
	v := open(b, ns)
	must(b, v.Set(w))
	defer processor(b)()
	for b.Loop() {
		v.image = nil
		must(b, v.Set(w))
	}
}

// BenchmarkChange takes a backend out and in again, among 1000 services of 5.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{5, 1000} {
		b.Run(fmt.Sprint("N=", n), func(b *testing.B) {
			v := open(b, newNetns(b))
			must(b, v.Set(large(1000, 5)))
			vip := v4(virtual)
			var all []netip.Addr
			for i := range n {
				all = append(all, netip.AddrFrom4([4]byte{10, 9, byte(4 + i>>8), byte(i)}))
			}
			some := slices.Delete(slices.Clone(all), n/2, n/2+1)
			must(b, v.Change(Wanted{vip: all}, nil))
			out := false
			defer processor(b)()
			for b.Loop() {
				out = !out
				list := all
				if out {
					list = some
				}
				must(b, v.Change(Wanted{vip: list}, nil))
			}
		})
	}
}

// BenchmarkChangeWithFlows is the same where the task has a flow, so that flows
// must be looked through whenever a backend goes.
func BenchmarkChangeWithFlows(b *testing.B) {
	r, v := newClient(b, 11)
	must(b, v.Set(Wanted{v4(virtual): v4s(11, 12)}))
	defer r.datagram(v4(virtual)).Close()
	out := false
	defer processor(b)()
	for b.Loop() {
		out = !out
		list := v4s(11, 12)
		if out {
			list = v4s(11)
		}
		must(b, v.Change(Wanted{v4(virtual): list}, nil))
		v.settle(b)
	}
}

// BenchmarkChangeNeverMet is the same where the task's flow never met a VIP.
func BenchmarkChangeNeverMet(b *testing.B) {
	r, v := newClient(b, 11)
	must(b, v.Set(Wanted{v4(virtual): v4s(11, 12)}))
	defer r.datagram(v4(11)).Close()
	out := false
	defer processor(b)()
	for b.Loop() {
		out = !out
		list := v4s(11, 12)
		if out {
			list = v4s(11)
		}
		must(b, v.Change(Wanted{v4(virtual): list}, nil))
		v.Forget(v4s(12))
		if v.settle(b) {
			b.Fatal("flows were looked through")
		}
	}
}

// BenchmarkCheck looks whether a table of 5000 services is as it was left.
func BenchmarkCheck(b *testing.B) {
	v := open(b, newNetns(b))
	must(b, v.Set(large(5000, 5)))
	defer processor(b)()
	for b.Loop() {
		if ok, err := v.Check(); !ok || err != nil {
			b.Fatal(err)
		}
	}
}

// versus is something that is measured over the VIP and directly.
type versus struct {
	unit string
	// steps of a round, each of which has a thousandth of what begin measures.
	steps int
	begin func(r *rig, ns string, to netip.Addr) realtest.Step
	// figure is what the time of a step means; more of it is better unless it is
	// a time itself.
	figure func(time.Duration) float64
}

// BenchmarkVersusDirect measures through a VIP, in a table of 1000 services,
// against the backend's own address: from the same task, and (bare) from one
// without a table, whose kernel need not track connections. The ways take turns
// step by step; every round has connections of its own. The metrics are the medians
// of the rounds, and of the VIP's ratios to the others.
func BenchmarkVersusDirect(b *testing.B) {
	const bare, rounds = 20, 15
	for name, what := range map[string]versus{
		"connections": {"conn/s", 400, connects, func(d time.Duration) float64 { return 1 / d.Seconds() }},
		"roundtrip":   {"us", 2000, trips, func(d time.Duration) float64 { return d.Seconds() * 1e6 }},
		"throughput":  {"Gbit/s", 60, loads, func(d time.Duration) float64 { return load * 8 / 1e9 / d.Seconds() }},
	} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, 11, client, bare)
			r.serve(11)
			r.sink(11)
			v := open(b, r.hosts[client])
			w := large(1000, 5)
			w[v4(virtual)] = v4s(11)
			must(b, v.Set(w))
			for b.Loop() {
				figures, ratios := make([][]float64, 3), make([][]float64, 3)
				for range rounds {
					took, err := realtest.Turns(what.steps, what.begin(r, r.hosts[client], v4(virtual)),
						what.begin(r, r.hosts[client], v4(11)), what.begin(r, r.hosts[bare], v4(11)))
					must(b, err)
					for i, d := range took {
						figures[i] = append(figures[i], what.figure(d))
						ratios[i] = append(ratios[i], what.figure(took[0])/what.figure(d))
					}
				}
				for i, way := range []string{"vip", "direct", "bare"} {
					b.ReportMetric(median(figures[i]), way+"-"+what.unit)
				}
				b.ReportMetric(median(ratios[1]), "ratio")
				b.ReportMetric(median(ratios[2]), "ratio-to-bare")
			}
		})
	}
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// connects makes a new connection at every step.
func connects(_ *rig, ns string, to netip.Addr) realtest.Step {
	return func() (took time.Duration, err error) {
		err = netns.Do(ns, func() error {
			began := time.Now()
			l, err := dial(to)
			took = time.Since(began)
			if err == nil {
				l.abort()
			}
			return err
		})
		return took, err
	}
}

// trips sends a line to and fro at every step.
func trips(r *rig, ns string, to netip.Addr) realtest.Step {
	var l *line
	r.in(ns, func() (err error) { l, err = dial(to); return err })
	r.t.Cleanup(func() { _ = l.Close() })
	return func() (time.Duration, error) {
		began := time.Now()
		err := l.echo()
		return time.Since(began), err
	}
}

// load is what one step of loads sends, in bytes.
const load = 4 << 20

// loads sends so much at every step and waits until all of it has arrived.
func loads(r *rig, ns string, to netip.Addr) realtest.Step {
	var c net.Conn
	r.in(ns, func() (err error) {
		c, err = net.DialTimeout("tcp", netip.AddrPortFrom(to, sinkPort).String(), 5*time.Second)
		return err
	})
	r.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, load)
	return func() (time.Duration, error) {
		began := time.Now()
		_, err := c.Write(buf)
		_, err2 := io.ReadFull(c, make([]byte, 1))
		return time.Since(began), errors.Join(err, err2)
	}
}

const sinkPort = port + 1

// sink takes what is sent to it, and answers every load.
func (r *rig) sink(n int) {
	must(r.t, netns.Do(r.hosts[n], func() error {
		l, err := net.Listen("tcp", fmt.Sprint(":", sinkPort))
		if err != nil {
			return err
		}
		r.t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					buf := make([]byte, 1<<18)
					for left := load; ; {
						n, err := c.Read(buf)
						if left -= n; left <= 0 && err == nil {
							left += load
							_, err = c.Write(buf[:1])
						}
						if err != nil {
							return
						}
					}
				}()
			}
		}()
		return nil
	}))
}
