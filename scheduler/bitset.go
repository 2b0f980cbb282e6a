package scheduler

import "math/bits"

// bitset is a set of node positions. Words past its end are zero.
type bitset []uint64

func (b *bitset) put(pos int) {
	for len(*b) <= pos/64 {
		*b = append(*b, 0)
	}
	(*b)[pos/64] |= 1 << (pos % 64)
}

func (b bitset) drop(pos int) {
	if pos/64 < len(b) {
		b[pos/64] &^= 1 << (pos % 64)
	}
}

func (b bitset) has(pos int) bool { return b.word(pos/64)>>(pos%64)&1 == 1 }

func (b bitset) word(i int) uint64 {
	if i < len(b) {
		return b[i]
	}
	return 0
}

// ring yields the members of both sets among positions 0 to size-1, from start
// upwards and round. What yield drops from the sets behind it is of no matter.
func ring(a, b bitset, start, size int, yield func(pos int) bool) bool {
	words := (size + 63) / 64
	below := uint64(1)<<(start%64) - 1
	for i := range words + 1 {
		w := (start/64 + i) % words
		word := a.word(w) & b.word(w)
		switch i {
		case 0:
			word &^= below
		case words:
			word &= below
		}
		for ; word != 0; word &= word - 1 {
			if !yield(w*64 + bits.TrailingZeros64(word)) {
				return false
			}
		}
	}
	return true
}
