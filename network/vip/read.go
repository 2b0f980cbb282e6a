package vip

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
)

// structure is the table as it was found.
type structure struct {
	// intact: all sets, chains and rules are as they must be, and nothing else is
	// there. Only then has image a meaning.
	intact bool
	image  *image
	sets   []*nftables.Set
	chains []*nftables.Chain
}

// queue builds the sets and chains anew, without what they hold.
func (s *structure) queue(c *nftables.Conn) error {
	c.FlushTable(table())
	for _, set := range s.sets {
		c.DelSet(&nftables.Set{Table: table(), Name: set.Name})
	}
	for _, chain := range s.chains {
		c.DelChain(&nftables.Chain{Table: table(), Name: chain.Name})
	}
	for _, set := range sets {
		if err := c.AddSet(set.kernel(), nil); err != nil {
			return fmt.Errorf("add set %s: %w", set.name(), err)
		}
	}
	for _, chain := range slices.Backward(frame()) { // refuse before those that go there
		addChain(c, chain)
	}
	return nil
}

// read finds out what the table holds.
func (b *Balancer) read() (*structure, error) {
	found := &structure{}
	tables, err := b.session.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == TableName }) {
		return found, nil
	}
	if found.sets, err = b.session.GetSets(table()); err != nil {
		return nil, fmt.Errorf("list sets of %s: %w", TableName, err)
	}
	all, err := b.session.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	for _, c := range all {
		if c.Table.Name == TableName {
			found.chains = append(found.chains, c)
		}
	}
	groups, ok := b.readChains(found.chains)
	if !ok || !sameSets(found.sets) {
		return found, nil
	}
	if found.image, err = b.readElements(groups); err != nil {
		return nil, err
	}
	found.intact = found.image != nil
	return found, nil
}

func sameSets(list []*nftables.Set) bool {
	byName := make(map[string]*nftables.Set, len(list))
	for _, k := range list {
		byName[k.Name] = k
	}
	for _, s := range sets {
		if k := byName[s.name()]; k == nil || !s.same(k) {
			return false
		}
	}
	return len(byName) == len(sets)
}

// readChains finds the groups that have a chain. It is not ok unless the chains
// are those of the frame and of groups, with their rules.
func (b *Balancer) readChains(list []*nftables.Chain) (groups []group, ok bool) {
	wanted := make(map[string]chain)
	for _, c := range frame() {
		wanted[c.name] = c
	}
	for _, k := range list {
		if g, ok := parseGroup(k.Name); ok {
			groups = append(groups, g)
			wanted[k.Name] = g.chain()
		}
	}
	if len(wanted) != len(list) {
		return nil, false
	}
	for _, k := range list {
		c, known := wanted[k.Name]
		if !known || !c.same(k) {
			return nil, false
		}
		rules, err := b.session.GetRules(table(), k)
		if err != nil || !c.sameRules(rules) {
			return nil, false
		}
	}
	return groups, true
}

// readElements makes an image of what the sets hold; nil if that is nonsense.
// What is left over counts as just left.
func (b *Balancer) readElements(groups []group) (*image, error) {
	now := time.Now()
	m := newImage()
	for _, g := range groups {
		m.groups[g] = use{left: now}
	}
	for _, s := range sets {
		if s.filled() {
			continue
		}
		list, err := b.session.GetSetElements(s.kernel())
		if err != nil {
			return nil, fmt.Errorf("list elements of %s: %w", s.name(), err)
		}
		for _, k := range list {
			e, ok := parseElement(s, k)
			if !ok {
				return nil, nil
			}
			m.note(e)
		}
	}
	for vip, s := range m.services {
		s.left = now
		if g := (group{familyOf(vip), s.count}); s.count > 0 {
			u := m.groups[g]
			u.services++
			m.groups[g] = u
		}
		s.slots = append(s.slots, make([]netip.Addr, max(0, s.count-len(s.slots)))...)
		m.tidy(vip)
	}
	return m, nil
}

// note adds an element that was found.
func (m *image) note(e element) {
	if e.set.filled() {
		return
	}
	s := m.services[e.vip]
	if s == nil {
		s = &service{}
		m.services[e.vip] = s
	}
	switch e.set.kind {
	case vips:
		s.known = true
	case services:
		s.count = e.count
	case slots:
		s.slots = append(s.slots, make([]netip.Addr, max(0, e.slot+1-len(s.slots)))...)
		s.slots[e.slot] = e.to
	}
}

// equal reports whether two tables hold the same.
func (m *image) equal(other *image) bool {
	return maps.EqualFunc(m.services, other.services, func(a, b *service) bool {
		return a.known == b.known && a.count == b.count && slices.Equal(a.slots, b.slots)
	}) && maps.EqualFunc(m.groups, other.groups, func(a, b use) bool { return a.services == b.services })
}
