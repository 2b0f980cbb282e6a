package agent

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/grpc/status"
)

// Between attempts to open a session.
const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 2 * time.Second
)

// putOff is how long a manager that did not answer is left out while there are
// others: a host without power costs a whole dial timeout each time.
const putOff = 10 * time.Second

// book is the address book of managers.
type book struct {
	mu sync.Mutex
	// initial addresses were given by the user and never forgotten.
	initial []string
	peers   []string
	// leader as last known, empty once it did not answer.
	leader string
	// tried is the address that was tried last, to try another one now.
	tried string
	// away until when, by address.
	away map[string]time.Time
}

func newBook(initial []string) *book {
	return &book{initial: slices.Clone(initial), away: map[string]time.Time{}}
}

// learn takes the managers that a session or the disk told of.
func (b *book) learn(peers []*pb.ManagerPeer, leader string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.peers = b.peers[:0]
	for _, p := range peers {
		if p.GetAddr() != "" {
			b.peers = append(b.peers, p.GetAddr())
		}
	}
	b.leader, b.tried = leader, ""
	delete(b.away, leader)
}

// redirect makes another manager the next one to try.
func (b *book) redirect(leader string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leader = leader
}

// decline notes that a manager answered but does not lead.
func (b *book) decline(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tried = addr
	if b.leader == addr {
		b.leader = ""
	}
}

// fail notes that a manager did not answer.
func (b *book) fail(addr string, now time.Time) {
	b.decline(addr)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away[addr] = now.Add(putOff)
}

// pick chooses the last leader, else any other manager but the one that was
// just tried and those that did not answer lately; "" when none is known.
func (b *book) pick(now time.Time) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.leader != "" {
		return b.leader
	}
	all := slices.Concat(b.peers, b.initial)
	slices.Sort(all)
	all = slices.Compact(all)
	all = prefer(all, func(addr string) bool { return !now.Before(b.away[addr]) })
	all = prefer(all, func(addr string) bool { return addr != b.tried })
	if len(all) == 0 {
		return ""
	}
	return all[rand.IntN(len(all))]
}

// prefer keeps the good ones, or all when none is.
func prefer(all []string, good func(string) bool) []string {
	var out []string
	for _, s := range all {
		if good(s) {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return all
	}
	return out
}

// leaderOf finds the leader that an error names. The second result is false for
// any other error; the address is empty when the manager knows of no leader.
func leaderOf(err error) (string, bool) {
	st, ok := status.FromError(err)
	if !ok {
		return "", false
	}
	for _, detail := range st.Details() {
		if leader, ok := detail.(*pb.NotLeader); ok {
			return leader.GetLeaderAddr(), true
		}
	}
	return "", false
}

// backoff doubles from 100 ms to 2 s; each wait is half of that at least, the
// rest is chance, so that agents do not return in step.
type backoff struct{ next time.Duration }

func (b *backoff) reset() { b.next = 0 }

func (b *backoff) wait() time.Duration {
	b.next = min(max(2*b.next, firstBackoff), lastBackoff)
	return jitter(b.next*3/4, b.next/4)
}

// jitter is d, more or less up to spread.
func jitter(d, spread time.Duration) time.Duration {
	return d - spread + rand.N(2*spread+1)
}
