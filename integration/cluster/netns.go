package cluster

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace kept alive by a bind mount.
type namespace struct {
	path   string
	handle netns.NsHandle
}

// newNamespace makes a network namespace and mounts it at path.
func newNamespace(path string) (*namespace, error) {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, err
	}
	ns := &namespace{path: path}
	err := onThread(func() error {
		handle, err := netns.New()
		if err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		ns.handle = handle
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		if err := unix.Mount(self, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("keep network namespace at %s: %w", path, err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return ns, err
}

// Do runs fn on a thread inside the namespace. Sockets and processes that fn
// makes stay there.
func (ns *namespace) Do(fn func() error) error {
	return onThread(func() error {
		if err := netns.Set(ns.handle); err != nil {
			return fmt.Errorf("enter %s: %w", filepath.Base(ns.path), err)
		}
		return fn()
	})
}

// inode identifies the namespace in /proc/PID/ns/net.
func (ns *namespace) inode() (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(ns.handle), &st)
	return st.Ino, err
}

func (ns *namespace) close() {
	ns.handle.Close()
	unix.Unmount(ns.path, unix.MNT_DETACH)
	os.Remove(ns.path)
}

// onThread runs fn on an OS thread of its own, which ends with it.
func onThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the changed thread must not be reused
		done <- fn()
	}()
	return <-done
}

// subnet of the clusters' underlay: the hub is .254, node i is .i.
const (
	hubAddr   = "10.77.0.254"
	prefixLen = 24
)

func nodeAddr(i int) string { return fmt.Sprintf("10.77.0.%d", i) }

func address(ip string) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(prefixLen, 32)}}
}

// makeHub gives the hub its bridge.
func makeHub(hub *namespace) error {
	return hub.Do(func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(br); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		if err := netlink.AddrAdd(br, address(hubAddr)); err != nil {
			return err
		}
		return netlink.LinkSetUp(br)
	})
}

// plug connects a node's namespace to the hub's bridge by a veth pair.
func plug(hub, node *namespace, i int) error {
	err := hub.Do(func() error {
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		port := fmt.Sprintf("port%d", i)
		veth := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: port, MasterIndex: br.Attrs().Index},
			PeerName:      "eth0",
			PeerNamespace: netlink.NsFd(node.handle),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth: %w", err)
		}
		return setLink(port, true)
	})
	if err != nil {
		return err
	}
	return node.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(eth0, address(nodeAddr(i))); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(eth0); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.ParseIP(hubAddr)})
	})
}

// unplug removes a node's veth pair from both sides, if it is there.
func unplug(i int) error {
	port, err := netlink.LinkByName(fmt.Sprintf("port%d", i))
	if err != nil {
		return err
	}
	return netlink.LinkDel(port)
}

func setLink(name string, up bool) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if up {
		return netlink.LinkSetUp(link)
	}
	return netlink.LinkSetDown(link)
}
