package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"

	"github.com/minid/minid/network/netns"
)

func nobody() []netip.AddrPort { return nil }

func web() Service {
	return Service{
		ID: "s1", Name: "web", Aliases: []string{"front"}, VIPs: addrs("10.0.16.2"), Ports: []Port{{"tcp", "http", 80}},
		Tasks: []Endpoint{
			{ID: web1, Slot: 1, Node: "n1", Addresses: addrs("10.0.16.3"), Serving: true},
			{ID: web2, Slot: 2, Node: "n2", Addresses: addrs("10.0.16.4"), Serving: true},
		},
	}
}

func serveWeb(t testing.TB, cfg Config, task Task) *Server {
	t.Helper()
	s := New(cfg)
	run(t, s)
	if err := s.Open(task); err != nil {
		t.Fatal(err)
	}
	s.Set(map[string]map[string]Service{"n": {"s1": web()}})
	return s
}

func intact(t testing.TB, s *Server, id string) bool {
	t.Helper()
	ok, err := s.Check(id)
	if err != nil {
		t.Error("check:", err)
	}
	return ok
}

func TestLookupsInsideNamespace(t *testing.T) {
	path := namespace(t, "a")
	s := serveWeb(t, Config{Upstreams: nobody}, Task{ID: "t", Netns: path, Networks: []string{"n"}, Domains: []string{"net"}})
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
	_, list, err := r.LookupSRV(t.Context(), "http", "tcp", "web.")
	if err != nil || len(list) != 2 || list[0].Port != 80 {
		t.Fatal(list, err)
	}
	names, err := r.LookupAddr(t.Context(), "10.0.16.3")
	if diff := cmp.Diff([]string{"web.1." + web1 + ".net."}, names); diff != "" || err != nil {
		t.Error(err, diff)
	}
	_, err = r.LookupHost(t.Context(), "tasks.nobody.")
	if e, ok := errors.AsType[*net.DNSError](err); !ok || !e.IsNotFound {
		t.Error(err)
	}
	if !intact(t, s, "t") {
		t.Error("not intact")
	}
	s.Change("n", nil, []string{"s1"})
	if got := ask(t, path, "udp", question("web.1", wire.TypeA)); got.Rcode == wire.RcodeSuccess {
		t.Error("a service that is gone has a name:", got)
	}
}

// Two stacks that both have a db do not see each other's.
func TestTasksSeeTheirNetworksOnly(t *testing.T) {
	s := New(Config{Upstreams: nobody})
	run(t, s)
	db := func(id, name, addr string) map[string]Service {
		return map[string]Service{id: {ID: id, Name: name, Aliases: []string{"db"}, VIPs: addrs(addr)}}
	}
	s.Set(map[string]map[string]Service{"n1": db("s1", "shop_db", "10.0.16.2"), "n2": db("s2", "blog_db", "10.0.32.2")})
	for network, want := range map[string]string{"n1": "10.0.16.2", "n2": "10.0.32.2"} {
		path := namespace(t, network)
		if err := s.Open(Task{ID: "t" + network, Netns: path, Networks: []string{network}}); err != nil {
			t.Fatal(err)
		}
		got, err := resolver(path).LookupHost(t.Context(), "db.")
		if diff := cmp.Diff([]string{want}, got); diff != "" || err != nil {
			t.Error(err, diff)
		}
	}
}

