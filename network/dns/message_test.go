package dns

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	wire "github.com/miekg/dns"
)

func TestRespond(t *testing.T) {
	normal := &Task{Networks: []string{"n1"}}
	internal := &Task{Networks: []string{"n1"}, Internal: true}
	searching := &Task{Networks: []string{"n1"}, Options: []string{"ndots:0", "rotate", "ndots:2", "ndots:x"}}
	with := func(q *wire.Msg, change func(*wire.Msg)) *wire.Msg { change(q); return q }
	tests := map[string]struct {
		task    *Task
		q       *wire.Msg
		rcode   int
		forward bool
	}{
		"a service":                   {normal, question("web", wire.TypeA), wire.RcodeSuccess, false},
		"none of the cluster's":       {normal, question("web.9", wire.TypeA), wire.RcodeNameError, false},
		"elsewhere":                   {normal, question("example.com", wire.TypeA), wire.RcodeNameError, true},
		"elsewhere, single label":     {normal, question("printer", wire.TypeA), wire.RcodeNameError, true},
		"single label with ndots":     {searching, question("printer", wire.TypeAAAA), wire.RcodeNameError, false},
		"single label, other type":    {searching, question("example", wire.TypeNS), wire.RcodeNameError, true},
		"two labels with ndots":       {searching, question("printer.lab", wire.TypeA), wire.RcodeNameError, true},
		"a service, internal":         {internal, question("web", wire.TypeA), wire.RcodeSuccess, false},
		"elsewhere, internal":         {internal, question("example.com", wire.TypeA), wire.RcodeNameError, false},
		"address elsewhere, internal": {internal, question("1.2.0.192.in-addr.arpa", wire.TypePTR), wire.RcodeNameError, false},
		"a notification":              {normal, with(question("web", wire.TypeA), func(m *wire.Msg) { m.Opcode = wire.OpcodeNotify }), wire.RcodeNotImplemented, false},
		"no question":                 {normal, new(wire.Msg), wire.RcodeFormatError, false},
		"two questions": {normal, with(question("web", wire.TypeA), func(m *wire.Msg) {
			m.Question = append(m.Question, m.Question[0])
		}), wire.RcodeFormatError, false},
		"another class":       {normal, with(question("version.bind", wire.TypeTXT), func(m *wire.Msg) { m.Question[0].Qclass = wire.ClassCHAOS }), wire.RcodeRefused, false},
		"a whole zone":        {normal, question("example.com", wire.TypeAXFR), wire.RcodeRefused, false},
		"EDNS of the future":  {normal, with(question("web", wire.TypeA), func(m *wire.Msg) { m.SetEdns0(1232, false).IsEdns0().SetVersion(1) }), wire.RcodeBadVers, false},
		"EDNS of the present": {normal, with(question("web", wire.TypeA), func(m *wire.Msg) { m.SetEdns0(1232, true) }), wire.RcodeSuccess, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			reply, forward := respond(test.q, test.task, example(), 0)
			if reply == nil || reply.Rcode != test.rcode || forward != test.forward {
				t.Fatalf("%v, forward %t", reply, forward)
			}
			packet, err := pack(reply, limit(test.q, false), nil)
			if err != nil {
				t.Fatal(err)
			}
			var got wire.Msg
			if err := got.Unpack(packet); err != nil {
				t.Fatal(err)
			}
			if got.Id != test.q.Id || !got.Response || !got.RecursionAvailable || got.Rcode != test.rcode {
				t.Error(&got)
			}
			if (got.IsEdns0() == nil) != (test.q.IsEdns0() == nil) {
				t.Error("EDNS is to be answered with EDNS:", &got)
			}
		})
	}
	q := question("web", wire.TypeA)
	q.Response = true
	if reply, forward := respond(q, normal, example(), 0); reply != nil || forward {
		t.Error("answered an answer:", reply)
	}
}

// many is a service that answers with n addresses.
func many(n int) zones {
	s := Service{ID: "s", Name: "many", Ports: []Port{{"tcp", "", 80}}}
	for i := range n {
		s.Tasks = append(s.Tasks, Endpoint{
			ID: fmt.Sprintf("%012dtask", i), Slot: uint64(i + 1), Serving: true,
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})},
		})
	}
	return newZones(map[string]map[string]Service{"n": {"s": s}})
}

func TestTruncation(t *testing.T) {
	tests := map[string]struct {
		tasks     int
		edns      uint16
		tcp       bool
		size      int
		truncated bool
	}{
		"fits":                    {20, 0, false, 512, false},
		"fits compressed only":    {28, 0, false, 512, false},
		"does not fit":            {40, 0, false, 512, true},
		"fits with EDNS":          {40, 1232, false, 1232, false},
		"does not fit with EDNS":  {100, 1232, false, 1232, true},
		"EDNS below the least":    {40, 100, false, 512, true},
		"EDNS beyond the largest": {400, 65535, false, maxUDP, true},
		"TCP":                     {400, 0, true, 65535, false},
		"more than a message has": {5000, 0, true, 65535, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			q := question("many", wire.TypeA)
			if test.edns > 0 {
				q.SetEdns0(test.edns, false)
			}
			reply, _ := respond(q, &Task{Networks: []string{"n"}}, many(test.tasks), 0)
			size := limit(q, test.tcp)
			packet, err := pack(reply, size, nil)
			if err != nil {
				t.Fatal(err)
			}
			var got wire.Msg
			if err := got.Unpack(packet); err != nil {
				t.Fatal(err)
			}
			if size != test.size || len(packet) > size || got.Truncated != test.truncated || len(got.Answer) == 0 {
				t.Errorf("%d records in %d bytes of %d, truncated %t", len(got.Answer), len(packet), size, got.Truncated)
			}
			if !got.Truncated && len(got.Answer) != test.tasks {
				t.Errorf("%d of %d records", len(got.Answer), test.tasks)
			}
		})
	}
}

// FuzzMessage feeds whatever may come in: nothing panics, replies are replies to
// it, fit, and can be read.
func FuzzMessage(f *testing.F) {
	for _, name := range []string{"web", "tasks.web", "_http._tcp.web", "3.16.0.10.in-addr.arpa", strings.Repeat("a.", 120), "example.com"} {
		for _, kind := range []uint16{wire.TypeA, wire.TypeSRV, wire.TypePTR, wire.TypeANY} {
			packet, err := question(name, kind).SetEdns0(1232, true).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(packet)
			f.Add(packet[:len(packet)/2])
		}
	}
	s := New(Config{Upstreams: nobody})
	s.zones = example()
	task := &Task{Networks: []string{"n1", "n3"}, Domains: []string{"backend", "dual"}}
	f.Fuzz(func(t *testing.T, packet []byte) {
		q, reply, _ := s.local(packet, task)
		if reply == nil {
			return
		}
		size := limit(q, false)
		out, err := pack(reply, size, nil)
		if err != nil {
			t.Fatalf("%v: %v", err, reply)
		}
		var got wire.Msg
		if err := got.Unpack(out); err != nil || len(out) > size {
			t.Fatalf("%d bytes of %d, %v", len(out), size, err)
		}
		if !got.Response || got.Id != uint16(packet[0])<<8|uint16(packet[1]) {
			t.Fatalf("%v to %x", &got, packet)
		}
	})
}
