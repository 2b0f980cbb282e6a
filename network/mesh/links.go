package mesh

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/netns"
)

// mender compares what is there with what should be, and mends it if it may.
type mender struct {
	mend bool
	// broken is set when something was not as it should be.
	broken bool
}

// wrong notes that something is not as it should be; how mends it.
func (m *mender) wrong(what string, how func() error) error {
	m.broken = true
	if !m.mend {
		return nil
	}
	if err := how(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// links compares link, addresses, routes, neighbours and settings with what is
// wanted, and mends them if told to.
func (m *Mesh) links(mend bool) (intact bool, err error) {
	w, d := m.wanted, &mender{mend: mend}
	link, err := d.link(w)
	if err != nil || link == nil {
		return false, err
	}
	for _, step := range []func() error{
		func() error { return d.address(link, w) },
		func() error { return d.sysctls(m.cfg.Bridge) },
		func() error { return d.neighbours(link, w) },
		func() error { return d.forwarding(link, w) },
		func() error { return d.routes(link, w) },
		d.rule,
	} {
		if err := step(); err != nil {
			return false, err
		}
	}
	return !d.broken, nil
}

func linkExists() bool {
	_, err := netlink.LinkByName(LinkName)
	return err == nil
}

// link makes the VXLAN link anew where it is another one. It is nil if it is
// missing and may not be made.
func (d *mender) link(w Wanted) (netlink.Link, error) {
	link, err := netlink.LinkByName(LinkName)
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fmt.Errorf("find %s: %w", LinkName, err)
	}
	if err != nil || !sameVXLAN(link, w) {
		old := link
		if err != nil {
			old = nil
		}
		err = d.wrong("make link "+LinkName, func() error { return replaceLink(old, w) })
		if err != nil || !d.mend {
			return nil, err
		}
		if link, err = netlink.LinkByName(LinkName); err != nil {
			return nil, fmt.Errorf("find %s: %w", LinkName, err)
		}
	}
	a := link.Attrs()
	if a.MTU != w.MTU {
		err = d.wrong("set MTU of "+LinkName, func() error { return netlink.LinkSetMTU(link, w.MTU) })
	}
	if err == nil && a.Flags&net.FlagUp == 0 {
		err = d.wrong("set up "+LinkName, func() error { return netlink.LinkSetUp(link) })
	}
	return link, err
}

func sameVXLAN(link netlink.Link, w Wanted) bool {
	v, ok := link.(*netlink.Vxlan)
	if !ok {
		return false
	}
	src, _ := netip.AddrFromSlice(v.SrcAddr)
	return v.VxlanId == int(w.VNI) && v.Port == int(w.Port) && src.Unmap() == w.VTEP && !v.Learning &&
		v.HardwareAddr.String() == nodeMAC(w.Number).String()
}

func replaceLink(old netlink.Link, w Wanted) error {
	if old != nil {
		if err := netlink.LinkDel(old); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	return netlink.LinkAdd(&netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: LinkName, MTU: w.MTU, HardwareAddr: nodeMAC(w.Number)},
		VxlanId:   int(w.VNI), SrcAddr: w.VTEP.AsSlice(), Port: int(w.Port),
	})
}

func (d *mender) address(link netlink.Link, w Wanted) error {
	list, err := netns.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", LinkName, err)
	}
	own := ipNet(netip.PrefixFrom(w.own(), 32))
	have := false
	for _, a := range list {
		if a.IPNet.String() == own.String() {
			have = true
			continue
		}
		if err := d.wrong("remove address of "+LinkName, func() error { return netlink.AddrDel(link, &a) }); err != nil {
			return err
		}
	}
	if have {
		return nil
	}
	return d.wrong("give "+LinkName+" its address", func() error { return netlink.AddrAdd(link, &netlink.Addr{IPNet: own}) })
}

// sysctls: forwarding, sources that are routed elsewhere (rp_filter 2 is loose),
// and connections from 127.0.0.1.
func (d *mender) sysctls(bridge string) error {
	for _, s := range [][2]string{
		{"ip_forward", "1"},
		{"conf/" + LinkName + "/rp_filter", "2"},
		{"conf/" + LinkName + "/route_localnet", "1"},
		{"conf/" + bridge + "/rp_filter", "2"},
		{"conf/" + bridge + "/route_localnet", "1"},
	} {
		path := filepath.Join("/proc/sys/net/ipv4", s[0])
		if have, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(have)) == s[1] {
			continue
		}
		err := d.wrong("set net.ipv4."+strings.ReplaceAll(s[0], "/", "."), func() error { return os.WriteFile(path, []byte(s[1]), 0) })
		if err != nil {
			return err
		}
	}
	return nil
}

// neighbours are the next hop of all answers, and the other nodes.
func (d *mender) neighbours(link netlink.Link, w Wanted) error {
	wanted := map[string]string{w.gateway().String(): nodeMAC(0).String()}
	for number := range w.others() {
		wanted[NodeAddr(w.Subnet, number, w.Number).String()] = nodeMAC(number).String()
	}
	list, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list neighbours on %s: %w", LinkName, err)
	}
	for _, n := range list {
		switch {
		case wanted[n.IP.String()] == n.HardwareAddr.String() && n.State == netlink.NUD_PERMANENT:
			delete(wanted, n.IP.String())
		case n.State == netlink.NUD_PERMANENT:
			if err := d.remove(n); err != nil {
				return err
			}
		}
	}
	for _, ip := range slices.Sorted(maps.Keys(wanted)) {
		hw, _ := net.ParseMAC(wanted[ip])
		n := &netlink.Neigh{LinkIndex: link.Attrs().Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: net.ParseIP(ip), HardwareAddr: hw}
		if err := d.wrong("add neighbour "+ip, func() error { return netlink.NeighSet(n) }); err != nil {
			return err
		}
	}
	return nil
}

// others are the peers without this node itself.
func (w Wanted) others() map[uint32]netip.Addr {
	out := maps.Clone(w.Peers)
	delete(out, w.Number)
	return out
}

func (d *mender) remove(n netlink.Neigh) error {
	return d.wrong("remove neighbour on "+LinkName, func() error {
		err := netlink.NeighDel(&n)
		if errors.Is(err, unix.ENOENT) {
			err = nil
		}
		return err
	})
}

// forwarding leads the nodes' hardware addresses to their ends of the VXLAN.
func (d *mender) forwarding(link netlink.Link, w Wanted) error {
	wanted := make(map[string]netip.Addr)
	for number, vtep := range w.others() {
		wanted[nodeMAC(number).String()] = vtep
	}
	list, err := netlink.NeighList(link.Attrs().Index, unix.AF_BRIDGE)
	if err != nil {
		return fmt.Errorf("list forwarding of %s: %w", LinkName, err)
	}
	for _, n := range list {
		to, _ := netip.AddrFromSlice(n.IP)
		if vtep, ok := wanted[n.HardwareAddr.String()]; ok && vtep == to.Unmap() {
			delete(wanted, n.HardwareAddr.String())
			continue
		}
		n.Family, n.Flags = unix.AF_BRIDGE, netlink.NTF_SELF
		if err := d.remove(n); err != nil {
			return err
		}
	}
	for _, hw := range slices.Sorted(maps.Keys(wanted)) {
		parsed, _ := net.ParseMAC(hw)
		n := &netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF,
			State: netlink.NUD_PERMANENT, IP: wanted[hw].AsSlice(), HardwareAddr: parsed,
		}
		if err := d.wrong("add forwarding to "+hw, func() error { return netlink.NeighSet(n) }); err != nil {
			return err
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
