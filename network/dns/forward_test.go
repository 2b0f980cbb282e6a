package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"
)

var (
	server1 = netip.MustParseAddrPort("192.0.2.1:53")
	server2 = netip.MustParseAddrPort("192.0.2.2:53")
	server3 = netip.MustParseAddrPort("192.0.2.3:53")
)

// fakes are name servers by address; those that are not there do not answer.
type fakes struct {
	servers map[netip.AddrPort]func(r route, q *wire.Msg) *wire.Msg

	mu   sync.Mutex
	seen []string
}

func (f *fakes) exchange(ctx context.Context, r route, q *wire.Msg) (*wire.Msg, error) {
	f.mu.Lock()
	text := r.netns + r.server.Addr().String()
	if r.tcp {
		text += " tcp"
	}
	f.seen = append(f.seen, text)
	f.mu.Unlock()
	if s := f.servers[r.server]; s != nil {
		return s(r, q), nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// log returns what was asked since the last call.
func (f *fakes) log() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := strings.Join(f.seen, ", ")
	f.seen = nil
	return out
}

// says answers with records and a response code.
func says(rcode int, records ...string) func(route, *wire.Msg) *wire.Msg {
	return func(_ route, q *wire.Msg) *wire.Msg {
		m := new(wire.Msg)
		m.SetRcode(q, rcode)
		for _, text := range records {
			rr, err := wire.NewRR(text)
			if err != nil {
				panic(err)
			}
			if rr.Header().Rrtype == wire.TypeSOA {
				m.Ns = append(m.Ns, rr)
			} else {
				m.Answer = append(m.Answer, rr)
			}
		}
		return m
	}
}

func hostOf(servers ...netip.AddrPort) func() []netip.AddrPort {
	return func() []netip.AddrPort { return servers }
}

// asked sends a question for a task and tells the answer.
func asked(f *forwarder, t *Task, name string) string {
	q := question(name, wire.TypeA)
	reply := new(wire.Msg)
	reply.SetReply(q)
	m := f.ask(context.Background(), t, q, reply)
	var out []string
	for _, rr := range m.Answer {
		out = append(out, fmt.Sprintf("%s %d", rr.(*wire.A).A, rr.Header().Ttl))
	}
	return wire.RcodeToString[m.Rcode] + " " + strings.Join(out, ", ")
}

const (
	address = "example.com. 300 IN A 198.51.100.1"
	nothing = "example.com. 600 IN SOA ns.example.com. root.example.com. 1 2 3 4 20"
)

func TestForward(t *testing.T) {
	truncated := func(r route, q *wire.Msg) *wire.Msg {
		m := says(wire.RcodeSuccess, address)(r, q)
		m.Truncated = !r.tcp
		return m
	}
	noEDNS := func(r route, q *wire.Msg) *wire.Msg {
		if q.IsEdns0() != nil {
			return says(wire.RcodeFormatError)(r, q)
		}
		return says(wire.RcodeSuccess, address)(r, q)
	}
	forged := func(r route, q *wire.Msg) *wire.Msg {
		m := says(wire.RcodeSuccess, address)(r, q)
		m.Question[0].Name = "example.org."
		return m
	}
	type servers = map[netip.AddrPort]func(route, *wire.Msg) *wire.Msg
	good := says(wire.RcodeSuccess, address)
	tests := map[string]struct {
		servers servers
		host    []netip.AddrPort
		want    string
		asked   string
		took    time.Duration
	}{
		"the first answers":           {servers{server1: good}, []netip.AddrPort{server1, server2}, "NOERROR 198.51.100.1 300", "192.0.2.1", 0},
		"the first is silent":         {servers{server2: good}, []netip.AddrPort{server1, server2}, "NOERROR 198.51.100.1 300", "192.0.2.1, 192.0.2.2", tryTimeout},
		"the first refuses":           {servers{server1: says(wire.RcodeRefused), server2: good}, []netip.AddrPort{server1, server2}, "NOERROR 198.51.100.1 300", "192.0.2.1, 192.0.2.2", 0},
		"the first fails":             {servers{server1: says(wire.RcodeServerFailure), server2: good}, []netip.AddrPort{server1, server2}, "NOERROR 198.51.100.1 300", "192.0.2.1, 192.0.2.2", 0},
		"no such name is an answer":   {servers{server1: says(wire.RcodeNameError), server2: good}, []netip.AddrPort{server1, server2}, "NXDOMAIN ", "192.0.2.1", 0},
		"all refuse":                  {servers{server1: says(wire.RcodeRefused)}, []netip.AddrPort{server1}, "REFUSED ", "192.0.2.1, 192.0.2.1", 0},
		"one refuses, one is silent":  {servers{server1: says(wire.RcodeRefused)}, []netip.AddrPort{server1, server2}, "REFUSED ", "192.0.2.1, 192.0.2.2", tryTimeout},
		"all are silent":              {nil, []netip.AddrPort{server1, server2, server3, server3}, "SERVFAIL ", "192.0.2.1, 192.0.2.2, 192.0.2.3", 3 * tryTimeout},
		"one server is asked twice":   {nil, []netip.AddrPort{server1}, "SERVFAIL ", "192.0.2.1, 192.0.2.1", 2 * tryTimeout},
		"no server":                   {nil, nil, "SERVFAIL ", "", 0},
		"truncated":                   {servers{server1: truncated}, []netip.AddrPort{server1}, "NOERROR 198.51.100.1 300", "192.0.2.1, 192.0.2.1 tcp", 0},
		"a server from before EDNS":   {servers{server1: noEDNS}, []netip.AddrPort{server1}, "NOERROR 198.51.100.1 300", "192.0.2.1, 192.0.2.1", 0},
		"an answer to something else": {servers{server1: forged, server2: good}, []netip.AddrPort{server1, server2}, "NOERROR 198.51.100.1 300", "192.0.2.1, 192.0.2.2", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := &fakes{servers: test.servers}
				f := newForwarder(hostOf(test.host...), fake.exchange)
				began := time.Now()
				got := asked(f, &Task{ID: "t"}, "example.com")
				if got != test.want || time.Since(began) != test.took {
					t.Errorf("%q after %v", got, time.Since(began))
				}
				if diff := cmp.Diff(test.asked, fake.log()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// A server that did not answer is asked last for a while.
func TestSilentServerIsAvoided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &fakes{servers: map[netip.AddrPort]func(route, *wire.Msg) *wire.Msg{server2: says(wire.RcodeNameError)}}
		f := newForwarder(hostOf(server1, server2), fake.exchange)
		asked(f, &Task{}, "a.example")
		asked(f, &Task{}, "b.example")
		time.Sleep(avoidFor)
		asked(f, &Task{}, "c.example")
		if diff := cmp.Diff("192.0.2.1, 192.0.2.2, 192.0.2.2, 192.0.2.1, 192.0.2.2", fake.log()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestCacheHonoursTTL(t *testing.T) {
	tests := map[string]struct {
		says   func(route, *wire.Msg) *wire.Msg
		first  string
		before time.Duration // still known
		later  string
		after  time.Duration // asked again; 0: at once
	}{
		"address":       {says(wire.RcodeSuccess, address), "NOERROR 198.51.100.1 300", 299 * time.Second, "NOERROR 198.51.100.1 1", 300 * time.Second},
		"shortest":      {says(wire.RcodeSuccess, address, "example.com. 9 IN A 198.51.100.2"), "NOERROR 198.51.100.1 300, 198.51.100.2 9", 8 * time.Second, "NOERROR 198.51.100.1 292, 198.51.100.2 1", 9 * time.Second},
		"long":          {says(wire.RcodeSuccess, "example.com. 864000 IN A 198.51.100.1"), "NOERROR 198.51.100.1 864000", maxTTL - time.Second, "NOERROR 198.51.100.1 860401", maxTTL},
		"at once":       {says(wire.RcodeSuccess, "example.com. 0 IN A 198.51.100.1"), "NOERROR 198.51.100.1 0", 0, "", 0},
		"no such name":  {says(wire.RcodeNameError, nothing), "NXDOMAIN ", 19 * time.Second, "NXDOMAIN ", 20 * time.Second},
		"no records":    {says(wire.RcodeSuccess, nothing), "NOERROR ", 19 * time.Second, "NOERROR ", 20 * time.Second},
		"nothing, long": {says(wire.RcodeNameError, strings.Replace(nothing, " 20", " 86400", 1)), "NXDOMAIN ", maxNegativeTTL - time.Second, "NXDOMAIN ", maxNegativeTTL},
		"without SOA":   {says(wire.RcodeNameError), "NXDOMAIN ", 0, "", 0},
		"failure":       {says(wire.RcodeServerFailure), "SERVFAIL ", 0, "", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := &fakes{servers: map[netip.AddrPort]func(route, *wire.Msg) *wire.Msg{server1: test.says}}
				f := newForwarder(hostOf(server1), fake.exchange)
				if got := asked(f, &Task{ID: "a"}, "example.com"); got != test.first {
					t.Error(got)
				}
				fake.log()
				began := time.Now()
				if test.before > 0 {
					time.Sleep(test.before)
					if got := asked(f, &Task{ID: "b"}, "EXAMPLE.com"); got != test.later || fake.log() != "" {
						t.Errorf("%q", got)
					}
				}
				time.Sleep(test.after - time.Since(began))
				if got := asked(f, &Task{ID: "b"}, "example.com"); got != test.first || fake.log() == "" {
					t.Errorf("%q", got)
				}
			})
		})
	}
}

// Those who ask the same at the same time cause one question.
func TestSameQuestionsAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &fakes{servers: map[netip.AddrPort]func(route, *wire.Msg) *wire.Msg{
			server1: func(r route, q *wire.Msg) *wire.Msg {
				time.Sleep(time.Second)
				return says(wire.RcodeSuccess, "example.com. 0 IN A 198.51.100.1")(r, q)
			},
		}}
		f := newForwarder(hostOf(server1), fake.exchange)
		var clients sync.WaitGroup
		for i := range 50 {
			clients.Go(func() {
				if got := asked(f, &Task{ID: fmt.Sprint(i)}, "example.com"); got != "NOERROR 198.51.100.1 0" {
					t.Error(got)
				}
			})
		}
		clients.Wait()
		if diff := cmp.Diff("192.0.2.1", fake.log()); diff != "" {
			t.Error(diff)
		}
	})
}

