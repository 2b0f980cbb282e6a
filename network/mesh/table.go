package mesh

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/fault"
	"github.com/minid/minid/network/nft"
)

func (m *Mesh) connect() (*nft.Session, error) {
	if m.session != nil {
		return m.session, nil
	}
	s, err := nft.Dial("")
	if err != nil {
		return nil, err
	}
	m.session = s
	return s, nil
}

// disconnect because what a failed session has queued is not known.
func (m *Mesh) disconnect() {
	m.generation = 0
	if m.session != nil {
		_ = m.session.CloseLasting()
		m.session = nil
	}
}

// flush commits what is queued, and keeps track of the generation: if exactly
// one transaction happened, it was this one.
func (m *Mesh) flush(s *nft.Session) error {
	before, err := s.Generation()
	if err == nil {
		err = s.Flush()
	}
	if err != nil {
		return err
	}
	after, err := s.Generation()
	if err != nil || m.generation != before || after != before+1 {
		after = 0
	}
	m.generation = after
	return nil
}

// load replaces the tables, without timeouts of their own where the kernel knows
// none.
func (m *Mesh) load(img *image) error {
	err := m.replace(img)
	if err != nil && !m.patient && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT)) {
		m.disconnect()
		m.patient = true
		if again := m.replace(img); again != nil {
			m.patient = false
			return errors.Join(err, again)
		}
		m.cfg.Logger.Warn("this kernel has no timeouts of connections by rule: some connections to a node that fails are lost", "err", err)
		return nil
	}
	return err
}

func (m *Mesh) replace(img *image) error {
	s, err := m.connect()
	if err != nil {
		return err
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyNetdev, nftables.TableFamilyIPv4} {
		t := s.AddTable(table(family))
		s.DelTable(t) // adding first makes deleting succeed where there was none
		s.AddTable(t)
		if family == nftables.TableFamilyIPv4 {
			if !m.patient {
				s.AddObj(handshakeTimeout())
			}
			if err := addSets(s, img); err != nil {
				return err
			}
		}
		m.addChains(s, family, img)
		if m.generation, err = s.Generation(); err == nil {
			err = m.flush(s)
		}
		if family == nftables.TableFamilyNetdev && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT)) {
			return fault.New(fault.Unavailable, "make routing mesh: this kernel has no hook for packets that leave by a link: %w", err).
				WithTry("run Linux 5.16 or later, with CONFIG_NETFILTER_EGRESS and CONFIG_NF_TABLES_NETDEV")
		}
		if err != nil {
			return fmt.Errorf("load table %s: %w", TableName, err)
		}
	}
	return nil
}

func addSets(s *nft.Session, img *image) error {
	for _, k := range kinds {
		if err := s.AddSet(k.kernel(), nil); err != nil {
			return fmt.Errorf("make set %s: %w", k, err)
		}
	}
	for _, g := range img.sortedGroups() { // elements lead to them
		s.AddChain(g.chain().kernel())
	}
	var all []pair
	for k, v := range img.elements {
		all = append(all, pair{k, v})
	}
	return edit(s, all, nft.Add)
}

func (m *Mesh) addChains(s *nft.Session, family nftables.TableFamily, img *image) {
	chains := m.base(m.wanted).frame()
	for _, g := range img.sortedGroups() {
		chains = append(chains, g.chain())
	}
	chains = slices.DeleteFunc(chains, func(c chain) bool { return c.family != family })
	for _, c := range chains { // rules lead to others
		s.AddChain(c.kernel())
	}
	for _, c := range chains {
		addRules(s, c)
	}
}

func addRules(s *nft.Session, c chain) {
	for _, r := range c.rules {
		s.AddRule(&nftables.Rule{Table: table(c.family), Chain: c.kernel(), Exprs: r.exprs})
	}
}

