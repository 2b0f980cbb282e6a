package vip

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/nft"
)

// family is an IP version, by its number in nftables.
type family byte

const (
	ipv4 family = unix.NFPROTO_IPV4
	ipv6 family = unix.NFPROTO_IPV6
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// String is the name that nft gives the protocol.
func (f family) String() string {
	if f == ipv4 {
		return "ip"
	}
	return "ip6"
}

func (f family) datatype() nftables.SetDatatype {
	if f == ipv4 {
		return nftables.TypeIPAddr
	}
	return nftables.TypeIP6Addr
}

// words that an address takes of the registers, 4 bytes each.
func (f family) words() uint32 { return f.datatype().Bytes / 4 }

// firstWord is the register that begins register 1, seen as words: a
// concatenation lies in words one after another.
const firstWord = unix.NFT_REG32_00

// destination loads the packet's destination into register 1.
func (f family) destination() expr.Any {
	offset := uint32(16)
	if f == ipv6 {
		offset = 24
	}
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.datatype().Bytes}
}

// only lets packets of the family pass.
func (f family) only() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(f)}},
	}
}

// group is the VIPs of a family that have the same number of backends; each has
// a chain.
type group struct {
	family family
	count  int
}

func (g group) name() string { return g.family.String() + "_" + strconv.Itoa(g.count) }

// parseGroup is the inverse of name.
func parseGroup(name string) (g group, ok bool) {
	proto, number, _ := strings.Cut(name, "_")
	n, err := strconv.Atoi(number)
	g = group{ipv4, n}
	if proto == ipv6.String() {
		g.family = ipv6
	}
	return g, err == nil && n > 0 && n <= maxBackends && g.name() == name
}

// chain of a group.
func (g group) chain() chain {
	slots := set{slots, g.family}
	slot := firstWord + g.family.words()
	translate := rule{
		text: fmt.Sprintf("dnat %s to %s daddr . numgen random mod %d map @%s", g.family, g.family, g.count, slots.name()),
		exprs: append(g.family.only(), // nothing else comes here, but nft must know what it lists
			g.family.destination(),
			&expr.Numgen{Register: slot, Modulus: uint32(g.count), Type: unix.NFT_NG_RANDOM},
			&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: slots.name()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(g.family), RegAddrMin: 1},
		),
	}
	return chain{name: g.name(), rules: []rule{meet(g.family), translate}}
}

// meet notes to which VIP a flow goes, and by which protocol.
func meet(f family) rule {
	s := set{met, f}
	return rule{
		text: fmt.Sprintf("add @%s { %s daddr . meta l4proto }", s.name(), f),
		exprs: append(f.only(), f.destination(),
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstWord + f.words()},
			&expr.Dynset{SrcRegKey: 1, SetName: s.name(), Operation: unix.NFT_DYNSET_OP_ADD},
		),
	}
}

// twice because a lookup that meets the very moment of a commit finds neither
// the old element nor the new one (Linux before 6.18 does not look again by
// itself). What found no slot comes back here too; the second time begins after
// that moment.
func twice(r rule) []rule { return []rule{r, r} }

// chain of the table, as text and as the kernel takes it.
type chain struct {
	name     string
	kind     nftables.ChainType // empty: not a base chain
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

const refuse = "refuse"

// frame is the chains that do not depend on the VIPs. Translation is at output
// for the task itself, and at prerouting for networks behind it (containers in
// the container). Chains of this type see the first packet of a connection only,
// so established ones pay nothing for the guard; and a refused packet leaves no
// trace, so the next one is looked at again.
func frame() []chain {
	choose := append(twice(lead(ipv4)), twice(lead(ipv6))...)
	choose = append(choose, catch(ipv4), catch(ipv6), pass(ipv4), pass(ipv6))
	return []chain{
		{
			name: "output", kind: nftables.ChainTypeNAT, hook: "output", hookNum: nftables.ChainHookOutput,
			priority: "-100", prioNum: nftables.ChainPriorityNATDest, rules: choose,
		},
		{
			name: "prerouting", kind: nftables.ChainTypeNAT, hook: "prerouting", hookNum: nftables.ChainHookPrerouting,
			priority: "dstnat", prioNum: nftables.ChainPriorityNATDest, rules: choose,
		},
		{name: refuse, rules: []rule{
			{
				text: "meta l4proto tcp reject with tcp reset",
				exprs: []expr.Any{
					&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
					&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
					&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
				},
			},
			{
				text:  "reject",
				exprs: []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}},
			},
		}},
	}
}

// lead sends a VIP's packets to the chain of its group.
func lead(f family) rule {
	s := set{services, f}
	return rule{
		text: fmt.Sprintf("%s daddr vmap @%s", f, s.name()),
		exprs: append(f.only(), f.destination(), &expr.Lookup{
			SourceRegister: 1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: s.name(),
		}),
	}
}

// catch refuses what goes to a VIP that leads nowhere. To ask for the state is
// what makes the kernel track connections when the table has no translation in
// it; untracked packets do not come here at all.
func catch(f family) rule {
	s := set{vips, f}
	return rule{
		text: fmt.Sprintf("ct state == new %s daddr @%s goto %s", f, s.name(), refuse),
		exprs: slices.Concat([]expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW)},
		}, f.only(), []expr.Any{
			f.destination(),
			&expr.Lookup{SourceRegister: 1, SetName: s.name()},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: refuse},
		}),
	}
}

// pass notes where a flow goes that is none of the table's business.
func pass(f family) rule {
	s := set{passed, f}
	return rule{
		text:  fmt.Sprintf("add @%s { %s daddr }", s.name(), f),
		exprs: append(f.only(), f.destination(), &expr.Dynset{SrcRegKey: 1, SetName: s.name(), Operation: unix.NFT_DYNSET_OP_ADD}),
	}
}

func (c chain) render(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.name)
	if c.kind != "" {
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %s; policy accept;\n", c.kind, c.hook, c.priority)
	}
	for _, r := range c.rules {
		fmt.Fprintf(b, "\t\t%s\n", r.text)
	}
	b.WriteString("\t}\n")
}

// kernel is the chain as the library names it.
func (c chain) kernel() *nftables.Chain {
	return &nftables.Chain{Table: table(), Name: c.name, Type: c.kind, Hooknum: c.hookNum, Priority: c.prioNum}
}

func table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}
}

// same reports whether the kernel's chain is this one, rules aside.
func (c chain) same(k *nftables.Chain) bool {
	if c.kind == "" {
		return k.Hooknum == nil
	}
	accepts := k.Policy == nil || *k.Policy == nftables.ChainPolicyAccept
	return k.Hooknum != nil && k.Type == c.kind && *k.Hooknum == *c.hookNum && *k.Priority == *c.prioNum && accepts
}

// sameRules reports whether the kernel's rules are those of the chain.
func (c chain) sameRules(list []*nftables.Rule) bool {
	if len(list) != len(c.rules) {
		return false
	}
	for i, r := range c.rules {
		if !nft.Same(nftables.TableFamilyINet, r.exprs, list[i].Exprs) {
			return false
		}
	}
	return true
}
