package dns

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func nobody() []netip.AddrPort { return nil }

func web(vips ...string) Service {
	return Service{
		ID: "s1", Name: "web", Aliases: []string{"front"}, VIPs: addrs(vips...),
		Ports: []Port{{"tcp", "http", 80}},
		Tasks: []Endpoint{
			{ID: "taskwebnumberone000000001", Slot: 1, Node: "n1", Addresses: addrs("10.0.16.3"), Serving: true},
			{ID: "taskwebnumbertwo000000002", Slot: 2, Node: "n2", Addresses: addrs("10.0.16.4"), Serving: true},
		},
	}
}

func TestLookupsInsideNamespace(t *testing.T) {
	path := namespace(t, "a")
	s := New(Config{Upstreams: nobody})
	run(t, s)
	if err := s.Open(Task{ID: "t", Netns: path, Networks: []string{"n"}, Domains: []string{"net"}}); err != nil {
		t.Fatal(err)
	}
	s.Set(map[string]map[string]Service{"n": {"s1": web("10.0.16.2")}})
	r := resolver(path)
	for name, want := range map[string][]string{
		"web": {"10.0.16.2"}, "tasks.web": {"10.0.16.3", "10.0.16.4"}, "FRONT.net": {"10.0.16.2"}, "web.2": {"10.0.16.4"},
	} {
		got, err := r.LookupHost(t.Context(), name+".")
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
	if intact, err := s.Check("t"); !intact || err != nil {
		t.Error(intact, err)
	}
}
