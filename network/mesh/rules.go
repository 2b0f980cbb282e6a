package mesh

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/nft"
)

// chain of one of the tables, as text and as the kernel takes it.
type chain struct {
	family   nftables.TableFamily
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

func line(text string, exprs ...[]expr.Any) rule {
	r := rule{text: text}
	for _, e := range exprs {
		r.exprs = append(r.exprs, e...)
	}
	return r
}

// twice because, before Linux 6.18, a lookup that meets the very moment of a
// commit finds neither the old element nor the new one; the second one begins
// after that moment.
func twice(r rule) []rule { return []rule{r, r} }

const entry = "entry"

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// group is the ports that lead to as many slots of the same map; each has a chain.
type group struct {
	slots kind
	count int
	// hidden marks the connections as ones whose source is to be replaced.
	hidden bool
}

func (g group) name() string {
	name := g.slots.String() + "_" + strconv.Itoa(g.count)
	if g.hidden {
		name += "_hidden"
	}
	return name
}

// parseGroup is the inverse of name.
func parseGroup(name string) (g group, ok bool) {
	text, isHidden := strings.CutSuffix(name, "_hidden")
	slots, number, _ := strings.Cut(text, "_")
	n, err := strconv.Atoi(number)
	g = group{everywhere, n, isHidden}
	if slots == here.String() {
		g.slots = here
	}
	return g, err == nil && n > 0 && g.name() == name
}

// chain draws a number below the count of slots and leads to that slot.
func (g group) chain() chain {
	c := chain{family: nftables.TableFamilyIPv4, name: g.name()}
	if g.hidden {
		c.rules = append(c.rules, line("ct mark set "+markText(hidden()), immediate(hidden()), setCtMark))
	}
	c.rules = append(c.rules, twice(line(
		fmt.Sprintf("dnat ip to meta l4proto . th dport . numgen random mod %d map @%s", g.count, g.slots),
		loadPort(unix.NFT_REG32_00), []expr.Any{
			&expr.Numgen{Register: unix.NFT_REG32_02, Modulus: uint32(g.count), Type: unix.NFT_NG_RANDOM},
			&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: g.slots.String()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: unix.NFT_REG32_01, Specified: true},
		},
	))...)
	return c
}

// frame is the chains that do not depend on what is published.
func (b base) frame() []chain {
	return []chain{
		baseChain("guard", nftables.ChainTypeFilter, "prerouting", "raw",
			// route_localnet lets 127.0.0.0/8 pass the link; that way must not lead in.
			line("iifname \""+LinkName+"\" ip daddr 127.0.0.0/8 drop", ifName(in, same), inPrefix(destination, loopback), verdict(expr.VerdictDrop)),
		),
		b.marks(),
		baseChain("inbound", nftables.ChainTypeNAT, "prerouting", "dstnat",
			append(twice(line(fmt.Sprintf("iifname %q ip daddr %s meta l4proto . th dport vmap @%s", LinkName, b.arriving(), arrivals),
				ifName(in, same), inPrefix(destination, b.arriving()), loadPort(1), toVerdict(arrivals))),
				line("iifname \""+LinkName+"\" accept", ifName(in, same), verdict(expr.VerdictAccept)),
				line("fib daddr type local jump "+entry, isLocal, jump(entry)))...),
		baseChain("local", nftables.ChainTypeNAT, "output", "-100", line("fib daddr type local jump "+entry, isLocal, jump(entry))),
		{
			family: nftables.TableFamilyIPv4, name: entry,
			rules: append(
				twice(line("ip daddr . meta l4proto . th dport vmap @"+bound.String(), load(destination), loadPort(unix.NFT_REG32_01), toVerdict(bound))),
				twice(line("meta l4proto . th dport vmap @"+ports.String(), loadPort(1), toVerdict(ports)))...),
		},
		b.input(),
		b.forward(),
		b.answers(),
		b.clamp(),
		b.outbound(),
		b.turn(),
	}
}

