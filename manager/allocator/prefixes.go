package allocator

import (
	"cmp"
	"net/netip"
	"slices"
)

// prefixes is a set of subnets, each with those that hold it.
type prefixes struct {
	holders map[netip.Prefix]map[string]bool
	// lengths counts the subnets by length and family.
	lengths map[length]int
	// sorted holds all of them in order, from when it is first asked for.
	sorted []netip.Prefix
}

type length struct {
	bits int
	ipv4 bool
}

func newPrefixes() *prefixes {
	return &prefixes{holders: map[netip.Prefix]map[string]bool{}, lengths: map[length]int{}}
}

// add gives a subnet one more holder, and reports whether it had none.
func (s *prefixes) add(p netip.Prefix, holder string) bool {
	if s.holders[p] != nil {
		s.holders[p][holder] = true
		return false
	}
	s.holders[p] = map[string]bool{holder: true}
	s.lengths[length{p.Bits(), p.Addr().Is4()}]++
	if i, known := slices.BinarySearchFunc(s.sorted, p, comparePrefixes); s.sorted != nil && !known {
		s.sorted = slices.Insert(s.sorted, i, p)
	}
	return true
}

// remove takes a holder from a subnet, and reports whether it was the last.
func (s *prefixes) remove(p netip.Prefix, holder string) bool {
	if !s.holders[p][holder] {
		return false
	}
	if delete(s.holders[p], holder); len(s.holders[p]) > 0 {
		return false
	}
	delete(s.holders, p)
	l := length{p.Bits(), p.Addr().Is4()}
	if s.lengths[l]--; s.lengths[l] == 0 {
		delete(s.lengths, l)
	}
	if i, known := slices.BinarySearchFunc(s.sorted, p, comparePrefixes); known {
		s.sorted = slices.Delete(s.sorted, i, i+1)
	}
	return true
}

// overlapping finds a subnet that overlaps p: the longest that contains it, else
// the first within it.
func (s *prefixes) overlapping(p netip.Prefix) (found netip.Prefix, ok bool) {
	for l := range s.lengths {
		if l.ipv4 != p.Addr().Is4() || l.bits > p.Bits() || ok && l.bits < found.Bits() {
			continue
		}
		if q := netip.PrefixFrom(p.Addr(), l.bits).Masked(); s.holders[q] != nil {
			found, ok = q, true
		}
	}
	if ok {
		return found, true
	}
	all := s.all()
	i, _ := slices.BinarySearchFunc(all, p, comparePrefixes)
	if i < len(all) && p.Contains(all[i].Addr()) {
		return all[i], true
	}
	return netip.Prefix{}, false
}

func (s *prefixes) all() []netip.Prefix {
	if s.sorted == nil {
		for p := range s.holders {
			s.sorted = append(s.sorted, p)
		}
		slices.SortFunc(s.sorted, comparePrefixes)
	}
	return s.sorted
}

// holder is the first of those that hold a subnet.
func (s *prefixes) holder(p netip.Prefix) string {
	first := ""
	for h := range s.holders[p] {
		if first == "" || h < first {
			first = h
		}
	}
	return first
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
