package vip

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// grace is how long what was in use stays after a change: a packet that met the
// old number of backends may still draw a slot below it.
const grace = time.Second

// never is the time of what nobody sweeps.
var never time.Time

// image is what the table in the kernel holds. Its methods say which
// transactions lead from it to another state, and take that state on.
type image struct {
	services map[netip.Addr]*service
	// groups whose chain is there: how many services lead to it, and since when
	// none does.
	groups map[group]use
	// worn are the VIPs with slots left over.
	worn map[netip.Addr]bool
}

type use struct {
	services int
	left     time.Time
}

// service is what the table holds of one VIP.
type service struct {
	// known: the guard refuses what is not translated.
	known bool
	// count of the slots in use, 0 if the VIP leads nowhere.
	count int
	// slots lead to these; those from count on are left over. An invalid address
	// is a gap, which only a table has that others changed.
	slots []netip.Addr
	// left is when count last fell.
	left time.Time
}

func newImage() *image {
	return &image{
		services: make(map[netip.Addr]*service), groups: make(map[group]use), worn: make(map[netip.Addr]bool),
	}
}

// elements that a VIP has in the table.
func (s *service) elements(vip netip.Addr) (out []element) {
	f := familyOf(vip)
	if s.known {
		out = append(out, element{set: set{vips, f}, vip: vip})
	}
	if s.count > 0 {
		out = append(out, element{set: set{services, f}, vip: vip, count: s.count})
	}
	for i, to := range s.slots {
		if to.IsValid() {
			out = append(out, element{set: set{slots, f}, vip: vip, slot: i, to: to})
		}
	}
	return out
}

func (m *image) sortedGroups() []group {
	return slices.SortedFunc(maps.Keys(m.groups), func(a, b group) int {
		return cmp.Or(cmp.Compare(a.family, b.family), cmp.Compare(a.count, b.count))
	})
}

// transaction is what is committed at once.
type transaction struct {
	newChains, oldChains []group
	delete, add          []element
}

func (t *transaction) empty() bool {
	return len(t.newChains)+len(t.oldChains)+len(t.delete)+len(t.add) == 0
}

// change is what leads from one state of the table to another. It takes two
// transactions: were the number of a VIP's backends to change together with the
// slots, a packet that read the old number could miss its slot.
type change struct {
	first, second transaction
	// fresh are the VIPs that the table did not know, gone the backends that a
	// VIP no longer leads to.
	fresh map[netip.Addr]bool
	gone  map[netip.Addr]map[netip.Addr]bool
}

// set leads to w, and to nothing else. The image is the one that is changed,
// for chaining.
func (m *image) set(w Wanted, now time.Time) (*image, *change) {
	var remove []netip.Addr
	for vip := range m.services {
		if _, ok := w[vip]; !ok {
			remove = append(remove, vip)
		}
	}
	return m, m.change(w, remove, now)
}

// change leads the VIPs of put to other backends and forgets those of remove.
func (m *image) change(put Wanted, remove []netip.Addr, now time.Time) *change {
	c := &change{fresh: make(map[netip.Addr]bool), gone: make(map[netip.Addr]map[netip.Addr]bool)}
	for _, vip := range remove {
		if _, stays := put[vip]; !stays && m.services[vip] != nil {
			m.drop(c, vip, now)
		}
	}
	for _, vip := range put.sorted() {
		m.put(c, vip, put[vip], now)
	}
	return c
}

func (m *image) drop(c *change, vip netip.Addr, now time.Time) {
	s := m.services[vip]
	c.leave(vip, s.slots[:s.count], nil)
	m.lead(c, vip, 0, now)
	if s.known {
		s.known = false
		c.second.delete = append(c.second.delete, element{set: set{vips, familyOf(vip)}, vip: vip})
	}
	m.tidy(vip)
}

