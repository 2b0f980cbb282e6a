package mesh

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/minid/minid/network/bridge"
	"github.com/minid/minid/network/nft"
)

// kind names a set or map of the table.
type kind byte

const (
	// nodes are the other nodes' data-path addresses.
	nodes kind = iota
	// ports leads a published port to the chain of its group, on any address of
	// the node; bound does on one.
	ports
	bound
	// arrivals does for what other nodes send.
	arrivals
	// everywhere leads a port and a number to a task here or to another node;
	// here leads to tasks here only.
	everywhere
	here
)

var kinds = [...]kind{nodes, ports, bound, arrivals, everywhere, here}

func (k kind) String() string {
	return [...]string{"nodes", "ports", "bound", "arrivals", "everywhere", "here"}[k]
}

// leads tells whether the kind is a map from ports to chains.
func (k kind) leads() bool { return k == ports || k == bound || k == arrivals }

func (k kind) sort() string {
	if k == nodes {
		return "set"
	}
	return "map"
}

func (k kind) types() string {
	set := k.kernel()
	if !set.IsMap {
		return set.KeyType.Name
	}
	return set.KeyType.Name + " : " + set.DataType.Name
}

// kernel is the set as the library names it.
func (k kind) kernel() *nftables.Set {
	// The id refers to the set within a transaction. It is given because the
	// library would number the sets of all connections by one unguarded variable.
	out := &nftables.Set{Table: table(nftables.TableFamilyIPv4), Name: k.String(), ID: 1 + uint32(k)}
	if k == nodes {
		out.KeyType = nftables.TypeIPAddr
		return out
	}
	out.IsMap, out.Concatenation, out.DataType = true, true, nftables.TypeVerdict
	switch k {
	case ports, arrivals:
		out.KeyType = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	case bound:
		out.KeyType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	default:
		out.KeyType = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark)
		out.DataType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	}
	return out
}

// key of an element; what the kind has no use for is zero.
type key struct {
	kind kind
	port Published
	addr netip.Addr // nodes, bound
	slot int        // everywhere, here
}

// value of an element: group for the kinds that lead to one, to for slots.
type value struct {
	group group
	to    target
}

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.kind, o.kind), k.port.compare(o.port), k.addr.Compare(o.addr), cmp.Compare(k.slot, o.slot))
}

func text(k key, v value) string {
	port := fmt.Sprintf("%s . %d", k.port.Protocol, k.port.Port)
	switch k.kind {
	case nodes:
		return k.addr.String()
	case bound:
		return fmt.Sprintf("%s . %s : goto %s", k.addr, port, v.group.name())
	case everywhere, here:
		return fmt.Sprintf("%s . 0x%08x : %s . %d", port, k.slot, v.to.addr, v.to.port)
	}
	return fmt.Sprintf("%s : goto %s", port, v.group.name())
}

// element is the element as the library takes it.
func element(k key, v value) nftables.SetElement {
	port := []byte{byte(k.port.Protocol), 0, 0, 0, byte(k.port.Port >> 8), byte(k.port.Port), 0, 0}
	goes := &expr.Verdict{Kind: expr.VerdictGoto, Chain: v.group.name()}
	switch k.kind {
	case nodes:
		return nftables.SetElement{Key: k.addr.AsSlice()}
	case bound:
		return nftables.SetElement{Key: append(k.addr.AsSlice(), port...), VerdictData: goes}
	case everywhere, here:
		return nftables.SetElement{
			Key: binary.NativeEndian.AppendUint32(port, uint32(k.slot)), // numgen's number is the machine's
			Val: append(v.to.addr.AsSlice(), byte(v.to.port>>8), byte(v.to.port), 0, 0),
		}
	}
	return nftables.SetElement{Key: port, VerdictData: goes}
}

// parse is the inverse of element.
func parse(of kind, e nftables.SetElement) (k key, v value, ok bool) {
	k.kind = of
	rest := e.Key
	if of == nodes || of == bound {
		if len(rest) < 4 {
			return k, v, false
		}
		k.addr, rest = netip.AddrFrom4([4]byte(rest[:4])), rest[4:]
	}
	if of == nodes {
		return k, v, true
	}
	if len(rest) < 8 {
		return k, v, false
	}
	k.port = Published{bridge.Protocol(rest[0]), binary.BigEndian.Uint16(rest[4:])}
	if of.leads() {
		v.group, ok = parseGroup(nft.GotoTarget(e))
		return k, v, ok
	}
	if len(rest) < 12 || len(e.Val) < 6 {
		return k, v, false
	}
	k.slot = int(binary.NativeEndian.Uint32(rest[8:]))
	v.to = target{netip.AddrFrom4([4]byte(e.Val[:4])), binary.BigEndian.Uint16(e.Val[4:])}
	return k, v, true
}
