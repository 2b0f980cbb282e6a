package nft

import (
	"path/filepath"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/internal/realtest"
	"github.com/minid/minid/network/netns"
)

func newNetns(t *testing.T) string {
	t.Helper()
	realtest.NeedRoot(t)
	path := filepath.Join(t.TempDir(), "ns")
	must(t, netns.Ensure(path))
	t.Cleanup(func() { must(t, netns.Remove(path)) })
	return path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, ns string) *Session {
	t.Helper()
	s, err := Dial(ns)
	must(t, err)
	t.Cleanup(func() { _ = s.CloseLasting() })
	return s
}

// TestOwn: nobody else changes an owned table, it outlives its owner, and the
// next owner takes it over.
func TestOwn(t *testing.T) {
	ns := newNetns(t)
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: "minid_test"}
	first, second := dial(t, ns), dial(t, ns)
	owned, err := first.Own(table)
	must(t, err)
	if !owned { // the kernel is older than 6.9: the table is anybody's
		if _, err := second.Own(table); err != nil {
			t.Error("ordinary table:", err)
		}
		return
	}
	if owned, err := first.Own(table); !owned || err != nil {
		t.Errorf("owned again: %v, %v", owned, err)
	}
	if _, err := second.Own(table); err == nil {
		t.Error("a table has two owners")
	}
	second.FlushRuleset()
	_ = second.Flush()
	must(t, first.CloseLasting())
	if tables, err := second.ListTablesOfFamily(nftables.TableFamilyINet); err != nil || len(tables) != 1 {
		t.Errorf("tables %v, %v", tables, err)
	}
	if owned, err := dial(t, ns).Own(table); !owned || err != nil {
		t.Errorf("taken over: %v, %v", owned, err)
	}
}

// TestOwnOrdinary: a table that began without an owner stays ordinary.
func TestOwnOrdinary(t *testing.T) {
	s := dial(t, newNetns(t))
	table := s.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "minid_test"})
	must(t, s.Flush())
	if owned, err := s.Own(table); owned || err != nil {
		t.Errorf("%v, %v", owned, err)
	}
}

func TestGeneration(t *testing.T) {
	ns := newNetns(t)
	s, other := dial(t, ns), dial(t, ns)
	before, err := s.Generation()
	must(t, err)
	other.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "theirs"})
	must(t, other.Flush())
	if after, err := s.Generation(); after != before+1 || err != nil {
		t.Errorf("generation %d after %d, %v", after, before, err)
	}
}

func TestFlows(t *testing.T) {
	if n, err := dial(t, newNetns(t)).Flows(); n != 0 || err != nil {
		t.Errorf("%d flows in a new namespace, %v", n, err)
	}
}

// TestSame: a rule is the same after the kernel listed it in its own words, and
// another is not.
func TestSame(t *testing.T) {
	s := dial(t, newNetns(t))
	table := s.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "minid_test"})
	chain := s.AddChain(&nftables.Chain{Table: table, Name: "c", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest})
	set := &nftables.Set{Table: table, Name: "m", ID: 7, IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeMark),
		DataType: nftables.TypeIP6Addr}
	must(t, s.AddSet(set, nil))
	rule := func(modulus uint32) []expr.Any {
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV6}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16},
			&expr.Numgen{Register: unix.NFT_REG32_04, Modulus: modulus, Type: unix.NFT_NG_RANDOM},
			&expr.Lookup{SourceRegister: unix.NFT_REG32_00, DestRegister: 1, IsDestRegSet: true, SetName: "m", SetID: 7},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV6, RegAddrMin: 1},
		}
	}
	s.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule(3)})
	must(t, s.Flush())
	listed, err := s.GetRules(table, chain)
	must(t, err)
	if len(listed) != 1 || !Same(table.Family, rule(3), listed[0].Exprs) {
		t.Error("the rule is not the one that was added")
	}
	if Same(table.Family, rule(4), listed[0].Exprs) || Same(table.Family, rule(3)[1:], listed[0].Exprs) {
		t.Error("another rule is the same")
	}
}

// TestVerdictOf also is of elements that are more than one message holds.
func TestVerdictOf(t *testing.T) {
	s := dial(t, newNetns(t))
	table := s.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "minid_test"})
	chain := s.AddChain(&nftables.Chain{Table: table, Name: "there"})
	set := &nftables.Set{Table: table, Name: "v", ID: 7, IsMap: true, KeyType: nftables.TypeMark, DataType: nftables.TypeVerdict}
	must(t, s.AddSet(set, nil))
	kinds := []expr.VerdictKind{expr.VerdictGoto, expr.VerdictJump, expr.VerdictAccept}
	var elements []nftables.SetElement
	for i := range 3000 {
		v := &expr.Verdict{Kind: kinds[i%3]}
		if i%3 < 2 {
			v.Chain = chain.Name
		}
		elements = append(elements, nftables.SetElement{Key: []byte{byte(i), byte(i >> 8), 0, 0}, VerdictData: v})
	}
	must(t, Add(s.Conn, set, elements))
	must(t, s.Flush())
	list, err := s.GetSetElements(set)
	must(t, err)
	if len(list) != len(elements) {
		t.Fatalf("%d of %d elements arrived", len(list), len(elements))
	}
	for _, e := range list {
		i := int(e.Key[0]) | int(e.Key[1])<<8
		if v := VerdictOf(e); v == nil || *v != *elements[i].VerdictData {
			t.Fatalf("element %d: %+v, want %+v", i, v, elements[i].VerdictData)
		}
		if goes := GotoTarget(e) != ""; goes != (i%3 == 0) {
			t.Errorf("element %d goes to %q", i, GotoTarget(e))
		}
	}
	must(t, Delete(s.Conn, set, elements))
	must(t, s.Flush())
	if VerdictOf(nftables.SetElement{Val: []byte{1}}) != nil {
		t.Error("nonsense is a verdict")
	}
}
