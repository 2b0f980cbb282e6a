package vip

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/minid/minid/network/nft"
)

// maxBackends of one VIP: more than any service has, and few enough that a
// table with nonsense in it costs no memory to read.
const maxBackends = 1 << 16

// kind is what a set is for.
type kind byte

const (
	// vips holds every VIP, for the guard.
	vips kind = iota
	// services leads a VIP that has backends to the chain of its group.
	services
	// slots leads a VIP and a number to a backend.
	slots
	// met has the VIPs that flows went to, by protocol. Packets fill it.
	met
	// passed has the addresses that flows went to untranslated. Packets fill it.
	passed
)

// maxMet is how many elements a set may have that packets fill. What finds no
// room changes nothing for the packet.
const maxMet = 4096

// set is a set or map of the table: there is one of each kind for each family.
type set struct {
	kind   kind
	family family
}

var sets = [...]set{
	{vips, ipv4}, {vips, ipv6}, {services, ipv4}, {services, ipv6}, {slots, ipv4}, {slots, ipv6},
	{met, ipv4}, {met, ipv6}, {passed, ipv4}, {passed, ipv6},
}

// filled reports whether packets fill the set.
func (s set) filled() bool { return s.kind == met || s.kind == passed }

func (s set) name() string {
	name := [...]string{"vips", "services", "slots", "met", "passed"}[s.kind]
	if s.family == ipv6 {
		name += "6"
	}
	return name
}

func (s set) sort() string {
	if s.kind == services || s.kind == slots {
		return "map"
	}
	return "set"
}

// types of the elements, and what else nft lists before them.
func (s set) types() string {
	address := s.family.datatype().Name
	filled := fmt.Sprintf("\n\t\tsize %d\n\t\tflags dynamic", maxMet)
	switch s.kind {
	case services:
		return address + " : verdict"
	case slots:
		return address + " . mark : " + address
	case met:
		return address + " . inet_proto" + filled
	case passed:
		return address + filled
	}
	return address
}

// id refers to the set within a transaction. It is given because the library
// would number the sets of all connections by one unguarded variable.
func (s set) id() uint32 { return uint32(slices.Index(sets[:], s)) + 1 }

// kernel is the set as the library names it.
func (s set) kernel() *nftables.Set {
	address := s.family.datatype()
	out := &nftables.Set{Table: table(), Name: s.name(), ID: s.id(), KeyType: address}
	switch s.kind {
	case services:
		out.IsMap, out.DataType = true, nftables.TypeVerdict
	case slots:
		out.IsMap, out.Concatenation, out.DataType = true, true, address
		out.KeyType = nftables.MustConcatSetType(address, nftables.TypeMark)
	case met:
		out.Concatenation = true
		out.KeyType = nftables.MustConcatSetType(address, nftables.TypeInetProto)
	}
	if s.filled() {
		out.Dynamic, out.Size = true, maxMet
	}
	return out
}

// same reports whether the kernel's set is this one.
func (s set) same(k *nftables.Set) bool {
	want := s.kernel()
	if k.IsMap != want.IsMap || k.Concatenation != want.Concatenation || k.Interval || k.Dynamic != want.Dynamic || k.HasTimeout {
		return false
	}
	if s.kind == services {
		return true // the library mixes up the types of such maps; the rules tell
	}
	return k.KeyType.Bytes == want.KeyType.Bytes && (!k.IsMap || k.DataType.Bytes == want.DataType.Bytes)
}

// element of a set.
type element struct {
	set  set
	vip  netip.Addr
	slot int        // slots: the number
	to   netip.Addr // slots: the backend
	// proto is the number of the flow's protocol; met only.
	proto uint8
	// count of backends, which names the chain; services only.
	count int
}

func (e element) String() string {
	switch e.set.kind {
	case services:
		return fmt.Sprintf("%s : jump %s", e.vip, group{e.set.family, e.count}.name())
	case slots:
		return fmt.Sprintf("%s . 0x%08x : %s", e.vip, e.slot, e.to)
	case met:
		return fmt.Sprintf("%s . %d", e.vip, e.proto)
	}
	return e.vip.String()
}

// kernel is the element as the library takes it.
func (e element) kernel() nftables.SetElement {
	key := e.vip.AsSlice()
	switch e.set.kind {
	case services:
		chain := group{e.set.family, e.count}.name()
		return nftables.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
	case slots:
		key = binary.NativeEndian.AppendUint32(key, uint32(e.slot)) // numgen's number is the machine's
		return nftables.SetElement{Key: key, Val: e.to.AsSlice()}
	case met:
		return nftables.SetElement{Key: append(key, e.proto, 0, 0, 0)}
	}
	return nftables.SetElement{Key: key}
}

// parseElement is the inverse of kernel.
func parseElement(s set, k nftables.SetElement) (e element, ok bool) {
	size := int(s.family.datatype().Bytes)
	if len(k.Key) < size {
		return e, false
	}
	e.set = s
	e.vip, _ = netip.AddrFromSlice(k.Key[:size])
	switch s.kind {
	case services:
		v := nft.VerdictOf(k)
		if v == nil || v.Kind != expr.VerdictJump {
			return e, false
		}
		g, ok := parseGroup(v.Chain)
		e.count = g.count
		return e, ok && g.family == s.family
	case slots:
		if len(k.Key) < size+4 || len(k.Val) < size {
			return e, false
		}
		slot := binary.NativeEndian.Uint32(k.Key[size:])
		e.slot = int(slot)
		e.to, _ = netip.AddrFromSlice(k.Val[:size])
		return e, slot < maxBackends
	case met:
		if len(k.Key) < size+1 {
			return e, false
		}
		e.proto = k.Key[size]
	}
	return e, true
}