func (m *image) put(c *change, vip netip.Addr, backends []netip.Addr, now time.Time) {
	s := m.services[vip]
	if s == nil {
		s = &service{}
		m.services[vip] = s
	}
	f := familyOf(vip)
	if !s.known {
		s.known, c.fresh[vip] = true, true
		c.first.add = append(c.first.add, element{set: set{vips, f}, vip: vip})
	}
	c.leave(vip, s.slots[:s.count], backends)
	for i, to := range arrange(s.slots, backends) {
		if i == len(s.slots) {
			s.slots = append(s.slots, netip.Addr{})
		}
		e := element{set: set{slots, f}, vip: vip, slot: i, to: s.slots[i]}
		if e.to == to {
			continue
		}
		if e.to.IsValid() {
			c.first.delete = append(c.first.delete, e)
		}
		e.to, s.slots[i] = to, to
		c.first.add = append(c.first.add, e)
	}
	m.lead(c, vip, len(backends), now)
	m.tidy(vip)
}

// leave notes which backends a VIP leads to no longer.
func (c *change) leave(vip netip.Addr, before, after []netip.Addr) {
	for _, b := range before {
		if _, stays := slices.BinarySearchFunc(after, b, netip.Addr.Compare); stays || !b.IsValid() {
			continue
		}
		if c.gone[vip] == nil {
			c.gone[vip] = make(map[netip.Addr]bool)
		}
		c.gone[vip][b] = true
	}
}

// arrange gives each wanted backend, of a sorted list, a slot. One that has a slot below their
// number keeps it, so that a change costs what changes.
func arrange(have, want []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, len(want))
	placed := make([]bool, len(want))
	for i := range min(len(have), len(want)) {
		j, wanted := slices.BinarySearchFunc(want, have[i], netip.Addr.Compare)
		if wanted && !placed[j] {
			out[i], placed[j] = have[i], true
		}
	}
	next := 0
	for j, b := range want {
		if placed[j] {
			continue
		}
		for out[next].IsValid() {
			next++
		}
		out[next] = b
	}
	return out
}

// lead sends a VIP to the chain of its number of backends.
func (m *image) lead(c *change, vip netip.Addr, count int, now time.Time) {
	s, f := m.services[vip], familyOf(vip)
	if s.count == count {
		return
	}
	e := element{set: set{services, f}, vip: vip}
	if s.count > 0 {
		old := group{f, s.count}
		u := m.groups[old]
		u.services--
		u.left = now
		m.groups[old] = u
		e.count = s.count
		c.second.delete = append(c.second.delete, e)
	}
	if count > 0 {
		g := group{f, count}
		u, there := m.groups[g]
		if !there {
			c.first.newChains = append(c.first.newChains, g)
		}
		u.services++
		m.groups[g] = u
		e.count = count
		c.second.add = append(c.second.add, e)
	}
	if count < s.count {
		s.left = now
	}
	s.count = count
}

// tidy keeps the books of a VIP after it was changed.
func (m *image) tidy(vip netip.Addr) {
	s := m.services[vip]
	if len(s.slots) > s.count {
		m.worn[vip] = true
		return
	}
	delete(m.worn, vip)
	if !s.known {
		delete(m.services, vip)
	}
}

// sweep removes slots and chains that have been out of use for the grace.
func (m *image) sweep(now time.Time) (t transaction) {
	for vip := range m.worn {
		s := m.services[vip]
		if now.Sub(s.left) < grace {
			continue
		}
		for i, to := range s.slots[s.count:] {
			if to.IsValid() {
				t.delete = append(t.delete, element{set: set{slots, familyOf(vip)}, vip: vip, slot: s.count + i, to: to})
			}
		}
		s.slots = slices.Clone(s.slots[:s.count])
		m.tidy(vip)
	}
	for g, u := range m.groups {
		if u.services == 0 && now.Sub(u.left) >= grace {
			t.oldChains = append(t.oldChains, g)
			delete(m.groups, g)
		}
	}
	return t
}
