package network

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/network/dns"
	"github.com/minid/minid/network/mesh"
	"github.com/minid/minid/network/overlay"
	"github.com/minid/minid/network/vip"
	"github.com/minid/minid/network/wireguard"
)

// The parts as they are named in logs and reasons.
const (
	partOverlay   = "overlay"
	partMesh      = "mesh"
	partWireGuard = "wireguard"
)

// apply makes the kernel follow what changed since it was last called.
func (e *Engine) apply() {
	e.kernel.Lock()
	defer e.kernel.Unlock()
	e.flush()
}

// flush is apply for those who hold the kernel.
func (e *Engine) flush() {
	var d Dirty
	var c changes
	told := false
	e.view(func(s *State) {
		if told = e.told; told {
			d = s.Take()
			c = s.changes(d)
		}
	})
	if !told || !d.Any() {
		return
	}
	if d.Resync {
		e.setAll()
	} else {
		e.change(d, c)
	}
	for network, addrs := range c.gone {
		e.forget(network, addrs)
	}
	e.flowsChanged()
}

// change tells the parts piece by piece. A part that fails is set whole by the
// next check.
func (e *Engine) change(d Dirty, c changes) {
	if d.Peers {
		e.setPeers()
	}
	if d.Encryption {
		e.note(partWireGuard, e.setWireGuard())
	}
	for network, r := range c.remotes {
		e.changeRemotes(network, r.put, nil)
	}
	for network, z := range c.zones {
		e.dns.Change(network, z.put, z.remove)
	}
	for network, v := range c.balances {
		e.changeBalancers(network, v)
	}
	if len(c.ports.put)+len(c.ports.remove) > 0 {
		e.note(partMesh, e.mesh.Change(c.ports.put, c.ports.remove))
	}
	// Last, for to a task that the overlay does not know the kernel says at once
	// that there is no way.
	for network, r := range c.remotes {
		e.changeRemotes(network, nil, r.remove)
	}
}

func (e *Engine) changeRemotes(network string, put map[string]overlay.Remote, remove []string) {
	if e.made[network] && len(put)+len(remove) > 0 {
		e.note(partOverlay, e.overlay.Change(network, put, remove))
	}
}

func (e *Engine) localsOn(network string) (ids []string) {
	e.view(func(s *State) {
		if seg := s.networks[network]; seg != nil {
			ids = slices.Sorted(maps.Keys(seg.locals))
		}
	})
	return ids
}

// note remembers that a part is not as it should be, and logs it once.
func (e *Engine) note(part string, err error) {
	before := e.broken[part]
	if err == nil {
		return
	}
	e.broken[part] = err
	if before == nil || before.Error() != err.Error() {
		e.cfg.Logger.Error("a part of the network is not as it should be; it is tried again", "part", part, "err", err)
	}
}

// mended forgets that a part was broken.
func (e *Engine) mended(part string, err error) {
	if err == nil {
		delete(e.broken, part)
		return
	}
	e.note(part, err)
}

// atOnce is how many tasks' namespaces are changed at a time: each has rules of
// its own, behind a lock of its own.
const atOnce = 4

