package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/network/bridge"
	"github.com/minid/minid/network/mesh"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// probeTime bounds one probe, probesAtOnce how many run.
	probeTime    = 2 * time.Second
	probesAtOnce = 16
	// Headers of IPv4 and ICMP, in bytes: what an echo's payload leaves of a packet.
	echoHeaders = 28
)

// A probe is one thing to try: result says what, try does it.
type probe struct {
	result *pb.ProbeResult
	try    func(ctx context.Context) (found string, err error)
}

// Probe is agent.Network's: it tries the ways from this node to others, the
// names of its tasks and the published ports, and emits what it finds.
func (e *Engine) Probe(ctx context.Context, req *pb.ProbeAttach, emit func(*pb.ProbeResult) error) error {
	var probes []probe
	e.view(func(s *State) { probes = s.probes(req.GetNodeIds()) })
	probes = append(probes, e.nameProbes()...)
	slots := make(chan struct{}, probesAtOnce)
	var wg sync.WaitGroup
	var mu sync.Mutex // of failed, and for one emit at a time
	var failed error
	for _, p := range probes {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, probeTime)
			defer cancel()
			found, err := p.try(ctx)
			p.result.Ok, p.result.Detail = err == nil, found
			if err != nil {
				p.result.Detail = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			if failed == nil {
				failed = emit(p.result)
			}
		})
	}
	wg.Wait()
	return errors.Join(failed, ctx.Err())
}

// probes are those of the ways to other nodes and of published ports.
func (s *State) probes(nodes []string) []probe {
	var out []probe
	for id, p := range s.peers {
		if len(nodes) > 0 && !slices.Contains(nodes, id) {
			continue
		}
		if id != s.Self {
			out = append(out, s.pathProbes(p)...)
		}
		out = append(out, s.portProbes(p)...)
	}
	return out
}

func (s *State) result(kind pb.ProbeResult_Probe, to *pb.NetworkPeer, what string) *pb.ProbeResult {
	return &pb.ProbeResult{
		Probe: kind, What: what,
		FromId: s.Self, FromName: s.peers[s.Self].GetName(), ToId: to.GetNodeId(), ToName: to.GetName(),
	}
}

// pathProbes try the mesh's link to a node with a small and a full packet, and
// the way through WireGuard where it is in use.
func (s *State) pathProbes(to *pb.NetworkPeer) []probe {
	overlay := s.result(pb.ProbeResult_PROBE_OVERLAY, to, "VXLAN to "+to.GetDataPathAddr())
	w, ok := s.Mesh(netip.Prefix{})
	if !ok || to.GetMeshNumber() == 0 {
		return []probe{{overlay, func(context.Context) (string, error) {
			return "", errors.New("one of the nodes has no number in the mesh yet: the ingress network is full or missing, see minictl network inspect ingress")
		}}}
	}
	addr := mesh.NodeAddr(w.Subnet, to.GetMeshNumber(), w.Number)
	full := w.MTU - echoHeaders
	small := func(ctx context.Context) (string, error) {
		return echo(ctx, addr, 8, fmt.Sprintf("no answer over the overlay: is UDP port %d open between the nodes?", w.Port))
	}
	out := []probe{
		{overlay, small},
		{s.result(pb.ProbeResult_PROBE_MTU, to, fmt.Sprintf("packets of %d bytes", w.MTU)), func(ctx context.Context) (string, error) {
			if found, err := small(ctx); err != nil {
				return found, err // not for their size
			}
			return echo(ctx, addr, full, fmt.Sprintf("packets of %d bytes do not pass: the path between the nodes takes less than %d; create networks with --opt mtu=", w.MTU, w.MTU+vxlanOverhead))
		}},
	}
	if wg := s.WireGuard(); wg != nil && s.sharesEncrypted(to.GetNodeId()) {
		behind, _ := s.meshAddr(to)
		out = append(out, probe{s.result(pb.ProbeResult_PROBE_ENCRYPTION, to, "WireGuard"), func(ctx context.Context) (string, error) {
			return echo(ctx, behind, 8, fmt.Sprintf("no answer through WireGuard: is UDP port %d open between the nodes?", wg.Port))
		}})
	}
	return out
}

