package overlay

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	rtnl "github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/network/netns"
)

// segment is one network on this node: what it should be, and the kernel's side
// of it as far as it is known.
type segment struct {
	net     Network
	remotes map[string]Remote
	links   map[string]Link // by task
	claims  claims          // of tasks elsewhere
	local   claims          // of tasks here

	path          string // of the namespace
	inode         uint64
	handle        *rtnl.Handle // in the namespace; nil until it was entered
	batch         *batch       // likewise
	bridge, vxlan int          // indices of the links
	have          map[netip.Addr]forward
	taken         bool      // the VXLAN id was waited for in vain
	compared      time.Time // when the entries were last found right
	// leaving are cables that the kernel is to take with their tasks' namespaces,
	// by name, and since when.
	leaving map[string]time.Time
}

func newSegment(n Network, remotes map[string]Remote) *segment {
	s := &segment{net: n, links: map[string]Link{}, local: claims{}, leaving: map[string]time.Time{}}
	s.setRemotes(remotes)
	return s
}

// setRemotes replaces all that is known of other nodes' tasks. A task without
// an address is not there yet.
func (s *segment) setRemotes(remotes map[string]Remote) {
	s.remotes, s.claims = make(map[string]Remote, len(remotes)), make(claims, len(remotes))
	for _, task := range sortedKeys(remotes) {
		s.putRemote(task, remotes[task])
	}
}

// enter makes the namespace where it is missing, and a socket in it.
func (s *segment) enter() error {
	if s.handle != nil && s.inode == inodeOf(s.path) {
		return nil
	}
	if err := errors.Join(s.leave(), netns.Ensure(s.path)); err != nil {
		return err
	}
	h, err := netns.Handle(s.path)
	if err != nil {
		return err
	}
	if s.batch, err = openBatch(s.path); err != nil {
		h.Close()
		return err
	}
	s.handle, s.inode = h, inodeOf(s.path)
	if err := netns.Do(s.path, quiet); err != nil {
		return fmt.Errorf("set up network namespace: %w", err)
	}
	return nil
}

// quiet keeps the namespace's own links from having addresses, so that it sends
// nothing of its own into the network.
func quiet() error {
	// IPv6 itself has to be on: the VXLAN device answers ND.
	err := os.WriteFile("/proc/sys/net/ipv6/conf/default/addr_gen_mode", []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
		return nil
	}
	return err
}

// leave deletes the links before it lets go of the namespace. The kernel would
// do it later, and meanwhile nobody could make the VXLAN device anew, and tasks
// would have interfaces that lead nowhere.
func (s *segment) leave() error {
	if s.handle == nil {
		return nil
	}
	err := s.removeLinks(s.handle)
	s.close()
	clear(s.leaving)
	s.handle, s.vxlan, s.bridge, s.have = nil, 0, 0, nil
	return err
}

// close lets go of the namespace and leaves it as it is.
func (s *segment) close() {
	s.handle.Close()
	_ = s.batch.close()
}

func inodeOf(path string) uint64 {
	var st unix.Stat_t
	if !netns.Exists(path) || unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// set looks at everything in the namespace and mends it. host is a socket in
// the host's namespace.
func (s *segment) set(host *rtnl.Handle) error {
	if err := s.enter(); err != nil {
		return err
	}
	links, err := s.linksByName()
	if err != nil {
		return err
	}
	if err := s.setBridge(links[BridgeName]); err != nil {
		return err
	}
	if err := s.setVXLAN(host, links); err != nil {
		return err
	}
	errs := []error{s.setLinks(links)}
	if err := s.look(); err != nil {
		return errors.Join(append(errs, err)...)
	}
	// What is there first: it may have to make room.
	errs = append(errs, s.programAll(slices.Values(slices.Collect(maps.Keys(s.have)))), s.programAll(maps.Keys(s.claims)))
	return errors.Join(errs...)
}

func (s *segment) linksByName() (map[string]rtnl.Link, error) {
	list, err := netns.Whole(s.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	out := make(map[string]rtnl.Link, len(list))
	for _, l := range list {
		out[l.Attrs().Name] = l
	}
	return out, nil
}

func (s *segment) setBridge(link rtnl.Link) error {
	if link == nil {
		snooping := false // it would hold back questions for neighbours
		// An MTU that it is made with it forgets when its last port goes; raise sets
		// one that lasts.
		made := &rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: BridgeName}, MulticastSnooping: &snooping}
		if err := s.handle.LinkAdd(made); err != nil {
			return fmt.Errorf("make bridge: %w", err)
		}
		var err error
		if link, err = s.handle.LinkByName(BridgeName); err != nil {
			return fmt.Errorf("make bridge: %w", err)
		}
	}
	s.bridge = link.Attrs().Index
	return s.raise(link)
}

// raise gives a link the network's MTU and sets it up.
func (s *segment) raise(link rtnl.Link) error {
	a := link.Attrs()
	if a.MTU != s.net.mtu() {
		if err := s.handle.LinkSetMTU(link, s.net.mtu()); err != nil {
			return fmt.Errorf("set MTU of %s to %d: %w", a.Name, s.net.mtu(), err)
		}
	}
	if a.Flags&net.FlagUp == 0 {
		if err := s.handle.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", a.Name, err)
		}
	}
	return nil
}

