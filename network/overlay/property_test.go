package overlay

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rtnl "github.com/vishvananda/netlink"

	"github.com/minid/minid/network/netns"
)

// TestChangesEndAsSet: whatever was changed, repaired and restarted on the way,
// the kernel ends as a fresh one does of which the same is wanted.
func TestChangesEndAsSet(t *testing.T) {
	runs := 12
	if testing.Short() {
		runs = 3
	}
	for range runs {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			hosts := underlay(t, 2)
			w := &walk{rand: rand.New(rand.NewPCG(seed, 0)), host: hosts[0], Wanted: Wanted{Networks: map[string]Network{}, Remotes: remotes{}}}
			for range 25 {
				w.step(t)
			}
			w.host.mustBeIntact()
			got := w.host.kernel(t)
			final := w.Wanted
			final.Links = nil
			for _, l := range w.Links {
				l.Netns = hosts[1].task(l.Task)
				final.Links = append(final.Links, l)
			}
			hosts[1].run(func() error { return hosts[1].Set(final) })
			if diff := cmp.Diff(hosts[1].kernel(t), got); diff != "" {
				t.Errorf("after %s: %s", strings.Join(w.done, ", "), diff)
			}
		})
	}
}

// walk changes a host at random and keeps what it should be.
type walk struct {
	rand *rand.Rand
	host *host
	Wanted
	done []string
}

func (w *walk) step(t *testing.T) {
	t.Helper()
	actions := []struct {
		name string
		do   func() error
	}{
		{"network", w.setNetwork}, {"network", w.setNetwork}, {"drop", w.dropNetwork},
		{"plug", w.plug}, {"plug", w.plug}, {"unplug", w.unplug},
		{"change", w.change}, {"change", w.change}, {"change", w.change}, {"peers", w.setPeers},
		{"set", w.set}, {"restart", w.restart}, {"damage", w.damage},
	}
	a := actions[w.rand.IntN(len(actions))]
	w.done = append(w.done, a.name)
	if err := netns.Do(w.host.netns, a.do); err != nil {
		t.Fatalf("%v: %v", w.done, err)
	}
}

func (w *walk) anyNetwork() (string, bool) {
	ids := sortedKeys(w.Networks)
	if len(ids) == 0 {
		return "", false
	}
	return ids[w.rand.IntN(len(ids))], true
}

func (w *walk) setNetwork() error {
	number := w.rand.IntN(3)
	n := network(fmt.Sprint("net", number), uint32(4096+number*w.rand.IntN(2)))
	n.VNI += uint32(10 * number)
	n.MTU = 1400 + w.rand.IntN(2)*50
	n.Port += uint16(w.rand.IntN(2))
	n.Encrypted = w.rand.IntN(3) == 0
	if w.rand.IntN(6) == 0 {
		n = Network{ID: n.ID}
	}
	w.Networks[n.ID] = n
	w.Remotes[n.ID] = w.someRemotes(number)
	return w.host.SetNetwork(n, maps.Clone(w.Remotes[n.ID]))
}

// someRemotes have an address each, so that no two are at one.
func (w *walk) someRemotes(network int) map[string]Remote {
	out := map[string]Remote{}
	for i := range 6 {
		if w.rand.IntN(2) == 0 {
			out[fmt.Sprint("remote", i)] = w.someRemote(network, i)
		}
	}
	return out
}

func (w *walk) someRemote(network, i int) Remote {
	list := []string{fmt.Sprintf("10.0.%d.%d", network, 100+i)}
	if w.rand.IntN(2) == 0 {
		list = append(list, fmt.Sprintf("fd0%d::%d", network, 100+i))
	}
	return remote(fmt.Sprint("192.0.2.", 50+w.rand.IntN(3)), list...)
}

func (w *walk) dropNetwork() error {
	id, ok := w.anyNetwork()
	if !ok {
		return nil
	}
	delete(w.Networks, id)
	delete(w.Remotes, id)
	w.Links = slices.DeleteFunc(w.Links, func(l Link) bool { return l.Network == id })
	return w.host.DropNetwork(id)
}

func (w *walk) plug() error {
	id, ok := w.anyNetwork()
	if !ok {
		return nil
	}
	i, number := w.rand.IntN(3), int(id[len(id)-1]-'0')
	l := w.host.link(fmt.Sprint("task", i), id, number+1, fmt.Sprintf("10.0.%d.%d/24", number, 2+i))
	if w.rand.IntN(2) == 0 {
		l.Addresses = append(l.Addresses, netip.MustParsePrefix(fmt.Sprintf("fd0%d::%d/64", number, 2+i)))
	}
	if w.rand.IntN(4) == 0 { // the address of a remote, which wins
		l.Addresses[0] = netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/24", number, 100+i))
	}
	w.Links = slices.DeleteFunc(w.Links, func(o Link) bool { return o.Network == id && o.Task == l.Task })
	w.Links = append(w.Links, l)
	return w.host.Plug(l)
}