// Tasks with servers of their own ask these, from their namespace, and neither
// see nor leave answers that are the host's.
func TestOwnServers(t *testing.T) {
	fake := &fakes{servers: map[netip.AddrPort]func(route, *wire.Msg) *wire.Msg{
		server1: says(wire.RcodeSuccess, address),
		server2: says(wire.RcodeSuccess, "example.com. 300 IN A 203.0.113.1"),
	}}
	f := newForwarder(hostOf(server1), fake.exchange)
	own := &Task{ID: "own", Netns: "/ns/own ", Servers: []netip.AddrPort{server2}}
	other := &Task{ID: "other", Netns: "/ns/other ", Servers: []netip.AddrPort{server2}}
	for range 2 {
		if got := asked(f, &Task{ID: "t"}, "example.com"); got != "NOERROR 198.51.100.1 300" {
			t.Error(got)
		}
		for _, task := range []*Task{own, other} {
			if got := asked(f, task, "example.com"); got != "NOERROR 203.0.113.1 300" {
				t.Error(got)
			}
		}
	}
	if diff := cmp.Diff("192.0.2.1, /ns/own 192.0.2.2, /ns/other 192.0.2.2", fake.log()); diff != "" {
		t.Error(diff)
	}
}

// What the client set for itself does not leave the host.
func TestUpstreamQuestion(t *testing.T) {
	q := question("example.com", wire.TypeA).SetEdns0(4096, true)
	q.RecursionDesired, q.CheckingDisabled = false, true
	q.IsEdns0().Option = append(q.IsEdns0().Option, &wire.EDNS0_LOCAL{Code: 65001, Data: []byte("secret")})
	got := upstreamQuestion(q)
	opt := got.IsEdns0()
	if !got.RecursionDesired || !got.CheckingDisabled || !opt.Do() || len(opt.Option) != 0 || opt.UDPSize() != upstreamUDP {
		t.Error(got)
	}
	if a, b := cacheKey(&Task{}, q), cacheKey(&Task{}, question("example.com", wire.TypeA)); a == b {
		t.Error("signed and plain answers are kept as one")
	}
}

