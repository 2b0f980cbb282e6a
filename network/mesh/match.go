package mesh

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Offsets of the addresses in an IPv4 header.
const (
	source      = 12
	destination = 16
)

const icmpPortUnreachable = 3

// Short names, as the chains are to be read.
const (
	in      = expr.MetaKeyIIFNAME
	out     = expr.MetaKeyOIFNAME
	same    = expr.CmpOpEq
	differs = expr.CmpOpNeq
)

// markMask covers what tells this package's marks from those of others, number
// aside.
var markMask = [4]byte{0xff, 0xff, 0, 0}

// markText is a mark as nft shows it, which is in this machine's order.
func markText(m [4]byte) string { return fmt.Sprintf("0x%08x", markNumber(m)) }

// markNumber is the number that the kernel takes a mark for.
func markNumber(m [4]byte) uint32 { return binary.NativeEndian.Uint32(m[:]) }

func bytesOf(m [4]byte) []byte { return m[:] }

var (
	isLocal = []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
	isReply = []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}},
	}
	isNew        = ctBits(expr.CtKeySTATE, expr.CtStateBitNEW)
	isKnown      = ctBits(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	isTranslated = ctBits(expr.CtKeySTATUS, 1<<5) // IPS_DST_NAT
	setCtMark    = []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1}}
	setMetaMark  = []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}}
)

// ctBits matches connections of which one of the bits is set.
func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// isMark matches a mark of an entry node in register 1.
func isMark() []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: bytesOf(markMask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: bytesOf(markOf(0))},
	}
}

// opens matches the first packet of a TCP connection, of the flags FIN, SYN, RST
// and ACK only SYN is set.
var opens = append(isProtocol(unix.IPPROTO_TCP),
	&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
	&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x17}, Xor: []byte{0}},
	&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0x02}},
)

const opensText = "tcp flags syn / fin,syn,rst,ack"

func isProtocol(number byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}},
	}
}

// ifName matches this package's link.
func ifName(key expr.MetaKey, op expr.CmpOp) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, LinkName)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: name}}
}

// load puts an address of the packet into register 1.
func load(offset uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}}
}

// loadPort puts protocol and destination port into two words from register on.
func loadPort(register uint32) []expr.Any {
	if register == unix.NFT_REG_1 {
		register = unix.NFT_REG32_00
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Payload{DestRegister: register + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

func inPrefix(offset uint32, p netip.Prefix) []expr.Any {
	mask := netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), p.Bits()).Masked().Addr().AsSlice()
	return append(load(offset),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	)
}

func immediate(value [4]byte) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: value[:]}}
}

func verdict(v expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: v}} }

func jump(to string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: to}}
}

// toVerdict goes where a verdict map says for the key in register 1.
func toVerdict(m kind) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: m.String()}}
}
