package network

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/minid/minid/network/bridge"
	"github.com/minid/minid/network/dns"
	"github.com/minid/minid/network/overlay"
	"github.com/minid/minid/network/vip"
	pb "github.com/minid/minid/proto/minid/v1"
)

var update = flag.Bool("update", false, "write the outputs in testdata anew")

// TestSituations computes what the kernel should look like in the situations in
// testdata. Each file says what it shows, then what the node n1 was told and what
// happened there (input), then what comes of it. In the input, a line is
//
//	network ID [vni=] [subnet=] [mtu=] [port=] [encrypted] [bridge] [internal] [ingress]
//	node ID ADDRESS [number=] [mtu=] [key=]
//	service ID network= [name=] [vip=,] [alias=,] [port=,]
//	endpoint TASK service= network= node= address=, [slot=] [serving]
//	task ID service= [serving]
//	published SERVICE PORT…      PORT: PUBLISHED:TARGET[/PROTOCOL][,local][,masquerade][,HOST_IP]
//	backend SERVICE node= serving=
//	keys NAME…                   the newest last
//	forget KIND ID               as the managers do: network, endpoint, …
//	replace … end                what is between is a full set
//	attach TASK service= bridge= [NETWORK=PREFIX,]… [dns=,] [ports=,]
//	withdraw TASK
//	detach TASK
//	then                         the changes below begin here
//	show PART…                   overlay vip:TASK mesh wireguard names dns:TASK bridge changes
func TestSituations(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d situations, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { checkSituation(t, file) })
	}
}

func checkSituation(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(archive.Files) == 0 || archive.Files[0].Name != "input" || len(archive.Comment) == 0 {
		t.Fatal("a situation begins with what it shows, then its input")
	}
	w := newSituation(t)
	for line := range strings.Lines(string(archive.Files[0].Data)) {
		w.say(strings.Fields(line))
	}
	got := &txtar.Archive{Comment: archive.Comment, Files: archive.Files[:1:1]}
	for _, part := range w.shown {
		got.Files = append(got.Files, txtar.File{Name: part, Data: []byte(w.show(part))})
	}
	text := txtar.Format(got)
	if *update {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want := txtar.Format(archive); !bytes.Equal(text, want) {
		t.Errorf("with -update it would be (-file +now):\n%s", gocmp.Diff(string(want), string(text)))
	}
}

// situation is a node that things are told and happen to.
type situation struct {
	t     *testing.T
	state *State
	// ports of mode host, by task.
	ports map[string][]bridge.Port
	shown []string
	// set is a full one that is not complete yet.
	set []*pb.Assignment
}

func newSituation(t *testing.T) *situation {
	return &situation{t: t, state: NewState("n1"), ports: map[string][]bridge.Port{}}
}

// words are a line's: flags, and values by name.
type words struct {
	list []string
	of   map[string]string
}

func parseWords(fields []string) words {
	w := words{of: map[string]string{}}
	for _, f := range fields {
		if name, value, ok := strings.Cut(f, "="); ok {
			w.of[name] = value
			continue
		}
		w.list = append(w.list, f)
	}
	return w
}

func (w words) is(flag string) bool { return slices.Contains(w.list, flag) }

func (w words) number(name string) uint32 {
	n, _ := strconv.ParseUint(w.of[name], 10, 32)
	return uint32(n)
}

func (w words) all(name string) []string {
	if w.of[name] == "" {
		return nil
	}
	return strings.Split(w.of[name], ",")
}

// say takes in one line of the input.
func (s *situation) say(fields []string) {
	s.t.Helper()
	if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
		return
	}
	id := ""
	if len(fields) > 1 {
		id = fields[1]
	}
	w := parseWords(fields[1:])
	switch fields[0] {
	case "attach":
		s.attach(id, w)
	case "withdraw":
		s.state.Withdraw(id)
	case "detach":
		s.state.Detach(id)
	case "then":
		s.state.Take()
	case "show":
		s.shown = w.list
	case "replace":
		s.set = []*pb.Assignment{}
	case "end":
		s.state.Replace(s.set)
		s.set = nil
	case "forget":
		kind, ok := pb.ItemKind_value["ITEM_KIND_"+strings.ToUpper(id)]
		if !ok {
			s.t.Fatalf("no kind %q", id)
		}
		s.state.Remove(&pb.AssignmentKey{Kind: pb.ItemKind(kind), Id: strings.Join(w.list[1:], "")})
	default:
		item := s.item(fields[0], id, w)
		if s.set != nil {
			s.set = append(s.set, item)
			return
		}
		s.state.Put(item)
	}
}