func TestCacheIsBounded(t *testing.T) {
	var c cache
	now := time.Now()
	big := says(wire.RcodeSuccess)(route{}, question("example.com", wire.TypeTXT))
	big.Answer = append(big.Answer, &wire.TXT{Hdr: header("example.com.", wire.TypeTXT), Txt: []string{strings.Repeat("x", 255), strings.Repeat("y", 255)}})
	const n = 20000
	for i := range n {
		c.put(fmt.Sprint(i), big, now)
		if c.get("0", now) == nil {
			t.Fatal("forgot what is used all the time after", i)
		}
	}
	if c.size > maxCache || len(c.entries) != c.order.Len() || c.get("1", now) != nil || c.get(fmt.Sprint(n-1), now) == nil {
		t.Error(c.size, len(c.entries), c.order.Len())
	}
	size := 0
	for _, el := range c.entries {
		size += el.Value.(*cached).size()
	}
	if size != c.size {
		t.Errorf("counts %d, has %d", c.size, size)
	}
}

// A task has its own part whatever others do, and no more than its bound.
func TestGate(t *testing.T) {
	var g gate
	entered := func(task string) (n int) {
		for g.enter(task) {
			n++
		}
		return n
	}
	if n := entered("flood"); n != maxLoad {
		t.Error(n)
	}
	total := 0
	for i := range 20 {
		total += entered(fmt.Sprint(i))
	}
	if want := 20*ownLoad + sharedLoad - (maxLoad - ownLoad); total != want {
		t.Errorf("%d, want %d", total, want)
	}
	if n := entered("quiet"); n != ownLoad {
		t.Error(n)
	}
	for range maxLoad {
		g.leave("flood")
	}
	if n := entered("quiet"); n != maxLoad-ownLoad {
		t.Error(n)
	}
	for task, n := range g.tasks {
		for range n {
			g.leave(task)
		}
	}
	if len(g.tasks) != 0 || g.shared != 0 {
		t.Error(g.tasks, g.shared)
	}
}

