package overlay

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/bridge"
)

// TableName of the nftables table in the host's namespace, family inet.
const TableName = "minid_overlay"

// guard is what the table knows: which packets are VXLAN, whose are accepted,
// and which may only go through SecureLink. Each set as the kernel's keys.
type guard map[string][][]byte

// The table's sets.
const (
	setPorts     = "ports"
	setEncrypted = "encrypted"
	setPeers4    = "peers4"
	setPeers6    = "peers6"
)

// table of the wanted state.
func (w Wanted) table() guard {
	return newGuard(maps.Values(w.Networks), w.Peers, w.Port)
}

func newGuard(networks func(func(Network) bool), peers []netip.Addr, port uint16) guard {
	g := guard{}
	if port != 0 {
		g.add(setPorts, binaryutil.BigEndian.PutUint16(port))
	}
	for n := range networks {
		if n.VNI == 0 {
			continue
		}
		g.add(setPorts, binaryutil.BigEndian.PutUint16(n.Port))
		if n.Encrypted {
			g.add(setEncrypted, binaryutil.BigEndian.PutUint32(n.VNI)[1:])
		}
	}
	for _, p := range peers {
		if p = p.Unmap(); p.Is4() {
			g.add(setPeers4, p.AsSlice())
		} else {
			g.add(setPeers6, p.AsSlice())
		}
	}
	for name := range g {
		slices.SortFunc(g[name], slices.Compare)
		g[name] = slices.CompactFunc(g[name], slices.Equal)
	}
	return g
}

func (g guard) add(set string, key []byte) { g[set] = append(g[set], key) }

// set is one of the table's, as text and as the kernel takes it.
type set struct {
	name, kind string
	keyType    nftables.SetDatatype
	text       func(key []byte) string
}

func sets() []set {
	number := func(key []byte) string {
		return fmt.Sprint(binaryutil.BigEndian.Uint32(append(make([]byte, 4-len(key), 4), key...)))
	}
	address := func(key []byte) string {
		a, _ := netip.AddrFromSlice(key)
		return a.String()
	}
	vni := nftables.TypeInteger
	vni.Bytes = 3
	return []set{
		{setPorts, "inet_service", nftables.TypeInetService, number},
		{setEncrypted, "integer", vni, number},
		{setPeers4, "ipv4_addr", nftables.TypeIPAddr, address},
		{setPeers6, "ipv6_addr", nftables.TypeIP6Addr, address},
	}
}

func (s set) kernel() *nftables.Set {
	return &nftables.Set{Table: table(), Name: s.name, KeyType: s.keyType}
}

func table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}
}

// chain is a base chain of the table, as text and as the kernel takes it.
type chain struct {
	name     string
	hook     string
	hookNum  *nftables.ChainHook
	priority string
	prioNum  *nftables.ChainPriority
	rules    []rule
}

type rule struct {
	text  string
	exprs []expr.Any
}

