package wireguard

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// BenchmarkRotate gives a device with many peers another preshared key.
func BenchmarkRotate(b *testing.B) {
	const many = 500
	h := underlay(b, 1)[0]
	w := &Wanted{Port: 51820, Address: h.behind(), MTU: 1440}
	for i := range many {
		key, err := wgtypes.GeneratePrivateKey()
		must(b, err)
		w.Peers = append(w.Peers, Peer{
			PublicKey: key.PublicKey(), Endpoint: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.250:%d", 1000+i)),
			Address: netip.AddrFrom4([4]byte{10, 10, byte(i >> 8), byte(i)}),
		})
	}
	h.run(func() error { return h.Set(w) })
	shared := byte(0)
	h.run(func() error {
		for b.Loop() {
			shared++
			for i := range w.Peers {
				w.Peers[i].PresharedKey[0] = shared
			}
			if err := h.Set(w); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkThroughput sends through two devices of this process.
func BenchmarkThroughput(b *testing.B) {
	hosts := underlay(b, 2)
	for _, h := range hosts {
		h.set(1, hosts)
		serve(b, h.netns)
	}
	c, err := dial(hosts[0].netns, hosts[1].behind().String(), patience)
	must(b, err)
	defer c.Close()
	const size = 1 << 20
	buf := make([]byte, size)
	b.SetBytes(2 * size) // there and back
	for b.Loop() {
		go func() { _, _ = c.Write(buf) }()
		back := make([]byte, size)
		for n := 0; n < size; {
			k, err := c.Read(back[n:])
			must(b, err)
			n += k
		}
	}
}
