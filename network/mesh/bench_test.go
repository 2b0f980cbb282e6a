package mesh

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/minid/minid/internal/realtest"
	"github.com/minid/minid/network/bridge"
	"github.com/minid/minid/network/netns"
)

const (
	rounds   = 101
	connects = 30 // of one round and way
	trips    = 200
	bulks    = 10
	bulk     = 4 << 20 // bytes
)

// BenchmarkPath compares a client outside that reaches a task on another node by
// the mesh, with its address kept and without, with a process on that node. The
// ways take turns step by step; what is reported is the median of the rounds'
// ratios to the direct way, of which more is better but for the round trip.
func BenchmarkPath(b *testing.B) {
	w := newWorld(b, 2)
	w.publish(port(8080), Service{Target: 80}, 2)
	w.publish(port(8081), Service{Target: 80, Masquerade: true}, 2)
	direct := &task{id: "direct", host: w.hosts[2], ns: w.hosts[2].ns}
	direct.listen(bridge.TCP, 8082)
	defer direct.stop()
	for _, t := range []*task{w.serving[port(8080)][2][0], w.serving[port(8081)][2][0], direct} {
		t.sink(9000)
	}
	w.publish(port(9000), Service{Target: 9000})
	w.serving[port(9000)] = map[int][]*task{2: w.serving[port(8080)][2]}
	w.publish(port(9001), Service{Target: 9000, Masquerade: true})
	w.serving[port(9001)] = map[int][]*task{2: w.serving[port(8081)][2]}
	w.tell(port(9000))
	w.tell(port(9001))
	entry, far := w.hosts[1].addr.String(), w.hosts[2].addr.String()
	ways := []way{
		{"direct", far + ":8082", far + ":9000"},
		{"kept", entry + ":8080", entry + ":9000"},
		{"masqueraded", entry + ":8081", entry + ":9001"},
	}
	for b.Loop() {
		results := make([][]figures, len(ways))
		for range rounds {
			for i, f := range w.measure(ways) {
				results[i] = append(results[i], f)
			}
		}
		report(b, results)
	}
}

type way struct{ name, echo, sink string }

// figures are per second, and seconds.
type figures struct{ connects, trip, bytes float64 }

// measure is a round: the ways' figures, with connections of their own.
func (w *world) measure(ways []way) []figures {
	all := make([]figures, len(ways))
	turns := func(count int, step func(way) realtest.Step, note func(*figures, float64)) {
		var steps []realtest.Step
		for _, x := range ways {
			steps = append(steps, step(x))
		}
		took, err := realtest.Turns(count, steps...)
		w.must(err)
		for i, d := range took {
			note(&all[i], d.Seconds())
		}
	}
	turns(connects, w.connects, func(f *figures, seconds float64) { f.connects = 1 / seconds })
	turns(trips, w.trips, func(f *figures, seconds float64) { f.trip = seconds })
	turns(bulks, w.bulks, func(f *figures, seconds float64) { f.bytes = bulk / seconds })
	return all
}

func (w *world) connects(x way) realtest.Step {
	return func() (took time.Duration, err error) {
		err = netns.Do(w.client, func() error {
			began := time.Now()
			c, err := net.Dial("tcp4", x.echo)
			took = time.Since(began)
			if err == nil {
				err = errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close())
			}
			return err
		})
		return took, err
	}
}

func (w *world) trips(x way) realtest.Step {
	c, err := w.dial(w.client, "tcp4", x.echo, 0)
	w.must(err)
	w.tb.Cleanup(func() { _ = c.Close() })
	answers := bufio.NewReader(c)
	return func() (time.Duration, error) {
		began := time.Now()
		_, err := io.WriteString(c, "hello\n")
		_, err2 := answers.ReadString('\n')
		return time.Since(began), errors.Join(err, err2)
	}
}

func (w *world) bulks(x way) realtest.Step {
	c, err := w.dial(w.client, "tcp4", x.sink, 0)
	w.must(err)
	w.tb.Cleanup(func() { _ = c.Close() })
	chunk := make([]byte, bulk)
	return func() (time.Duration, error) {
		began := time.Now()
		_, err := c.Write(chunk)
		_, err2 := c.Read(make([]byte, 1))
		return time.Since(began), errors.Join(err, err2)
	}
}

// sink takes what is sent to it, and answers every bulk.
func (t *task) sink(port uint16) {
	t.host.world.do(t.ns, func() error {
		l, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		t.open = append(t.open, l)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					buf := make([]byte, 256<<10)
					for left := bulk; ; {
						n, err := c.Read(buf)
						if left -= n; left <= 0 && err == nil {
							left += bulk
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
	})
}

func median(list []float64) float64 {
	s := slices.Sorted(slices.Values(list))
	return s[len(s)/2]
}

// report compares the ways, of which the first is the direct one, then the one
// that keeps addresses and the one that does not.
func report(b *testing.B, results [][]figures) {
	for unit, of := range map[string]func(figures) float64{
		"connects": func(f figures) float64 { return f.connects },
		"trip":     func(f figures) float64 { return f.trip },
		"bytes":    func(f figures) float64 { return f.bytes },
	} {
		ratio := func(x, base int) float64 {
			var all []float64
			for i, f := range results[x] {
				all = append(all, of(f)/of(results[base][i]))
			}
			return median(all)
		}
		b.ReportMetric(ratio(1, 0), "kept-"+unit+"-ratio")
		b.ReportMetric(ratio(2, 0), "masqueraded-"+unit+"-ratio")
		b.ReportMetric(ratio(1, 2), "kept/masqueraded-"+unit+"-ratio")
		var all []float64
		for _, f := range results[0] {
			all = append(all, of(f))
		}
		b.ReportMetric(median(all), "direct-"+unit)
	}
}

// many is a number of published ports with five tasks each, on four nodes.
func many(count int) Wanted {
	w := example()
	w.Peers[4] = addr("192.0.2.4")
	for i := range count {
		w.Services[port(uint16(10000+i))] = Service{
			Target: 80, Local: []netip.Addr{addr("172.30.1.0").Next()}, Nodes: map[uint32]uint32{2: 2, 3: 1, 4: 1},
		}
	}
	return w
}

// BenchmarkFullLoad is what a node that starts has to do with 5,000 published ports.
func BenchmarkFullLoad(b *testing.B) {
	m := openMesh(b)
	w := many(5000)
	for b.Loop() {
		m.state = unknown
		if err := m.Set(w); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkChange moves one of 5,000 published ports between five and four tasks.
func BenchmarkChange(b *testing.B) {
	m := openMesh(b)
	w := many(5000)
	if err := m.Set(w); err != nil {
		b.Fatal(err)
	}
	s := w.Services[port(10000)]
	weight := uint32(1)
	for b.Loop() {
		weight = 3 - weight
		s.Nodes = map[uint32]uint32{2: weight, 3: 1, 4: 1}
		if err := m.Change(map[Published]Service{port(10000): s}, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheck compares the kernel with what it should be: when nobody touched
// nftables, and when someone did.
func BenchmarkCheck(b *testing.B) {
	m := openMesh(b)
	if err := m.Set(many(5000)); err != nil {
		b.Fatal(err)
	}
	for name, touched := range map[string]bool{"untouched": false, "touched": true} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if touched {
					m.generation = 0
				}
				if ok, err := m.Check(); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}
