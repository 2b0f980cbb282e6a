package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/netns"
)

const (
	// crowd is how many connections of the last minutes conntrack remembers, as an
	// entry node does that takes 500 a second; crowders the clients that made them.
	crowd, crowders = 58000, 4
	crowdRounds     = 9
	crowdConnects   = 400 // of one round
)

// BenchmarkCrowd compares how long the kernels take to connect a client with a
// task on another node, its address kept and not, when many others have come to
// the same port shortly before. Where the client is hidden, all clients of a node
// share the ports of one address, and each new connection has to find one that is
// free. What is reported is the median of the rounds' lower quartiles, which other
// work on the machine disturbs little, and of the rounds' ratios.
func BenchmarkCrowd(b *testing.B) {
	w := newWorld(b, 2)
	w.publish(port(8080), Service{Target: 80}, 2)
	w.publish(port(8081), Service{Target: 80, Masquerade: true}, 2)
	w.do(w.client, func() error {
		link, err := netlink.LinkByName("eth0")
		for i := range crowders {
			err = errors.Join(err, netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: crowder(i), Mask: net.CIDRMask(24, 32)}}))
		}
		return err
	})
	for b.Loop() {
		w.reportCrowd(b, "alone")
		for _, p := range []uint16{8080, 8081} {
			b.ReportMetric(float64(w.crowd(p)), fmt.Sprint("failed-", p))
		}
		w.reportCrowd(b, "crowded")
	}
}

func crowder(i int) net.IP { return net.IPv4(198, 51, 100, byte(10+i)) }

func (w *world) reportCrowd(b *testing.B, when string) {
	ways := map[string]uint16{"kept": 8080, "masqueraded": 8081}
	took := map[string][]float64{}
	for round := range crowdRounds {
		names := []string{"kept", "masqueraded"}
		if round%2 > 0 {
			slices.Reverse(names)
		}
		for _, name := range names {
			took[name] = append(took[name], w.connectTime(ways[name]))
		}
	}
	var ratios []float64
	for i := range took["kept"] {
		ratios = append(ratios, took["masqueraded"][i]/took["kept"][i])
	}
	for name, all := range took {
		b.ReportMetric(median(all), name+"-"+when+"-us")
	}
	b.ReportMetric(median(ratios), "kept/masqueraded-"+when+"-ratio")
}

// connectTime is the lower quartile of a round, in microseconds. The handshake is
// the kernel's work alone, done before connect returns.
func (w *world) connectTime(port uint16) float64 {
	var all []float64
	w.do(w.client, func() error {
		to := &unix.SockaddrInet4{Port: int(port), Addr: w.hosts[1].addr.As4()}
		for range crowdConnects {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			began := time.Now()
			err = unix.Connect(fd, to)
			all = append(all, float64(time.Since(began).Nanoseconds())/1e3)
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			_ = unix.Close(fd)
			if err != nil {
				return err
			}
		}
		return nil
	})
	slices.Sort(all)
	return all[len(all)/4]
}

// crowd has many clients come and go by a port, and returns how many failed.
func (w *world) crowd(port uint16) int64 {
	var failed atomic.Int64
	var clients sync.WaitGroup
	at := netip.AddrPortFrom(w.hosts[1].addr, port).String()
	for i := range crowders {
		clients.Go(func() {
			err := netns.Do(w.client, func() error {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: crowder(i)}, Timeout: 100 * time.Millisecond}
				for range crowd / crowders {
					c, err := d.Dial("tcp4", at)
					if err != nil {
						failed.Add(1)
						continue
					}
					_ = c.Close()
				}
				return nil
			})
			if err != nil {
				w.tb.Error(err)
			}
		})
	}
	clients.Wait()
	return failed.Load()
}
