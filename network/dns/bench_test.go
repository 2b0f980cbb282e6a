package dns

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"github.com/minid/minid/network/netns"
)

// manyServices are services with five tasks each.
func manyServices(n int) map[string]Service {
	out := make(map[string]Service, n)
	for i := range n {
		s := Service{
			ID: fmt.Sprintf("service%06d", i), Name: fmt.Sprintf("web%d", i),
			VIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})},
		}
		for j := range 5 {
			s.Tasks = append(s.Tasks, Endpoint{
				ID: fmt.Sprintf("%06d%06dtask", i, j), Slot: uint64(j + 1), Node: "n", Serving: true,
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(2 + j), byte(i >> 8), byte(i)})},
			})
		}
		out[s.ID] = s
	}
	return out
}

// BenchmarkAnswer is the pure part: a message in, a message out.
func BenchmarkAnswer(b *testing.B) {
	zs := newZones(map[string]map[string]Service{"n": manyServices(5000)})
	task := &Task{Networks: []string{"n"}, Domains: []string{"net"}}
	for _, name := range []string{"web77", "tasks.web77", "web77.3", "web77.net", "example.com"} {
		packet, err := question(name, wire.TypeA).Pack()
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, maxUDP)
			turn := uint64(0)
			for b.Loop() {
				turn++
				q := new(wire.Msg)
				if err := q.Unpack(packet); err != nil {
					b.Fatal(err)
				}
				reply, _ := respond(q, task, zs, turn)
				if _, err := pack(reply, limit(q, false), buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkNames is a full load of 5,000 services with 25,000 tasks, and a change
// to one of them.
func BenchmarkNames(b *testing.B) {
	all := manyServices(5000)
	b.Run("set", func(b *testing.B) {
		for b.Loop() {
			newZones(map[string]map[string]Service{"n": all})
		}
	})
	b.Run("change", func(b *testing.B) {
		zs := newZones(map[string]map[string]Service{"n": all})
		for b.Loop() {
			zs.change("n", []Service{all["service000077"]}, nil)
		}
	})
}

// BenchmarkSockets asks for a service from 16 sockets inside a namespace. Set
// -cpu 1 for one core, which then is the clients' too.
func BenchmarkSockets(b *testing.B) {
	path := namespace(b, "a")
	s := New(Config{Upstreams: nobody})
	run(b, s)
	if err := s.Open(Task{ID: "t", Netns: path, Networks: []string{"n"}}); err != nil {
		b.Fatal(err)
	}
	s.Set(map[string]map[string]Service{"n": manyServices(5000)})
	packet, err := question("web77", wire.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	conns := make([]net.Conn, 16)
	for i := range conns {
		err := netns.Do(path, func() (err error) {
			conns[i], err = net.Dial("udp", "127.0.0.11:53")
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		defer conns[i].Close()
	}
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var clients sync.WaitGroup
	for _, c := range conns {
		clients.Go(func() {
			buf := make([]byte, maxUDP)
			for left.Add(-1) >= 0 {
				_ = c.SetDeadline(time.Now().Add(patience))
				if _, err := c.Write(packet); err != nil {
					b.Error(err)
					return
				}
				if n, err := c.Read(buf); err != nil || n < 40 || buf[3]&0xf != 0 {
					b.Error(n, err)
					return
				}
			}
		})
	}
	clients.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
}
