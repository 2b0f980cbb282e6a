package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	rtnl "github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"

	"github.com/minid/minid/network/netns"
	"github.com/minid/minid/network/nft"
)

// Kernel makes the network namespace of this process as wanted. One Kernel
// serves one namespace; calls must not overlap.
type Kernel struct {
	// What Set last made; empty until the first Set looked.
	known  bool
	pool   netip.Prefix
	bridge int
	tasks  map[string]Endpoint
	ports  map[hostPort]backend
	inside map[netip.Addr]bool
	// generation of the namespace's rules when the tables were last compared and
	// found right; 0: not since they changed.
	generation uint32
}

// Set makes the kernel's state as wanted. Only differences to the last Set cost
// kernel calls, except for the first and after Forget: these look at all that
// is there, mend it and delete what is not wanted.
func (k *Kernel) Set(w Wanted) error {
	if !k.known || k.pool != w.Pool {
		if err := k.base(w); err != nil {
			k.Forget()
			return err
		}
	}
	wanted := make(map[string]Endpoint, len(w.Tasks))
	for _, t := range w.Tasks {
		wanted[t.ID] = t
	}
	var errs []error
	for id, t := range k.tasks {
		if now, ok := wanted[id]; !ok || now.Address != t.Address || now.Netns != t.Netns {
			errs = append(errs, k.unplug(t))
		}
	}
	for id, t := range wanted {
		if _, ok := k.tasks[id]; !ok {
			errs = append(errs, k.plug(w, t))
		}
	}
	if err := errors.Join(k.setInside(w.inside()), k.setPorts(w.published())); err != nil {
		k.Forget() // what was committed is not known: look again next time
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Forget makes the next Set look at everything.
func (k *Kernel) Forget() { *k = Kernel{} }

// base makes bridge and table anew where they are not right, and finds out
// which tasks are plugged in.
func (k *Kernel) base(w Wanted) error {
	k.Forget()
	link, err := ensureBridge(w)
	if err != nil {
		return err
	}
	for name, value := range map[string]string{
		"ip_forward": "1", "conf/" + LinkName + "/route_localnet": "1",
	} {
		if err := setSysctl(name, value); err != nil {
			return err
		}
	}
	plugged, err := pluggedTasks(w, link.Attrs().Index)
	if err != nil {
		return err
	}
	k.known, k.pool, k.bridge, k.tasks = true, w.Pool, link.Attrs().Index, plugged
	return k.loadTable(w)
}

func ensureBridge(w Wanted) (rtnl.Link, error) {
	link, err := rtnl.LinkByName(LinkName)
	if errors.As(err, &rtnl.LinkNotFoundError{}) {
		err = rtnl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{
			Name: LinkName, Flags: net.FlagUp, HardwareAddr: mac(w.Gateway().Addr()),
		}})
		if err == nil {
			link, err = rtnl.LinkByName(LinkName)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make bridge %s: %w", LinkName, err)
	}
	addrs, err := netns.Whole(func() ([]rtnl.Addr, error) { return rtnl.AddrList(link, rtnl.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", LinkName, err)
	}
	// A bridge that was given none takes the lowest hardware address of its cables:
	// it would change when that cable goes, and tasks would send into the void until
	// they ask for it again.
	if hw := mac(w.Gateway().Addr()); !bytes.Equal(link.Attrs().HardwareAddr, hw) {
		if err := rtnl.LinkSetHardwareAddr(link, hw); err != nil {
			return nil, fmt.Errorf("give %s its hardware address: %w", LinkName, err)
		}
	}
	gateway := w.Gateway().String()
	have := false
	for _, a := range addrs {
		if a.IPNet.String() == gateway {
			have = true
		} else if err := rtnl.AddrDel(link, &a); err != nil {
			return nil, fmt.Errorf("remove address of %s: %w", LinkName, err)
		}
	}
	if !have {
		addr, err := rtnl.ParseAddr(gateway)
		if err == nil {
			err = rtnl.AddrAdd(link, addr)
		}
		if err != nil {
			return nil, fmt.Errorf("give %s its address: %w", LinkName, err)
		}
	}
	if err := rtnl.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set %s up: %w", LinkName, err)
	}
	return link, nil
}

func setSysctl(name, value string) error {
	path := filepath.Join("/proc/sys/net/ipv4", name)
	if have, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(have)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set net.ipv4.%s: %w", strings.ReplaceAll(name, "/", "."), err)
	}
	return nil
}

// pluggedTasks finds the wanted tasks that have their cable, and cuts the
// cables of others.
func pluggedTasks(w Wanted, bridge int) (map[string]Endpoint, error) {
	links, err := netns.Whole(rtnl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	byName := make(map[string]Endpoint, len(w.Tasks))
	for _, t := range w.Tasks {
		byName[hostLink(t.ID)] = t
	}
	out := make(map[string]Endpoint)
	for _, l := range links {
		if l.Type() != "veth" || l.Attrs().MasterIndex != bridge || !strings.HasPrefix(l.Attrs().Name, linkPrefix) {
			continue
		}
		if t, ok := byName[l.Attrs().Name]; ok && inNamespace(t) {
			if err := connectCable(l); err != nil {
				return nil, err
			}
			out[t.ID] = t
		} else if err := rtnl.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			return nil, fmt.Errorf("remove link %s: %w", l.Attrs().Name, err)
		}
	}
	return out, nil
}

// inNamespace reports whether a task's namespace is there and has its address.
func inNamespace(t Endpoint) bool {
	h, err := netns.Handle(t.Netns)
	if err != nil {
		return false
	}
	defer h.Close()
	link, err := h.LinkByName("eth0")
	if err != nil {
		return false
	}
	addrs, err := netns.Whole(func() ([]rtnl.Addr, error) { return h.AddrList(link, rtnl.FAMILY_V4) })
	return err == nil && len(addrs) == 1 && addrs[0].IP.String() == t.Address.String()
}

// plug makes a task's namespace where it is missing, and its cable.
func (k *Kernel) plug(w Wanted, t Endpoint) error {
	if err := netns.Ensure(t.Netns); err != nil {
		return err
	}
	ns, err := vns.GetFromPath(t.Netns)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	name := hostLink(t.ID)
	veth := &rtnl.Veth{
		LinkAttrs: rtnl.LinkAttrs{Name: name, MasterIndex: k.bridge},
		PeerName:  "eth0", PeerHardwareAddr: mac(t.Address), PeerNamespace: rtnl.NsFd(int(ns)),
	}
	err = rtnl.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) { // half made: begin anew
		if err = deleteLink(name); err == nil {
			err = rtnl.LinkAdd(veth)
		}
	}
	if err != nil {
		return fmt.Errorf("make link %s: %w", name, err)
	}
	if err = connectCable(veth); err == nil {
		err = configure(w, t, ns)
	}
	if err != nil {
		return errors.Join(err, deleteLink(name))
	}
	k.tasks[t.ID] = t
	return nil
}