func TestTCPAndTruncation(t *testing.T) {
	path := namespace(t, "a")
	s := serveWeb(t, Config{Upstreams: nobody}, Task{ID: "t", Netns: path, Networks: []string{"n"}})
	s.names.Lock()
	s.zones = many(400)
	s.names.Unlock()
	if got := ask(t, path, "udp", question("many", wire.TypeA)); !got.Truncated || len(got.Answer) == 400 {
		t.Error(len(got.Answer), got.Truncated)
	}
	if got := ask(t, path, "tcp", question("many", wire.TypeA)); got.Truncated || len(got.Answer) != 400 {
		t.Error(len(got.Answer), got.Truncated)
	}
	// A resolver does that by itself.
	got, err := resolver(path).LookupHost(t.Context(), "many.")
	if len(got) != 400 || err != nil {
		t.Error(len(got), err)
	}
	// Several questions on one connection.
	err = netns.Do(path, func() error {
		c, err := wire.DialTimeout("tcp", "127.0.0.11:53", patience)
		if err != nil {
			return err
		}
		defer c.Close()
		for i := range 5 {
			q := question(fmt.Sprintf("many.%d", i+1), wire.TypeA)
			reply, _, err := (&wire.Client{Net: "tcp", Timeout: patience}).ExchangeWithConn(q, c)
			if err != nil || len(reply.Answer) != 1 {
				return fmt.Errorf("question %d: %v %w", i, reply, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A task may have a name server of its own at port 53 of all addresses, and those
// ports that this one has may be taken.
func TestPort53StaysFree(t *testing.T) {
	path := namespace(t, "a")
	err := netns.Do(path, func() error {
		for _, addr := range []string{"0.0.0.0:53", fmt.Sprint("0.0.0.0:", firstPort), fmt.Sprint("127.0.0.11:", firstPort+1)} {
			c, err := net.ListenPacket("udp4", addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = c.Close() })
			l, err := net.Listen("tcp4", addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = l.Close() })
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	serveWeb(t, Config{Upstreams: nobody}, Task{ID: "t", Netns: path, Networks: []string{"n"}})
	for _, network := range []string{"udp", "tcp"} {
		if got := ask(t, path, network, question("web", wire.TypeA)); len(got.Answer) != 1 {
			t.Error(network, got)
		}
	}
	err = netns.Do(path, func() error {
		c, err := net.ListenPacket("udp4", "127.0.0.1:53")
		if err == nil {
			err = c.Close()
		}
		return err
	})
	if err == nil {
		t.Error("the task's own socket is not there any more")
	}
}

// The next minid finds table and port of the one before; a client that keeps its
// socket does not notice.
func TestTakeover(t *testing.T) {
	path := namespace(t, "a")
	task := Task{ID: "t", Netns: path, Networks: []string{"n"}}
	var client *wire.Conn
	err := netns.Do(path, func() (err error) {
		client, err = wire.Dial("udp", "127.0.0.11:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var blocker net.PacketConn
	for round := range 3 {
		s := New(Config{Upstreams: nobody})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		s.Set(map[string]map[string]Service{"n": {"s1": web()}})
		if err := s.Open(task); err != nil {
			t.Fatal(err)
		}
		reply, _, err := (&wire.Client{Timeout: patience}).ExchangeWithConn(question("web", wire.TypeA), client)
		if err != nil || len(reply.Answer) != 1 || !intact(t, s, "t") {
			t.Fatalf("round %d: %v, %v", round, reply, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := s.Open(task); err == nil {
			t.Error("opened after the end")
		}
		if !strings.Contains(ruleset(t, path), TableName) {
			t.Error("the table ended with the server")
		}
		if round == 1 { // now the port is another's
			err := netns.Do(path, func() (err error) {
				blocker, err = net.ListenPacket("udp4", fmt.Sprint("127.0.0.11:", firstPort))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			defer blocker.Close()
		}
	}
}

// A namespace that was made anew at the same path gets sockets of its own.
func TestNamespaceMadeAnew(t *testing.T) {
	path := namespace(t, "a")
	task := Task{ID: "t", Netns: path, Networks: []string{"n"}}
	s := serveWeb(t, Config{Upstreams: nobody}, task)
	if err := errors.Join(netns.Remove(path), netns.Ensure(path), netns.Do(path, loopbackUp)); err != nil {
		t.Fatal(err)
	}
	if intact(t, s, "t") {
		t.Error("said to be intact")
	}
	if err := s.Open(task); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, path, "udp", question("web", wire.TypeA)); len(got.Answer) != 1 || !intact(t, s, "t") {
		t.Error(got)
	}
}

func TestOpenAndClose(t *testing.T) {
	path := namespace(t, "a")
	s := New(Config{Upstreams: nobody})
	s.Set(map[string]map[string]Service{"n": {"s1": web()}})
	if err := s.Open(Task{ID: "none", Netns: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("opened in a namespace that is not there")
	}
	if err := s.Open(Task{ID: "t", Netns: path}); err != nil { // before Run
		t.Fatal(err)
	}
	run(t, s)
	if got := ask(t, path, "udp", question("tasks.web", wire.TypeA)); got.Rcode != wire.RcodeNameError {
		t.Error(got)
	}
	if err := s.Open(Task{ID: "t", Netns: path, Networks: []string{"n"}}); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, path, "udp", question("tasks.web", wire.TypeA)); len(got.Answer) != 2 {
		t.Error(got)
	}
	for range 2 {
		if err := s.Close("t"); err != nil {
			t.Fatal(err)
		}
	}
	if intact(t, s, "t") {
		t.Error("said to be intact")
	}
	if _, err := tryAsk(path, "tcp", question("web", wire.TypeA)); err == nil {
		t.Error("still answers")
	}
	// As when the host's end of it all was faster.
	if err := s.Open(Task{ID: "t", Netns: path}); err != nil {
		t.Fatal(err)
	}
	if err := netns.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Close("t"); err != nil {
		t.Error(err)
	}
}

// upstream is a name server in a namespace; it says its own name to each question.
func upstream(t *testing.T, path, addr, name string) netip.AddrPort {
	t.Helper()
	handler := wire.HandlerFunc(func(w wire.ResponseWriter, q *wire.Msg) {
		m := new(wire.Msg)
		m.SetReply(q)
		n := 1
		if strings.HasPrefix(q.Question[0].Name, "long.") {
			n = 40
		}
		for i := range n {
			m.Answer = append(m.Answer, &wire.TXT{Hdr: header(q.Question[0].Name, wire.TypeTXT), Txt: []string{fmt.Sprint(name, i), strings.Repeat("x", 200)}})
		}
		if w.RemoteAddr().Network() == "udp" {
			m.Truncate(upstreamUDP)
		}
		_ = w.WriteMsg(m)
	})
	var packets net.PacketConn
	var streams net.Listener
	err := netns.Do(path, func() (err error) {
		if packets, err = net.ListenPacket("udp", addr+":0"); err != nil {
			return err
		}
		streams, err = net.Listen("tcp", packets.LocalAddr().String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*wire.Server{{PacketConn: packets, Handler: handler}, {Listener: streams, Handler: handler}} {
		started, ended := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := errors.Join(s.Shutdown(), <-ended); err != nil {
				t.Error(err)
			}
		})
	}
	return netip.MustParseAddrPort(packets.LocalAddr().String())
}

// A host's server on the host's loopback is reached from the host, a task's own
// from the task's namespace.
func TestForwardFromNamespaces(t *testing.T) {
	host, path := namespace(t, "host"), namespace(t, "a")
	_ = host
	if err := loopbackUp(); err != nil { // of the test's own namespace
		t.Fatal(err)
	}
	atHost, atTask := upstream(t, "", "127.0.0.1", "host"), upstream(t, path, "127.0.0.1", "task")
	task := Task{ID: "t", Netns: path, Networks: []string{"n"}}
	s := serveWeb(t, Config{Upstreams: hostOf(atHost)}, task)
	asks := func(network, name string) string {
		got := ask(t, path, network, question(name, wire.TypeTXT).SetEdns0(maxUDP, false))
		if len(got.Answer) == 0 {
			return wire.RcodeToString[got.Rcode]
		}
		return fmt.Sprint(got.Answer[0].(*wire.TXT).Txt[0], " ", len(got.Answer), " ", got.Truncated, " ", got.Authoritative)
	}
	if got := asks("udp", "example.com"); got != "host0 1 false false" {
		t.Error(got)
	}
	if got := asks("tcp", "long.example.com"); got != "host0 40 false false" {
		t.Error(got)
	}
	if got := asks("udp", "long.example.com"); !strings.HasSuffix(got, "true false") {
		t.Error(got)
	}
	task.Servers = []netip.AddrPort{netip.AddrPortFrom(Address, port), atTask}
	if err := s.Open(task); err != nil {
		t.Fatal(err)
	}
	if got := asks("udp", "example.com"); got != "task0 1 false false" {
		t.Error(got)
	}
	task.Internal = true
	if err := s.Open(task); err != nil {
		t.Fatal(err)
	}
	if got := asks("udp", "other.example.com"); got != "NXDOMAIN" {
		t.Error(got)
	}
}

// A task that floods the server with names that nobody answers disturbs neither
// the others nor its own questions for services.
func TestFloodOfOneTask(t *testing.T) {
	if err := loopbackUp(); err != nil {
		t.Fatal(err)
	}
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	flood, quiet := namespace(t, "flood"), namespace(t, "quiet")
	good := upstream(t, quiet, "127.0.0.1", "quiet")
	s := serveWeb(t, Config{Upstreams: hostOf(netip.MustParseAddrPort(silent.LocalAddr().String()))}, Task{ID: "flood", Netns: flood, Networks: []string{"n"}})
	if err := s.Open(Task{ID: "quiet", Netns: quiet, Networks: []string{"n"}, Servers: []netip.AddrPort{good}}); err != nil {
		t.Fatal(err)
	}
	var c net.Conn
	err = netns.Do(flood, func() (err error) {
		c, err = net.Dial("udp", "127.0.0.11:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 3 * maxLoad {
		packet, err := question(fmt.Sprintf("n%d.example", i), wire.TypeA).Pack()
		if err == nil {
			_, err = c.Write(packet)
		}
		if err != nil {
			t.Fatal(err)
		}
		if i%50 == 49 { // no more than its socket takes
			ask(t, flood, "udp", question("web", wire.TypeA))
		}
	}
	s.forward.gate.mu.Lock()
	if n := s.forward.gate.tasks["flood"]; n > maxLoad {
		t.Error("under way:", n)
	}
	s.forward.gate.mu.Unlock()
	if got := ask(t, quiet, "udp", question("example.com", wire.TypeTXT)); len(got.Answer) != 1 {
		t.Error(got)
	}
	for _, path := range []string{flood, quiet} {
		if got := ask(t, path, "udp", question("web", wire.TypeA)); len(got.Answer) != 1 {
			t.Error(got)
		}
	}
}

func TestManyNamespaces(t *testing.T) {
	const n = 300
	paths := make([]string, n)
	for i := range paths {
		paths[i] = namespace(t, fmt.Sprint(i))
	}
	s := New(Config{Upstreams: nobody})
	run(t, s)
	s.Set(map[string]map[string]Service{"n": {"s1": web()}})
	files := openFiles(t)
	began := time.Now()
	for i, path := range paths {
		if err := s.Open(Task{ID: fmt.Sprint(i), Netns: path, Networks: []string{"n"}}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d namespaces opened in %v, %d files", n, time.Since(began), openFiles(t)-files)
	var clients sync.WaitGroup
	for _, path := range paths {
		clients.Go(func() {
			if got, err := tryAsk(path, "udp", question("web", wire.TypeA)); err != nil || len(got.Answer) != 1 {
				t.Error(got, err)
			}
		})
	}
	clients.Wait()
	for i := range paths {
		if err := s.Close(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if left := openFiles(t) - files; left > n/10 {
		t.Errorf("%d files are open still", left)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