func (s *situation) item(kind, id string, w words) *pb.Assignment {
	s.t.Helper()
	switch kind {
	case "network":
		return &pb.Assignment{Kind: &pb.Assignment_Network{Network: networkOf(id, w)}}
	case "node":
		return &pb.Assignment{Kind: &pb.Assignment_Peer{Peer: &pb.NetworkPeer{
			NodeId: id, Name: id, DataPathAddr: w.list[1], MeshNumber: w.number("number"),
			DataPathMtu: w.number("mtu"), WireguardKey: keyNamed(w.of["key"]),
		}}}
	case "service":
		return &pb.Assignment{Kind: &pb.Assignment_Service{Service: &pb.NetworkService{
			ServiceId: id, NetworkId: w.of["network"], Name: cmp.Or(w.of["name"], id),
			Aliases: w.all("alias"), Vips: w.all("vip"), Ports: s.portsOf(w.all("port")),
		}}}
	case "endpoint":
		return &pb.Assignment{Kind: &pb.Assignment_Endpoint{Endpoint: &pb.NetworkEndpoint{
			TaskId: id, NetworkId: w.of["network"], ServiceId: w.of["service"], Slot: uint64(w.number("slot")),
			NodeId: w.of["node"], Addresses: w.all("address"), Serving: w.is("serving"),
		}}}
	case "task":
		return &pb.Assignment{Kind: &pb.Assignment_Task{Task: &pb.AssignedTask{
			Id: id, ServiceId: w.of["service"], Serving: w.is("serving"),
		}}}
	case "published":
		return &pb.Assignment{Kind: &pb.Assignment_Published{Published: &pb.PublishedService{
			ServiceId: id, Name: id, Ports: s.portsOf(w.list[1:]),
		}}}
	case "backend":
		return &pb.Assignment{Kind: &pb.Assignment_Backend{Backend: &pb.PublishedBackend{
			ServiceId: id, NodeId: w.of["node"], Serving: w.number("serving"),
		}}}
	case "keys":
		keys := &pb.NetworkKeys{}
		for _, name := range w.list {
			keys.Keys = append(keys.Keys, &pb.NetworkKey{Key: keyNamed(name)})
		}
		return &pb.Assignment{Kind: &pb.Assignment_Keys{Keys: keys}}
	}
	s.t.Fatalf("no such line: %s", kind)
	return nil
}

func networkOf(id string, w words) *pb.AssignedNetwork {
	n := &pb.AssignedNetwork{
		Id: id, DataPathPort: w.number("port"),
		Spec: &pb.NetworkSpec{
			Name: id, Mtu: w.number("mtu"), Encrypted: w.is("encrypted"), Internal: w.is("internal"), Ingress: w.is("ingress"),
		},
		Allocation: &pb.NetworkAllocation{Vni: w.number("vni")},
	}
	if w.is("bridge") {
		n.Spec.Driver = pb.NetworkSpec_DRIVER_BRIDGE
	}
	for _, subnet := range w.all("subnet") {
		n.Allocation.Pools = append(n.Allocation.Pools, &pb.AddressPool{Subnet: subnet})
	}
	return n
}

// keyNamed is a key of 32 bytes; one without a name is not there.
func keyNamed(name string) []byte {
	if name == "" {
		return nil
	}
	return bytes.Repeat([]byte(name[:1]), 32)
}

// portsOf reads ports: PUBLISHED:TARGET[/PROTOCOL] and what else is said of them,
// each part of which may be a word of its own.
func (s *situation) portsOf(list []string) (out []*pb.PortConfig) {
	s.t.Helper()
	for _, text := range list {
		for _, part := range strings.Split(text, ",") {
			if ports, protocol, _ := strings.Cut(part, "/"); strings.Contains(ports, ":") || protocol != "" {
				published, target, ok := strings.Cut(ports, ":")
				if !ok {
					published, target = "0", ports
				}
				p := &pb.PortConfig{Protocol: pb.PortConfig_Protocol(pb.PortConfig_Protocol_value["PROTOCOL_"+strings.ToUpper(protocol)])}
				p.Published, p.Target = words{of: map[string]string{"": published}}.number(""), words{of: map[string]string{"": target}}.number("")
				out = append(out, p)
				continue
			}
			if len(out) == 0 {
				s.t.Fatalf("no port in %q", text)
			}
			switch p := out[len(out)-1]; part {
			case "local":
				p.Policy = pb.PortConfig_POLICY_LOCAL
			case "masquerade":
				p.Source = pb.PortConfig_SOURCE_MASQUERADE
			default:
				p.HostIp = part
			}
		}
	}
	return out
}

