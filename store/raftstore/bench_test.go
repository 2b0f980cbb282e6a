package raftstore

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// tcp is a Stream over loopback.
type tcp struct{ net.Listener }

func (tcp) Dial(address string, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", address, timeout)
}

// newDiskCluster starts three managers with logs on disk, talking over loopback.
func newDiskCluster(b *testing.B) *cluster {
	c := &cluster{t: b, net: newNetwork(), members: map[string]*member{}}
	b.Cleanup(c.stop)
	dir := b.TempDir()
	for i := 1; i <= 3; i++ {
		id := fmt.Sprintf("n%d", i)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		addr := listener.Addr().String()
		c.start(id, func(cfg *Config) {
			cfg.Memory, cfg.Dir = nil, filepath.Join(dir, id)
			cfg.Stream, cfg.Addr, cfg.Bootstrap = tcp{listener}, addr, i == 1
		})
		c.retry("add", func(leader *member) error { return leader.AddVoter(context.Background(), id, addr) })
	}
	return c
}

func BenchmarkPropose(b *testing.B) {
	for _, proposers := range []int{1, 64} {
		b.Run(fmt.Sprintf("proposers=%d", proposers), func(b *testing.B) {
			c := newDiskCluster(b)
			c.mustPropose(node("a"))
			leader := c.leader()
			var n atomic.Uint64
			b.SetParallelism(max(1, proposers/2))
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := leader.Propose(context.Background(), setLabel("a", fmt.Sprint(n.Add(1)), 0)); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "proposals/s")
		})
	}
}