// chains of the table. VXLAN has no connections that would be worth tracking.
// A task's packets to a peer would carry this node's address after translation,
// and pass there as this node's own VXLAN: they are dropped, as is whatever a
// task sends into SecureLink.
func chains() []chain {
	vxlan := rule{"udp dport @ports", match(isUDP, destinationPort, lookup(setPorts))}
	encrypted := vxlan.and("@th,96,24 @encrypted", match(vni, lookup(setEncrypted)))
	fromTasks := rule{`iifname "` + bridge.LinkName + `"`, linkIs(expr.MetaKeyIIFNAME, expr.CmpOpEq, bridge.LinkName)}
	return []chain{
		{
			name: "arriving", hook: "prerouting", hookNum: nftables.ChainHookPrerouting,
			priority: "raw", prioNum: nftables.ChainPriorityRaw,
			rules: []rule{rule{"fib daddr type local", toThisHost}.and(vxlan.text, vxlan.exprs).and("notrack", notrack)},
		},
		{
			name: "leaving", hook: "output", hookNum: nftables.ChainHookOutput,
			priority: "raw", prioNum: nftables.ChainPriorityRaw,
			rules: []rule{vxlan.and("notrack", notrack)},
		},
		{
			name: "accepted", hook: "input", hookNum: nftables.ChainHookInput,
			priority: "filter", prioNum: nftables.ChainPriorityFilter,
			rules: []rule{
				encrypted.and(`iifname != "`+SecureLink+`" drop`, match(linkIs(expr.MetaKeyIIFNAME, expr.CmpOpNeq, SecureLink), drop)),
				encrypted.and("accept", accept),
				vxlan.and("ip saddr != @peers4 drop", match(isFamily(unix.NFPROTO_IPV4), source4, lookupNot(setPeers4), drop)),
				vxlan.and("ip6 saddr != @peers6 drop", match(isFamily(unix.NFPROTO_IPV6), source6, lookupNot(setPeers6), drop)),
			},
		},
		{
			name: "sent", hook: "output", hookNum: nftables.ChainHookOutput,
			priority: "filter", prioNum: nftables.ChainPriorityFilter,
			rules: []rule{
				encrypted.and(`oifname != "`+SecureLink+`" drop`, match(linkIs(expr.MetaKeyOIFNAME, expr.CmpOpNeq, SecureLink), drop)),
			},
		},
		{
			name: "forged", hook: "forward", hookNum: nftables.ChainHookForward,
			priority: "filter", prioNum: nftables.ChainPriorityFilter,
			rules: []rule{
				fromTasks.and("ip daddr @peers4", match(isFamily(unix.NFPROTO_IPV4), destination4, lookup(setPeers4))).
					and(vxlan.text, vxlan.exprs).and("drop", drop),
				fromTasks.and(`oifname "`+SecureLink+`" drop`, match(linkIs(expr.MetaKeyOIFNAME, expr.CmpOpEq, SecureLink), drop)),
			},
		},
	}
}

// and is the rule with more conditions, or what to do.
func (r rule) and(text string, exprs []expr.Any) rule {
	return rule{r.text + " " + text, match(r.exprs, exprs)}
}

func match(lists ...[]expr.Any) []expr.Any { return slices.Concat(lists...) }

var (
	drop       = []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	accept     = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	notrack    = []expr.Any{&expr.Notrack{}}
	toThisHost = []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
	isUDP = []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
	}
	destinationPort = load(expr.PayloadBaseTransportHeader, 2, 2)
	// The VNI lies behind 8 bytes of UDP and 4 of VXLAN's flags.
	vni          = load(expr.PayloadBaseTransportHeader, 12, 3)
	source4      = load(expr.PayloadBaseNetworkHeader, 12, 4)
	destination4 = load(expr.PayloadBaseNetworkHeader, 16, 4)
	source6      = load(expr.PayloadBaseNetworkHeader, 8, 16)
)

func load(base expr.PayloadBase, offset, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length}}
}

func lookup(name string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: name}}
}

func lookupNot(name string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: name, Invert: true}}
}

func isFamily(family byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
	}
}

func linkIs(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

func (g guard) render(b *strings.Builder) {
	fmt.Fprintf(b, "table inet %s {\n", TableName)
	for _, s := range sets() {
		fmt.Fprintf(b, "\tset %s {\n\t\ttype %s\n", s.name, s.kind)
		if keys := g[s.name]; len(keys) > 0 {
			texts := make([]string, len(keys))
			for i, k := range keys {
				texts[i] = s.text(k)
			}
			fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(texts, ", "))
		}
		b.WriteString("\t}\n\n")
	}
	for i, c := range chains() {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(b, "\tchain %s {\n\t\ttype filter hook %s priority %s; policy accept;\n", c.name, c.hook, c.priority)
		for _, r := range c.rules {
			fmt.Fprintf(b, "\t\t%s\n", r.text)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
}
