package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/netns"
)

// batch sends neighbour and forwarding entries to the kernel many at a time: a
// network may have tens of thousands of them, and asking for each one's outcome
// costs more than what it asks for.
type batch struct {
	fd     int
	seq    uint32 // of the last message that was sent
	buf    []byte
	queued []entry
}

// entry is one message. addr is whose part it is, for errors.
type entry struct {
	remove        bool
	addr          netip.Addr
	family, flags uint8
	state         uint16
	index         int        // of the link
	destination   netip.Addr // none: not told
	mac           mac        // zero: not told
}

const (
	// perSend keeps the kernel's answers, if all fail, within a socket's buffer.
	perSend = 100
	// answerWithin is a limit that only a broken kernel would meet: it answers
	// before the sending returns.
	answerWithin = 10 * time.Second
)

// openBatch opens a socket in the namespace at path.
func openBatch(path string) (*batch, error) {
	b := &batch{}
	err := netns.Do(path, func() (err error) {
		b.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(answerWithin))
	err = errors.Join(
		unix.Bind(b.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(b.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink socket: %w", err), b.close())
	}
	return b, nil
}

func (b *batch) close() error { return unix.Close(b.fd) }

func (b *batch) add(e entry) { b.queued = append(b.queued, e) }

// flush sends what was added, in its order, and returns what failed. Removing
// what is not there does not.
func (b *batch) flush() (failed map[netip.Addr]error) {
	failed = make(map[netip.Addr]error)
	for len(b.queued) > 0 {
		part := b.queued[:min(perSend, len(b.queued))]
		if err := b.send(part, failed); err != nil {
			for _, e := range b.queued {
				failed[e.addr] = err
			}
			b.queued = nil
			return failed
		}
		b.queued = b.queued[len(part):]
	}
	b.queued = nil
	return failed
}

// send asks for an answer to the last message only; errors come unasked.
func (b *batch) send(part []entry, failed map[netip.Addr]error) error {
	b.buf = b.buf[:0]
	first := b.seq + 1
	for i, e := range part {
		b.seq++
		flags := uint16(unix.NLM_F_REQUEST)
		if i == len(part)-1 {
			flags |= unix.NLM_F_ACK
		}
		b.buf = e.appendTo(b.buf, flags, b.seq)
	}
	if err := unix.Sendto(b.fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send netlink messages: %w", err)
	}
	answer := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(b.fd, answer, 0)
		if err != nil {
			return fmt.Errorf("receive netlink answer: %w", err)
		}
		if b.read(answer[:n], first, part, failed) {
			return nil
		}
	}
}

const headerLen = unix.SizeofNlMsghdr

// read takes in answers, and reports whether the last one is there.
func (b *batch) read(answer []byte, first uint32, part []entry, failed map[netip.Addr]error) (done bool) {
	native := binary.NativeEndian
	for len(answer) >= headerLen+4 {
		length := min(int(native.Uint32(answer)+3)&^3, len(answer))
		seq := native.Uint32(answer[8:])
		i := int(seq - first)
		if native.Uint16(answer[4:]) == unix.NLMSG_ERROR && i < len(part) {
			errno := unix.Errno(-int32(native.Uint32(answer[headerLen:])))
			if errno != 0 && !(part[i].remove && errno == unix.ENOENT) {
				failed[part[i].addr] = errno
			}
			done = done || seq == b.seq
		}
		answer = answer[max(length, headerLen):]
	}
	return done
}

// appendTo writes an entry as a message of RFC 3549, its neighbor setup service.
func (e entry) appendTo(b []byte, flags uint16, seq uint32) []byte {
	native := binary.NativeEndian
	kind := uint16(unix.RTM_NEWNEIGH)
	if e.remove {
		kind = unix.RTM_DELNEIGH
	} else {
		flags |= unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	}
	start := len(b)
	b = native.AppendUint32(b, 0) // the length, below
	b = native.AppendUint16(b, kind)
	b = native.AppendUint16(b, flags)
	b = native.AppendUint32(b, seq)
	b = native.AppendUint32(b, 0)
	b = append(b, e.family, 0, 0, 0)
	b = native.AppendUint32(b, uint32(e.index))
	b = native.AppendUint16(b, e.state)
	b = append(b, e.flags, 0)
	if e.destination.IsValid() {
		b = appendAttribute(b, unix.NDA_DST, e.destination.AsSlice())
	}
	if e.mac != (mac{}) {
		b = appendAttribute(b, unix.NDA_LLADDR, e.mac[:])
	}
	native.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