func TestHostServers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		t.Helper()
		next := path + ".new" // as resolvconf and NetworkManager do
		if err := errors.Join(os.WriteFile(next, []byte(text), 0o600), os.Rename(next, path)); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		servers := HostServers(path)
		steps := []struct {
			change func()
			want   string
		}{
			{func() {}, "[]"},
			{func() { write("# by hand\nnameserver 127.0.0.53\nsearch x.example\nnameserver fe80::1%eth0\n") }, "[127.0.0.53:53 [fe80::1%eth0]:53]"},
			{func() { write("nameserver 192.0.2.1\nnameserver none\nnameserver\nnameserver 192.0.2.2\n") }, "[192.0.2.1:53 192.0.2.2:53]"},
			{func() { write(strings.Repeat("nameserver 192.0.2.3\n", 5)) }, "[192.0.2.3:53 192.0.2.3:53 192.0.2.3:53]"},
			{func() { _ = os.Remove(path) }, "[192.0.2.3:53 192.0.2.3:53 192.0.2.3:53]"},
			{func() { write("") }, "[]"},
		}
		for i, step := range steps {
			step.change()
			time.Sleep(rereadAfter)
			if got := fmt.Sprint(servers()); got != step.want {
				t.Errorf("step %d: %s", i, got)
			}
		}
		write("nameserver 192.0.2.9\n")
		if got := servers(); len(got) != 0 {
			t.Error("read again within a moment:", got)
		}
	})
}
