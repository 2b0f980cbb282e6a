package overlay

import (
	"fmt"
	"net/netip"
	"slices"
)

// forward is how an address of another node's task is reached.
type forward struct {
	mac mac
	// vtep is where frames to mac go. It is set at a task's first address, which
	// mac is derived from, and nowhere else.
	vtep netip.Addr
}

func (f forward) text(addr netip.Addr) string {
	if !f.vtep.IsValid() {
		return fmt.Sprintf("neighbour %s is %s", addr, f.mac)
	}
	return fmt.Sprintf("neighbour %s is %s, by %s", addr, f.mac, f.vtep)
}

// claims tell which tasks say that an address is theirs, the latest last. There
// is more than one while a new task has the address already and the news that
// the old one is gone is still on its way.
type claims map[netip.Addr][]string

func (c claims) add(addr netip.Addr, task string) {
	c.remove(addr, task)
	c[addr] = append(c[addr], task)
}

func (c claims) remove(addr netip.Addr, task string) {
	left := slices.DeleteFunc(c[addr], func(t string) bool { return t == task })
	if len(left) == 0 {
		delete(c, addr)
		return
	}
	c[addr] = left
}

// putRemote takes in where a task is, and returns the addresses that it touches.
func (s *segment) putRemote(task string, r Remote) []netip.Addr {
	touched := s.removeRemote(task)
	s.remotes[task] = r
	for _, addr := range r.Addresses {
		s.claims.add(addr, task)
	}
	return append(touched, r.Addresses...)
}

func (s *segment) removeRemote(task string) []netip.Addr {
	before := s.remotes[task]
	delete(s.remotes, task)
	for _, addr := range before.Addresses {
		s.claims.remove(addr, task)
	}
	return slices.Clone(before.Addresses)
}

// addLink takes in a cable, and returns the addresses that it touches.
func (s *segment) addLink(l Link) []netip.Addr {
	touched := s.removeLink(l.Task)
	s.links[l.Task] = l
	for _, p := range l.Addresses {
		s.local.add(p.Addr(), l.Task)
		touched = append(touched, p.Addr())
	}
	return touched
}

func (s *segment) removeLink(task string) (touched []netip.Addr) {
	for _, p := range s.links[task].Addresses {
		s.local.remove(p.Addr(), task)
		touched = append(touched, p.Addr())
	}
	delete(s.links, task)
	return touched
}

// forward is where the latest claim to an address leads. A task of this node
// has its address whatever others say.
func (s *segment) forward(addr netip.Addr) (f forward, ok bool) {
	tasks := s.claims[addr]
	if s.net.VNI == 0 || len(tasks) == 0 || len(s.local[addr]) > 0 {
		return f, false
	}
	r := s.remotes[tasks[len(tasks)-1]]
	f.mac = macOf(r.Addresses[0])
	if addr == r.Addresses[0] {
		f.vtep = r.VTEP
	}
	return f, true
}

// forwards is forward of all addresses.
func (s *segment) forwards() map[netip.Addr]forward {
	out := make(map[netip.Addr]forward, len(s.claims))
	for addr := range s.claims {
		if f, ok := s.forward(addr); ok {
			out[addr] = f
		}
	}
	return out
}
