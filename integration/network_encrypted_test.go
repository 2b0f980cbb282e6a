package integration_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/integration/cluster"
	"github.com/minid/minid/network/netns"
	pb "github.com/minid/minid/proto/minid/v1"
)

// capture counts the frames that contain each of some words, on all links of a
// namespace.
type capture struct {
	fd      int
	stopped sync.WaitGroup
	mu      sync.Mutex
	frames  int
	seen    map[string]int
}

// startCapture begins in the namespace that do enters.
func startCapture(t *testing.T, do func(func() error) error, words ...string) *capture {
	t.Helper()
	c := &capture{seen: map[string]int{}}
	err := do(func() (err error) {
		all := int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	})
	if err != nil {
		t.Fatalf("capture: %v", err)
	}
	done := make(chan struct{})
	c.stopped.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, _, err := unix.Recvfrom(c.fd, buf, 0)
			if err == nil {
				c.look(buf[:n], words)
				continue
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	t.Cleanup(func() {
		close(done)
		c.stopped.Wait()
		unix.Close(c.fd)
	})
	return c
}

func (c *capture) look(frame []byte, words []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames++
	for _, word := range words {
		if bytes.Contains(frame, []byte(word)) {
			c.seen[word]++
		}
	}
}

func (c *capture) count(word string) (frames, with int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.frames, c.seen[word]
}

// What is planted: in requests over an encrypted network and over one that is
// not, and in packets that are injected into each.
const (
	secretWord  = "planted-where-nobody-may-read-it"
	openWord    = "planted-where-everybody-can-read"
	forgedWord  = "injected-into-the-encrypted-one!"
	allowedWord = "injected-into-the-open-network!!"
)

// TestEncryptedOnTheWire: nothing of what tasks say to each other over an
// encrypted network is on the wire in clear, whatever happens to the keys'
// masters, to the node's tunnel and to its rules; and nobody is let in.
func TestEncryptedOnTheWire(t *testing.T) {
	w := sharedSwarm(t)
	n, far, near := w.Nodes()[0], w.Nodes()[3], w.Nodes()[4]
	w.network(t, "sealed", "-o", "encrypted")
	w.network(t, "open")
	tasks := w.create(t, n, service{name: "talker", replicas: 5, global: true,
		flags: []string{"--network", "sealed", "--network", "open", "--env", "QUIET=1", "--stop-grace-period", "1s"}})
	from, to := tasksOn(tasks, idOf(t, n, far.Name))[0], tasksOn(tasks, idOf(t, n, near.Name))[0]
	source := w.containerOf(t, from)
	secret := fmt.Sprintf("http://%s:8080/%s", addressOn(t, to, 0), secretWord)
	wire := startCapture(t, w.Outside, secretWord, openWord)
	talks := func(when string) {
		t.Helper()
		await(t, "a talk "+when, patience, func() error {
			_, err := runBeside(source, "load", secret, "10", "2", "oneshot")
			return err
		})
		if _, n := wire.count(secretWord); n > 0 {
			t.Fatalf("%s, %d packets in clear", when, n)
		}
	}
	talks("at first")
	if _, err := runBeside(source, "get", fmt.Sprintf("http://%s:8080/%s", addressOn(t, to, 1), openWord)); err != nil {
		t.Fatal(err)
	}
	await(t, "what is not encrypted is seen", patience, func() error {
		if frames, n := wire.count(openWord); n == 0 {
			return fmt.Errorf("in none of %d frames", frames)
		}
		return nil
	})

	// Somebody talks all the time from here on.
	load := startBeside(t, source, "load", secret, "1000000", "2", "oneshot", "10ms")
	leader, _, _ := w.names(t)
	for _, victim := range []*cluster.Node{leader, far, near} {
		if err := victim.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		w.awaitReady(t, 5)
		talks("with " + victim.Name + " back")
	}
	for _, d := range []struct {
		what, script string
	}{
		{"without tunnel", "ip link del mnwg0"},
		{"without rules", "nft delete table inet minid_overlay"},
		{"without routes", "ip route flush dev mnwg0"},
	} {
		shell(t, far, d.script)
		talks(d.what)
	}
	load.terminate(t)
	if frames, n := wire.count(secretWord); n > 0 {
		t.Errorf("%d of %d packets in clear", n, frames)
	}
	w.inject(t, far, near, to)
}

// TestKeysRotateOnTheWire: while the shared key of encrypted networks changes, no
// request fails, what lasts goes on, and nothing is on the wire in clear; nodes
// that meet for the first time afterwards agree on the new key.
func TestKeysRotateOnTheWire(t *testing.T) {
	w := sharedSwarm(t)
	n, stranger, far, near := w.Nodes()[0], w.Nodes()[1], w.Nodes()[3], w.Nodes()[4]
	w.network(t, "turning", "-o", "encrypted")
	tasks := w.create(t, n, service{name: "turner", replicas: 5, global: true,
		flags: []string{"--network", "turning", "--env", "QUIET=1", "--stop-grace-period", "1s"}})
	on := func(node *cluster.Node) *pb.Task { return tasksOn(tasks, idOf(t, n, node.Name))[0] }
	source := w.containerOf(t, on(far))
	url := func(to *pb.Task) string {
		return fmt.Sprintf("http://%s:8080/%s", addressOn(t, to, 0), secretWord)
	}
	wire := startCapture(t, w.Outside, secretWord)
	silent := func(when string) {
		t.Helper()
		if frames, n := wire.count(secretWord); n > 0 || frames == 0 {
			t.Fatalf("%s, %d of %d packets in clear", when, n, frames)
		}
	}
	await(t, "a first talk", patience, func() error {
		_, err := runBeside(source, "load", url(on(near)), "10", "2", "oneshot")
		return err
	})
	silent("before the rotation")
	loads := []*running{
		startBeside(t, source, "load", url(on(near)), "1000000", "2", "oneshot", "10ms"),
		startBeside(t, source, "load", url(on(near)), "1000000", "2", "keepalive", "10ms"),
	}
	key := sharedKey(t, w.Nodes(), "")
	ctl(t, n, "swarm", "update", "--network-key-period", "10s")
	w.undo(t, "swarm", "update", "--network-key-period", "12h")
	for i := range 2 {
		key = sharedKey(t, w.Nodes(), key)
		silent(fmt.Sprintf("with key %d", i+2))
		to := []*cluster.Node{stranger, n}[i]
		await(t, "a talk with "+to.Name, patience, func() error {
			_, err := runBeside(source, "load", url(on(to)), "10", "2", "oneshot")
			return err
		})
	}
	for _, l := range loads {
		out, _ := l.terminate(t)
		if by, failed := counted(t, out); failed != 0 || len(by) != 1 {
			t.Errorf("%d requests failed:\n%s", failed, out)
		}
	}
	silent("after the rotation")
}

var sharedKeyText = regexp.MustCompile(`shared key ([0-9a-f]{8})`)

// sharedKey waits until all nodes' devices use the same key, and another one than
// before, and returns what it is told by.
func sharedKey(t *testing.T, nodes []*cluster.Node, before string) (key string) {
	t.Helper()
	await(t, "all nodes use a new key", patience, func() error {
		found := map[string]bool{}
		for _, n := range nodes {
			text, err := debugPart(t, n, "wireguard")
			if err != nil {
				return err
			}
			keys := sharedKeyText.FindAllStringSubmatch(text, -1)
			if len(keys) != len(nodes)-1 {
				return fmt.Errorf("%s has keys of %d peers:\n%s", n.Name, len(keys), text)
			}
			for _, k := range keys {
				key = k[1]
				found[key] = true
			}
		}
		if len(found) != 1 || key == before {
			return fmt.Errorf("in use: %v", found)
		}
		return nil
	})
	return key
}

// debugPart is what a node's kernel has of a part of the network.
func debugPart(t *testing.T, n *cluster.Node, part string) (text string, err error) {
	t.Helper()
	c, err := n.API()
	if err != nil {
		return "", err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := c.Local.DebugNetwork(ctx, &pb.DebugNetworkRequest{Part: part})
	if err != nil {
		return "", err
	}
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return text, nil
		}
		if err != nil {
			return "", err
		}
		text += piece.Actual
	}
}

