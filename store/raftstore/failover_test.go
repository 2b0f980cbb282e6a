package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minid/minid/fault"
)

// failoverBudget is DESIGN section 9: leader lost → writes accepted.
const failoverBudget = 2 * time.Second

func TestNewLeaderWritesWithinTwoSeconds(t *testing.T) {
	for _, how := range []string{"killed", "cut off"} {
		t.Run(how, func(t *testing.T) {
			for round := range 20 {
				synctest.Test(t, func(t *testing.T) {
					c := newCluster(t, 3, nil)
					c.mustPropose(node("before"))
					time.Sleep(time.Duration(round) * 37 * time.Millisecond)
					old := c.leader()
					lost := time.Now()
					if how == "killed" {
						c.kill(old)
						delete(c.members, old.id)
					} else {
						c.net.partition(c.others(old.id))
					}
					c.mustPropose(node("after"))
					if took := time.Since(lost); took > failoverBudget {
						t.Errorf("round %d: writes were accepted after %v", round, took)
					}
					if c.leader().State().View().Node("before") == nil {
						t.Error("what was committed is gone")
					}
				})
			}
		})
	}
}

func (c *cluster) others(id string) []string {
	var ids []string
	for other := range c.members {
		if other != id {
			ids = append(ids, other)
		}
	}
	return ids
}

func TestProposeWithoutLeaderIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		leader := c.leader()
		follower := c.members[c.others(leader.id)[0]]
		if _, err := follower.Propose(t.Context(), node("a")); !fault.Is(err, fault.Unavailable) {
			t.Errorf("a follower answered %v", err)
		}
		if id, addr := follower.Leader(); id != leader.id || addr != leader.id {
			t.Errorf("the follower takes %q at %q for the leader, which is %q", id, addr, leader.id)
		}
		c.net.partition([]string{leader.id}) // nobody reaches anybody
		started := time.Now()
		if _, err := leader.Propose(t.Context(), node("b")); !fault.Is(err, fault.Unavailable) {
			t.Errorf("a leader without a majority answered %v", err)
		}
		if took := time.Since(started); took > time.Second {
			t.Errorf("it noticed after %v", took)
		}
		if leader.VerifyLeader(t.Context()) == nil {
			t.Error("leadership verified without a majority")
		}
	})
}

func TestProposeHonoursContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		leader := c.leader()
		c.net.partition([]string{leader.id})
		gone := errors.New("the caller left")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			time.Sleep(50 * time.Millisecond)
			cancel(gone)
		}()
		if _, err := leader.Propose(ctx, node("a")); !errors.Is(err, gone) {
			t.Errorf("Propose returned %v", err)
		}
	})
}

func TestProposeRefusesOversizedEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, nil)
		_, err := c.leader().Propose(t.Context(), setLabel("a", string(make([]byte, maxEntry)), 0))
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("err = %v", err)
		}
	})
}

// Proposals of many callers go on through a failover: each is either there or
// was reported as failed or unknown, and nothing reported as done is missing.
func TestAcknowledgedWritesSurviveFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		var mu sync.Mutex
		var done []string
		var writers sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		old := c.leader()
		for w := range 8 {
			writers.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					id := fmt.Sprintf("w%d-%d", w, i)
					for _, m := range []*member{c.members["n1"], c.members["n2"], c.members["n3"]} {
						refusals, err := m.Propose(ctx, node(id))
						if err == nil && refusals[0] == nil {
							mu.Lock()
							done = append(done, id)
							mu.Unlock()
							break
						}
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		time.Sleep(300 * time.Millisecond)
		c.net.partition(c.others(old.id))
		time.Sleep(3 * time.Second)
		c.net.partition()
		time.Sleep(time.Second)
		cancel()
		writers.Wait()
		c.mustPropose(node("last"))
		c.awaitNode(old, "last")
		for _, m := range c.members {
			c.awaitNode(m, "last")
			for _, id := range done {
				if m.State().View().Node(id) == nil {
					t.Errorf("%s misses %s, which was acknowledged", m.id, id)
				}
			}
		}
		if len(done) < 100 {
			t.Errorf("only %d writes went through", len(done))
		}
	})
}

func TestFullDiskRefusesWritesAndLosesNothing(t *testing.T) {
	for _, size := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d managers", size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, size, nil)
				c.mustPropose(node("before"))
				full := c.leader()
				full.memory.FailWrites(syscall.ENOSPC)
				_, err := full.Propose(t.Context(), node("refused"))
				if !fault.Is(err, fault.Unavailable) || !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("a full disk answered %v", err)
				}
				if size == 3 {
					c.mustPropose(node("elsewhere"))
					if c.leader() == full {
						t.Error("the manager with the full disk leads")
					}
				}
				time.Sleep(time.Minute)
				if err := full.Trouble(); !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("the trouble is %v", err)
				}
				full.memory.FailWrites(nil)
				c.mustPropose(node("after"))
				c.awaitNode(full, "after")
				if err := full.Trouble(); err != nil {
					t.Errorf("there is space, and the trouble is %v", err)
				}
				for id, want := range map[string]bool{"before": true, "refused": false, "elsewhere": size == 3} {
					if got := full.State().View().Node(id) != nil; got != want {
						t.Errorf("node %q there: %v, want %v", id, got, want)
					}
				}
			})
		})
	}
}

// A manager that stops while its disk is full must stop.
func TestStopWithFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, nil)
		c.leader().memory.FailWrites(syscall.ENOSPC)
		_, _ = c.members["n1"].Propose(t.Context(), node("a"))
		time.Sleep(5 * time.Second)
	})
}
