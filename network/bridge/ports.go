package bridge

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// The range that host ports are chosen from: Linux's own for outgoing
// connections, as docker does.
const (
	firstPort = 32768
	lastPort  = 60999
)

// portsOfOthers tells which task has a host port, this one's left out.
func (b *Bridge) portsOfOthers(id string) map[hostPort]string {
	taken := make(map[hostPort]string)
	for _, t := range b.wanted {
		if t.ID == id {
			continue
		}
		for _, p := range t.Ports {
			taken[hostPort{p.Protocol, p.Host}] = t.ID
		}
	}
	return taken
}

// choosePort settles on the host port of one wanted port: the one that the task
// has already, the one that is asked for, or a free one.
func choosePort(p *pb.PortConfig, have []Port, taken map[hostPort]string) (Port, error) {
	proto, err := protocolOf(p.GetProtocol())
	if err != nil {
		return Port{}, err
	}
	if p.GetTarget() == 0 || p.GetTarget() > 65535 || p.GetPublished() > 65535 {
		return Port{}, fault.New(fault.Invalid, "publish port %d:%d: ports are from 1 to 65535", p.GetPublished(), p.GetTarget())
	}
	out := Port{Protocol: proto, Target: uint16(p.GetTarget()), Host: uint16(p.GetPublished())}
	for _, h := range have {
		if h.Protocol == proto && h.Target == out.Target && (out.Host == 0 || out.Host == h.Host) {
			return h, nil
		}
	}
	if out.Host != 0 {
		return out, checkFree(out, taken)
	}
	for n := firstPort; n <= lastPort; n++ {
		out.Host = uint16(n)
		if checkFree(out, taken) == nil {
			return out, nil
		}
	}
	return Port{}, fault.New(fault.Unavailable, "publish port %d: no host port from %d to %d is free", p.GetTarget(), firstPort, lastPort)
}

func protocolOf(p pb.PortConfig_Protocol) (Protocol, error) {
	switch p {
	case pb.PortConfig_PROTOCOL_UNSPECIFIED, pb.PortConfig_PROTOCOL_TCP:
		return TCP, nil
	case pb.PortConfig_PROTOCOL_UDP:
		return UDP, nil
	case pb.PortConfig_PROTOCOL_SCTP:
		return SCTP, nil
	}
	return 0, fault.New(fault.Invalid, "protocol %v of a port is not known", p)
}

// checkFree refuses a port that another task has or a process of the host
// listens on: translation would take it from that process without a word.
func checkFree(p Port, taken map[hostPort]string) error {
	if by, ok := taken[hostPort{p.Protocol, p.Host}]; ok {
		return fault.New(fault.InUse, "host port %d/%s is in use by task %s", p.Host, p.Protocol, by)
	}
	err := tryBind(p)
	if errors.Is(err, unix.EADDRINUSE) {
		return fault.New(fault.InUse, "host port %d/%s is in use by a process of the host", p.Host, p.Protocol)
	}
	if err != nil {
		return fmt.Errorf("try host port %d/%s: %w", p.Host, p.Protocol, err)
	}
	return nil
}

// tryBind binds a port for a moment.
func tryBind(p Port) error {
	kind := unix.SOCK_STREAM
	switch p.Protocol {
	case UDP:
		kind = unix.SOCK_DGRAM
	case SCTP: // the kernel may lack it
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if kind == unix.SOCK_STREAM { // connections that linger are no listener
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	return unix.Bind(fd, &unix.SockaddrInet4{Port: int(p.Host), Addr: netip.IPv4Unspecified().As4()})
}