// inject sends VXLAN to a node in the name of another: that of the encrypted
// network reaches no task, that of the open one does.
func (w *world) inject(t *testing.T, as, at *cluster.Node, task *pb.Task) {
	t.Helper()
	var hw net.HardwareAddr
	err := at.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err == nil {
			hw = link.HardwareAddr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	inside := fmt.Sprintf("/proc/%d/ns/net", w.containerOf(t, task).pid)
	seen := startCapture(t, func(f func() error) error { return netns.Do(inside, f) }, forgedWord, allowedWord)
	send := func(i int, network, word string) {
		vni := ctl(t, w.Nodes()[0], "network", "inspect", "-f", "{{.Allocation.Vni}}", network)
		var number uint32
		if _, err := fmt.Sscan(vni, &number); err != nil {
			t.Fatalf("VNI %q: %v", vni, err)
		}
		frame := forge(hw, netip.MustParseAddr(as.Addr), netip.MustParseAddr(at.Addr), number, netip.MustParseAddr(addressOn(t, task, i)), word)
		if err := w.Outside(func() error { return sendFrame("port5", frame) }); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		send(0, "sealed", forgedWord)
	}
	await(t, "what is injected into an open network arrives", patience, func() error {
		send(1, "open", allowedWord)
		if _, n := seen.count(allowedWord); n == 0 {
			return errors.New("nothing did")
		}
		return nil
	})
	time.Sleep(200 * time.Millisecond)
	if _, n := seen.count(forgedWord); n > 0 {
		t.Errorf("%d packets in clear reached a task of an encrypted network", n)
	}
}

// forge is a frame to hw with a VXLAN packet between nodes, in which a datagram
// is for a task.
func forge(hw net.HardwareAddr, from, to netip.Addr, vni uint32, task netip.Addr, word string) []byte {
	addr := task.As4()
	inner := ethernet(append([]byte{0x02, 0x42}, addr[:]...), datagram(task.Next(), task, 9, []byte(word)))
	vxlan := binary.BigEndian.AppendUint32([]byte{0x08, 0, 0, 0}, vni<<8)
	return ethernet(hw, datagram(from, to, 4789, append(vxlan, inner...)))
}

func ethernet(to net.HardwareAddr, payload []byte) []byte {
	return append(append(append([]byte{}, to...), 0x02, 0, 0, 0, 0, 0x99, 0x08, 0x00), payload...)
}

// datagram is an IPv4 packet with a UDP datagram, which needs no checksum.
func datagram(from, to netip.Addr, port uint16, payload []byte) []byte {
	b := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0}
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(payload)))
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	b = binary.BigEndian.AppendUint16(b, 40000)
	b = binary.BigEndian.AppendUint16(b, port)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

// sendFrame puts a frame on a link of this namespace.
func sendFrame(link string, frame []byte) error {
	l, err := net.InterfaceByName(link)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Index})
}
