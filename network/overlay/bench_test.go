package overlay

import (
	"fmt"
	"net/netip"
	"testing"
)

// manyRemotes on three hosts; each has an IPv6 address too where asked.
func manyRemotes(count int, dual bool) map[string]Remote {
	out := make(map[string]Remote, count)
	for i := range count {
		r := remote(fmt.Sprint("192.0.2.", 2+i%3), netip.AddrFrom4([4]byte{10, 0, byte(1 + i/250), byte(i % 250)}).String())
		if dual {
			r.Addresses = append(r.Addresses, netip.MustParseAddr(fmt.Sprintf("fd00::%x", i+1)))
		}
		out[fmt.Sprint("task", i)] = r
	}
	return out
}

const many = 10_000

// BenchmarkLoad programs the tasks of a whole network.
func BenchmarkLoad(b *testing.B) {
	for name, dual := range map[string]bool{"v4": false, "dual": true} {
		b.Run(name, func(b *testing.B) {
			h := underlay(b, 1)[0]
			tasks := manyRemotes(many, dual)
			for b.Loop() {
				h.run(func() error { return h.SetNetwork(h.network("web", 4096), tasks) })
				b.StopTimer()
				h.run(func() error { return h.DropNetwork("web") })
				b.StartTimer()
			}
		})
	}
}

func loaded(b *testing.B) *host {
	h := underlay(b, 1)[0]
	h.run(func() error { return h.SetNetwork(h.network("web", 4096), manyRemotes(many, true)) })
	return h
}

// BenchmarkChange moves one task of many to another host and back.
func BenchmarkChange(b *testing.B) {
	h := loaded(b)
	i := 0
	h.run(func() error {
		for b.Loop() {
			i++
			put := map[string]Remote{"task7": remote(fmt.Sprint("192.0.2.", 100+i%2), "10.0.1.7", "fd00::8")}
			if err := h.Change("web", put, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

func BenchmarkPlug(b *testing.B) {
	h := loaded(b)
	l := h.link("a", "web", 1, "10.0.200.2/16")
	h.run(func() error {
		for b.Loop() {
			if err := h.Plug(l); err != nil {
				return err
			}
			if err := h.Unplug("a"); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkCheck compares all of it with the kernel, and BenchmarkSetAgain mends
// where nothing is broken.
func BenchmarkCheck(b *testing.B) {
	h := loaded(b)
	for b.Loop() {
		h.mustBeIntact()
	}
}

// BenchmarkGlance is what Check costs between two rounds of that.
func BenchmarkGlance(b *testing.B) {
	h := loaded(b)
	h.mustBeIntact()
	h.run(func() error {
		for b.Loop() {
			if ok, err := h.Check(); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
		return nil
	})
}

func BenchmarkSetAgain(b *testing.B) {
	h := loaded(b)
	w := Wanted{
		Networks: map[string]Network{"web": h.network("web", 4096)},
		Remotes:  remotes{"web": manyRemotes(many, true)},
	}
	for b.Loop() {
		h.run(func() error { return h.Set(w) })
	}
}