// edit adds or deletes elements, set by set.
func edit(s *nft.Session, list []pair, how func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	for _, k := range kinds {
		var elements []nftables.SetElement
		for _, p := range list {
			if p.key.kind == k {
				elements = append(elements, element(p.key, p.value))
			}
		}
		if err := how(s.Conn, k.kernel(), elements); err != nil {
			return fmt.Errorf("write set %s: %w", k, err)
		}
	}
	return nil
}

// commit makes one transaction.
func (m *Mesh) commit(t transaction) error {
	if t.empty() {
		return nil
	}
	s, err := m.connect()
	if err != nil {
		return err
	}
	for _, g := range t.make {
		s.AddChain(g.chain().kernel())
		addRules(s, g.chain())
	}
	if err := edit(s, t.delete, nft.Delete); err != nil {
		return err
	}
	if err := edit(s, t.add, nft.Add); err != nil {
		return err
	}
	for _, g := range t.unmake {
		s.DelChain(g.chain().kernel())
	}
	if err := m.flush(s); err != nil {
		return fmt.Errorf("change published ports: %w", err)
	}
	return nil
}

// tables reports whether the tables are as the image says. They are only read
// when someone made a transaction since.
func (m *Mesh) tables() (bool, error) {
	s, err := m.connect()
	if err != nil {
		return false, err
	}
	generation, err := s.Generation()
	if err != nil || generation == m.generation {
		return err == nil, err
	}
	if !m.setsIntact(s) || !m.chainsIntact(s) {
		return false, nil
	}
	m.generation = generation
	return true, nil
}

func (m *Mesh) setsIntact(s *nft.Session) bool {
	count := 0
	for _, k := range kinds {
		elements, err := s.GetSetElements(k.kernel())
		if err != nil {
			return false
		}
		count += len(elements)
		for _, e := range elements {
			key, value, ok := parse(k, e)
			have, wanted := m.image.elements[key]
			if !ok || !wanted || have != value {
				return false
			}
		}
	}
	return count == len(m.image.elements)
}

func (m *Mesh) chainsIntact(s *nft.Session) bool {
	wanted := m.base(m.wanted).frame()
	for g := range m.image.groups {
		wanted = append(wanted, g.chain())
	}
	have := make(map[nftables.TableFamily]map[string]*nftables.Chain)
	count := 0
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyNetdev} {
		list, err := s.ListChainsOfTableFamily(family)
		if err != nil {
			return false
		}
		have[family] = make(map[string]*nftables.Chain)
		for _, c := range list {
			if c.Table.Name == TableName {
				have[family][c.Name] = c
				count++
			}
		}
	}
	if count != len(wanted) {
		return false
	}
	for _, c := range wanted {
		there := have[c.family][c.name]
		if there == nil || !c.same(there) {
			return false
		}
		rules, err := s.GetRules(table(c.family), c.kernel())
		if err != nil || !c.sameRules(rules) {
			return false
		}
	}
	return true
}

// same reports whether the kernel's chain is this one, rules aside.
func (c chain) same(k *nftables.Chain) bool {
	if c.kind == "" || k.Hooknum == nil {
		return (c.kind == "") == (k.Hooknum == nil)
	}
	accepts := k.Policy == nil || *k.Policy == nftables.ChainPolicyAccept
	return k.Type == c.kind && *k.Hooknum == *c.hookNum && *k.Priority == *c.prioNum && accepts
}

// unload removes the tables.
func (m *Mesh) unload() error {
	s, err := m.connect()
	if err != nil {
		return err
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyNetdev, nftables.TableFamilyIPv4} {
		list, err := s.ListTablesOfFamily(family)
		if err != nil {
			return fmt.Errorf("list tables: %w", err)
		}
		if slices.ContainsFunc(list, func(t *nftables.Table) bool { return t.Name == TableName }) {
			s.DelTable(table(family))
		}
	}
	if err := s.Flush(); err != nil {
		return fmt.Errorf("remove tables %s: %w", TableName, err)
	}
	return nil
}
