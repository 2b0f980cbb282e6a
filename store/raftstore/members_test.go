package raftstore

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minid/minid/fault"
)

func TestMembership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		leader := c.leader()
		if got, want := leader.Voters(), []Member{{"n1", "n1"}, {"n2", "n2"}, {"n3", "n3"}}; !slices.Equal(got, want) {
			t.Errorf("voters %v, want %v", got, want)
		}
		if err := leader.AddVoter(t.Context(), "n4", "nowhere"); !fault.Is(err, fault.Unavailable) {
			t.Errorf("adding somebody out of reach: %v", err)
		}
		follower := c.members[c.others(leader.id)[0]]
		if err := follower.RemoveServer(t.Context(), leader.id); !fault.Is(err, fault.Unavailable) {
			t.Errorf("a follower removes: %v", err)
		}
		if err := leader.RemoveServer(t.Context(), "stranger"); err != nil {
			t.Errorf("removing a stranger: %v", err)
		}
		c.mustPropose(node("still works"))
	})
}

func TestReachability(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		leader := c.leader()
		others := c.others(leader.id)
		c.net.partition([]string{leader.id, others[0]}, []string{others[1]})
		time.Sleep(10 * time.Second)
		if !leader.Reachable(others[0]) || leader.Reachable(others[1]) {
			t.Errorf("reachable: %v %v, want true false", leader.Reachable(others[0]), leader.Reachable(others[1]))
		}
		if ago := time.Since(c.members[others[1]].LastContact()); ago < 9*time.Second {
			t.Errorf("the one cut off heard from the leader %v ago", ago)
		}
		c.net.partition()
		time.Sleep(30 * time.Second)
		if !leader.Reachable(others[1]) {
			t.Error("still out of reach after the network healed")
		}
		if ago := time.Since(c.members[others[1]].LastContact()); ago > time.Second {
			t.Errorf("heard from the leader %v ago", ago)
		}
	})
}

// A removed manager that goes on running can neither lead nor disturb.
func TestRemovedManagerIsOut(t *testing.T) {
	for _, what := range []string{"follower", "leader"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3, nil)
				removed := c.leader()
				if what == "follower" {
					removed = c.members[c.others(removed.id)[0]]
				}
				c.retry("remove", func(leader *member) error { return leader.RemoveServer(t.Context(), removed.id) })
				rest := map[string]*member{}
				for id, m := range c.members {
					if m != removed {
						rest[id] = m
					}
				}
				c.members = rest
				defer func() { c.members[removed.id] = removed }()
				leader := c.leader()
				term := leader.raft.CurrentTerm()
				time.Sleep(time.Minute)
				if now := c.leader(); now != leader || now.raft.CurrentTerm() != term {
					t.Errorf("leader %s of term %d became %s of term %d", leader.id, term, now.id, now.raft.CurrentTerm())
				}
				c.mustPropose(node("without it"))
				time.Sleep(time.Second)
				if removed.State().View().Node("without it") != nil || removed.IsLeader() {
					t.Error("the removed manager takes part")
				}
			})
		})
	}
}

func TestChangedAddressIsTakenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		mover := c.members[c.others(c.leader().id)[0]]
		c.kill(mover)
		moved := c.start(mover.id, func(cfg *Config) {
			cfg.Addr = "elsewhere"
			cfg.Stream = c.net.listen("elsewhere")
		})
		c.mustPropose(node("unheard"))
		time.Sleep(5 * time.Second)
		c.retry("move", func(leader *member) error { return leader.AddVoter(t.Context(), moved.id, "elsewhere") })
		c.mustPropose(node("heard"))
		c.awaitNode(moved, "heard")
	})
}

func TestForceNewCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		c.mustPropose(node("kept"))
		survivor := c.members["n2"]
		c.awaitNode(survivor, "kept")
		for _, m := range c.members {
			c.kill(m)
		}
		c.members = map[string]*member{"n2": survivor}
		survivor = c.start("n2", func(cfg *Config) { cfg.ForceNewCluster = true })
		c.mustPropose(node("new"))
		if survivor.State().View().Node("kept") == nil {
			t.Error("the state is lost")
		}
		if got := survivor.Voters(); !slices.Equal(got, []Member{{"n2", "n2"}}) {
			t.Errorf("voters %v", got)
		}
		fresh := Config{NodeID: "n9", Addr: "n9", Memory: NewMemory(), Stream: c.net.listen("n9"), ForceNewCluster: true}
		if _, err := Open(fresh); !fault.Is(err, fault.State) {
			t.Errorf("forcing a cluster out of nothing: %v", err)
		}
	})
}
