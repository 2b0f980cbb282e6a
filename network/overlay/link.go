package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	rtnl "github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/netns"
)

// setLinks cuts the cables that are not wanted and mends the others. A task
// whose namespace is gone hinders no other one.
func (s *segment) setLinks(links map[string]rtnl.Link) error {
	wanted := make(map[string]bool, len(s.links))
	for task := range s.links {
		wanted[linkName(task)] = true
	}
	var errs []error
	for name, l := range links {
		if _, leaves := s.leaving[name]; isCable(l) && !wanted[name] && !leaves {
			errs = append(errs, s.deleteLink(l))
		}
	}
	for _, l := range s.links {
		errs = append(errs, s.plug(l, links[linkName(l.Task)]))
	}
	return errors.Join(errs...)
}

func isCable(l rtnl.Link) bool {
	return l.Type() == "veth" && strings.HasPrefix(l.Attrs().Name, linkPrefix)
}

// plug makes a task's cable unless have is it already.
func (s *segment) plug(l Link, have rtnl.Link) error {
	delete(s.leaving, linkName(l.Task))
	if have != nil && have.Attrs().MasterIndex == s.bridge && adopt(l, s.net.mtu(), have.Attrs().Index) {
		return errors.Join(s.raise(have), s.fix(l, have))
	}
	if have != nil {
		if err := s.deleteLink(have); err != nil {
			return err
		}
	}
	if err := s.addLinkPair(l); err != nil {
		return fmt.Errorf("plug task %s into network %s: %w", l.Task, s.net.ID, err)
	}
	made, err := s.handle.LinkByName(linkName(l.Task))
	if err == nil {
		err = errors.Join(netns.Do(l.Netns, func() error { return configure(l) }), s.fix(l, made))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("plug task %s into network %s: %w", l.Task, s.net.ID, err), s.unplug(l.Task))
	}
	return nil
}

// fix makes the bridge know the task's hardware address and learn no other.
func (s *segment) fix(l Link, port rtnl.Link) error {
	if err := s.handle.LinkSetLearning(port, false); err != nil {
		return fmt.Errorf("stop %s from learning: %w", port.Attrs().Name, err)
	}
	s.batch.add(portEntry(netip.Addr{}, l.mac(), port.Attrs().Index))
	for _, err := range s.batch.flush() {
		return fmt.Errorf("lead %s to %s: %w", l.mac(), port.Attrs().Name, err)
	}
	return nil
}

func (s *segment) addLinkPair(l Link) error {
	ns, err := vns.GetFromPath(l.Netns)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	m := l.mac()
	veth := &rtnl.Veth{
		LinkAttrs: rtnl.LinkAttrs{Name: linkName(l.Task), MasterIndex: s.bridge, MTU: s.net.mtu(), Flags: net.FlagUp},
		PeerName:  l.name(), PeerHardwareAddr: m[:], PeerNamespace: rtnl.NsFd(int(ns)), PeerMTU: uint32(s.net.mtu()),
	}
	err = s.handle.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) { // the end of a network's namespace that was removed
		if err := netns.Do(l.Netns, func() error { return deleteByName(l.name()) }); err != nil {
			return err
		}
		err = s.handle.LinkAdd(veth)
	}
	if err != nil {
		return fmt.Errorf("make link %s: %w", veth.Name, err)
	}
	return nil
}

func deleteByName(name string) error {
	link, err := rtnl.LinkByName(name)
	if err == nil {
		err = rtnl.LinkDel(link)
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

func isGone(err error) bool {
	return errors.As(err, &rtnl.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV)
}

func (s *segment) deleteLink(l rtnl.Link) error {
	if err := s.handle.LinkDel(l); err != nil && !isGone(err) {
		return fmt.Errorf("remove link %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// unplug cuts a task's cable. The other end, in the task, goes with it.
func (s *segment) unplug(task string) error {
	link, err := s.handle.LinkByName(linkName(task))
	if isGone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find link of task %s: %w", task, err)
	}
	return s.deleteLink(link)
}

// goneWithin is how long the kernel may take to remove a namespace.
const goneWithin = 2 * time.Second

// sweep cuts the cables that should have gone.
func (s *segment) sweep(now time.Time) error {
	if len(s.leaving) == 0 || s.handle == nil {
		return nil
	}
	links, err := s.linksByName()
	if err != nil {
		return err
	}
	var errs []error
	for name, since := range s.leaving {
		if l := links[name]; l != nil && now.Sub(since) < goneWithin {
			continue
		} else if l != nil {
			if err := s.deleteLink(l); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		delete(s.leaving, name)
	}
	return errors.Join(errs...)
}

// configure sets up the task's end, inside its namespace.
func configure(l Link) error {
	for name, value := range l.sysctls() {
		err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", l.name(), name), []byte(value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
			return fmt.Errorf("set %s of %s: %w", name, l.name(), err)
		}
	}
	link, err := rtnl.LinkByName(l.name())
	if err != nil {
		return fmt.Errorf("find %s of task: %w", l.name(), err)
	}
	for _, p := range l.Addresses {
		addr := &rtnl.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // the managers give no address twice
		}
		if err := rtnl.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("give task address %s: %w", p, err)
		}
	}
	lo := &rtnl.Device{LinkAttrs: rtnl.LinkAttrs{Index: 1, Name: "lo"}} // always 1
	for _, up := range []rtnl.Link{lo, link} {
		if err := rtnl.LinkSetUp(up); err != nil {
			return fmt.Errorf("set %s of task up: %w", up.Attrs().Name, err)
		}
	}
	return nil
}

// sysctls of the interface, net.ipv6.conf.ethN. Nobody on the network is its
// router, whoever says so.
func (l Link) sysctls() map[string]string {
	if !slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		return map[string]string{"disable_ipv6": "1"}
	}
	return map[string]string{"disable_ipv6": "0", "accept_ra": "0"}
}

// adopt reports whether the task's end is there as configure left it, and gives
// it the MTU: that may change while connections go on.
func adopt(l Link, mtu, peer int) (ok bool) {
	err := netns.Do(l.Netns, func() error {
		link, err := rtnl.LinkByName(l.name())
		if err != nil {
			return err
		}
		a, m := link.Attrs(), l.mac()
		if a.ParentIndex != peer || a.Flags&net.FlagUp == 0 || !bytes.Equal(a.HardwareAddr, m[:]) {
			return nil
		}
		addrs, err := rtnl.AddrList(link, rtnl.FAMILY_ALL)
		if ok = hasAddresses(addrs, l.Addresses); err != nil || a.MTU == mtu {
			return err
		}
		return rtnl.LinkSetMTU(link, mtu)
	})
	return ok && err == nil
}

// hasAddresses compares addresses; the kernel's own link-local ones do not count.
func hasAddresses(have []rtnl.Addr, want []netip.Prefix) bool {
	count := 0
	for _, a := range have {
		if a.IP.IsLinkLocalUnicast() {
			continue
		}
		addr, _ := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		if !slices.Contains(want, netip.PrefixFrom(addr.Unmap(), bits)) {
			return false
		}
		count++
	}
	return count == len(want)
}
