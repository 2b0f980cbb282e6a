package nft

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Same reports whether two rules of a family do the same, expression for
// expression. The kernel's form of a rule may differ in what has no meaning:
// the number that a set had in its transaction.
func Same(family nftables.TableFamily, a, b []expr.Any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, err := expr.Marshal(byte(family), plain(a[i]))
		if err != nil {
			return false
		}
		y, err := expr.Marshal(byte(family), plain(b[i]))
		if err != nil || !bytes.Equal(x, y) {
			return false
		}
	}
	return true
}

// plain is an expression in the one form that all its forms have in common.
func plain(e expr.Any) expr.Any {
	switch e := e.(type) {
	case *expr.Lookup:
		out := *e
		out.SetID, out.SourceRegister, out.DestRegister = 0, register(e.SourceRegister), register(e.DestRegister)
		return &out
	case *expr.Dynset:
		out := *e
		out.SetID, out.SrcRegKey = 0, register(e.SrcRegKey)
		return &out
	case *expr.NAT: // the kernel lists a single value as a range of one
		out := *e
		out.RegAddrMin, out.RegProtoMin = register(e.RegAddrMin), register(e.RegProtoMin)
		out.RegAddrMax, out.RegProtoMax = register(e.RegAddrMax), register(e.RegProtoMax)
		if out.RegAddrMax == out.RegAddrMin {
			out.RegAddrMax = 0
		}
		if out.RegProtoMax == out.RegProtoMin {
			out.RegProtoMax = 0
		}
		return &out
	case *expr.Payload:
		out := *e
		out.DestRegister, out.SourceRegister = register(e.DestRegister), register(e.SourceRegister)
		return &out
	case *expr.Meta:
		out := *e
		out.Register = register(e.Register)
		return &out
	case *expr.Numgen:
		out := *e
		out.Register = register(e.Register)
		return &out
	}
	return e
}

// register gives a register its one name: the kernel lists the first word of a
// 16-byte register as that register.
func register(r uint32) uint32 {
	if word := r - unix.NFT_REG32_00; r >= unix.NFT_REG32_00 && word%4 == 0 {
		return unix.NFT_REG_1 + word/4
	}
	return r
}

// VerdictOf is what an element of a verdict map, as the kernel lists it, does;
// nil if it is nothing of the kind.
func VerdictOf(e nftables.SetElement) *expr.Verdict {
	ad, err := netlink.NewAttributeDecoder(e.Val)
	if err != nil {
		return nil
	}
	var v *expr.Verdict
	chain := ""
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CODE:
			if code := ad.Bytes(); len(code) == 4 {
				v = &expr.Verdict{Kind: expr.VerdictKind(int32(binary.BigEndian.Uint32(code)))}
			}
		case unix.NFTA_VERDICT_CHAIN:
			chain = strings.TrimRight(string(ad.Bytes()), "\x00")
		}
	}
	if ad.Err() != nil || v == nil {
		return nil
	}
	v.Chain = chain
	return v
}

// GotoTarget is the chain that an element of a verdict map goes to; empty if it
// does anything else.
func GotoTarget(e nftables.SetElement) string {
	if v := VerdictOf(e); v != nil && v.Kind == expr.VerdictGoto {
		return v.Chain
	}
	return ""
}
