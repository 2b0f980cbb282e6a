package overlay

import (
	"errors"
	"fmt"
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
	entries, err := s.handle.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return f, fmt.Errorf("list forwarding entries: %w", err)
	}
	for _, n := range entries {
		if len(n.HardwareAddr) != len(mac{}) {
			continue
		}
		m := mac(n.HardwareAddr)
		switch {
		case n.LinkIndex == s.vxlan && n.Flags&rtnl.NTF_SELF != 0:
			addr, _ := netip.AddrFromSlice(n.IP)
			f.vteps[m] = append(f.vteps[m], addr.Unmap())
		case n.MasterIndex == s.bridge && n.State == rtnl.NUD_NOARP:
			f.ports[m] = n.LinkIndex
		}
	}
	if s.vxlan == 0 {
		return f, nil
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		entries, err := s.handle.NeighList(s.vxlan, family)
		if err != nil {
			return f, fmt.Errorf("list neighbours: %w", err)
		}
		for _, n := range entries {
			addr, ok := netip.AddrFromSlice(n.IP)
			if ok && n.State == rtnl.NUD_PERMANENT && len(n.HardwareAddr) == len(mac{}) {
				f.neighbours[addr.Unmap()] = mac(n.HardwareAddr)
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

// look learns what the kernel has, and deletes what is strange.
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
		if err := s.eraseRoute(m); err != nil {
			return err
		}
	}
	s.have = have
	return nil
}

// program makes the kernel's entries of an address as they should be.
func (s *segment) program(addr netip.Addr) error {
	want, wanted := s.forward(addr)
	have, had := s.have[addr]
	if s.vxlan == 0 || wanted == had && want == have {
		return nil
	}
	delete(s.have, addr) // until it is known again
	if had && have.vtep.IsValid() && (have.mac != want.mac || !want.vtep.IsValid()) {
		if err := s.eraseRoute(have.mac); err != nil {
			return err
		}
	}
	if !wanted {
		return s.erase(rtnl.Neigh{State: rtnl.NUD_PERMANENT, IP: addr.AsSlice()})
	}
	if err := s.write(addr, want); err != nil {
		return fmt.Errorf("make neighbour %s: %w", addr, err)
	}
	if s.have == nil {
		s.have = map[netip.Addr]forward{}
	}
	s.have[addr] = want
	return nil
}

// write adds the entries or changes them in place, so that a task that moved to
// another node is never unreachable for it.
func (s *segment) write(addr netip.Addr, f forward) error {
	entries := []rtnl.Neigh{{State: rtnl.NUD_PERMANENT, IP: addr.AsSlice()}}
	if f.vtep.IsValid() {
		entries = []rtnl.Neigh{
			{Family: unix.AF_BRIDGE, State: rtnl.NUD_PERMANENT, Flags: rtnl.NTF_SELF, IP: f.vtep.AsSlice()},
			portEntry,
			entries[0],
		}
	}
	for _, n := range entries {
		n.LinkIndex, n.HardwareAddr = s.vxlan, f.mac[:]
		if err := s.handle.NeighSet(&n); err != nil {
			return err
		}
	}
	return nil
}

// portEntry leads a hardware address to a port of the bridge. The kernel's word
// for that is NOARP; a permanent one would be an address of the bridge itself.
var portEntry = rtnl.Neigh{Family: unix.AF_BRIDGE, State: rtnl.NUD_NOARP, Flags: rtnl.NTF_MASTER}

// eraseRoute deletes the ends of the VXLAN and the port of a hardware address.
func (s *segment) eraseRoute(m mac) error {
	// Without an address all ends go.
	self := rtnl.Neigh{Family: unix.AF_BRIDGE, Flags: rtnl.NTF_SELF, IP: netip.IPv4Unspecified().AsSlice()}
	for _, n := range []rtnl.Neigh{self, portEntry} {
		n.HardwareAddr = m[:]
		if err := s.erase(n); err != nil {
			return err
		}
	}
	return nil
}

func (s *segment) erase(n rtnl.Neigh) error {
	n.LinkIndex = s.vxlan
	if err := s.handle.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove neighbour entry: %w", err)
	}
	return nil
}
