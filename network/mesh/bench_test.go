package mesh

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/minid/minid/network/bridge"
)

const (
	rounds   = 21
	connects = 150 // of one round, one after another
	trips    = 1000
	bulk     = 96 << 20 // bytes
)

// BenchmarkPath compares a client outside that reaches a task on another node by
// the mesh, with its address kept and without, with a process on that node. The
// ways take turns within a round; what is reported is the median of the rounds'
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
		results := make(map[string][]figures)
		for round := range rounds {
			for i := range ways {
				x := ways[(i+round)%len(ways)]
				results[x.name] = append(results[x.name], w.measure(x))
			}
		}
		report(b, results)
	}
}

type way struct{ name, echo, sink string }

type figures struct{ connects, trip, bytes float64 }

func (w *world) measure(x way) (f figures) {
	w.do(w.client, func() error {
		began := time.Now()
		for range connects {
			c, err := net.Dial("tcp4", x.echo)
			if err != nil {
				return err
			}
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
		f.connects = connects / time.Since(began).Seconds()
		return nil
	})
	c, err := w.dial(w.client, "tcp4", x.echo, 0)
	w.must(err)
	defer c.Close()
	var all []float64
	answers := bufio.NewReader(c)
	for range trips {
		began := time.Now()
		_, err := io.WriteString(c, "hello\n")
		_, err2 := answers.ReadString('\n')
		w.must(err, err2)
		all = append(all, float64(time.Since(began)))
	}
	f.trip = median(all)
	s, err := w.dial(w.client, "tcp4", x.sink, 0)
	w.must(err)
	defer s.Close()
	began := time.Now()
	chunk := make([]byte, 256<<10)
	for range bulk / len(chunk) {
		_, err := s.Write(chunk)
		w.must(err)
	}
	w.must(s.(*net.TCPConn).CloseWrite())
	_, err = s.Read(chunk[:1])
	w.must(err)
	f.bytes = bulk / time.Since(began).Seconds()
	return f
}

// sink reads a stream to its end and says so.
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
					for {
						if _, err := c.Read(buf); err != nil {
							break
						}
					}
					_, _ = c.Write([]byte("."))
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

func report(b *testing.B, results map[string][]figures) {
	for unit, of := range map[string]func(figures) float64{
		"connects": func(f figures) float64 { return f.connects },
		"trip":     func(f figures) float64 { return f.trip },
		"bytes":    func(f figures) float64 { return f.bytes },
	} {
		ratio := func(name, base string) float64 {
			var all []float64
			for i, f := range results[name] {
				all = append(all, of(f)/of(results[base][i]))
			}
			return median(all)
		}
		b.ReportMetric(ratio("kept", "direct"), "kept-"+unit+"-ratio")
		b.ReportMetric(ratio("masqueraded", "direct"), "masqueraded-"+unit+"-ratio")
		b.ReportMetric(ratio("kept", "masqueraded"), "kept/masqueraded-"+unit+"-ratio")
		var all []float64
		for _, f := range results["direct"] {
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