// setVXLAN makes the VXLAN device anew unless it is as it should be.
func (s *segment) setVXLAN(host *rtnl.Handle, links map[string]rtnl.Link) error {
	s.vxlan = 0
	for name, l := range links {
		if v, ok := l.(*rtnl.Vxlan); ok && (name != s.net.vxlanName() || !s.isRight(v)) {
			if err := s.handle.LinkDel(v); err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("remove link %s: %w", name, err)
			}
			delete(links, name)
		}
	}
	if s.net.VNI == 0 {
		return nil
	}
	link := links[s.net.vxlanName()]
	if link == nil {
		if err := s.addVXLAN(host); err != nil {
			return err
		}
		var err error
		if link, err = s.handle.LinkByName(s.net.vxlanName()); err != nil {
			return fmt.Errorf("find VXLAN device: %w", err)
		}
	}
	s.vxlan = link.Attrs().Index
	if link.Attrs().MasterIndex != s.bridge {
		if err := s.handle.LinkSetMasterByIndex(link, s.bridge); err != nil {
			return fmt.Errorf("put %s on the bridge: %w", s.net.vxlanName(), err)
		}
	}
	if err := s.handle.LinkSetLearning(link, false); err != nil {
		return fmt.Errorf("stop %s from learning: %w", s.net.vxlanName(), err)
	}
	return s.raise(link)
}

func (s *segment) isRight(v *rtnl.Vxlan) bool {
	src, _ := netip.AddrFromSlice(v.SrcAddr)
	return v.VxlanId == int(s.net.VNI) && v.Port == int(s.net.Port) &&
		src.Unmap() == s.net.VTEP && v.Proxy && !v.Learning
}

// The kernel removes links of ended namespaces later, at its leisure.
const (
	vniFreeWithin = 2 * time.Second
	vniRetry      = 10 * time.Millisecond
)

// addVXLAN makes the device in the network's namespace by a socket of the
// host's: its packets come and go in the host's namespace.
func (s *segment) addVXLAN(host *rtnl.Handle) error {
	ns, err := vns.GetFromPath(s.path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	dev := &rtnl.Vxlan{
		LinkAttrs: rtnl.LinkAttrs{Name: s.net.vxlanName(), MTU: s.net.mtu(), Namespace: rtnl.NsFd(int(ns))},
		VxlanId:   int(s.net.VNI), SrcAddr: s.net.VTEP.AsSlice(), Port: int(s.net.Port), Proxy: true,
	}
	for end := time.Now().Add(vniFreeWithin); ; time.Sleep(vniRetry) {
		err := host.LinkAdd(dev)
		switch {
		case err == nil:
			s.taken = false
			return nil
		case !errors.Is(err, unix.EEXIST):
			return fmt.Errorf("make VXLAN device: %w", err)
		case s.taken || time.Now().After(end):
			s.taken = true
			return fault.New(fault.InUse, "make VXLAN device of network %s: another program on this node uses VXLAN id %d on UDP port %d", s.net.ID, s.net.VNI, s.net.Port).
				WithTry("ip -d link show type vxlan")
		}
	}
}

// remove takes the network out of the kernel, also one that nothing else is
// known of.
func (s *segment) remove() error {
	if s.handle == nil && netns.Exists(s.path) {
		h, err := netns.Handle(s.path)
		if err != nil {
			return err
		}
		defer h.Close()
		if err := s.removeLinks(h); err != nil {
			return err
		}
	}
	if err := s.leave(); err != nil {
		return err
	}
	return netns.Remove(s.path)
}

// removeLinks does not wait for the kernel to end the namespace.
func (s *segment) removeLinks(h *rtnl.Handle) error {
	links, err := netns.Whole(h.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if _, leaves := s.leaving[l.Attrs().Name]; leaves || l.Type() != "vxlan" && !isCable(l) {
			continue
		}
		if err := h.LinkDel(l); err != nil && !isGone(err) {
			return fmt.Errorf("remove link %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// linksIntact compares the namespace's links with what they should be.
func (s *segment) linksIntact() (bool, error) {
	if s.handle == nil || s.inode != inodeOf(s.path) {
		return false, nil
	}
	links, err := s.linksByName()
	if err != nil {
		return false, err
	}
	bridge := links[BridgeName]
	if bridge == nil || bridge.Attrs().Index != s.bridge || !s.isRaised(bridge) || !s.cablesIntact(links) {
		return false, nil
	}
	if s.net.VNI == 0 {
		return true, nil
	}
	v, ok := links[s.net.vxlanName()].(*rtnl.Vxlan)
	return ok && v.Index == s.vxlan && s.isRight(v) && s.isPort(v), nil
}

// cablesIntact tells whether all cables are there, and no others.
func (s *segment) cablesIntact(links map[string]rtnl.Link) bool {
	for task := range s.links {
		if l := links[linkName(task)]; l == nil || !s.isPort(l) {
			return false
		}
	}
	count := 0
	for name, l := range links {
		if _, leaves := s.leaving[name]; !leaves && isCable(l) {
			count++
		}
	}
	return count == len(s.links)
}

func (s *segment) isRaised(l rtnl.Link) bool {
	return l.Attrs().Flags&net.FlagUp != 0 && l.Attrs().MTU == s.net.mtu()
}

func (s *segment) isPort(l rtnl.Link) bool {
	return l.Attrs().MasterIndex == s.bridge && s.isRaised(l)
}

// entriesIntact reads what the kernel has and compares it with what it should,
// where the links are as they should be.
func (s *segment) entriesIntact() (bool, error) {
	links, err := s.linksByName()
	if err != nil {
		return false, err
	}
	d, err := s.dump()
	if err != nil {
		return false, err
	}
	have, strange := d.forwards(s.vxlan)
	if len(strange) > 0 || !maps.Equal(have, s.forwards()) {
		return false, nil
	}
	for task, l := range s.links {
		if cable := links[linkName(task)]; cable == nil || d.ports[l.mac()] != cable.Attrs().Index {
			return false, nil
		}
	}
	return true, nil
}

func overlayDir(runDir string) string { return filepath.Join(runDir, "overlay") }
