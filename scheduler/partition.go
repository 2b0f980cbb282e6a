package scheduler

import (
	"fmt"
	"math/bits"
	"slices"
)

// maxPartitions bounds the remembered lists of spread preferences.
const maxPartitions = 16

// partition is the nodes of a set by their values of spread preferences.
type partition struct {
	keys []SpreadKey
	of   map[*node]*part
	all  map[string]*part
}

// part is the nodes with the same value of each preference.
type part struct {
	path    string
	values  []string
	members sparse
	count   int
}

// partition returns the parts of all known nodes, kept from the last time.
func (s *Set) partition(keys []SpreadKey) *partition {
	name := fmt.Sprint(keys)
	if p := s.partitions[name]; p != nil {
		return p
	}
	if len(s.partitions) >= maxPartitions {
		clear(s.partitions)
	}
	p := &partition{keys: keys, of: map[*node]*part{}, all: map[string]*part{}}
	for _, n := range s.slots {
		if n != nil && n.known {
			p.put(n)
		}
	}
	s.partitions[name] = p
	return p
}

// put moves a node to the part that its labels say.
func (p *partition) put(n *node) {
	p.drop(n)
	values, path := make([]string, len(p.keys)), ""
	for i, key := range p.keys {
		values[i] = key.value(n)
		path += "\x00" + values[i]
	}
	to := p.all[path]
	if to == nil {
		to = &part{path: path, values: values}
		p.all[path] = to
	}
	to.members.put(n.pos)
	to.count++
	p.of[n] = to
}

func (p *partition) drop(n *node) {
	from := p.of[n]
	if from == nil {
		return
	}
	delete(p.of, n)
	from.members.drop(n.pos)
	if from.count--; from.count == 0 {
		delete(p.all, from.path)
	}
}

// sparse is a set of positions: its words that are not zero, in order. All
// parts of a partition together have no more words than there are nodes.
type sparse []sparseWord

type sparseWord struct {
	index int // positions from 64*index on
	bits  uint64
}

// find returns where the word with an index is or belongs.
func (s sparse) find(index int) (int, bool) {
	return slices.BinarySearchFunc(s, index, func(w sparseWord, index int) int { return w.index - index })
}

func (s *sparse) put(pos int) {
	i, found := s.find(pos / 64)
	if !found {
		*s = slices.Insert(*s, i, sparseWord{index: pos / 64})
	}
	(*s)[i].bits |= 1 << (pos % 64)
}

func (s *sparse) drop(pos int) {
	i, found := s.find(pos / 64)
	if !found {
		return
	}
	if (*s)[i].bits &^= 1 << (pos % 64); (*s)[i].bits == 0 {
		*s = slices.Delete(*s, i, i+1)
	}
}

// walk goes over the nodes of a part that fit and have no task of the service,
// in their order, while they are given tasks. at is the present one.
type walk struct {
	part    *part
	members bitset
	at      candidate

	level int
	step  int    // words of the part taken up on this level
	word  uint64 // what is left of the present one
	base  int    // its first position
}

// advance moves on to the next node, false if there is none.
func (w *walk) advance(r *run) bool {
	for ; w.level < len(r.set.levels); w.level, w.step = w.level+1, 0 {
		if r.set.levels[w.level].count == 0 {
			continue
		}
		for w.word != 0 || w.load(r) {
			pos := w.base + bits.TrailingZeros64(w.word)
			w.word &= w.word - 1
			n := r.set.slots[pos]
			if r.service.nodes[n] == 0 && !r.flapping[n] && r.fits(n) {
				w.at = r.candidate(n)
				return true
			}
		}
	}
	return false
}

// load takes up the next word that has nodes of the level; the words go round
// from the run's start, whose own word is cut in two.
func (w *walk) load(r *run) bool {
	words := w.part.members
	first, cut := words.find(r.start / 64)
	below := uint64(1)<<(r.start%64) - 1
	for w.word == 0 && w.step <= len(words) && len(words) > 0 {
		next := words[(first+w.step)%len(words)]
		word := next.bits
		switch {
		case w.step == 0 && cut:
			word &^= below
		case w.step == len(words) && cut:
			word &= below
		case w.step == len(words):
			word = 0
		}
		w.step++
		w.base = next.index * 64
		w.word = word & w.members.word(next.index) & r.set.levels[w.level].members.word(next.index)
	}
	return w.word != 0
}
