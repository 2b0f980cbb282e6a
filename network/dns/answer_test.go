package dns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"
)

const (
	web1 = "taskwebnumberone000000001"
	web2 = "taskwebnumbertwo000000002"
	db1  = "taskdbnumberone0000000003"
	old2 = "taskwebformertwo000000004"
	mon1 = "taskmonnumberone000000005"
)

// example has three networks: backend, on which most is, other with a db of its
// own, and dual of both families.
func example() zones {
	up := func(id string, slot uint64, node string, list ...string) Endpoint {
		return Endpoint{ID: id, Slot: slot, Node: node, Addresses: addrs(list...), Serving: true}
	}
	down := func(e Endpoint) Endpoint { e.Serving = false; return e }
	return newZones(map[string]map[string]Service{
		"n1": {
			"s1": {
				ID: "s1", Name: "Web", Aliases: []string{"front", "api.internal"}, VIPs: addrs("10.0.16.2"),
				Tasks: []Endpoint{up(web1, 1, "node1", "10.0.16.3"), up(web2, 2, "node2", "10.0.16.4"), down(up(old2, 2, "node1", "10.0.16.5"))},
				Ports: []Port{{"tcp", "http", 80}, {"udp", "", 443}},
			},
			"s2": {ID: "s2", Name: "shop_db", Aliases: []string{"db"}, Tasks: []Endpoint{up(db1, 1, "node1", "10.0.16.6"), down(up("taskdbnumbertwo0000000006", 2, "node2", "10.0.16.7"))}},
			"s3": {ID: "s3", Name: "monitor", VIPs: addrs("10.0.16.8"), Tasks: []Endpoint{up(mon1, 0, "Node1.example", "10.0.16.9")}, Ports: []Port{{"tcp", "", 9100}}},
			"s4": {ID: "s4", Name: "idle", VIPs: addrs("10.0.16.10")},
			"s5": {ID: "s5", Name: "none"},
			"s6": {ID: "s6", Name: "more", Aliases: []string{"front"}, VIPs: addrs("10.0.16.11")},
		},
		"n2": {
			"s7": {ID: "s7", Name: "blog_db", Aliases: []string{"db"}, VIPs: addrs("10.0.32.2"), Tasks: []Endpoint{up("taskblogdb000000000000007", 1, "node1", "10.0.32.3")}},
			"s1": {ID: "s1", Name: "Web", VIPs: addrs("10.0.32.4"), Tasks: []Endpoint{up(web1, 1, "node1", "10.0.32.5")}},
		},
		"n3": {
			"s8": {
				ID: "s8", Name: "six", VIPs: addrs("10.0.48.2", "fd00::2"),
				Tasks: []Endpoint{up("tasksix000000000000000008", 1, "node1", "10.0.48.3", "fd00::3")},
				Ports: []Port{{"tcp", "http", 80}},
			},
		},
	})
}

// told is a finding as text: its fate, or records in the order of their text.
func told(f finding) string {
	var lines []string
	for _, rr := range append(slices.Clip(f.answer), f.extra...) {
		text := strings.ReplaceAll(rr.String(), "\t", " ")
		_, text, _ = strings.Cut(text, " IN ")
		lines = append(lines, text)
	}
	slices.Sort(lines)
	switch {
	case f.fate == foreign:
		return "foreign"
	case f.fate == absent:
		return "absent"
	case len(lines) == 0:
		return "no records"
	}
	return strings.Join(lines, ", ")
}