// sharesEncrypted tells whether a node has a task on an encrypted network of
// this one; others have no WireGuard device.
func (s *State) sharesEncrypted(node string) bool {
	for _, seg := range s.networks {
		if len(seg.locals) == 0 || !seg.assigned.GetSpec().GetEncrypted() {
			continue
		}
		for _, ep := range seg.endpoints {
			if ep.GetNodeId() == node {
				return true
			}
		}
	}
	return false
}

// portProbes connect to every published TCP port of a node that has tasks.
func (s *State) portProbes(to *pb.NetworkPeer) []probe {
	var out []probe
	for service, v := range s.published {
		serving := uint32(0)
		for _, n := range s.backends[service] {
			serving += n
		}
		for _, p := range v.GetPorts() {
			if serving == 0 || protocolOf(p) != bridge.TCP {
				continue
			}
			host := to.GetDataPathAddr()
			if p.GetHostIp() != "" {
				continue // answers only there
			}
			target := net.JoinHostPort(host, fmt.Sprint(p.GetPublished()))
			out = append(out, probe{s.result(pb.ProbeResult_PROBE_PORT, to, fmt.Sprintf("%d/tcp of %s", p.GetPublished(), v.GetName())),
				func(ctx context.Context) (string, error) { return connect(ctx, target) }})
		}
	}
	return out
}

func connect(ctx context.Context, target string) (string, error) {
	began := time.Now()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", target)
	if err != nil {
		return "", fmt.Errorf("no connection to %s: %w", target, err)
	}
	return inMillis(time.Since(began)), conn.Close()
}

// nameProbes ask the name server of each task here for the task's own service.
func (e *Engine) nameProbes() []probe {
	var out []probe
	e.view(func(s *State) {
		self := s.peers[s.Self]
		for id, l := range s.locals {
			if len(l.GetAddresses()) == 0 {
				continue
			}
			out = append(out, probe{s.result(pb.ProbeResult_PROBE_DNS, self, "names in task "+id), func(context.Context) (string, error) {
				e.kernel.Lock()
				defer e.kernel.Unlock()
				if intact, err := e.dns.Check(id); err != nil || !intact {
					return "", errors.Join(errors.New("the task's name server does not answer"), err)
				}
				return "answers", nil
			}})
		}
	})
	slices.SortFunc(out, func(a, b probe) int { return strings.Compare(a.result.What, b.result.What) })
	return out
}

// echo sends an ICMP echo that may not be fragmented and waits for its answer.
func echo(ctx context.Context, to netip.Addr, size int, silence string) (string, error) {
	whole := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		}), err)
	}}
	conn, err := whole.ListenPacket(ctx, "ip4:icmp", "0.0.0.0")
	if err != nil {
		return "", fmt.Errorf("open socket: %w", err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	id := int(time.Now().UnixNano() & 0xffff)
	packet, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: 1, Data: make([]byte, size)}}).Marshal(nil)
	if err != nil {
		return "", err
	}
	began := time.Now()
	if _, err := conn.WriteTo(packet, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return "", fmt.Errorf("%s (%w)", silence, err)
	}
	buf := make([]byte, size+echoHeaders+64)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return "", errors.New(silence)
		}
		answer, err := icmp.ParseMessage(unix.IPPROTO_ICMP, buf[:n])
		if err != nil || answer.Type != ipv4.ICMPTypeEchoReply || from.String() != to.String() {
			continue
		}
		if body, ok := answer.Body.(*icmp.Echo); ok && body.ID == id {
			return inMillis(time.Since(began)), nil
		}
	}
}

func inMillis(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
