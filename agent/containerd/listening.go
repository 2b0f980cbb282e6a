package containerd

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// listenPatience is how long a process may take until it listens on its
	// published ports; after that it counts as started anyway. It is for nodes that
	// start fifty at once: half a second was too short for them. What needs longer
	// by itself needs a health check.
	listenPatience = 3 * time.Second
	listenEvery    = 5 * time.Millisecond
)

// awaitListening waits until a process that was just started listens on its
// published ports, so that nobody is sent to one that is still starting. It
// ends early when the process does.
func awaitListening(ctx context.Context, pid uint32, ports []*pb.PortConfig) {
	ctx, cancel := context.WithTimeout(ctx, listenPatience)
	defer cancel()
	for {
		if done, err := listening(fmt.Sprintf("/proc/%d/net", pid), ports); done || err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(listenEvery):
		}
	}
}

// listening tells whether all ports have a socket, by the kernel's tables of the
// process's network namespace. It fails when the process is gone.
func listening(dir string, ports []*pb.PortConfig) (bool, error) {
	open := map[pb.PortConfig_Protocol]map[uint32]bool{}
	for _, p := range ports {
		protocol := max(p.GetProtocol(), pb.PortConfig_PROTOCOL_TCP)
		if protocol == pb.PortConfig_PROTOCOL_SCTP {
			continue // listed elsewhere, if at all
		}
		if open[protocol] == nil {
			found, err := openPorts(dir, protocol)
			if err != nil {
				return false, err
			}
			open[protocol] = found
		}
		if !open[protocol][p.GetTarget()] {
			return false, nil
		}
	}
	return true, nil
}

// The states of sockets that wait for clients, in /proc/net: TCP_LISTEN, and
// TCP_CLOSE of an unconnected UDP socket.
var waits = map[pb.PortConfig_Protocol]struct{ file, state string }{
	pb.PortConfig_PROTOCOL_TCP: {"tcp", "0A"},
	pb.PortConfig_PROTOCOL_UDP: {"udp", "07"},
}

func openPorts(dir string, protocol pb.PortConfig_Protocol) (map[uint32]bool, error) {
	found := map[uint32]bool{}
	for _, family := range []string{"", "6"} {
		text, err := os.ReadFile(dir + "/" + waits[protocol].file + family)
		if os.IsNotExist(err) && family == "6" {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) < 4 || fields[3] != waits[protocol].state {
				continue
			}
			_, port, _ := strings.Cut(fields[1], ":")
			if n, err := strconv.ParseUint(port, 16, 16); err == nil {
				found[uint32(n)] = true
			}
		}
	}
	return found, nil
}