// marks notes where a connection came from, and on its answers where they go.
func (b base) marks() chain {
	return baseChain("marks", nftables.ChainTypeFilter, "prerouting", "mangle",
		line(fmt.Sprintf("iifname %q ct state new ip daddr %s ct mark set ip daddr %s", LinkName, b.arriving(), b.toMarkText()),
			ifName(in, same), isNew, inPrefix(destination, b.arriving()), load(destination), b.toMark(), setCtMark),
		line(fmt.Sprintf("iifname != %q ct direction reply ct mark & %s == %s meta mark set ct mark", LinkName, markText(markMask), markText(markOf(0))),
			ifName(in, differs), isReply, []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}}, isMark(), []expr.Any{
				&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
				&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
			}),
	)
}

// input is where ends what another node believes to be here: it has not heard
// yet. A client that opens a connection gets no answer, and when it repeats
// itself the other node leads it elsewhere, or refuses it if there is no task
// left. Whatever else comes is refused: the task is gone that it was said to.
// The link's echoes, by which the nodes try it, are answered.
func (b base) input() chain {
	return baseChain("input", nftables.ChainTypeFilter, "input", "filter",
		line("iifname != \""+LinkName+"\" accept", ifName(in, differs), verdict(expr.VerdictAccept)),
		line("ct state established,related accept", isKnown, verdict(expr.VerdictAccept)),
		line("icmp type echo-request accept", isProtocol(unix.IPPROTO_ICMP), []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{8}},
		}, verdict(expr.VerdictAccept)),
		line(opensText+" drop", opens, verdict(expr.VerdictDrop)),
		line("reject with tcp reset", isProtocol(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}),
		line("reject", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable}}),
	)
}

// forward lets pass only what the mesh itself led here or there.
func (b base) forward() chain {
	return baseChain("forward", nftables.ChainTypeFilter, "forward", "filter",
		line("ct state established,related accept", isKnown, verdict(expr.VerdictAccept)),
		line("ct status dnat accept", isTranslated, verdict(expr.VerdictAccept)),
		line("iifname \""+LinkName+"\" drop", ifName(in, same), verdict(expr.VerdictDrop)),
		line("oifname \""+LinkName+"\" drop", ifName(out, same), verdict(expr.VerdictDrop)),
	)
}

// answers sends this node's own refusals and echoes back to the entry node.
func (b base) answers() chain {
	own := NodeAddr(b.subnet, b.number, b.number)
	return baseChain("answers", nftables.ChainTypeRoute, "output", "mangle",
		line(fmt.Sprintf("ip saddr %s ip saddr != %s meta mark set ip saddr %s", b.arriving(), own, b.toMarkText()),
			inPrefix(source, b.arriving()), load(source), []expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: own.AsSlice()}},
			load(source), b.toMark(), setMetaMark))
}

// clamp lowers the segments that both ends of a TCP connection announce to what
// the link takes: the ends cannot know of it.
func (b base) clamp() chain {
	const headers = 40 // of IPv4 and TCP, without options
	segment := uint16(b.mtu - headers)
	return baseChain("clamp", nftables.ChainTypeFilter, "postrouting", "mangle",
		line(fmt.Sprintf("oifname %q tcp flags syn / syn,rst tcp option maxseg size set %d", LinkName, segment),
			ifName(out, same), isProtocol(unix.IPPROTO_TCP), []expr.Any{
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x02 | 0x04}, Xor: []byte{0}},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0x02}},
				&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, segment)},
				&expr.Exthdr{SourceRegister: 1, Type: 2, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
			}))
}

// outbound replaces sources that the task's node could not answer to: its own
// address, and those that mean something on this node only.
func (b base) outbound() chain {
	own := NodeAddr(b.subnet, b.number, b.number)
	toOwn := []expr.Any{
		&expr.Immediate{Register: 1, Data: own.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}
	snat := " snat to " + own.String()
	isHidden := []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: bytesOf(hidden())},
	}
	pool := b.pool.Masked()
	return baseChain("outbound", nftables.ChainTypeNAT, "postrouting", "srcnat", append(b.hasten(),
		line(fmt.Sprintf("oifname != %q ct mark %s masquerade", LinkName, markText(hidden())), ifName(out, differs), isHidden, []expr.Any{&expr.Masq{}}),
		line(fmt.Sprintf("oifname != %q accept", LinkName), ifName(out, differs), verdict(expr.VerdictAccept)),
		line("ct mark "+markText(hidden())+snat, isHidden, toOwn),
		line("ip saddr "+pool.String()+snat, inPrefix(source, pool), toOwn),
		line("ip saddr 127.0.0.0/8"+snat, inPrefix(source, loopback), toOwn),
		line("ip saddr @"+nodes.String()+snat, load(source), []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: nodes.String()}}, toOwn),
	)...)
}

