package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	wire "github.com/miekg/dns"
	"golang.org/x/sync/singleflight"

	"github.com/minid/minid/network/netns"
)

const (
	// tryTimeout and maxTries keep the whole below the 5 s after which libc asks
	// again.
	tryTimeout = 1500 * time.Millisecond
	maxTries   = 3
	// minTries is for hosts with one name server: a packet may get lost.
	minTries = 2
	// avoidFor is how long a server that did not answer is asked last.
	avoidFor = 10 * time.Second
	// upstreamUDP avoids fragments on the way (DNS flag day 2020).
	upstreamUDP = 1232
)

// route is one way to one name server.
type route struct {
	// netns is the namespace to ask from; empty is the host's.
	netns  string
	server netip.AddrPort
	tcp    bool
}

// exchanger asks once. It returns what has the question's id, whatever it says.
type exchanger func(ctx context.Context, r route, q *wire.Msg) (*wire.Msg, error)

// forwarder asks other name servers, and remembers what they said.
type forwarder struct {
	host     func() []netip.AddrPort
	exchange exchanger
	gate     gate
	cache    cache
	flights  singleflight.Group

	mu      sync.Mutex
	avoided map[route]time.Time // until when
}

func newForwarder(host func() []netip.AddrPort, exchange exchanger) *forwarder {
	return &forwarder{host: host, exchange: exchange, avoided: make(map[route]time.Time)}
}

// ask completes the reply to a task's question with what its name servers say.
func (f *forwarder) ask(ctx context.Context, t *Task, q, reply *wire.Msg) *wire.Msg {
	key := cacheKey(t, q)
	got := f.cache.get(key, time.Now())
	if got == nil {
		// Whoever asks the same meanwhile gets the same.
		v, err, _ := f.flights.Do(key, func() (any, error) { return f.resolve(ctx, t, upstreamQuestion(q)) })
		if err != nil {
			reply.Rcode = wire.RcodeServerFailure
			return reply
		}
		got = v.(*wire.Msg)
		f.cache.put(key, got, time.Now())
	}
	reply.Rcode, reply.Truncated, reply.AuthenticatedData = got.Rcode, got.Truncated, got.AuthenticatedData
	reply.Answer, reply.Ns = got.Answer, got.Ns
	reply.Extra = append(withoutOPT(got.Extra), reply.Extra...)
	return reply
}

// cacheKey tells apart questions that get different answers: tasks with servers
// of their own see other names than the host.
func cacheKey(t *Task, q *wire.Msg) string {
	asker := ""
	if len(t.Servers) > 0 {
		asker = t.ID
	}
	bits := ""
	if opt := q.IsEdns0(); opt != nil && opt.Do() {
		bits = "D"
	}
	if q.CheckingDisabled {
		bits += "C"
	}
	return strings.Join([]string{asker, strings.ToLower(q.Question[0].Name), strconv.Itoa(int(q.Question[0].Qtype)), bits}, " ")
}

// upstreamQuestion is a question as this server asks it: nothing of the client's
// but what it wants to know.
func upstreamQuestion(q *wire.Msg) *wire.Msg {
	out := new(wire.Msg)
	out.SetQuestion(q.Question[0].Name, q.Question[0].Qtype)
	out.CheckingDisabled = q.CheckingDisabled
	opt := q.IsEdns0()
	out.SetEdns0(upstreamUDP, opt != nil && opt.Do())
	return out
}

func withoutOPT(list []wire.RR) []wire.RR {
	return slices.DeleteFunc(slices.Clone(list), func(r wire.RR) bool { return r.Header().Rrtype == wire.TypeOPT })
}

// resolve asks one server after another until one has an answer. The last one's
// refusal is better than none.
func (f *forwarder) resolve(ctx context.Context, t *Task, q *wire.Msg) (*wire.Msg, error) {
	var refused *wire.Msg
	err := errors.New("there are no name servers")
	for _, r := range f.routes(t) {
		var got *wire.Msg
		if got, err = f.askOne(ctx, r, q); err != nil {
			f.avoid(r, true)
			continue
		}
		f.avoid(r, false)
		if got.Rcode == wire.RcodeSuccess || got.Rcode == wire.RcodeNameError {
			return got, nil
		}
		refused = got
	}
	if refused != nil {
		return refused, nil
	}
	return nil, err
}

// routes are the servers to be tried, in order.
func (f *forwarder) routes(t *Task) []route {
	servers, from := t.Servers, t.Netns
	if len(servers) == 0 {
		servers, from = f.host(), ""
	}
	var good, bad []route
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range servers {
		r := route{netns: from, server: s}
		if f.avoided[r].After(now) {
			bad = append(bad, r)
		} else {
			good = append(good, r)
		}
	}
	good = append(good, bad...)
	for n := len(good); n > 0 && len(good) < minTries; {
		good = append(good, good[len(good)-n])
	}
	return good[:min(len(good), maxTries)]
}

// avoid notes whether a server should be asked last for a while.
func (f *forwarder) avoid(r route, yes bool) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !yes {
		delete(f.avoided, r)
		return
	}
	for other, until := range f.avoided { // those of tasks that are gone
		if until.Before(now) {
			delete(f.avoided, other)
		}
	}
	f.avoided[r] = now.Add(avoidFor)
}

// askOne asks one server: over TCP what does not fit into a packet, and without
// EDNS if it does not know that.
func (f *forwarder) askOne(ctx context.Context, r route, q *wire.Msg) (*wire.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	got, err := f.once(ctx, r, q)
	if err == nil && (got.Rcode == wire.RcodeFormatError || got.Rcode == wire.RcodeNotImplemented) {
		plain := q.Copy()
		plain.Extra = nil
		got, err = f.once(ctx, r, plain)
	}
	if err != nil || !got.Truncated {
		return got, err
	}
	r.tcp = true
	whole, err := f.once(ctx, r, q)
	if err != nil {
		return got, nil // part of the answer, and marked so
	}
	return whole, nil
}

func (f *forwarder) once(ctx context.Context, r route, q *wire.Msg) (*wire.Msg, error) {
	asked := q.Copy()
	asked.Id = wire.Id()
	got, err := f.exchange(ctx, r, asked)
	if err != nil {
		return nil, err
	}
	if !got.Response || got.Id != asked.Id || len(got.Question) > 1 ||
		len(got.Question) == 1 && !sameQuestion(got.Question[0], asked.Question[0]) {
		return nil, fmt.Errorf("ask %s: the answer is to another question", r.server)
	}
	return got, nil
}

func sameQuestion(a, b wire.Question) bool {
	return strings.EqualFold(a.Name, b.Name) && a.Qtype == b.Qtype && a.Qclass == b.Qclass
}

// exchange asks from a socket of its own, so that an answer cannot be guessed
// from the question before.
func exchange(ctx context.Context, r route, q *wire.Msg) (*wire.Msg, error) {
	network := "udp"
	if r.tcp {
		network = "tcp"
	}
	var c net.Conn
	err := netns.Do(r.netns, func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, r.server.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reach name server %s: %w", r.server, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	got, _, err := (&wire.Client{Net: network, UDPSize: upstreamUDP, Timeout: tryTimeout}).
		ExchangeWithConnContext(ctx, q, &wire.Conn{Conn: c, UDPSize: upstreamUDP})
	if err != nil {
		return nil, fmt.Errorf("ask name server %s: %w", r.server, err)
	}
	return got, nil
}