// connectCable lets frames go back where they came from, which a task that
// reaches itself by a published port needs, and sets the cable up.
func connectCable(cable rtnl.Link) error {
	if err := rtnl.LinkSetHairpin(cable, true); err != nil {
		return fmt.Errorf("let link %s turn frames: %w", cable.Attrs().Name, err)
	}
	if err := rtnl.LinkSetUp(cable); err != nil {
		return fmt.Errorf("set link %s up: %w", cable.Attrs().Name, err)
	}
	return nil
}

// configure sets up the task's end.
func configure(w Wanted, t Endpoint, ns vns.NsHandle) error {
	h, err := rtnl.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0 of task: %w", err)
	}
	bits := w.Pool.Bits()
	addr := &rtnl.Addr{IPNet: &net.IPNet{IP: t.Address.AsSlice(), Mask: net.CIDRMask(bits, 32)}}
	if err := h.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("give task its address: %w", err)
	}
	lo := &rtnl.Device{LinkAttrs: rtnl.LinkAttrs{Index: 1, Name: "lo"}} // always 1
	for _, l := range []rtnl.Link{lo, link} {
		if err := h.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s of task up: %w", l.Attrs().Name, err)
		}
	}
	route := &rtnl.Route{LinkIndex: link.Attrs().Index, Gw: w.Gateway().Addr().AsSlice()}
	if err := h.RouteAdd(route); err != nil {
		return fmt.Errorf("give task its default route: %w", err)
	}
	return nil
}

// unplug ends a task's namespace. The kernel takes the cable with it, soon and
// many at a time, where to cut it here would wait for all processors each time.
func (k *Kernel) unplug(t Endpoint) error {
	if !netns.Exists(t.Netns) {
		if err := deleteLink(hostLink(t.ID)); err != nil {
			return err
		}
	}
	if err := netns.Remove(t.Netns); err != nil {
		return err
	}
	delete(k.tasks, t.ID)
	return nil
}

