package containerd

import (
	"fmt"
	"net"
	"testing"

	pb "github.com/minid/minid/proto/minid/v1"
)

func TestListening(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	open := uint32(tcp.Addr().(*net.TCPAddr).Port)
	datagrams := uint32(udp.LocalAddr().(*net.UDPAddr).Port)
	for _, c := range []struct {
		ports []*pb.PortConfig
		want  bool
	}{
		{nil, true},
		{[]*pb.PortConfig{{Target: open}}, true},
		{[]*pb.PortConfig{{Target: open, Protocol: pb.PortConfig_PROTOCOL_TCP}, {Target: datagrams, Protocol: pb.PortConfig_PROTOCOL_UDP}}, true},
		{[]*pb.PortConfig{{Target: open}, {Target: 1}}, false},
		{[]*pb.PortConfig{{Target: datagrams, Protocol: pb.PortConfig_PROTOCOL_TCP}}, false},
		{[]*pb.PortConfig{{Target: 9, Protocol: pb.PortConfig_PROTOCOL_SCTP}}, true},
	} {
		if got, err := listening("/proc/self/net", c.ports); got != c.want || err != nil {
			t.Errorf("%v: %v, %v", c.ports, got, err)
		}
	}
	if _, err := listening(fmt.Sprintf("/proc/%d/net", 1<<30), []*pb.PortConfig{{Target: open}}); err == nil {
		t.Error("a process that is gone listens or may yet")
	}
}
