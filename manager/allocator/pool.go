package allocator

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	pb "github.com/minid/minid/proto/minid/v1"
)

// maxPool bounds the addresses of a pool that are used, which only those of
// IPv6 have more of.
const maxPool = 1 << 24

// pool hands out the addresses of a subnet in a circle, so that one just given
// back, which others may still have in a cache or connection, is the last to
// be reused.
type pool struct {
	subnet netip.Prefix
	// The part that is used, from first to before end, counted from the subnet's
	// start. The subnet's own address and the broadcast address are not in it.
	first, end uint64
	// gateway is not for tasks; 0 when it is not in that part.
	gateway uint64
	// words hold a bit for each address in use, from first on; they grow as they
	// are needed.
	words []uint64
	used  uint64
	next  uint64
}

// newPool reads an allocated pool; ok is false when it is none.
func newPool(p *pb.AddressPool) (_ *pool, ok bool) {
	subnet, err := netip.ParsePrefix(p.GetSubnet())
	if err != nil {
		return nil, false
	}
	n := &pool{subnet: subnet.Masked(), end: spread(subnet)}
	if part, err := netip.ParsePrefix(p.GetIpRange()); err == nil && n.subnet.Contains(part.Addr()) && part.Bits() >= subnet.Bits() {
		n.first = offset(n.subnet, part.Masked().Addr())
		n.end = n.first + spread(part)
	}
	if subnet.Addr().Is4() {
		n.end = min(n.end, spread(subnet)-1)
	}
	n.first = max(n.first, 1)
	n.end = max(n.first, min(n.end, n.first+maxPool))
	if gateway, err := netip.ParseAddr(p.GetGateway()); err == nil && n.subnet.Contains(gateway) && n.covers(offset(n.subnet, gateway)) {
		n.gateway = offset(n.subnet, gateway)
		n.set(n.gateway)
	}
	n.next = n.first
	return n, true
}

// spread is how many addresses a subnet has; of IPv6, those of a /64 at most.
func spread(p netip.Prefix) uint64 {
	return 1 << min(p.Addr().BitLen()-p.Bits(), 63)
}

func (p *pool) covers(at uint64) bool { return at >= p.first && at < p.end }

// size is how many addresses there are to give.
func (p *pool) size() uint64 {
	if p.gateway != 0 {
		return p.end - p.first - 1
	}
	return p.end - p.first
}

// take returns the next free address; ok is false when there is none.
func (p *pool) take() (_ netip.Addr, ok bool) {
	if p.used >= p.size() {
		return netip.Addr{}, false
	}
	at := p.free(p.next)
	if at >= p.end {
		at = p.free(p.first)
	}
	p.set(at)
	p.used++
	p.next = at + 1
	return addrAt(p.subnet, at), true
}

// free is the first place from one on that is not set.
func (p *pool) free(from uint64) uint64 {
	from -= p.first
	for w := from / 64; w < uint64(len(p.words)); w++ {
		empty := ^p.words[w]
		if w == from/64 {
			empty &= ^uint64(0) << (from % 64)
		}
		if empty != 0 {
			return p.first + w*64 + uint64(bits.TrailingZeros64(empty))
		}
	}
	return p.first + max(from, uint64(len(p.words))*64)
}

// mark makes an address count as used, and goes on behind the highest one that
// it was told of so.
func (p *pool) mark(a netip.Addr) {
	at, ok := p.place(a)
	if !ok || p.has(at) {
		return
	}
	p.set(at)
	p.used++
	p.next = max(p.next, at+1)
}

// release makes an address free, and reports whether it was not before.
func (p *pool) release(a netip.Addr) bool {
	at, ok := p.place(a)
	if !ok || !p.has(at) {
		return false
	}
	at -= p.first
	p.words[at/64] &^= 1 << (at % 64)
	p.used--
	return true
}

// place is where an address is, if it is one to give.
func (p *pool) place(a netip.Addr) (at uint64, ok bool) {
	if !p.subnet.Contains(a) {
		return 0, false
	}
	at = offset(p.subnet, a)
	return at, p.covers(at) && at != p.gateway
}

func (p *pool) has(at uint64) bool {
	at -= p.first
	return at/64 < uint64(len(p.words)) && p.words[at/64]&(1<<(at%64)) != 0
}

func (p *pool) set(at uint64) {
	at -= p.first
	if missing := int(at/64) + 1 - len(p.words); missing > 0 {
		p.words = append(p.words, make([]uint64, missing)...)
	}
	p.words[at/64] |= 1 << (at % 64)
}

// offset counts from the start of a subnet; of IPv6, in the lower half.
func offset(subnet netip.Prefix, a netip.Addr) uint64 { return low(a) - low(subnet.Addr()) }

// low is the lower 64 bits of an address.
func low(a netip.Addr) uint64 {
	if a.Is4() {
		b := a.As4()
		return uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[8:])
}

// addrAt is the address at an offset in a subnet.
func addrAt(subnet netip.Prefix, at uint64) netip.Addr {
	if subnet.Addr().Is4() {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(low(subnet.Addr())+at))
		return netip.AddrFrom4(b)
	}
	b := subnet.Addr().As16()
	binary.BigEndian.PutUint64(b[8:], low(subnet.Addr())+at)
	return netip.AddrFrom16(b)
}
