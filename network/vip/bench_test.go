package vip

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// versus is what is measured over the VIP and directly.
type versus struct {
	unit    string
	measure func(netip.Addr) (float64, error)
}

// BenchmarkVersusDirect measures through a VIP, in a table of 1000 services,
// against the backend's own address from a task without a table. Rounds take
// turns; the metrics are medians, and the median of each round's ratio.
func BenchmarkVersusDirect(b *testing.B) {
	const direct, rounds = 20, 15
	for name, what := range map[string]versus{
		"connections": {"conn/s", connectionRate},
		"roundtrip":   {"us", roundTrip},
		"throughput":  {"Gbit/s", throughput},
	} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, 11, client, direct)
			r.serve(11)
			r.sink(11)
			v := open(b, r.hosts[client])
			w := large(1000, 5)
			w[v4(virtual)] = v4s(11)
			must(b, v.Set(w))
			for b.Loop() {
				var balanced, plain, ratios []float64
				for i := range rounds {
					var m [2]float64
					for j := range 2 {
						k := (i + j) % 2
						ns, to := r.hosts[client], v4(virtual)
						if k == 1 {
							ns, to = r.hosts[direct], v4(11)
						}
						r.in(ns, func() (err error) { m[k], err = what.measure(to); return err })
					}
					balanced, plain = append(balanced, m[0]), append(plain, m[1])
					ratios = append(ratios, m[0]/m[1])
				}
				b.ReportMetric(median(balanced), "vip-"+what.unit)
				b.ReportMetric(median(plain), "direct-"+what.unit)
				b.ReportMetric(median(ratios), "ratio")
			}
		})
	}
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

const measureFor = 100 * time.Millisecond

func connectionRate(to netip.Addr) (float64, error) {
	n, begin := 0, time.Now()
	for time.Since(begin) < measureFor {
		l, err := dial(to)
		if err != nil {
			return 0, err
		}
		l.abort()
		n++
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}

// roundTrip is the median of many.
func roundTrip(to netip.Addr) (float64, error) {
	l, err := dial(to)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	var all []float64
	for begin := time.Now(); time.Since(begin) < measureFor; {
		sent := time.Now()
		if err := l.echo(); err != nil {
			return 0, err
		}
		all = append(all, float64(time.Since(sent).Nanoseconds())/1e3)
	}
	return median(all), nil
}

const sinkPort = port + 1

// sink takes what is sent to it.
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
					for {
						if _, err := c.Read(buf); err != nil {
							return
						}
					}
				}()
			}
		}()
		return nil
	}))
}

func throughput(to netip.Addr) (float64, error) {
	c, err := net.DialTimeout("tcp", netip.AddrPortFrom(to, sinkPort).String(), 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	buf := make([]byte, 1<<17)
	sent, begin := 0, time.Now()
	for time.Since(begin) < measureFor {
		n, err := c.Write(buf)
		if err != nil && err != io.EOF {
			return 0, err
		}
		sent += n
	}
	return float64(sent) * 8 / time.Since(begin).Seconds() / 1e9, nil
}
