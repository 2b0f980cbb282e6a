package mesh

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/minid/minid/network/bridge"
)

var update = flag.Bool("update", false, "write the golden files anew")

// situations are kept as golden text: of those with services only the sets and
// chains that differ from a mesh without.
func situations() map[string]Wanted {
	two, three := map[uint32]uint32{2: 1}, map[uint32]uint32{2: 1, 3: 2}
	local := addrs("172.30.0.2", "172.30.0.3")
	services := map[string]map[Published]Service{
		"no-task":               {port(8080): {Target: 80}},
		"one-task-here":         {port(8080): {Target: 80, Local: local[:1]}},
		"two-tasks-here":        {port(8080): {Target: 80, Local: local}},
		"one-task-elsewhere":    {port(8080): {Target: 80, Nodes: two}},
		"weights":               {port(8080): {Target: 80, Nodes: three}},
		"here-and-elsewhere":    {port(8080): {Target: 80, Local: local, Nodes: three}},
		"local-preferred":       {port(8080): {Target: 80, PreferLocal: true, Local: local, Nodes: three}},
		"local-preferred-none":  {port(8080): {Target: 80, PreferLocal: true, Nodes: three}},
		"masquerade":            {port(8080): {Target: 80, Masquerade: true, Local: local[:1], Nodes: two}},
		"masquerade-local":      {port(8080): {Target: 80, Masquerade: true, PreferLocal: true, Local: local[:1], Nodes: two}},
		"host-address":          {port(8080): {Target: 80, HostIP: addr("192.0.2.1"), Local: local[:1]}},
		"host-address-any":      {port(8080): {Target: 80, HostIP: addr("0.0.0.0"), Local: local[:1]}},
		"host-address-mapped":   {port(8080): {Target: 80, HostIP: addr("::ffff:192.0.2.1"), Local: local[:1]}},
		"host-address-ipv6":     {port(8080): {Target: 80, HostIP: addr("2001:db8::1"), Local: local[:1]}},
		"udp-and-sctp":          {{bridge.UDP, 53}: {Target: 5353, Local: local[:1]}, {bridge.SCTP, 3868}: {Target: 3868, Nodes: two}},
		"one-number-protocols":  {{bridge.UDP, 53}: {Target: 53, Local: local[:1]}, port(53): {Target: 53, Local: local[:1]}},
		"ports-share-chains":    {port(80): {Target: 80, Nodes: two}, port(81): {Target: 80, Nodes: two}, port(82): {Target: 80, Local: local[:1]}},
		"unknown-node":          {port(8080): {Target: 80, Nodes: map[uint32]uint32{2: 1, 7: 5}}},
		"itself-among-nodes":    {port(8080): {Target: 80, Local: local[:1], Nodes: map[uint32]uint32{1: 1, 2: 1}}},
		"weight-of-none":        {port(8080): {Target: 80, Nodes: map[uint32]uint32{2: 0, 3: 1}}},
		"unsorted-twice":        {port(8080): {Target: 80, Local: addrs("172.30.0.3", "172.30.0.2", "172.30.0.3")}},
		"target-is-the-same":    {port(8080): {Target: 8080, Local: local[:1], Nodes: two}},
		"two-services-two-maps": {port(80): {Target: 8000, Local: local[:1]}, port(443): {Target: 8443, HostIP: addr("192.0.2.1"), Nodes: three}},
	}
	out := map[string]Wanted{}
	for name, s := range services {
		w := example()
		w.Services = s
		out[name] = w
	}
	w := example()
	w.Peers = nil
	out["alone"] = w
	w = example()
	w.Number, w.Subnet, w.MTU = 2, netip.MustParsePrefix("10.251.0.0/16"), 1370
	w.Peers = map[uint32]netip.Addr{1: addr("192.0.2.1"), 254: addr("198.51.100.9")}
	out["other-subnet"] = w
	w = example()
	w.Number, w.Subnet = 2046, netip.MustParsePrefix("10.0.0.0/10")
	out["high-number"] = w
	return out
}

func TestRender(t *testing.T) {
	nothing := example().Render()
	compare(t, "nothing-published", nothing)
	plain := strings.Split(nothing, "\n\n")
	for name, w := range situations() {
		blocks := strings.Split(w.Render(), "\n\n")
		if len(w.Services) > 0 {
			blocks = slices.DeleteFunc(blocks, func(b string) bool { return slices.Contains(plain, b) })
		}
		compare(t, name, strings.Join(blocks, "\n\n")+"\n")
	}
}

func compare(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}
