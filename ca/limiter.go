package ca

import (
	"net"
	"sync"
	"time"
)

const (
	// A source may show this many wrong tokens at once, and one more per
	// period. The secret's 128 bits need no help; the log and the CPU do.
	wrongTokens      = 10
	wrongTokenPeriod = 5 * time.Second
	// maxSources bounds the memory for those who change addresses.
	maxSources = 4096
)

// limiter counts wrong tokens by source address.
type limiter struct {
	mu sync.Mutex // protects clear
	// clear is when a source's debts are paid, each taking one period.
	clear map[string]time.Time
}

func newLimiter() *limiter { return &limiter{clear: map[string]time.Time{}} }

// allow says whether a source may try.
func (l *limiter) allow(source string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clear[hostOf(source)].Sub(now) <= (wrongTokens-1)*wrongTokenPeriod
}

// punish counts a wrong token.
func (l *limiter) punish(source string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	host := hostOf(source)
	if len(l.clear) >= maxSources {
		l.shrink(now)
	}
	from := l.clear[host]
	if from.Before(now) {
		from = now
	}
	l.clear[host] = from.Add(wrongTokenPeriod)
}

// shrink forgets the sources without debts; if all have some, all are
// forgiven: memory is worth more.
func (l *limiter) shrink(now time.Time) {
	for host, at := range l.clear {
		if !at.After(now) {
			delete(l.clear, host)
		}
	}
	if len(l.clear) >= maxSources {
		clear(l.clear)
	}
}

func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}
