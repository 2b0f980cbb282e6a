package overlay

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An address of another node's task is three entries in the kernel: its
// neighbour entry on the VXLAN device, which also answers ARP and ND for it; the
// port of the bridge that leads to its hardware address; and the end of the
// VXLAN behind that. A second address has only the first of them.

// found is what a namespace has of such entries.
type found struct {
	neighbours map[netip.Addr]mac
	ports      map[mac]int // index of the bridge's port
	vteps      map[mac][]netip.Addr
}

func (s *segment) dump() (found, error) {
	f := found{map[netip.Addr]mac{}, map[mac]int{}, map[mac][]netip.Addr{}}
	entries, err := s.batch.list(unix.AF_BRIDGE)
	if err != nil {
		return f, err
	}
	for _, e := range entries {
		switch {
		case e.mac == mac{}:
		case e.index == s.vxlan && e.flags&rtnl.NTF_SELF != 0:
			f.vteps[e.mac] = append(f.vteps[e.mac], e.addr)
		case e.master == s.bridge && e.state == rtnl.NUD_NOARP:
			f.ports[e.mac] = e.index
		}
	}
	if s.vxlan == 0 {
		return f, nil
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		entries, err := s.batch.list(family)
		if err != nil {
			return f, err
		}
		for _, e := range entries {
			if e.index == s.vxlan && e.state == rtnl.NUD_PERMANENT && e.mac != (mac{}) && e.addr.IsValid() {
				f.neighbours[e.addr] = e.mac
			}
		}
	}
	return f, nil
}

// forwards puts the entries together again. What belongs to no neighbour, or
// leads to several places, is strange. A forward that lacks something lacks its
// vtep, so it is not as wanted.
func (f found) forwards(vxlan int) (have map[netip.Addr]forward, strange []mac) {
	have = make(map[netip.Addr]forward, len(f.neighbours))
	whole := make(map[mac]bool, len(f.vteps))
	for _, v4 := range []bool{true, false} { // a hardware address is an IPv4 address's first
		for addr, m := range f.neighbours {
			if addr.Is4() != v4 {
				continue
			}
			fw := forward{mac: m}
			if m == macOf(addr) && !whole[m] && len(f.vteps[m]) == 1 && f.ports[m] == vxlan {
				fw.vtep, whole[m] = f.vteps[m][0], true
			}
			have[addr] = fw
		}
	}
	for m := range f.vteps {
		if !whole[m] {
			strange = append(strange, m)
		}
	}
	for m, port := range f.ports {
		if port == vxlan && !whole[m] && len(f.vteps[m]) == 0 {
			strange = append(strange, m)
		}
	}
	return have, strange
}

// look learns what the kernel has, and removes what is strange.
func (s *segment) look() error {
	s.have = nil
	if s.vxlan == 0 {
		return nil
	}
	d, err := s.dump()
	if err != nil {
		return err
	}
	have, strange := d.forwards(s.vxlan)
	for _, m := range strange {
		s.eraseRoute(netip.Addr{}, m)
	}
	s.have = have
	return nil
}

// programAll makes the kernel's entries of addresses as they should be.
func (s *segment) programAll(addrs iter.Seq[netip.Addr]) error {
	if s.vxlan == 0 {
		return nil
	}
	for addr := range addrs {
		s.program(addr)
	}
	var errs []error
	for addr, err := range s.batch.flush() {
		delete(s.have, addr) // until it is known again
		errs = append(errs, fmt.Errorf("lead to %s in network %s: %w", addr, s.net.ID, err))
	}
	return errors.Join(errs...)
}

// program queues what makes the entries of one address as they should be.
func (s *segment) program(addr netip.Addr) {
	want, wanted := s.forward(addr)
	have, had := s.have[addr]
	if wanted == had && want == have {
		return
	}
	if had && have.vtep.IsValid() && (have.mac != want.mac || !want.vtep.IsValid()) {
		s.eraseRoute(addr, have.mac)
	}
	if !wanted {
		delete(s.have, addr)
		s.batch.add(entry{remove: true, addr: addr, family: family(addr), index: s.vxlan, destination: addr})
		return
	}
	s.write(addr, want)
	if s.have == nil {
		s.have = make(map[netip.Addr]forward)
	}
	s.have[addr] = want
}

func family(addr netip.Addr) uint8 {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// write adds the entries or changes them in place, so that a task that moved to
// another node is never unreachable for it.
func (s *segment) write(addr netip.Addr, f forward) {
	if f.vtep.IsValid() {
		s.batch.add(entry{
			addr: addr, family: unix.AF_BRIDGE, state: rtnl.NUD_PERMANENT, flags: rtnl.NTF_SELF,
			index: s.vxlan, destination: f.vtep, mac: f.mac,
		})
		s.batch.add(portEntry(addr, f.mac, s.vxlan))
	}
	s.batch.add(entry{
		addr: addr, family: family(addr), state: rtnl.NUD_PERMANENT,
		index: s.vxlan, destination: addr, mac: f.mac,
	})
}

// portEntry leads a hardware address to a port of the bridge. The kernel's word
// for that is NOARP; a permanent one would be an address of the bridge itself.
func portEntry(addr netip.Addr, m mac, port int) entry {
	return entry{addr: addr, family: unix.AF_BRIDGE, state: rtnl.NUD_NOARP, flags: rtnl.NTF_MASTER, index: port, mac: m}
}

// eraseRoute removes the ends of the VXLAN and the port of a hardware address.
func (s *segment) eraseRoute(addr netip.Addr, m mac) {
	port := portEntry(addr, m, s.vxlan)
	port.remove = true
	s.batch.add(entry{
		remove: true, addr: addr, family: unix.AF_BRIDGE, flags: rtnl.NTF_SELF,
		index: s.vxlan, destination: netip.IPv4Unspecified(), mac: m, // which is all ends
	})
	s.batch.add(port)
}
