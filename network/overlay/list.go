package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// listed is an entry as the kernel lists it, with what this package asks for.
type listed struct {
	index, master int // of the link, and of its bridge
	state         uint16
	flags         uint8
	addr          netip.Addr
	mac           mac // zero if there is none, or one of another length
}

// listTries is how often a list is begun anew when entries change meanwhile.
const listTries = 5

var errInterrupted = errors.New("entries change while they are listed")

// list returns all entries of a family. There may be tens of thousands, and the
// library takes several times as long for them.
func (b *batch) list(family uint8) (list []listed, err error) {
	for range listTries {
		if list, err = b.listOnce(family); !errors.Is(err, errInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list entries: %w", err)
	}
	return list, nil
}

func (b *batch) listOnce(family uint8) (list []listed, err error) {
	b.seq++
	native := binary.NativeEndian
	question := native.AppendUint32(nil, headerLen+unix.SizeofNdMsg)
	question = native.AppendUint16(question, unix.RTM_GETNEIGH)
	question = native.AppendUint16(question, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	question = native.AppendUint32(question, b.seq)
	question = native.AppendUint32(question, 0)
	question = append(question, make([]byte, unix.SizeofNdMsg)...)
	question[headerLen] = family
	if err := unix.Sendto(b.fd, question, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	answer, interrupted := make([]byte, 64<<10), false
	for {
		n, _, err := unix.Recvfrom(b.fd, answer, 0)
		if err != nil {
			return nil, err
		}
		for rest := answer[:n]; len(rest) >= headerLen; {
			length := min(max(int(native.Uint32(rest)), headerLen), len(rest))
			kind, flags, body := native.Uint16(rest[4:]), native.Uint16(rest[6:]), rest[headerLen:length]
			ours := native.Uint32(rest[8:]) == b.seq
			rest = rest[min((length+3)&^3, len(rest)):]
			interrupted = interrupted || ours && flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case !ours:
			case kind == unix.RTM_NEWNEIGH && len(body) >= unix.SizeofNdMsg:
				list = append(list, parseListed(body))
			case kind == unix.NLMSG_ERROR && len(body) >= 4:
				return nil, unix.Errno(-int32(native.Uint32(body)))
			case kind == unix.NLMSG_DONE && interrupted:
				return nil, errInterrupted
			case kind == unix.NLMSG_DONE:
				return list, nil
			}
		}
	}
}

// parseListed reads a message of the neighbor setup service behind its header.
func parseListed(body []byte) (e listed) {
	native := binary.NativeEndian
	e.index, e.state, e.flags = int(int32(native.Uint32(body[4:]))), native.Uint16(body[8:]), body[10]
	for rest := body[unix.SizeofNdMsg:]; len(rest) >= unix.SizeofRtAttr; {
		length := min(max(int(native.Uint16(rest)), unix.SizeofRtAttr), len(rest))
		value := rest[unix.SizeofRtAttr:length]
		switch native.Uint16(rest[2:]) {
		case unix.NDA_DST:
			addr, _ := netip.AddrFromSlice(value)
			e.addr = addr.Unmap()
		case unix.NDA_LLADDR:
			if len(value) == len(e.mac) {
				e.mac = mac(value)
			}
		case unix.NDA_MASTER:
			if len(value) == 4 {
				e.master = int(native.Uint32(value))
			}
		}
		rest = rest[min((length+3)&^3, len(rest)):]
	}
	return e
}
