package dns

import (
	linked "container/list"
	"sync"
	"time"

	wire "github.com/miekg/dns"
)

const (
	// maxCache is the room for answers of other name servers, in bytes as they
	// are on the wire; cacheOverhead is added for each.
	maxCache      = 8 << 20
	cacheOverhead = 256
	// maxTTL and maxNegativeTTL bound how long an answer is believed; the latter
	// one that there is nothing.
	maxTTL         = time.Hour
	maxNegativeTTL = time.Minute
)

// cache keeps answers for as long as they say, the ones used last.
type cache struct {
	mu      sync.Mutex
	entries map[string]*linked.Element
	// order begins with what was used last.
	order linked.List
	size  int
}

type cached struct {
	key             string
	packed          []byte
	stored, expires time.Time
}

func (e *cached) size() int { return len(e.key) + len(e.packed) + cacheOverhead }

// get returns an answer as it would be now, nil if there is none.
func (c *cache) get(key string, now time.Time) *wire.Msg {
	e := c.find(key, now)
	if e == nil {
		return nil
	}
	m := new(wire.Msg)
	if m.Unpack(e.packed) != nil {
		return nil
	}
	age := uint32(now.Sub(e.stored) / time.Second)
	for _, rr := range records(m) {
		rr.Header().Ttl -= min(age, rr.Header().Ttl)
	}
	return m
}

func (c *cache) find(key string, now time.Time) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[key]
	if el == nil {
		return nil
	}
	e := el.Value.(*cached)
	if !now.Before(e.expires) {
		c.drop(el)
		return nil
	}
	c.order.MoveToFront(el)
	return e
}

// put keeps an answer if it may be kept.
func (c *cache) put(key string, m *wire.Msg, now time.Time) {
	ttl := lifetime(m)
	if ttl <= 0 {
		return
	}
	packed, err := m.Pack()
	if err != nil {
		return
	}
	e := &cached{key: key, packed: packed, stored: now, expires: now.Add(ttl)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = make(map[string]*linked.Element)
	}
	if old := c.entries[key]; old != nil {
		c.drop(old)
	}
	c.entries[key] = c.order.PushFront(e)
	c.size += e.size()
	for c.size > maxCache {
		c.drop(c.order.Back())
	}
}

func (c *cache) drop(el *linked.Element) {
	e := el.Value.(*cached)
	c.order.Remove(el)
	delete(c.entries, e.key)
	c.size -= e.size()
}

// lifetime is how long an answer may be kept: the shortest of its records' times,
// and of nothing what the zone says for that (RFC 2308). Failures are not kept.
func lifetime(m *wire.Msg) time.Duration {
	if m.Truncated || m.Rcode != wire.RcodeSuccess && m.Rcode != wire.RcodeNameError {
		return 0
	}
	if len(m.Answer) == 0 || m.Rcode == wire.RcodeNameError {
		for _, rr := range m.Ns {
			if soa, ok := rr.(*wire.SOA); ok {
				return min(seconds(min(soa.Hdr.Ttl, soa.Minttl)), maxNegativeTTL)
			}
		}
		return 0
	}
	ttl := maxTTL
	for _, rr := range records(m) {
		ttl = min(ttl, seconds(rr.Header().Ttl))
	}
	return ttl
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

// records are those of all sections that have a time to live.
func records(m *wire.Msg) []wire.RR {
	return append(append(withoutOPT(m.Answer), m.Ns...), withoutOPT(m.Extra)...)
}