func TestAnswer(t *testing.T) {
	on := func(networks ...string) *Task {
		names := map[string]string{"n1": "backend", "n2": "Other", "n3": "dual"}
		task := &Task{Networks: networks}
		for _, n := range networks {
			task.Domains = append(task.Domains, names[n])
		}
		return task
	}
	one, both, reverse, dual, none := on("n1"), on("n1", "n2"), on("n2", "n1"), on("n3"), on()
	tests := []struct {
		task *Task
		kind string
		name string
		want string
	}{
		// Services.
		{one, "A", "web", "A 10.0.16.2"},
		{one, "A", "WEB", "A 10.0.16.2"},
		{one, "AAAA", "web", "no records"},
		{one, "MX", "web", "no records"},
		{one, "HTTPS", "web", "no records"},
		{one, "SRV", "web", "no records"},
		{one, "ANY", "web", "A 10.0.16.2"},
		{one, "A", "idle", "A 10.0.16.10"},
		{one, "A", "shop_db", "A 10.0.16.6"},
		{one, "A", "none", "no records"},
		{one, "A", "nobody", "foreign"},
		{one, "A", "s1", "foreign"},
		{one, "A", "web.example.com", "foreign"},
		{one, "A", "example.com.web", "foreign"},
		{one, "A", "", "foreign"},
		{none, "A", "web", "foreign"},
		{on("n9"), "A", "web", "foreign"},
		// Aliases.
		{one, "A", "api.internal", "A 10.0.16.2"},
		{one, "A", "front", "A 10.0.16.11, A 10.0.16.2"},
		{one, "A", "db", "A 10.0.16.6"},
		// tasks.NAME
		{one, "A", "tasks.web", "A 10.0.16.3, A 10.0.16.4"},
		{one, "AAAA", "Tasks.web", "no records"},
		{one, "A", "tasks.db", "A 10.0.16.6"},
		{one, "A", "tasks.api.internal", "A 10.0.16.3, A 10.0.16.4"},
		{one, "A", "tasks.idle", "no records"},
		{one, "A", "tasks.nobody", "absent"},
		{one, "A", "tasks.example.com", "foreign"},
		{none, "A", "tasks.web", "absent"},
		// Slots, nodes, tasks.
		{one, "A", "web.1", "A 10.0.16.3"},
		{one, "A", "web.2", "A 10.0.16.4"},
		{one, "A", "web.3", "absent"},
		{one, "A", "web.01", "absent"},
		{one, "A", "web.node1", "foreign"},
		{one, "A", "db.2", "A 10.0.16.7"},
		{one, "A", "api.internal.1", "A 10.0.16.3"},
		{one, "A", "monitor.node1.example", "A 10.0.16.9"},
		{one, "A", "monitor.0", "absent"},
		{one, "A", web1, "A 10.0.16.3"},
		{one, "A", strings.ToUpper(web1), "A 10.0.16.3"},
		{one, "A", web1[:12], "A 10.0.16.3"},
		{one, "A", web1[:13], "foreign"},
		{one, "A", old2, "A 10.0.16.5"},
		{one, "A", "web.2." + old2, "A 10.0.16.5"},
		{one, "A", "web.1." + old2, "foreign"},
		{one, "A", "monitor.anynodesid." + mon1, "A 10.0.16.9"},
		{one, "A", "web.1." + mon1, "foreign"},
		// Several networks: the first that knows a name.
		{both, "A", "db", "A 10.0.16.6"},
		{reverse, "A", "db", "A 10.0.32.2"},
		{both, "A", "web", "A 10.0.16.2"},
		{reverse, "A", "web", "A 10.0.32.4"},
		{both, "A", "blog_db", "A 10.0.32.2"},
		{on("n2"), "A", "shop_db", "foreign"},
		{on("n2"), "A", "monitor", "foreign"},
		// NAME.NETWORK
		{both, "A", "db.other", "A 10.0.32.2"},
		{both, "A", "db.BACKEND", "A 10.0.16.6"},
		{reverse, "A", "web.1.backend", "A 10.0.16.3"},
		{both, "A", "tasks.web.other", "A 10.0.32.5"},
		{both, "A", "tasks.nobody.other", "foreign"},
		{both, "A", "web.7.other", "absent"},
		{one, "A", "db.other", "foreign"},
		{one, "A", "backend", "foreign"},
		{one, "A", ".backend", "foreign"},
		{&Task{Networks: []string{"n1"}}, "A", "web.backend", "foreign"},
		// Two families.
		{dual, "A", "six", "A 10.0.48.2"},
		{dual, "AAAA", "six", "AAAA fd00::2"},
		{dual, "ANY", "six", "A 10.0.48.2, AAAA fd00::2"},
		{dual, "AAAA", "six.1", "AAAA fd00::3"},
		// Ports.
		{one, "SRV", "_http._tcp.web", "A 10.0.16.3, A 10.0.16.4, SRV 0 0 80 Web.1.backend., SRV 0 0 80 Web.2.backend."},
		{one, "SRV", "_80._TCP.web", "A 10.0.16.3, A 10.0.16.4, SRV 0 0 80 Web.1.backend., SRV 0 0 80 Web.2.backend."},
		{one, "SRV", "_443._udp.front", "A 10.0.16.3, A 10.0.16.4, SRV 0 0 443 Web.1.backend., SRV 0 0 443 Web.2.backend."},
		{one, "SRV", "_9100._tcp.monitor", "A 10.0.16.9, SRV 0 0 9100 monitor.node1.example.backend."},
		{dual, "SRV", "_http._tcp.six", "A 10.0.48.3, AAAA fd00::3, SRV 0 0 80 six.1.dual."},
		{&Task{Networks: []string{"n3"}}, "SRV", "_http._tcp.six", "A 10.0.48.3, AAAA fd00::3, SRV 0 0 80 six.1."},
		{one, "A", "_http._tcp.web", "no records"},
		{one, "SRV", "_https._tcp.web", "absent"},
		{one, "SRV", "_http._udp.web", "absent"},
		{one, "SRV", "_http._tcp.nobody", "foreign"},
		{one, "SRV", "_ldap._tcp.corp.example", "foreign"},
		{one, "SRV", "_http.web", "foreign"},
		{reverse, "SRV", "_http._tcp.web.backend", "A 10.0.16.3, A 10.0.16.4, SRV 0 0 80 Web.1.backend., SRV 0 0 80 Web.2.backend."},
		// Addresses.
		{one, "PTR", "2.16.0.10.in-addr.arpa", "PTR Web.backend."},
		{one, "PTR", "3.16.0.10.in-addr.arpa", "PTR Web.1." + web1 + ".backend."},
		{one, "PTR", "5.16.0.10.IN-ADDR.ARPA", "PTR Web.2." + old2 + ".backend."},
		{one, "PTR", "9.16.0.10.in-addr.arpa", "PTR monitor.node1.example." + mon1 + ".backend."},
		{one, "A", "2.16.0.10.in-addr.arpa", "no records"},
		{one, "PTR", "99.16.0.10.in-addr.arpa", "foreign"},
		{one, "PTR", "3.32.0.10.in-addr.arpa", "foreign"},
		{both, "PTR", "5.32.0.10.in-addr.arpa", "PTR Web.1." + web1 + ".Other."},
		{one, "PTR", "16.0.10.in-addr.arpa", "foreign"},
		{one, "PTR", "x.16.0.10.in-addr.arpa", "foreign"},
		{dual, "PTR", arpa("fd00::3"), "PTR six.1.tasksix000000000000000008.dual."},
		{dual, "PTR", strings.Replace(arpa("fd00::3"), "3", "g", 1), "foreign"},
		{dual, "PTR", "3.ip6.arpa", "foreign"},
	}
	zs := example()
	for _, test := range tests {
		q := wire.Question{Name: wire.Fqdn(test.name), Qtype: wire.StringToType[test.kind], Qclass: wire.ClassINET}
		f := answer(q, test.task, zs, 1)
		if diff := cmp.Diff(test.want, told(f)); diff != "" {
			t.Errorf("%s %s on %v:\n%s", test.kind, test.name, test.task.Networks, diff)
		}
		for _, rr := range f.answer {
			if h := rr.Header(); h.Name != q.Name || h.Ttl != TTL {
				t.Errorf("%s: %v", test.name, rr)
			}
		}
	}
}