func (s *situation) attach(id string, w words) {
	s.t.Helper()
	addr, err := netip.ParseAddr(w.of["bridge"])
	if err != nil {
		s.t.Fatal(err)
	}
	l := &Local{
		TaskNetwork: &pb.TaskNetwork{TaskId: id, ServiceId: w.of["service"]},
		Netns:       "/run/netns/" + id, Address: addr,
	}
	if servers := w.all("dns"); servers != nil {
		l.Dns = &pb.DNSConfig{Servers: servers}
	}
	for _, p := range s.portsOf(w.all("ports")) {
		s.ports[id] = append(s.ports[id], bridge.Port{Protocol: protocolOf(p), Host: uint16(p.Published), Target: uint16(p.Target)})
	}
	for _, name := range slices.Sorted(maps.Keys(w.of)) {
		if !slices.Contains([]string{"service", "bridge", "dns", "ports"}, name) {
			l.Addresses = append(l.Addresses, &pb.TaskAddress{NetworkId: name, Addresses: w.all(name)})
		}
	}
	s.state.Attach(l)
}

// show is one part as text.
func (s *situation) show(part string) string {
	s.t.Helper()
	name, task, _ := strings.Cut(part, ":")
	l := s.state.Local(task)
	if task != "" && l == nil {
		s.t.Fatalf("no task %s is here", task)
	}
	switch name {
	case "overlay":
		return special(s.state.Overlay().Render(), overlay.Wanted{}.Render())
	case "vip":
		return special(s.state.VIPs(l).Render(), vip.Wanted{}.Render())
	case "mesh":
		w, ok := s.state.Mesh(pool)
		if !ok {
			return "nothing\n"
		}
		empty := w
		empty.Services, empty.Peers = nil, nil
		return special(w.Render(), empty.Render())
	case "wireguard":
		w := s.state.WireGuard()
		if w == nil {
			return "nothing\n"
		}
		return w.Render()
	case "names":
		return dns.Render(s.state.Zones())
	case "dns":
		return s.state.nameTask(l).Render()
	case "bridge":
		return special(s.bridge().Render(), bridge.Wanted{Pool: pool}.Render())
	case "changes":
		return s.changes()
	}
	s.t.Fatalf("no part %s", part)
	return ""
}

// special leaves out the sets and chains that are the same without anything
// wanted; golden texts beside the parts have them.
func special(text, empty string) string {
	always := map[string]bool{}
	for _, b := range blocks(empty) {
		always[b] = strings.HasPrefix(b, "\t")
	}
	var out strings.Builder
	for _, b := range blocks(text) {
		if !always[b] {
			out.WriteString(b)
		}
	}
	return out.String()
}

// blocks are the sets and chains of tables, and the lines around them.
func blocks(text string) (out []string) {
	for line := range strings.Lines(text) {
		inside := strings.HasPrefix(line, "\t\t") || strings.HasPrefix(line, "\t}")
		switch {
		case line == "\n":
		case inside && len(out) > 0:
			out[len(out)-1] += line
		default:
			out = append(out, line)
		}
	}
	return out
}

var pool = netip.MustParsePrefix("172.30.0.0/20")

func (s *situation) bridge() bridge.Wanted {
	w := bridge.Wanted{Pool: pool}
	for id, l := range s.state.Locals() {
		w.Tasks = append(w.Tasks, bridge.Endpoint{
			ID: id, Netns: l.Netns, Address: l.Address, Ports: s.ports[id], Internal: s.state.internal(l),
		})
	}
	return w
}

// changes are what the parts are told since "then".
func (s *situation) changes() string {
	d := s.state.Take()
	c := s.state.changes(d)
	var lines []string
	line := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if d.Resync {
		line("everything is set whole")
	}
	if d.Peers {
		line("peers are looked at")
	}
	if d.Encryption {
		line("wireguard is looked at")
	}
	for network, r := range c.remotes {
		for task, to := range r.put {
			line("%s: remote %s at %v by %s", network, task, to.Addresses, to.VTEP)
		}
		for _, task := range r.remove {
			line("%s: no remote %s", network, task)
		}
	}
	for network, v := range c.balances {
		for vip, backends := range v.put {
			line("%s: %s leads to %v", network, vip, backends)
		}
		for _, vip := range v.remove {
			line("%s: no %s", network, vip)
		}
	}
	for network, z := range c.zones {
		for _, v := range z.put {
			line("%s: name %s", network, v.Name)
		}
		for _, service := range z.remove {
			line("%s: no names of %s", network, service)
		}
	}
	for p, to := range c.ports.put {
		line("port %s leads to %d of %v and nodes %v", p, to.Target, to.Local, to.Nodes)
	}
	for _, p := range c.ports.remove {
		line("no port %s", p)
	}
	for network, addrs := range c.gone {
		line("%s: connections to %v are over", network, addrs)
	}
	if slices.Sort(lines); len(lines) == 0 {
		return "nothing\n"
	}
	return strings.Join(lines, "\n") + "\n"
}