func deleteLink(name string) error {
	link, err := rtnl.LinkByName(name)
	if err == nil {
		err = rtnl.LinkDel(link)
	}
	if err != nil && !errors.As(err, &rtnl.LinkNotFoundError{}) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

func linkNames() (map[string]bool, error) {
	links, err := netns.Whole(rtnl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := make(map[string]bool, len(links))
	for _, l := range links {
		names[l.Attrs().Name] = true
	}
	return names, nil
}

// loadTable replaces the whole table in one transaction.
func (k *Kernel) loadTable(w Wanted) error {
	c, err := nft.Connect("")
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	for _, t := range []*nftables.Table{table(), frameTable()} {
		c.AddTable(t)
		c.DelTable(t) // adding first makes deleting succeed where there was none
		c.AddTable(t)
	}
	set := portMap()
	if err := c.AddSet(set, nil); err != nil {
		return fmt.Errorf("write port map: %w", err)
	}
	ports := w.published()
	if err := nft.Add(c, set, elementsOf(ports)); err != nil {
		return fmt.Errorf("write published ports: %w", err)
	}
	if err := c.AddSet(internalSet(), nil); err != nil {
		return fmt.Errorf("write set of internal tasks: %w", err)
	}
	inside := w.inside()
	if err := nft.Add(c, internalSet(), addresses(inside)); err != nil {
		return fmt.Errorf("write internal tasks: %w", err)
	}
	for _, ch := range w.chains() {
		added := c.AddChain(&nftables.Chain{Table: ch.table(), Name: ch.name, Type: ch.kind, Hooknum: ch.hookNum, Priority: ch.prioNum})
		for _, r := range ch.rules {
			c.AddRule(&nftables.Rule{Table: ch.table(), Chain: added, Exprs: r.exprs})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("load table %s: %w", TableName, err)
	}
	k.ports, k.inside = ports, inside
	return nil
}

func elementsOf(ports map[hostPort]backend) []nftables.SetElement {
	list := make([]nftables.SetElement, 0, len(ports))
	for key, to := range ports {
		list = append(list, element(key, to))
	}
	return list
}

// setPorts changes the elements that differ, in one transaction, then lets go
// of what conntrack remembers of them.
func (k *Kernel) setPorts(wanted map[hostPort]backend) error {
	added, removed := diffPorts(k.ports, wanted)
	if len(added)+len(removed) == 0 {
		return nil
	}
	c, err := nft.Connect("")
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	set := portMap()
	var gone []nftables.SetElement
	for key := range removed {
		gone = append(gone, nftables.SetElement{Key: element(key, removed[key]).Key})
	}
	if err := nft.Delete(c, set, gone); err != nil {
		return fmt.Errorf("remove published ports: %w", err)
	}
	if err := nft.Add(c, set, elementsOf(added)); err != nil {
		return fmt.Errorf("write published ports: %w", err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("change published ports: %w", err)
	}
	k.ports = wanted
	maps.Copy(removed, added)
	return forgetFlows(removed)
}

func addresses(set map[netip.Addr]bool) []nftables.SetElement {
	list := make([]nftables.SetElement, 0, len(set))
	for addr := range set {
		list = append(list, nftables.SetElement{Key: addr.AsSlice()})
	}
	return list
}

// setInside changes which tasks are internal.
func (k *Kernel) setInside(wanted map[netip.Addr]bool) error {
	if maps.Equal(k.inside, wanted) {
		return nil
	}
	c, err := nft.Connect("")
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	c.FlushSet(internalSet())
	if err := nft.Add(c, internalSet(), addresses(wanted)); err != nil {
		return fmt.Errorf("write internal tasks: %w", err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("change internal tasks: %w", err)
	}
	k.inside = wanted
	return nil
}

// diffPorts tells what to add and what to remove; a port that leads elsewhere
// is in both.
func diffPorts(have, want map[hostPort]backend) (added, removed map[hostPort]backend) {
	added, removed = make(map[hostPort]backend), make(map[hostPort]backend)
	for k, b := range have {
		if want[k] != b {
			removed[k] = b
		}
	}
	for k, b := range want {
		if have[k] != b {
			added[k] = b
		}
	}
	return added, removed
}

// Check reports whether the kernel still is as the last Set left it; someone
// else may have flushed rules or deleted links.
func (k *Kernel) Check() (bool, error) {
	if !k.known {
		return false, nil
	}
	if intact, err := k.tablesIntact(); !intact || err != nil {
		return false, err
	}
	return k.linksIntact()
}

// tablesIntact reads the tables only if anyone changed any rules since they were
// found right.
func (k *Kernel) tablesIntact() (bool, error) {
	s, err := nft.Dial("")
	if err != nil {
		return false, err
	}
	defer s.CloseLasting()
	generation, err := s.Generation()
	if err != nil {
		return false, err
	}
	if k.generation == generation {
		return true, nil
	}
	if !k.portsIntact(s.Conn) || !k.insideIntact(s.Conn) || !k.rulesIntact(s.Conn) {
		return false, nil
	}
	k.generation = generation
	return true, nil
}

func (k *Kernel) portsIntact(c *nftables.Conn) bool {
	elements, err := c.GetSetElements(portMap())
	if err != nil || len(elements) != len(k.ports) {
		return false
	}
	for _, e := range elements {
		if key, to, ok := parseElement(e); !ok || k.ports[key] != to {
			return false
		}
	}
	return true
}

func (k *Kernel) insideIntact(c *nftables.Conn) bool {
	elements, err := c.GetSetElements(internalSet())
	if err != nil || len(elements) != len(k.inside) {
		return false
	}
	return !slices.ContainsFunc(elements, func(e nftables.SetElement) bool {
		addr, _ := netip.AddrFromSlice(e.Key)
		return !k.inside[addr]
	})
}

func (k *Kernel) linksIntact() (bool, error) {
	links, err := netns.Whole(rtnl.LinkList)
	if err != nil {
		return false, fmt.Errorf("list links: %w", err)
	}
	up := make(map[string]bool, len(links))
	for _, l := range links {
		if a := l.Attrs(); a.Index == k.bridge || a.MasterIndex == k.bridge {
			up[a.Name] = a.Flags&net.FlagUp != 0
		}
		if a := l.Attrs(); a.Index == k.bridge && !bytes.Equal(a.HardwareAddr, mac(Wanted{Pool: k.pool}.Gateway().Addr())) {
			return false, nil
		}
	}
	if !up[LinkName] {
		return false, nil
	}
	for id := range k.tasks {
		if !up[hostLink(id)] {
			return false, nil
		}
	}
	return k.hasAddress()
}

// hasAddress reports whether the bridge is the tasks' gateway.
func (k *Kernel) hasAddress() (bool, error) {
	bridge := &rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Index: k.bridge}}
	addrs, err := netns.Whole(func() ([]rtnl.Addr, error) { return rtnl.AddrList(bridge, rtnl.FAMILY_V4) })
	if err != nil {
		return false, fmt.Errorf("list addresses of %s: %w", LinkName, err)
	}
	gateway := Wanted{Pool: k.pool}.Gateway().String()
	return len(addrs) == 1 && addrs[0].IPNet.String() == gateway, nil
}

func (k *Kernel) rulesIntact(c *nftables.Conn) bool {
	for _, ch := range (Wanted{Pool: k.pool}).chains() {
		rules, err := c.GetRules(ch.table(), &nftables.Chain{Table: ch.table(), Name: ch.name})
		if err != nil || len(rules) != len(ch.rules) {
			return false
		}
		for i, r := range ch.rules {
			if !nft.Same(ch.table().Family, r.exprs, rules[i].Exprs) {
				return false
			}
		}
	}
	return true
}

// Destroy removes everything of this package from the kernel.
func (k *Kernel) Destroy() error {
	var errs []error
	for _, t := range maps.Clone(k.tasks) {
		errs = append(errs, k.unplug(t))
	}
	if bridge, err := rtnl.LinkByName(LinkName); err == nil { // without waiting for the kernel
		_, err := pluggedTasks(Wanted{}, bridge.Attrs().Index)
		errs = append(errs, err)
	}
	errs = append(errs, deleteLink(LinkName))
	c, err := nft.Connect("")
	if err == nil {
		for _, t := range []*nftables.Table{table(), frameTable()} {
			c.AddTable(t)
			c.DelTable(t)
		}
		err = errors.Join(c.Flush(), c.CloseLasting())
	}
	k.Forget()
	return errors.Join(append(errs, err)...)
}
