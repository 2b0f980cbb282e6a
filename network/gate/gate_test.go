package gate

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/internal/realtest"
	"github.com/minid/minid/network/netns"
)

func TestMain(m *testing.M) { realtest.Main(m, nil) }

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// task is a namespace 10.9.0.2 at the end of a cable from 10.9.0.1, here.
func task(t *testing.T) (path string) {
	t.Helper()
	realtest.NeedRoot(t)
	path = filepath.Join(t.TempDir(), "task")
	must(t, netns.Ensure(path))
	t.Cleanup(func() { must(t, netns.Remove(path)) })
	far, err := vns.GetFromPath(path)
	must(t, err)
	defer far.Close()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "cable"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(far))}))
	t.Cleanup(func() {
		if l, err := netlink.LinkByName("cable"); err == nil {
			_ = netlink.LinkDel(l)
		}
	})
	up := func(name, addr string) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(addr)
		return errors.Join(err, netlink.AddrReplace(link, a), netlink.LinkSetUp(link))
	}
	must(t, up("cable", "10.9.0.1/24"))
	must(t, netns.Do(path, func() error { return errors.Join(up("lo", "127.0.0.1/8"), up("eth0", "10.9.0.2/24")) }))
	return path
}

func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	var l net.Listener
	must(t, netns.Do(path, func() (err error) { l, err = net.Listen("tcp4", ":80"); return err }))
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func dial(patience time.Duration) error {
	c, err := net.DialTimeout("tcp4", "10.9.0.2:80", patience)
	if err == nil {
		err = c.Close()
	}
	return err
}

func TestCountsArrivals(t *testing.T) {
	path := task(t)
	listen(t, path)
	must(t, dial(5*time.Second)) // before
	g, err := Open(path)
	must(t, err)
	for want := range uint64(3) {
		if n, err := g.Count(); n != want || err != nil {
			t.Errorf("%d after %d connections, %v", n, want, err)
		}
		must(t, dial(5*time.Second))
	}
	must(t, netns.Do(path, func() error { // a task's own health check is no arrival
		c, err := net.Dial("tcp4", "127.0.0.1:80")
		if err == nil {
			err = c.Close()
		}
		return err
	}))
	if n, err := g.Count(); n != 3 || err != nil {
		t.Errorf("%d after the task called itself, %v", n, err)
	}
	must(t, g.Close())
	must(t, dial(5*time.Second))
}

func TestShut(t *testing.T) {
	path := task(t)
	l := listen(t, path)
	open, err := net.Dial("tcp4", "10.9.0.2:80")
	must(t, err)
	defer open.Close()
	inside, err := l.Accept()
	must(t, err)
	defer inside.Close()
	for range 2 { // shut is shut
		must(t, Shut(path))
	}
	for _, listens := range []bool{true, false} {
		if !listens {
			must(t, l.Close())
		}
		err := dial(300 * time.Millisecond)
		if late, ok := errors.AsType[net.Error](err); !ok || !late.Timeout() {
			t.Errorf("while it listens %v: %v", listens, err)
		}
	}
	must(t, open.SetDeadline(time.Now().Add(5*time.Second)))
	go func() { _, _ = inside.Write([]byte("on")) }()
	if _, err := open.Read(make([]byte, 2)); err != nil {
		t.Errorf("a connection that was open: %v", err)
	}
	must(t, netns.Do(path, func() error {
		_, err := net.Dial("tcp4", "127.0.0.1:80")
		if !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("within the task: %w", err)
		}
		return nil
	}))
}

func TestQueued(t *testing.T) {
	path := task(t)
	l := listen(t, path)
	want := func(want int) {
		t.Helper()
		deadline := time.Now().Add(5 * time.Second)
		n, err := Queued(path)
		for n != want && err == nil && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
			n, err = Queued(path)
		}
		if n != want || err != nil {
			t.Errorf("%d wait, want %d: %v", n, want, err)
		}
	}
	want(0)
	for i := range 3 {
		c, err := net.Dial("tcp4", "10.9.0.2:80")
		must(t, err)
		defer c.Close()
		want(i + 1)
	}
	for i := range 3 {
		c, err := l.Accept()
		must(t, err)
		defer c.Close()
		want(2 - i)
	}
}

// TestQueuedReads only the listeners, of which connections that wait to be read
// are none.
func TestQueuedReads(t *testing.T) {
	list := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:0000001F 00:00000000 00000000     0        0 1 1
   1: 0100007F:1F91 00000000:0000 0A 00000000:00000001 00:00000000 00000000     0        0 2 1
   2: 0200090A:1F90 0100090A:A1B2 01 00000000:00000009 00:00000000 00000000     0        0 3 1
`
	if n, err := queued(strings.NewReader(list)); n != 32 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := queued(strings.NewReader("")); n != 0 || err != nil {
		t.Errorf("of nothing: %d, %v", n, err)
	}
}