func (w *walk) unplug() error {
	task := fmt.Sprint("task", w.rand.IntN(3))
	w.Links = slices.DeleteFunc(w.Links, func(o Link) bool { return o.Task == task })
	return w.host.Unplug(task)
}

func (w *walk) change() error {
	id, ok := w.anyNetwork()
	if !ok {
		return nil
	}
	number := int(id[len(id)-1] - '0')
	put, gone := map[string]Remote{}, []string(nil)
	for i := range 6 {
		task := fmt.Sprint("remote", i)
		switch w.rand.IntN(3) {
		case 0:
			put[task] = w.someRemote(number, i)
			w.Remotes[id][task] = put[task]
		case 1:
			gone = append(gone, task)
			delete(w.Remotes[id], task)
		}
	}
	return w.host.Change(id, put, gone)
}

func (w *walk) setPeers() error {
	w.Peers = nil
	for i := range 5 {
		if w.rand.IntN(2) == 0 {
			w.Peers = append(w.Peers, netip.AddrFrom4([4]byte{192, 0, 2, byte(50 + i)}))
		}
	}
	return w.host.SetPeers(w.Peers)
}

func (w *walk) set() error { return w.host.Set(w.Wanted) }

func (w *walk) restart() (err error) {
	w.host.Close()
	if w.host.Overlay, err = Open(Config{RunDir: w.host.dir}); err != nil {
		return err
	}
	return w.set()
}

func (w *walk) damage() error {
	id, ok := w.anyNetwork()
	if !ok {
		return nil
	}
	if w.rand.IntN(4) == 0 {
		if err := netns.Remove(w.host.Path(id)); err != nil {
			return err
		}
		return w.set()
	}
	err := netns.Do(w.host.Path(id), func() error {
		links, err := rtnl.LinkList()
		if err != nil || len(links) == 0 {
			return err
		}
		victim := links[w.rand.IntN(len(links))]
		if victim.Attrs().Name == "lo" {
			return nil
		}
		return rtnl.LinkDel(victim)
	})
	if err != nil {
		return err
	}
	return w.set()
}

// kernel is what a host has of this package, as text without indices.
func (h *host) kernel(t *testing.T) []string {
	t.Helper()
	var out []string
	h.run(func() error {
		elements, err := h.elements()
		out = append(out, elements...)
		return err
	})
	paths := map[string]string{}
	for _, id := range sortedKeys(h.segments) {
		paths[id] = h.Path(id)
		for task := range h.segments[id].links {
			paths[task] = h.task(task)
		}
	}
	for _, name := range sortedKeys(paths) {
		must(t, netns.Do(paths[name], func() error {
			list, err := describe(name)
			out = append(out, list...)
			return err
		}))
	}
	slices.Sort(out)
	return out
}

func (h *host) elements() ([]string, error) {
	intact, err := h.tableIntact()
	if !intact {
		return nil, fmt.Errorf("table is not as written: %v", err)
	}
	var out []string
	for _, s := range sets() {
		for _, key := range h.Overlay.table[s.name] {
			out = append(out, s.name+" "+s.text(key))
		}
	}
	return out, nil
}

// describe writes down the links, addresses and neighbours of a namespace.
func describe(where string) ([]string, error) {
	links, err := rtnl.LinkList()
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var out []string
	for _, l := range links {
		a := l.Attrs()
		line := fmt.Sprintf("%s %s %s mtu %d up %t master %q", where, l.Type(), a.Name, a.MTU, a.Flags&net.FlagUp != 0, names[a.MasterIndex])
		if v, ok := l.(*rtnl.Vxlan); ok {
			line += fmt.Sprintf(" id %d from %s:%d proxy %t learning %t", v.VxlanId, v.SrcAddr, v.Port, v.Proxy, v.Learning)
		}
		if strings.HasPrefix(a.Name, "eth") {
			line += " " + a.HardwareAddr.String()
		}
		out = append(out, line)
		list, err := rtnl.AddrList(l, rtnl.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, addr := range list {
			if !addr.IP.IsLinkLocalUnicast() {
				out = append(out, fmt.Sprintf("%s %s addr %s", where, a.Name, addr.IPNet))
			}
		}
	}
	for _, family := range []int{rtnl.FAMILY_V4, rtnl.FAMILY_V6, 7} {
		list, err := rtnl.NeighList(0, family)
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			isMulticast := len(n.HardwareAddr) > 0 && n.HardwareAddr[0]&1 != 0
			isOwn := n.State == rtnl.NUD_PERMANENT && n.MasterIndex != 0 // a random address of a bridge or veth
			if n.State&(rtnl.NUD_PERMANENT|rtnl.NUD_NOARP) != 0 && !isMulticast && !isOwn {
				out = append(out, fmt.Sprintf("%s %s neighbour %s %s state %d flags %d", where, names[n.LinkIndex], n.IP, n.HardwareAddr, n.State, n.Flags))
			}
		}
	}
	return out, nil
}
