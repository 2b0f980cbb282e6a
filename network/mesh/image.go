package mesh

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// grace is how long what was in use stays after a change: a packet that met the
// old number of slots may still draw one of them.
const grace = time.Second

// image is what the table in the kernel holds, but for the chains that are
// always there. Its methods say which transactions lead from it to another
// state, and take that state on.
type image struct {
	elements map[key]value
	// services are the keys of each published port.
	services map[Published]map[key]bool
	// worn slots and arrivals are out of use since then.
	worn map[key]time.Time
	// groups whose chain is there.
	groups map[group]use
}

// use is how many ports lead to a chain, and since when none does.
type use struct {
	ports int
	left  time.Time
}

func newImage() *image {
	return &image{
		elements: make(map[key]value), services: make(map[Published]map[key]bool),
		worn: make(map[key]time.Time), groups: make(map[group]use),
	}
}

// imageOf is the image of a table made anew.
func imageOf(w Wanted) *image {
	m := newImage()
	c := &change{}
	m.setNodes(c, w)
	for p := range w.Services {
		m.put(c, p, w.wants(p), time.Time{})
	}
	return m
}

// wants are the elements of a published port.
func (w Wanted) wants(p Published) map[key]value {
	s, ok := w.Services[p]
	if !ok || s.HostIP.IsValid() && !s.HostIP.Unmap().Is4() {
		return nil
	}
	out := make(map[key]value)
	slots := func(of kind, list []target) {
		for i, to := range list {
			out[key{kind: of, port: p, slot: i}] = value{to: to}
		}
	}
	tasks := s.tasks()
	all := w.everywhere(p, s)
	lead := group{everywhere, len(all), s.Masquerade}
	if s.PreferLocal && len(tasks) > 0 {
		lead = group{here, len(tasks), s.Masquerade}
	} else {
		slots(everywhere, all)
	}
	if slots(here, tasks); len(tasks) > 0 {
		out[key{kind: arrivals, port: p}] = value{group: group{slots: here, count: len(tasks)}}
	}
	switch host := s.HostIP.Unmap(); {
	case lead.count == 0: // refused by the host, as a port that nobody listens on
	case host.IsValid() && !host.IsUnspecified():
		out[key{kind: bound, port: p, addr: host}] = value{group: lead}
	default:
		out[key{kind: ports, port: p}] = value{group: lead}
	}
	return out
}

// pair is an element.
type pair struct {
	key   key
	value value
}

// transaction is what is committed at once.
type transaction struct {
	make, unmake []group
	delete, add  []pair
}

func (t *transaction) empty() bool {
	return len(t.make)+len(t.unmake)+len(t.delete)+len(t.add) == 0
}

// change is what leads from one state of the table to another. It takes two
// transactions: were the number of a port's slots to change together with them,
// a packet that read the old number could miss its slot.
type change struct {
	first, second transaction
	// fresh are the ports that led nowhere before; left are the targets that a
	// port no longer leads to.
	fresh map[Published]bool
	left  map[Published]map[target]bool
}

// set leads to w, and to nothing else.
func (m *image) set(w Wanted, now time.Time) *change {
	c := &change{}
	m.setNodes(c, w)
	for p := range m.services {
		if _, stays := w.Services[p]; !stays {
			m.put(c, p, nil, now)
		}
	}
	for p := range w.Services {
		m.put(c, p, w.wants(p), now)
	}
	return c
}

// change leads the named ports to what w says of them.
func (m *image) change(w Wanted, named []Published, now time.Time) *change {
	c := &change{}
	for _, p := range named {
		m.put(c, p, w.wants(p), now)
	}
	return c
}

// setNodes makes the other nodes' addresses those of w.
func (m *image) setNodes(c *change, w Wanted) {
	wanted := make(map[key]bool, len(w.Peers))
	for number, addr := range w.Peers {
		if number != w.Number && addr.Is4() {
			wanted[key{kind: nodes, addr: addr}] = true
		}
	}
	for k := range m.elements {
		if k.kind == nodes && !wanted[k] {
			delete(m.elements, k)
			c.first.delete = append(c.first.delete, pair{key: k})
		}
	}
	for k := range wanted {
		if _, there := m.elements[k]; !there {
			m.elements[k] = value{}
			c.first.add = append(c.first.add, pair{key: k})
		}
	}
}

