package wireguard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	rtnl "github.com/vishvananda/netlink"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/network/netns"
)

// TestEncryptedNetwork: tasks talk, and nothing of it is readable on the
// underlay before, during and after the rotation of the preshared key, which
// connections outlive.
func TestEncryptedNetwork(t *testing.T) {
	hosts := underlay(t, 3)
	watch := startCapture(t)
	for _, h := range hosts {
		h.set(1, hosts)
		h.join(hosts)
		serve(t, h.task())
	}
	for _, h := range hosts {
		for _, o := range hosts {
			mustReach(t, h.task(), o.taskAddr())
		}
	}
	watch.mustBeBlind(t)

	long, err := dial(hosts[0].task(), hosts[2].taskAddr(), patience)
	must(t, err)
	defer long.Close()
	for shared := byte(2); shared < 5; shared++ {
		for _, h := range hosts {
			h.set(shared, hosts)
			for range 20 {
				must(t, exchange(long, patience))
			}
			mustReach(t, hosts[1].task(), hosts[0].taskAddr())
		}
	}
	watch.mustBeBlind(t)

	// A new handshake, with the new key.
	hosts[0].restart(4, hosts)
	must(t, exchange(long, 3*patience))
	mustReach(t, hosts[0].task(), hosts[2].taskAddr())
	watch.mustBeBlind(t)
	t.Logf("%d packets, %d encrypted", watch.seen.Load(), watch.encrypted.Load())
}

// restart is minid's: the device of this process ends and is made again.
func (h *host) restart(shared byte, hosts []*host) {
	h.t.Helper()
	h.run(h.Close)
	h.open()
	h.set(shared, hosts)
}

// TestRestartIsHeard: the others learn at once that a device is new, even when
// they are the first to speak.
func TestRestartIsHeard(t *testing.T) {
	hosts := underlay(t, 2)
	for _, h := range hosts {
		h.set(1, hosts)
		serve(t, h.netns)
	}
	mustReach(t, hosts[0].netns, hosts[1].behind().String())
	key := hosts[0].PublicKey()
	hosts[0].restart(1, hosts)
	if !bytes.Equal(key, hosts[0].PublicKey()) {
		t.Error("another key after a restart")
	}
	if err := ask(hosts[1].netns, hosts[0].behind().String(), patience); err != nil {
		t.Error(err)
	}
}

// TestFailsClosed: without a key that the peers share nothing flows, and whatever
// is missing nothing leaves in clear.
func TestFailsClosed(t *testing.T) {
	hosts := underlay(t, 2)
	h1, h2 := hosts[0], hosts[1]
	watch := startCapture(t)
	for _, h := range hosts {
		h.join(hosts)
		serve(t, h.task())
	}
	mustNotReach(t, h1.task(), h2.taskAddr()) // no device at all
	h1.set(1, hosts)
	mustNotReach(t, h1.task(), h2.taskAddr()) // none at the other end
	h2.set(2, hosts)
	mustNotReach(t, h1.task(), h2.taskAddr()) // other keys
	h1.set(2, nil)
	mustNotReach(t, h2.task(), h1.taskAddr()) // no peers
	h1.set(2, hosts)
	mustReach(t, h1.task(), h2.taskAddr())
	h1.run(func() error { return deleteLink(LinkName) })
	mustNotReach(t, h1.task(), h2.taskAddr()) // removed by hand
	h1.run(func() error { return runTool("nft", "flush", "ruleset") })
	mustNotReach(t, h1.task(), h2.taskAddr()) // and the rules as well: the routes are left
	h1.join(hosts)
	h1.set(2, hosts)
	mustReach(t, h1.task(), h2.taskAddr())
	h1.run(func() error { return h1.Set(nil) })
	mustNotReach(t, h1.task(), h2.taskAddr())
	watch.mustBeBlind(t)
}

// TestInjected: a peer's clear VXLAN for an encrypted network is dropped, while
// for a clear one it arrives.
func TestInjected(t *testing.T) {
	hosts := underlay(t, 2)
	for _, h := range hosts {
		h.set(1, hosts)
		h.join(hosts)
		serve(t, h.task())
	}
	var heard net.PacketConn
	must(t, netns.Do(hosts[0].task(), func() (err error) {
		heard, err = net.ListenPacket("udp4", ":9")
		return err
	}))
	defer heard.Close()
	hosts[1].run(func() error { return runTool("nft", "flush", "ruleset") }) // which would not let it out
	inject := func(vni uint32, to string) {
		hosts[1].run(func() error {
			c, err := net.Dial("udp", netip.AddrPortFrom(hosts[0].outside().Addr(), 4789).String())
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(vxlanPacket(vni, to, to))
			return err
		})
	}
	inject(secretVNI, hosts[0].taskAddr())
	inject(secretVNI+1, "10.0.1.2")
	buf := make([]byte, 100)
	_ = heard.SetReadDeadline(time.Now().Add(patience))
	n, _, err := heard.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "10.0.1.2" {
		t.Fatalf("the clear network hears %q, %v", buf[:n], err)
	}
	_ = heard.SetReadDeadline(time.Now().Add(impatience))
	if n, _, err := heard.ReadFrom(buf); err == nil {
		t.Errorf("the encrypted network hears %q", buf[:n])
	}
}

