package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/netns"
)

// announce tells the tasks of this node the hardware addresses of IPv6 ones that
// changed hands. Those that follow from an IPv4 address never change, but a new
// task may have the old one's IPv6 address with another IPv4 one, and caches
// would be wrong for half a minute.
func (s *segment) announce(list map[netip.Addr]mac) error {
	if len(list) == 0 || len(s.links) == 0 {
		return nil
	}
	err := netns.Do(s.path, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var errs []error
		to := &unix.SockaddrLinklayer{Ifindex: s.bridge}
		for addr, m := range list {
			errs = append(errs, unix.Sendto(fd, advertisement(addr, m), 0, to))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("announce addresses in network %s: %w", s.net.ID, err)
	}
	return nil
}

// announced are the IPv6 addresses that tasks elsewhere now have.
func (s *segment) announced(put map[string]Remote) map[netip.Addr]mac {
	out := make(map[netip.Addr]mac)
	for _, r := range put {
		for _, addr := range r.Addresses {
			if f, ok := s.forward(addr); ok && addr.Is6() {
				out[addr] = f.mac
			}
		}
	}
	return out
}

// announced are a task's IPv6 addresses.
func (l Link) announced() map[netip.Addr]mac {
	out := make(map[netip.Addr]mac)
	for _, p := range l.Addresses {
		if p.Addr().Is6() {
			out[p.Addr()] = l.mac()
		}
	}
	return out
}

const (
	etherLen, ipv6Len, advertisementLen = 14, 40, 32
	// nextICMPv6 is the protocol's number in a header.
	nextICMPv6 = 58
)

// advertisement is an unsolicited neighbour advertisement to all nodes, RFC 4861
// section 4.4, as an Ethernet frame.
func advertisement(addr netip.Addr, m mac) []byte {
	from, all := addr.As16(), netip.MustParseAddr("ff02::1").As16()
	b := append([]byte{0x33, 0x33, 0, 0, 0, 1}, m[:]...)
	b = append(b, 0x86, 0xdd)
	b = append(b, 0x60, 0, 0, 0, 0, advertisementLen, nextICMPv6, 255)
	b = append(b, from[:]...)
	b = append(b, all[:]...)
	b = append(b, 136, 0, 0, 0, 0x20, 0, 0, 0) // overrides what is known
	b = append(b, from[:]...)
	b = append(b, 2, 1) // the hardware address that it is at
	b = append(b, m[:]...)
	binary.BigEndian.PutUint16(b[etherLen+ipv6Len+2:], checksum(b[etherLen:]))
	return b
}

// checksum of an ICMPv6 message behind its IPv6 header, RFC 4443 section 2.3.
func checksum(packet []byte) uint16 {
	body := packet[ipv6Len:]
	sum := uint32(len(body)) + nextICMPv6
	for _, part := range [][]byte{packet[8:ipv6Len], body} { // the addresses, the message
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
