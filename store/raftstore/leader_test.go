package raftstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// lead runs Lead with fn on all members until the test's end.
func (c *cluster) lead(fn func(ctx context.Context, m *member) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, m := range c.members {
		running.Go(func() {
			if err := m.Lead(ctx, func(ctx context.Context) error { return fn(ctx, m) }); err != nil {
				c.t.Errorf("Lead of %s: %v", m.id, err)
			}
		})
	}
	c.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

func TestLeadIsAScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		c.mustPropose(node("before"))
		started := make(chan *member, 10)
		ended := make(chan error, 10)
		c.lead(func(ctx context.Context, m *member) error {
			if m.State().View().Node("before") == nil {
				t.Errorf("%s began to lead without what was committed", m.id)
			}
			started <- m
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return nil
		})
		first := <-started
		if len(started) > 0 {
			t.Error("two lead")
		}
		c.net.partition(c.others(first.id))
		second := <-started
		if second == first {
			t.Error("the one cut off leads")
		}
		if cause := <-ended; !errors.Is(cause, ErrLeadershipLost) {
			t.Errorf("the scope ended by %v", cause)
		}
		c.net.partition()
		time.Sleep(10 * time.Second)
		if len(started) > 0 || len(ended) > 0 {
			t.Error("the return of the old leader disturbed the new one")
		}
	})
}

func TestLeaderWithoutWorkHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		broken := c.leader()
		var failures atomic.Int32
		worked := make(chan *member, 10)
		c.lead(func(ctx context.Context, m *member) error {
			if m == broken {
				failures.Add(1)
				return errors.New("it cannot work here")
			}
			worked <- m
			<-ctx.Done()
			return nil
		})
		<-worked
		if failures.Load() == 0 {
			t.Error("the broken leader never tried")
		}
	})
}

func TestLoneLeaderTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, nil)
		tries := make(chan time.Time, 10)
		c.lead(func(ctx context.Context, m *member) error {
			tries <- time.Now()
			return errors.New("no luck")
		})
		first, second := <-tries, <-tries
		if second.Sub(first) < leadPause {
			t.Errorf("tried again after %v", second.Sub(first))
		}
	})
}

func TestTransferLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		old := c.leader()
		if err := old.TransferLeadership(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c.leader() == old {
			t.Error("nothing changed hands")
		}
	})
}

// Membership of an idle cluster stays put: no elections for an hour.
func TestIdleClusterKeepsItsLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, func(cfg *Config) { cfg.Timing = lan; cfg.Timing.Commit = time.Second })
		leader := c.leader()
		term := leader.raft.CurrentTerm()
		time.Sleep(10 * time.Minute)
		if c.leader() != leader || leader.raft.CurrentTerm() != term {
			t.Error("leadership changed for no reason")
		}
	})
}