// each calls f with the numbers below n, some at a time.
func each(n int, f func(i int)) {
	var running sync.WaitGroup
	var next atomic.Int64
	for range min(n, atOnce) {
		running.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	running.Wait()
}

// changeBalancers tells the tasks on a network where its virtual addresses lead.
func (e *Engine) changeBalancers(network string, v *vipChange) {
	ids := slices.DeleteFunc(e.localsOn(network), func(id string) bool { return e.balancers[id] == nil })
	errs := make([]error, len(ids))
	each(len(ids), func(i int) { errs[i] = e.balancers[ids[i]].Change(v.put, v.remove) })
	for i, err := range errs {
		e.note(ids[i], err)
	}
}

// setAll sets every part whole.
func (e *Engine) setAll() {
	e.mended(partWireGuard, e.setWireGuard())
	var overlay error
	var beside sync.WaitGroup
	beside.Go(func() { overlay = e.setOverlay() })
	e.setNames()
	e.setTasks()
	beside.Wait()
	e.mended(partOverlay, overlay)
	e.mended(partMesh, e.setMesh())
}

// setTasks sets what is in the tasks' own namespaces.
func (e *Engine) setTasks() {
	var locals map[string]*Local
	e.view(func(s *State) { locals = s.Locals() })
	ids := slices.Sorted(maps.Keys(locals))
	wanted := map[string]vip.Wanted{} // by the networks that tasks have in common
	errs := make([]error, len(ids))
	for i, id := range ids {
		l := locals[id]
		if _, known := wanted[l.networks()]; !known {
			e.view(func(s *State) { wanted[l.networks()] = s.VIPs(l) })
		}
		_, errs[i] = e.balancer(l)
	}
	each(len(ids), func(i int) {
		if l := locals[ids[i]]; errs[i] == nil {
			errs[i] = e.fill(l, wanted[l.networks()])
		}
	})
	for i, err := range errs {
		e.mended(ids[i], err)
	}
}

// networks of a task, in their order.
func (l *Local) networks() string {
	ids := make([]string, len(l.GetAddresses()))
	for i, a := range l.GetAddresses() {
		ids[i] = a.GetNetworkId()
	}
	return strings.Join(ids, " ")
}

func (e *Engine) setOverlay() error {
	var w overlay.Wanted
	e.view(func(s *State) { w = s.Overlay() })
	err := e.overlay.Set(w)
	if err == nil {
		clear(e.made)
		for id := range w.Networks {
			e.made[id] = true
		}
	}
	return err
}

func (e *Engine) setMesh() error {
	var w mesh.Wanted
	ok := false
	e.view(func(s *State) { w, ok = s.Mesh(e.bridge.Wanted().Pool) })
	if !ok {
		return e.mesh.Destroy()
	}
	return e.mesh.Set(w)
}

func (e *Engine) setWireGuard() error {
	var w *wireguard.Wanted
	e.view(func(s *State) { w = s.WireGuard() })
	return e.wireguard.Set(w)
}

func (e *Engine) setNames() {
	var zones map[string]map[string]dns.Service
	e.view(func(s *State) { zones = s.Zones() })
	e.dns.Set(zones)
}

// setPeers takes in that nodes came or went that no endpoint is on.
func (e *Engine) setPeers() {
	var vxlan []netip.Addr
	var numbers map[uint32]netip.Addr
	ready := false
	e.view(func(s *State) {
		vxlan, numbers = s.vxlanPeers(), s.meshPeers()
		_, ready = s.Mesh(e.bridge.Wanted().Pool)
	})
	e.note(partOverlay, e.overlay.SetPeers(vxlan))
	if ready {
		e.note(partMesh, e.mesh.SetPeers(numbers))
	}
}

// plug connects a task that has its namespace with its networks, balancers and
// name server.
func (e *Engine) plug(l *Local) error {
	if err := e.bridge.SetInternal(l.GetTaskId(), e.isInternal(l)); err != nil {
		return err
	}
	if err := e.ensureNetworks(l); err != nil {
		return err
	}
	var links []overlay.Link
	e.view(func(s *State) { links = s.links(l) })
	for _, link := range links {
		if err := e.overlay.Plug(link); err != nil {
			return fmt.Errorf("connect to network %s: %w", link.Network, err)
		}
	}
	return e.setTask(l)
}

func (e *Engine) isInternal(l *Local) (internal bool) {
	e.view(func(s *State) { internal = s.internal(l) })
	return internal
}

// ensureNetworks makes those networks of a task that it is the first on.
func (e *Engine) ensureNetworks(l *Local) error {
	encrypted := false
	for _, a := range l.GetAddresses() {
		if e.made[a.GetNetworkId()] {
			continue
		}
		n, err := e.makeNetwork(a.GetNetworkId())
		if err != nil {
			return err
		}
		encrypted = encrypted || n.Encrypted
	}
	if encrypted {
		return e.setWireGuard()
	}
	return nil
}

func (e *Engine) makeNetwork(id string) (overlay.Network, error) {
	var n overlay.Network
	var remotes map[string]overlay.Remote
	var names []dns.Service
	ready := false
	e.view(func(s *State) {
		seg := s.segment(id)
		n, ready = s.overlayOf(seg.assigned)
		remotes = s.remotes(seg)
		for service := range seg.services {
			z, _ := s.zone(seg, service)
			names = append(names, z)
		}
	})
	if !ready {
		return n, fault.New(fault.Unavailable, "make network %s: this node has no address for its traffic yet", id)
	}
	if err := e.overlay.SetNetwork(n, remotes); err != nil {
		return n, fmt.Errorf("make network %s: %w", id, err)
	}
	e.made[id] = true
	e.dns.Change(id, names, nil)
	return n, nil
}

// setTask sets what is in a task's own namespace.
func (e *Engine) setTask(l *Local) error {
	if _, err := e.balancer(l); err != nil {
		return err
	}
	var wanted vip.Wanted
	e.view(func(s *State) { wanted = s.VIPs(l) })
	return e.fill(l, wanted)
}

// fill is setTask for a task that has its balancer.
func (e *Engine) fill(l *Local, wanted vip.Wanted) error {
	if b := e.balancers[l.GetTaskId()]; b != nil {
		if err := b.Set(wanted); err != nil {
			return fmt.Errorf("balance virtual addresses: %w", err)
		}
	}
	var named dns.Task
	e.view(func(s *State) { named = s.nameTask(l) })
	return e.dns.Open(named)
}

// balancer of a task; tasks without networks reach no virtual address.
func (e *Engine) balancer(l *Local) (*vip.Balancer, error) {
	b := e.balancers[l.GetTaskId()]
	if b != nil || len(l.GetAddresses()) == 0 {
		return b, nil
	}
	b, err := vip.Open(l.Netns)
	if err != nil {
		return nil, fmt.Errorf("open balancer: %w", err)
	}
	e.balancers[l.GetTaskId()] = b
	return b, nil
}

// closeBalancer must come before the namespace can end.
func (e *Engine) closeBalancer(id string) error {
	delete(e.broken, id)
	b := e.balancers[id]
	if b == nil {
		return nil
	}
	delete(e.balancers, id)
	return b.Close()
}

// dropUnused removes the networks that a task was the last one on.
func (e *Engine) dropUnused(l *Local) {
	for _, a := range l.GetAddresses() {
		id, used := a.GetNetworkId(), false
		var names []string
		e.view(func(s *State) {
			if used = s.Used(id); !used && s.networks[id] != nil {
				names = slices.Collect(maps.Keys(s.networks[id].services))
			}
		})
		if used || !e.made[id] {
			continue
		}
		e.note(partOverlay, e.overlay.DropNetwork(id))
		e.dns.Change(id, nil, names)
		delete(e.made, id)
	}
	e.note(partWireGuard, e.setWireGuard())
}

// sweep clears away what left the balancers a while ago.
func (e *Engine) sweep() {
	e.kernel.Lock()
	defer e.kernel.Unlock()
	for id, b := range e.balancers {
		e.note(id, b.Sweep())
	}
	e.note(partMesh, e.mesh.Sweep())
	e.note(partOverlay, e.overlay.Sweep())
}

// check compares the kernel with what it should be and mends what is not: the
// host's parts each time, the tasks' namespaces in turns.
func (e *Engine) check() {
	e.kernel.Lock()
	defer e.kernel.Unlock()
	told := false
	e.view(func(*State) { told = e.told })
	if !told {
		return
	}
	e.checkPart(partWireGuard, e.wireguard.Check, e.setWireGuard)
	e.checkPart(partOverlay, e.overlay.Check, e.setOverlay)
	e.checkPart(partMesh, e.mesh.Check, e.setMesh)
	defer e.flowsChanged()
	for _, l := range e.nextTasks() {
		e.checkPart(l.GetTaskId(), func() (bool, error) { return e.taskIntact(l) }, func() error { return e.setTask(l) })
	}
}

func (e *Engine) checkPart(part string, check func() (bool, error), set func() error) {
	if e.broken[part] == nil {
		intact, err := check()
		if intact && err == nil {
			return
		}
		if err != nil {
			e.cfg.Logger.Warn("cannot tell how a part of the network is; setting it anew", "part", part, "err", err)
		} else {
			e.cfg.Logger.Warn("someone else changed a part of the network; repairing it", "part", part)
		}
	}
	e.mended(part, set())
}

func (e *Engine) taskIntact(l *Local) (bool, error) {
	if b := e.balancers[l.GetTaskId()]; b != nil {
		if intact, err := b.Check(); !intact || err != nil {
			return false, err
		}
	}
	return e.dns.Check(l.GetTaskId())
}

// nextTasks returns the broken ones, and as many others as make one round of
// all in checkTasksEvery.
func (e *Engine) nextTasks() []*Local {
	var locals map[string]*Local
	e.view(func(s *State) { locals = s.Locals() })
	rounds := int(checkTasksEvery / checkEvery)
	quota := (len(locals) + rounds - 1) / rounds
	var out []*Local
	for _, id := range slices.Sorted(maps.Keys(locals)) {
		switch {
		case e.broken[id] != nil:
			out = append(out, locals[id])
		case !e.checked[id] && quota > 0:
			quota--
			e.checked[id] = true
			out = append(out, locals[id])
		}
	}
	if quota > 0 {
		clear(e.checked)
	}
	return out
}
