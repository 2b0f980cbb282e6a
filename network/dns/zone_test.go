package dns

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// dump is all that zones know, as text.
func dump(zs zones) string {
	var b strings.Builder
	ids := func(list []*service) (out []string) {
		for _, s := range list {
			out = append(out, s.ID)
		}
		return out
	}
	for _, id := range slices.Sorted(maps.Keys(zs)) {
		z := zs[id]
		fmt.Fprintf(&b, "network %s\n", id)
		for _, id := range slices.Sorted(maps.Keys(z.services)) {
			s := z.services[id]
			fmt.Fprintf(&b, "  service %+v %s %v %v %v\n", s.Service, s.name, s.serving, s.direct, s.places)
		}
		for _, name := range slices.Sorted(maps.Keys(z.names)) {
			fmt.Fprintf(&b, "  name %s %v\n", name, ids(z.names[name]))
		}
		for _, task := range slices.Sorted(maps.Keys(z.tasks)) {
			fmt.Fprintf(&b, "  task %s %v\n", task, ids(z.tasks[task]))
		}
		for _, addr := range slices.SortedFunc(maps.Keys(z.owners), netip.Addr.Compare) {
			fmt.Fprintf(&b, "  address %s %v %v\n", addr, ids(z.owners[addr]), z.pointers(addr))
		}
	}
	return b.String()
}

// anyService draws from little, so that names and addresses meet.
func anyService(t *rapid.T, id string) Service {
	addr := rapid.Custom(func(t *rapid.T) netip.Addr {
		return netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "last") % 8})
	})
	name := rapid.SampledFrom([]string{"web", "Web", "db", "tasks", "1"})
	s := Service{
		ID: id, Name: name.Draw(t, "name"), Aliases: rapid.SliceOfN(name, 0, 2).Draw(t, "aliases"),
		VIPs: rapid.SliceOfN(addr, 0, 2).Draw(t, "vips"),
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "tasks") {
		s.Tasks = append(s.Tasks, Endpoint{
			ID: fmt.Sprintf("%stask%d", id, i), Slot: rapid.Uint64Range(0, 2).Draw(t, "slot"), Node: "node",
			Addresses: rapid.SliceOfN(addr, 1, 2).Draw(t, "addresses"), Serving: rapid.Bool().Draw(t, "serving"),
		})
	}
	return s
}

// Any sequence of changes ends where one that is told the end only begins.
func TestChangesEndWhereSetEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		changed := make(zones)
		model := map[string]map[string]Service{"n1": {}, "n2": {}}
		for range rapid.IntRange(0, 12).Draw(t, "changes") {
			network := rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "network")
			var put []Service
			remove := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 2).Draw(t, "remove")
			for _, id := range remove {
				delete(model[network], id)
			}
			for _, id := range rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 2).Draw(t, "put") {
				s := anyService(t, id)
				put = append(put, s)
				model[network][id] = s
			}
			changed.change(network, put, remove)
		}
		if diff := cmp.Diff(dump(newZones(model)), dump(changed)); diff != "" {
			t.Fatal(diff)
		}
	})
}

// An address that a new task has before the managers' word that the old one is
// gone is both's, then the new one's.
func TestAddressReusedAtOnce(t *testing.T) {
	service := func(id string) Service {
		return Service{ID: id, Name: id, Tasks: []Endpoint{{ID: id + "task", Slot: 1, Addresses: addrs("10.0.0.2"), Serving: true}}}
	}
	zs := make(zones)
	zs.change("n", []Service{service("old")}, nil)
	zs.change("n", []Service{service("new")}, nil)
	if diff := cmp.Diff([]string{"new.1.newtask", "old.1.oldtask"}, zs["n"].pointers(addrs("10.0.0.2")[0])); diff != "" {
		t.Error(diff)
	}
	zs.change("n", nil, []string{"old"})
	if diff := cmp.Diff([]string{"new.1.newtask"}, zs["n"].pointers(addrs("10.0.0.2")[0])); diff != "" {
		t.Error(diff)
	}
}
