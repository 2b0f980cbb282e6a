package nft

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Layout is how a table is written as text: its sets and chains, in order.
type Layout struct {
	Table *nftables.Table
	// Title is the family and name, as nft writes them.
	Title  string
	Sets   []SetLayout
	Chains []ChainLayout
}

// SetLayout is how a set or map is written.
type SetLayout struct {
	Set *nftables.Set
	// Types of its elements, as nft writes them.
	Types string
	// Lines writes elements, sorted.
	Lines func([]nftables.SetElement) []string
	// Separator of elements; empty is one that begins a line.
	Separator string
}

// ChainLayout is how a chain is written.
type ChainLayout struct {
	Name string
	// Head is the line that says where a base chain hooks in.
	Head string
	// Same tells whether a chain is this one, rules aside.
	Same  func(*nftables.Chain) bool
	Rules []RuleLayout
}

// RuleLayout is how a rule is written.
type RuleLayout struct {
	Text string
	Same func([]expr.Any) bool
}

// newElement begins each element's line.
const newElement = ",\n\t\t\t     "

// Dump writes a table as the kernel has it, in the words of its layout. What the
// layout does not know comes last or, of a rule, in its place, as far as words
// for it are known here. A table that is missing is no text.
func Dump(c *nftables.Conn, l Layout) (string, error) {
	tables, err := c.ListTablesOfFamily(l.Table.Family)
	if err != nil {
		return "", fmt.Errorf("list tables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == l.Table.Name }) {
		return "", nil
	}
	sets, err := dumpSets(c, l)
	if err != nil {
		return "", err
	}
	chains, err := dumpChains(c, l)
	if err != nil {
		return "", err
	}
	return "table " + l.Title + " {\n" + strings.Join(append(sets, chains...), "\n") + "}\n", nil
}

func dumpSets(c *nftables.Conn, l Layout) (out []string, err error) {
	sets, err := c.GetSets(l.Table)
	if err != nil {
		return nil, fmt.Errorf("list sets of %s: %w", l.Table.Name, err)
	}
	for _, known := range l.Sets {
		i := slices.IndexFunc(sets, func(s *nftables.Set) bool { return s.Name == known.Set.Name && s.IsMap == known.Set.IsMap })
		if i < 0 {
			continue
		}
		sets = slices.Delete(sets, i, i+1)
		elements, err := c.GetSetElements(known.Set)
		if err != nil {
			return nil, fmt.Errorf("list elements of %s: %w", known.Set.Name, err)
		}
		out = append(out, known.text(elements))
	}
	for _, s := range sets {
		out = append(out, fmt.Sprintf("\t%s %s {\n\t\t# not minid's\n\t}\n", sort(s), s.Name))
	}
	return out, nil
}

func sort(s *nftables.Set) string {
	if s.IsMap {
		return "map"
	}
	return "set"
}

func (s SetLayout) text(elements []nftables.SetElement) string {
	separator := s.Separator
	if separator == "" {
		separator = newElement
	}
	text := fmt.Sprintf("\t%s %s {\n\t\ttype %s\n", sort(s.Set), s.Set.Name, s.Types)
	if lines := s.Lines(elements); len(lines) > 0 {
		text += "\t\telements = { " + strings.Join(lines, separator) + " }\n"
	}
	return text + "\t}\n"
}

// Chains lists the chains of a table.
func Chains(c *nftables.Conn, t *nftables.Table) ([]*nftables.Chain, error) {
	all, err := c.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	return slices.DeleteFunc(all, func(k *nftables.Chain) bool { return k.Table.Name != t.Name }), nil
}

func dumpChains(c *nftables.Conn, l Layout) (out []string, err error) {
	chains, err := Chains(c, l.Table)
	if err != nil {
		return nil, err
	}
	add := func(k *nftables.Chain, known ChainLayout) error {
		text, err := dumpChain(c, k, known)
		out = append(out, text)
		return err
	}
	for _, known := range l.Chains {
		i := slices.IndexFunc(chains, func(k *nftables.Chain) bool { return k.Name == known.Name })
		if i < 0 {
			continue
		}
		if err := add(chains[i], known); err != nil {
			return nil, err
		}
		chains = slices.Delete(chains, i, i+1)
	}
	for _, k := range chains {
		if err := add(k, ChainLayout{Head: "# not minid's"}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func dumpChain(c *nftables.Conn, k *nftables.Chain, known ChainLayout) (string, error) {
	rules, err := c.GetRules(k.Table, k)
	if err != nil {
		return "", fmt.Errorf("list rules of %s: %w", k.Name, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\tchain %s {\n", k.Name)
	switch {
	case known.Same != nil && !known.Same(k):
		fmt.Fprintf(&b, "\t\t# hooked in otherwise: %s\n", hook(k))
	case known.Head != "":
		fmt.Fprintf(&b, "\t\t%s\n", known.Head)
	}
	for _, r := range rules {
		i := slices.IndexFunc(known.Rules, func(l RuleLayout) bool { return l.Same(r.Exprs) })
		if i < 0 {
			fmt.Fprintf(&b, "\t\t# not minid's: %s\n", describe(r.Exprs))
			continue
		}
		fmt.Fprintf(&b, "\t\t%s\n", known.Rules[i].Text)
	}
	b.WriteString("\t}\n")
	return b.String(), nil
}

// hook says where a chain hooks in, in the kernel's numbers.
func hook(k *nftables.Chain) string {
	if k.Hooknum == nil || k.Priority == nil {
		return "nowhere"
	}
	text := fmt.Sprintf("type %s hook %d priority %d", k.Type, *k.Hooknum, *k.Priority)
	if k.Policy != nil && *k.Policy == nftables.ChainPolicyDrop {
		text += "; policy drop"
	}
	return text
}

// describe says of which expressions a rule consists, with what identifies it.
func describe(list []expr.Any) string {
	words := make([]string, len(list))
	for i, e := range list {
		switch e := e.(type) {
		case *expr.Cmp:
			words[i] = fmt.Sprintf("cmp 0x%x", e.Data)
		case *expr.Lookup:
			words[i] = "lookup @" + e.SetName
		case *expr.Verdict:
			words[i] = verdict(e)
		default:
			name := fmt.Sprintf("%T", e)
			words[i] = strings.ToLower(name[strings.LastIndexByte(name, '.')+1:])
		}
	}
	return strings.Join(words, ", ")
}

func verdict(v *expr.Verdict) string {
	switch v.Kind {
	case expr.VerdictAccept:
		return "accept"
	case expr.VerdictDrop:
		return "drop"
	case expr.VerdictReturn:
		return "return"
	case expr.VerdictJump:
		return "jump " + v.Chain
	case expr.VerdictGoto:
		return "goto " + v.Chain
	}
	return fmt.Sprintf("verdict %d", v.Kind)
}