// put makes the elements of one published port those of wanted.
func (m *image) put(c *change, p Published, wanted map[key]value, now time.Time) {
	have := m.services[p]
	if have == nil {
		have = make(map[key]bool)
		m.services[p] = have
	}
	before := m.targets(p)
	for k := range have {
		if _, stays := wanted[k]; !stays {
			m.retire(c, k, now)
		}
	}
	for k, v := range wanted {
		m.lay(c, k, v, now)
	}
	after := m.targets(p)
	for to := range before {
		if !after[to] {
			c.leave(p, to)
		}
	}
	if len(have) == 0 {
		delete(m.services, p)
	}
}

// targets that a port leads to.
func (m *image) targets(p Published) map[target]bool {
	out := make(map[target]bool)
	for k := range m.services[p] {
		if _, worn := m.worn[k]; !worn && !k.kind.leads() {
			out[m.elements[k].to] = true
		}
	}
	return out
}

func (c *change) leave(p Published, to target) {
	if c.left == nil {
		c.left = make(map[Published]map[target]bool)
	}
	if c.left[p] == nil {
		c.left[p] = make(map[target]bool)
	}
	c.left[p][to] = true
}

// retire takes an element out of use: at once where it leads a new connection to
// a chain, later where it is a slot, or leads what other nodes send: they may
// not have heard yet, and the task that leaves still serves while it drains.
func (m *image) retire(c *change, k key, now time.Time) {
	if !k.kind.leads() || k.kind == arrivals {
		if _, already := m.worn[k]; !already {
			m.worn[k] = now
		}
		return
	}
	m.drop(&c.second, k, now)
}

// drop removes an element.
func (m *image) drop(t *transaction, k key, now time.Time) {
	v := m.elements[k]
	if k.kind.leads() {
		m.unuse(v.group, now)
	}
	t.delete = append(t.delete, pair{k, v})
	delete(m.elements, k)
	delete(m.services[k.port], k)
	delete(m.worn, k)
	if len(m.services[k.port]) == 0 {
		delete(m.services, k.port)
	}
}

// end stops leading to tasks that have ended what other nodes still send, so
// that it is refused at once.
func (m *image) end(ended map[netip.Addr]bool, now time.Time) (t transaction) {
	for k := range m.worn {
		if k.kind != arrivals {
			continue
		}
		serves := false
		for i := range m.elements[k].group.count {
			serves = serves || !ended[m.elements[key{kind: here, port: k.port, slot: i}].to.addr]
		}
		if !serves {
			m.drop(&t, k, now)
		}
	}
	return t
}

// lay puts an element in its place.
func (m *image) lay(c *change, k key, v value, now time.Time) {
	delete(m.worn, k)
	old, there := m.elements[k]
	if there && old == v {
		return
	}
	t := &c.first
	if k.kind.leads() {
		t = &c.second
		m.use(c, v.group)
		if there {
			m.unuse(old.group, now)
		} else {
			c.freshen(k.port)
		}
	}
	if there {
		t.delete = append(t.delete, pair{k, old})
	}
	t.add = append(t.add, pair{k, v})
	m.elements[k] = v
	m.services[k.port][k] = true
}

func (c *change) freshen(p Published) {
	if c.fresh == nil {
		c.fresh = make(map[Published]bool)
	}
	c.fresh[p] = true
}

func (m *image) use(c *change, g group) {
	u, there := m.groups[g]
	if !there {
		c.first.make = append(c.first.make, g)
	}
	u.ports++
	m.groups[g] = u
}

func (m *image) unuse(g group, now time.Time) {
	u := m.groups[g]
	u.ports--
	u.left = now
	m.groups[g] = u
}

// sweep removes slots and chains that have been out of use for the grace.
func (m *image) sweep(now time.Time) (t transaction) {
	for k, since := range m.worn {
		if now.Sub(since) < grace {
			continue
		}
		m.drop(&t, k, now)
	}
	for g, u := range m.groups {
		if u.ports == 0 && now.Sub(u.left) >= grace {
			t.unmake = append(t.unmake, g)
			delete(m.groups, g)
		}
	}
	return t
}

func (m *image) sorted(of kind) []key {
	var out []key
	for k := range m.elements {
		if k.kind == of {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, key.compare)
	return out
}

func (m *image) sortedGroups() []group {
	return slices.SortedFunc(maps.Keys(m.groups), func(a, b group) int {
		hidden := 0
		if a.hidden != b.hidden {
			hidden = 1
			if b.hidden {
				hidden = -1
			}
		}
		return cmp.Or(cmp.Compare(a.slots, b.slots), cmp.Compare(a.count, b.count), hidden)
	})
}