// turn writes the mark over the hardware address of the next hop, and takes it
// away, for the packet that carries this one inherits it.
func (b base) turn() chain {
	priority := nftables.ChainPriority(0)
	return chain{
		family: nftables.TableFamilyNetdev, name: "turn", kind: nftables.ChainTypeFilter,
		hook: "egress device \"" + LinkName + "\"", hookNum: nftables.ChainHookEgress, priority: "filter", prioNum: &priority,
		rules: []rule{
			line(fmt.Sprintf("meta mark & %s == %s @ll,16,32 set meta mark meta mark set 0x00000000", markText(markMask), markText(markOf(0))),
				[]expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}}, isMark(), []expr.Any{
					&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
					&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: 2, Len: 4},
				}, immediate([4]byte{}), setMetaMark),
		},
	}
}

// arriving is what leads to this node by the link.
func (b base) arriving() netip.Prefix { return nodePrefix(b.subnet, b.number) }

// entryMask covers what of an address names the entry node.
func (b base) entryMask() netip.Addr {
	var mask [4]byte
	binary.BigEndian.PutUint32(mask[:], 1<<halfBits(b.subnet)-1)
	return netip.AddrFrom4(mask)
}

// toMarkText is how nft shows the below: it keeps the bits that are set anyway.
func (b base) toMarkText() string {
	mask, bits := b.entryMask().As4(), markOf(0)
	for i := range mask {
		mask[i] |= bits[i]
	}
	return fmt.Sprintf("& %s | %s", netip.AddrFrom4(mask), netip.AddrFrom4(bits))
}

// toMark turns the address in register 1 into its entry node's mark.
func (b base) toMark() []expr.Any {
	return []expr.Any{&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: b.entryMask().AsSlice(), Xor: bytesOf(markOf(0))}}
}

func baseChain(name string, kind nftables.ChainType, hook, priority string, rules ...rule) chain {
	hooks := map[string]*nftables.ChainHook{
		"prerouting": nftables.ChainHookPrerouting, "input": nftables.ChainHookInput, "forward": nftables.ChainHookForward,
		"output": nftables.ChainHookOutput, "postrouting": nftables.ChainHookPostrouting,
	}
	priorities := map[string]*nftables.ChainPriority{
		"raw": nftables.ChainPriorityRaw, "mangle": nftables.ChainPriorityMangle, "filter": nftables.ChainPriorityFilter,
		"dstnat": nftables.ChainPriorityNATDest, "-100": nftables.ChainPriorityNATDest, "srcnat": nftables.ChainPriorityNATSource,
	}
	return chain{
		family: nftables.TableFamilyIPv4, name: name, kind: kind,
		hook: hook, hookNum: hooks[hook], priority: priority, prioNum: priorities[priority], rules: rules,
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
	out := &nftables.Chain{Table: table(c.family), Name: c.name, Type: c.kind, Hooknum: c.hookNum, Priority: c.prioNum}
	if c.family == nftables.TableFamilyNetdev {
		out.Device = LinkName
	}
	return out
}

// sameRules reports whether the kernel's rules are those of the chain.
func (c chain) sameRules(list []*nftables.Rule) bool {
	if len(list) != len(c.rules) {
		return false
	}
	for i, r := range c.rules {
		if !nft.Same(c.family, asListed(r.exprs), list[i].Exprs) {
			return false
		}
	}
	return true
}

// asListed is a rule as the library reads it: it leaves out the register that a
// mark is set from.
func asListed(exprs []expr.Any) []expr.Any {
	out := slices.Clone(exprs)
	for i, e := range out {
		if ct, ok := e.(*expr.Ct); ok && ct.SourceRegister {
			out[i] = &expr.Ct{Key: ct.Key}
		}
	}
	return out
}

func table(family nftables.TableFamily) *nftables.Table {
	return &nftables.Table{Family: family, Name: TableName}
}