func arpa(addr string) string {
	name, err := wire.ReverseAddr(addr)
	if err != nil {
		panic(err)
	}
	return name
}

// Every name that an answer gives leads to the address that it stands for.
func TestNamesGivenLeadBack(t *testing.T) {
	zs := example()
	task := &Task{Networks: []string{"n2", "n1", "n3"}, Domains: []string{"other", "backend", "dual"}}
	checked := 0
	for _, z := range zs {
		for addr := range z.owners {
			f := answer(wire.Question{Name: arpa(addr.String()), Qtype: wire.TypePTR}, task, zs, 0)
			for _, rr := range f.answer {
				back := answer(wire.Question{Name: rr.(*wire.PTR).Ptr, Qtype: wire.TypeANY}, task, zs, 0)
				if !strings.Contains(told(back), " "+addr.String()) {
					t.Errorf("%s is %s, which is %s", addr, rr.(*wire.PTR).Ptr, told(back))
				}
				checked++
			}
		}
	}
	for _, name := range []string{"_http._tcp.web.backend.", "_9100._tcp.monitor.", "_80._tcp.six."} {
		f := answer(wire.Question{Name: name, Qtype: wire.TypeSRV}, task, zs, 0)
		for _, rr := range f.answer {
			back := answer(wire.Question{Name: rr.(*wire.SRV).Target, Qtype: wire.TypeA}, task, zs, 0)
			if len(back.answer) != 1 {
				t.Errorf("%s: %s is %s", name, rr.(*wire.SRV).Target, told(back))
			}
			checked++
		}
	}
	if checked < 20 {
		t.Error("only", checked)
	}
}

// The order of addresses depends on the turn only, and each is the first of all
// about as often, also when only each second turn asks.
func TestOrderOfAddresses(t *testing.T) {
	var list []netip.Addr
	for i := range 4 {
		list = append(list, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	q := wire.Question{Name: "web.", Qtype: wire.TypeA}
	first := map[string]int{}
	const turns = 8000
	for turn := uint64(0); turn < 2*turns; turn += 2 {
		a, b := addressRecords(q, list, turn), addressRecords(q, list, turn)
		if diff := cmp.Diff(a, b); diff != "" || len(a) != len(list) {
			t.Fatal(diff)
		}
		first[a[0].String()]++
	}
	for name, n := range first {
		if n < turns/4*8/10 || n > turns/4*12/10 {
			t.Errorf("%s is the first in %d of %d turns", name, n, turns)
		}
	}
}