// vxlanPacket carries a UDP datagram to port 9 of a task whose hardware address
// follows from its address.
func vxlanPacket(vni uint32, to, text string) []byte {
	addr := netip.MustParseAddr(to).As4()
	b := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, vni<<8)
	b = append(b, 0x02, 0x42, addr[0], addr[1], addr[2], addr[3], 2, 0, 0, 0, 0, 9, 8, 0)
	ip := []byte{0x45, 0, 0, byte(28 + len(text)), 0, 0, 0, 0, 64, 17, 0, 0, addr[0], addr[1], addr[2], 200}
	ip = append(ip, addr[:]...)
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	b = append(b, ip...)
	b = append(b, 0, 9, 0, 9, 0, byte(8+len(text)), 0, 0)
	return append(b, text...)
}

func TestRepair(t *testing.T) {
	hosts := underlay(t, 2)
	for _, h := range hosts {
		h.set(1, hosts)
		serve(t, h.netns)
	}
	h, to := hosts[0], hosts[1].behind().String()
	tool := func(args ...string) func() error { return func() error { return runTool("ip", args...) } }
	for name, damage := range map[string]func() error{
		"link":        func() error { return deleteLink(LinkName) },
		"link down":   tool("link", "set", LinkName, "down"),
		"mtu":         tool("link", "set", LinkName, "mtu", "1000"),
		"address":     tool("addr", "flush", "dev", LinkName),
		"address too": tool("addr", "add", "10.77.0.1/24", "dev", LinkName),
		"route":       tool("route", "del", to+"/32", "dev", LinkName),
		"last resort": tool("route", "del", "unreachable", to+"/32"),
		"other link": func() error {
			if err := deleteLink(LinkName); err != nil {
				return err
			}
			return rtnl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: LinkName}})
		},
	} {
		h.run(damage)
		h.run(func() error {
			if ok, _ := h.Check(); ok {
				return fmt.Errorf("%s is not seen", name)
			}
			return nil
		})
		h.set(1, hosts)
		mustReach(t, h.netns, to)
		mustReach(t, hosts[1].netns, h.behind().String())
		if t.Failed() {
			t.Fatal("after repair of", name)
		}
	}
}

// TestPeersComeAndGo: nothing is left of those that went, or of the device.
func TestPeersComeAndGo(t *testing.T) {
	hosts := underlay(t, 3)
	for _, h := range hosts {
		h.set(1, hosts)
		serve(t, h.netns)
	}
	h := hosts[0]
	mustReach(t, h.netns, hosts[1].behind().String())
	h.set(1, hosts[:2])
	mustReach(t, h.netns, hosts[1].behind().String())
	mustNotReach(t, hosts[2].netns, h.behind().String())
	if !h.Userspace() {
		t.Log("the kernel encrypts")
	}
	h.run(func() error { return h.Set(nil) })
	h.mustBeIntact()
	h.run(func() error {
		h.link = 0
		left, err := h.routesOf()
		if len(left) > 0 {
			return fmt.Errorf("routes are left: %v", left)
		}
		return err
	})
	count := func() int { list, _ := filepath.Glob("/proc/self/fd/*"); return len(list) }
	before := count()
	for range 3 {
		h.set(1, hosts)
		h.run(func() error { return h.Set(nil) })
	}
	if after := count(); after > before+3 {
		t.Errorf("%d file handles, %d before", after, before)
	}
}

func TestPortInUse(t *testing.T) {
	h := underlay(t, 1)[0]
	var other net.PacketConn
	h.run(func() (err error) {
		other, err = net.ListenPacket("udp", ":51820")
		return err
	})
	w := &Wanted{Port: 51820, Address: h.behind(), MTU: 1440}
	h.run(func() error {
		if err := h.Set(w); !fault.Is(err, fault.InUse) {
			return fmt.Errorf("port of another program: %v", err)
		}
		if ok, _ := h.Check(); ok {
			t.Error("not seen to be missing")
		}
		_ = other.Close()
		return h.Set(w)
	})
	h.mustBeIntact()
}

func deleteLink(name string) error {
	link, err := rtnl.LinkByName(name)
	if err != nil {
		return err
	}
	return rtnl.LinkDel(link)
}

func runTool(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}
