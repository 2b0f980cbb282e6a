package vip

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/minid/minid/network/nft"
)

// Compare writes the table as Set(w) would leave it, and as it is. Which backend
// has which slot depends on what was before; what is out of use for less than a
// second is in both.
func (b *Balancer) Compare(w Wanted) (wanted, actual string, err error) {
	if w, err = w.normal(); err != nil {
		return "", "", err
	}
	found, err := b.read()
	if err != nil {
		return "", "", err
	}
	before := newImage()
	if found.intact {
		before = found.image
	}
	after, _ := before.set(w, never)
	actual, err = nft.Dump(b.session.Conn, layout(found.chains))
	return after.render(), actual, err
}

// layout of a table with these chains.
func layout(chains []*nftables.Chain) nft.Layout {
	l := nft.Layout{Table: table(), Title: "inet " + TableName}
	for _, s := range sets {
		l.Sets = append(l.Sets, nft.SetLayout{
			Set: s.kernel(), Types: s.types(), Lines: func(list []nftables.SetElement) []string { return lines(s, list) },
		})
	}
	m := newImage()
	for _, k := range chains {
		if g, ok := parseGroup(k.Name); ok {
			m.groups[g] = use{}
		}
	}
	all := frame()
	for _, g := range m.sortedGroups() {
		all = append(all, g.chain())
	}
	for _, c := range all {
		l.Chains = append(l.Chains, c.layout())
	}
	return l
}

// lines writes the elements of a set as the kernel lists them.
func lines(s set, list []nftables.SetElement) []string {
	m := newImage()
	var strange []string
	for _, k := range list {
		if e, ok := parseElement(s, k); ok {
			m.note(e)
		} else {
			strange = append(strange, fmt.Sprintf("0x%x : 0x%x", k.Key, k.Val))
		}
	}
	slices.Sort(strange)
	return append(m.lines(s), strange...)
}

func (c chain) layout() nft.ChainLayout {
	out := nft.ChainLayout{Name: c.name, Same: c.same}
	if c.kind != "" {
		out.Head = fmt.Sprintf("type %s hook %s priority %s; policy accept;", c.kind, c.hook, c.priority)
	}
	for _, r := range c.rules {
		out.Rules = append(out.Rules, nft.RuleLayout{Text: r.text, Same: func(have []expr.Any) bool {
			return nft.Same(nftables.TableFamilyINet, r.exprs, have)
		}})
	}
	return out
}
