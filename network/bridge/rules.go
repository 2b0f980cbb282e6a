package bridge

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// chain is a base chain of the table, as text and as the kernel takes it.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     string
	hookNum  *nftables.ChainHook
	priority string
	prioNum  *nftables.ChainPriority
	rules    []rule
	// frames is set if the chain sees the frames of bridges, not packets.
	frames bool
}

func (c chain) table() *nftables.Table {
	if c.frames {
		return frameTable()
	}
	return table()
}

type rule struct {
	text  string
	exprs []expr.Any
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// chains of the table. A published port is looked up for every connection to
// one of the host's addresses, from outside and from the host itself.
func (w Wanted) chains() []chain {
	toPort := rule{
		text:  "fib daddr type local dnat ip to meta l4proto . th dport map @" + mapName,
		exprs: dnatExprs(),
	}
	pool := w.Pool.Masked()
	return []chain{
		{
			// route_localnet lets 127.0.0.0/8 pass the bridge; that way must not lead in.
			name: "guard", kind: nftables.ChainTypeFilter, hook: "prerouting", hookNum: nftables.ChainHookPrerouting,
			priority: "raw", prioNum: nftables.ChainPriorityRaw,
			rules: []rule{{
				text:  `iifname "` + LinkName + `" ip daddr 127.0.0.0/8 drop`,
				exprs: join(ifName(expr.MetaKeyIIFNAME, expr.CmpOpEq), inPrefix(destination, loopback), drop),
			}},
		},
		{
			name: "inbound", kind: nftables.ChainTypeNAT, hook: "prerouting", hookNum: nftables.ChainHookPrerouting,
			priority: "dstnat", prioNum: nftables.ChainPriorityNATDest, rules: []rule{toPort},
		},
		{
			name: "local", kind: nftables.ChainTypeNAT, hook: "output", hookNum: nftables.ChainHookOutput,
			priority: "-100", prioNum: nftables.ChainPriorityNATDest, rules: []rule{toPort},
		},
		between(pool),
		forward(),
		{
			name: "outbound", kind: nftables.ChainTypeNAT, hook: "postrouting", hookNum: nftables.ChainHookPostrouting,
			priority: "srcnat", prioNum: nftables.ChainPriorityNATSource,
			rules: []rule{
				{
					text:  "ip saddr " + pool.String() + ` oifname != "` + LinkName + `" masquerade`,
					exprs: join(inPrefix(source, pool), ifName(expr.MetaKeyOIFNAME, expr.CmpOpNeq), masquerade),
				},
				{
					// A task that reaches a task by a host port: the answer must come back this way.
					text:  "ip saddr " + pool.String() + " ip daddr " + pool.String() + " ct status dnat masquerade",
					exprs: join(inPrefix(source, pool), inPrefix(destination, pool), translated, masquerade),
				},
				{
					text:  `ip saddr 127.0.0.0/8 oifname "` + LinkName + `" masquerade`,
					exprs: join(inPrefix(source, loopback), ifName(expr.MetaKeyOIFNAME, expr.CmpOpEq), masquerade),
				},
			},
		},
		isolate(),
	}
}

// allowed marks what was translated from one task to another, or to itself.
const allowed = 0x026d

// between marks what a published port leads from task to task. Where bridges
// show their frames to the rules of packets (bridge-nf-call-iptables, which
// others on the host may want), such a packet never leaves the bridge.
func between(pool netip.Prefix) chain {
	return chain{
		name: "between", kind: nftables.ChainTypeFilter, hook: "prerouting", hookNum: nftables.ChainHookPrerouting,
		priority: "dstnat + 1", prioNum: nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest + 1),
		rules: []rule{{
			text: fmt.Sprintf("iifname %q ip daddr %s ct status dnat meta mark set 0x%08x", LinkName, pool, allowed),
			exprs: join(ifName(expr.MetaKeyIIFNAME, expr.CmpOpEq), inPrefix(destination, pool), translated, []expr.Any{
				&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(allowed)},
				&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
			}),
		}},
	}
}

