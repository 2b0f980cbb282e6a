package mesh

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/minid/minid/network/bridge"
)

func TestStale(t *testing.T) {
	udp, tcp := Published{bridge.UDP, 8080}, Published{bridge.TCP, 8080}
	s := stale{
		fresh: map[Published]bool{udp: true, tcp: true},
		left: map[Published]map[target]bool{
			udp: {{addr("172.30.0.2"), 80}: true},
			tcp: {{addr("172.30.0.2"), 80}: true},
		},
		ended: map[netip.Addr]bool{addr("172.30.0.9"): true},
		local: map[netip.Addr]bool{addr("192.0.2.1"): true},
	}
	for _, test := range []struct {
		what     string
		protocol bridge.Protocol
		to, by   string
		byPort   uint16
		want     bool
	}{
		{"came before the port led anywhere", bridge.UDP, "192.0.2.1", "192.0.2.1", 8080, true},
		{"the same of TCP", bridge.TCP, "192.0.2.1", "192.0.2.1", 8080, true},
		{"passes through to another host", bridge.TCP, "203.0.113.5", "203.0.113.5", 8080, false},
		{"led to what was left", bridge.UDP, "192.0.2.1", "172.30.0.2", 80, true},
		{"a stream to what was left", bridge.TCP, "192.0.2.1", "172.30.0.2", 80, false},
		{"another port of what was left", bridge.UDP, "192.0.2.1", "172.30.0.2", 81, false},
		{"led to what stays", bridge.UDP, "192.0.2.1", "172.30.0.3", 80, false},
		{"a stream to a task that ended", bridge.TCP, "10.0.4.2", "172.30.0.9", 80, true},
	} {
		flow := &netlink.ConntrackFlow{
			Forward: netlink.IPTuple{Protocol: uint8(test.protocol), DstIP: net.ParseIP(test.to), DstPort: 8080},
			Reverse: netlink.IPTuple{Protocol: uint8(test.protocol), SrcIP: net.ParseIP(test.by), SrcPort: test.byPort},
		}
		if got := s.MatchConntrackFlow(flow); got != test.want {
			t.Errorf("%s: %v", test.what, got)
		}
	}
}