// isolate keeps the frames of one cable out of all others, and out of itself.
// The bridge's own isolation of ports would drop what is allowed, too.
func isolate() chain {
	cable := func(key expr.MetaKey) []expr.Any {
		return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(linkPrefix)}}
	}
	return chain{
		name: "isolate", kind: nftables.ChainTypeFilter, hook: "forward", hookNum: nftables.ChainHookForward,
		priority: "filter", prioNum: nftables.ChainPriorityRef(-200), frames: true, // as the kernel counts for bridges
		rules: []rule{{
			text: fmt.Sprintf(`iifname "%s*" oifname "%s*" meta mark != 0x%08x drop`, linkPrefix, linkPrefix, allowed),
			exprs: join(cable(expr.MetaKeyIIFNAME), cable(expr.MetaKeyOIFNAME), []expr.Any{
				&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(allowed)},
			}, drop),
		}},
	}
}

// forward lets answers pass, what was translated to a task, and what tasks that
// are not internal send out. Packets that conntrack makes nothing of match no
// rule about their connection, so those that let in come before the one that
// does not.
func forward() chain {
	return chain{
		name: "forward", kind: nftables.ChainTypeFilter, hook: "forward", hookNum: nftables.ChainHookForward,
		priority: "filter", prioNum: nftables.ChainPriorityFilter,
		rules: []rule{
			{
				text:  "ct state established,related accept",
				exprs: join(known, accept),
			},
			{
				text:  `iifname "` + LinkName + `" ip saddr @` + setName + " drop",
				exprs: join(ifName(expr.MetaKeyIIFNAME, expr.CmpOpEq), inSet(source, setName), drop),
			},
			{
				text:  `oifname "` + LinkName + `" ct status dnat accept`,
				exprs: join(ifName(expr.MetaKeyOIFNAME, expr.CmpOpEq), translated, accept),
			},
			{
				text:  `oifname "` + LinkName + `" drop`,
				exprs: join(ifName(expr.MetaKeyOIFNAME, expr.CmpOpEq), drop),
			},
		},
	}
}

// Offsets of the addresses in an IPv4 header.
const (
	source      = 12
	destination = 16
)

// statusDNAT is IPS_DST_NAT of the kernel's conntrack status.
const statusDNAT = 1 << 5

var (
	masquerade = []expr.Any{&expr.Masq{}}
	drop       = []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	accept     = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	known      = []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4, Xor: make([]byte, 4),
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
	translated = []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(statusDNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
)

func join(lists ...[]expr.Any) (out []expr.Any) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

func ifName(key expr.MetaKey, op expr.CmpOp) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, LinkName)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: name}}
}

func inPrefix(offset uint32, p netip.Prefix) []expr.Any {
	mask := netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), p.Bits()).Masked().Addr().AsSlice()
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

func inSet(offset uint32, name string) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Lookup{SourceRegister: 1, SetName: name},
	}
}

// Register 9 is the second 32-bit word of register 1: a concatenation lies in
// words one after another.
const secondWord = 9

func dnatExprs() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Payload{DestRegister: secondWord, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: mapName},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: secondWord, Specified: true},
	}
}

func table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: TableName}
}

// frameTable is the same for the frames of bridges.
func frameTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyBridge, Name: TableName}
}

func portMap() *nftables.Set {
	return &nftables.Set{
		Table: table(), Name: mapName, IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
		DataType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService),
	}
}

func internalSet() *nftables.Set {
	return &nftables.Set{Table: table(), Name: setName, KeyType: nftables.TypeIPAddr}
}

func element(k hostPort, b backend) nftables.SetElement {
	addr := b.Address.As4()
	return nftables.SetElement{
		Key: []byte{byte(k.Protocol), 0, 0, 0, byte(k.Port >> 8), byte(k.Port), 0, 0},
		Val: append(addr[:], byte(b.Port>>8), byte(b.Port), 0, 0),
	}
}

// parseElement is the inverse of element.
func parseElement(e nftables.SetElement) (k hostPort, b backend, ok bool) {
	if len(e.Key) < 6 || len(e.Val) < 6 {
		return k, b, false
	}
	k = hostPort{Protocol(e.Key[0]), uint16(e.Key[4])<<8 | uint16(e.Key[5])}
	b = backend{netip.AddrFrom4([4]byte(e.Val[:4])), uint16(e.Val[4])<<8 | uint16(e.Val[5])}
	return k, b, true
}
