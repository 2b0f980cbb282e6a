package raftstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/hashicorp/raft"

	"github.com/minid/minid/fault"
)

// register is one node's label, with three operations: read, write, and write
// if the version is still the one of a value read before. Every value is
// written once, so that a value stands for its version.
type registerIn struct {
	op       string
	old, new string
}

type registerOut struct {
	value   string
	stale   bool
	unknown bool
}

func registerModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return "" },
		Step: func(state, input, output any) (bool, any) {
			now, in, out := state.(string), input.(registerIn), output.(registerOut)
			switch in.op {
			case "read":
				return out.value == now, now
			case "write":
				return true, in.new
			}
			matches := in.old == now
			if matches {
				return out.unknown || !out.stale, in.new
			}
			return out.unknown || out.stale, now
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
	}
}

// recorder notes operations in the order of a clock that never stands still,
// as virtual time does.
type recorder struct {
	mu    sync.Mutex
	clock int64
	ops   []porcupine.Operation
}

func (r *recorder) tick() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock++
	return r.clock
}

func (r *recorder) note(client int, in registerIn, out registerOut, call, back int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: call, Return: back})
}

// history is all operations; what has no answer may take effect until the end.
func (r *recorder) history() []porcupine.Operation {
	for i, op := range r.ops {
		if op.Output.(registerOut).unknown {
			r.ops[i].Return = r.clock + 1
		}
	}
	return r.ops
}

// client works on the register through random managers.
type client struct {
	id      int
	random  *rand.Rand
	rec     *recorder
	members func() []*serving
	writes  int
}

// serving is a member that knows whether it may answer reads: between Lead's
// barrier and the end of its scope.
type serving struct {
	*member
	leads atomic.Bool
}

func (s *serving) run(ctx context.Context) {
	_ = s.Lead(ctx, func(ctx context.Context) error {
		s.leads.Store(true)
		defer s.leads.Store(false)
		<-ctx.Done()
		return nil
	})
}

func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		all := c.members()
		c.step(ctx, all[c.random.IntN(len(all))])
		time.Sleep(time.Duration(c.random.IntN(40)) * time.Millisecond)
	}
}

func (c *client) step(ctx context.Context, m *serving) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	// An old value, perhaps from a manager that is behind: a good reason for a refusal.
	seen := m.State().View().Node("register")
	value, version := seen.GetSpec().GetLabels()["v"], seen.GetMeta().GetVersion()
	c.writes++
	in := registerIn{op: "read", old: value, new: fmt.Sprintf("%d.%d", c.id, c.writes)}
	switch choice := c.random.IntN(3); {
	case choice == 0:
		c.read(ctx, m)
	case choice == 1 || version == 0: // 0: this one has just started and knows nothing
		in.op = "write"
		c.write(ctx, m, in, 0)
	default:
		in.op = "swap"
		c.write(ctx, m, in, version)
	}
}

func (c *client) read(ctx context.Context, m *serving) {
	call := c.rec.tick()
	if !m.leads.Load() || m.VerifyLeader(ctx) != nil {
		return // no answer, no effect
	}
	value := m.State().View().Node("register").GetSpec().GetLabels()["v"]
	c.rec.note(c.id, registerIn{op: "read"}, registerOut{value: value}, call, c.rec.tick())
}

func (c *client) write(ctx context.Context, m *serving, in registerIn, ifVersion uint64) {
	call := c.rec.tick()
	refusals, err := m.Propose(ctx, setLabel("register", in.new, ifVersion))
	if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipTransferInProgress) || errors.Is(err, errStopping) {
		return // no effect
	}
	out := registerOut{unknown: err != nil}
	if err == nil {
		out.stale = fault.Is(refusals[0], fault.Stale)
	}
	c.rec.note(c.id, in, out, call, c.rec.tick())
}

func TestLinearizable(t *testing.T) {
	seeds := uint64(10)
	if testing.Short() {
		seeds = 3
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			var history []porcupine.Operation
			synctest.Test(t, func(t *testing.T) { history = disturbed(t, seed) })
			if len(history) < 50 {
				t.Errorf("only %d operations", len(history))
			}
			if got := porcupine.CheckOperationsTimeout(registerModel(), history, 20*time.Second); got == porcupine.Illegal {
				t.Errorf("%d operations are not linearizable", len(history))
			} else if got == porcupine.Unknown {
				t.Errorf("%d operations: too many without answer to decide", len(history))
			}
		})
	}
}

// disturbed lets clients work on a cluster that is being harmed.
func disturbed(t *testing.T, seed uint64) []porcupine.Operation {
	random := rand.New(rand.NewPCG(seed, 0))
	c := newCluster(t, 3, func(cfg *Config) { cfg.SnapshotInterval = 50 })
	c.mustPropose(node("register"))
	c.awaitNode(c.members["n2"], "register")
	c.awaitNode(c.members["n3"], "register")

	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var current atomic.Pointer[map[string]*serving]
	serve := func(m *member) {
		next := map[string]*serving{}
		if now := current.Load(); now != nil {
			for id, s := range *now {
				next[id] = s
			}
		}
		s := &serving{member: m}
		next[m.id] = s
		current.Store(&next)
		running.Go(func() { s.run(ctx) })
	}
	for _, id := range []string{"n1", "n2", "n3"} {
		serve(c.members[id])
	}
	rec := &recorder{}
	for i := range 6 {
		worker := &client{id: i, random: rand.New(rand.NewPCG(seed, uint64(i+1))), rec: rec, members: func() []*serving {
			now := *current.Load()
			return []*serving{now["n1"], now["n2"], now["n3"]}
		}}
		running.Go(func() { worker.run(ctx) })
	}
	for range 4 {
		time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
		c.harm(random, serve)
	}
	time.Sleep(2 * time.Second)
	cancel()
	running.Wait()
	return rec.history()
}

// harm kills and restarts the leader, or cuts it off for a while.
func (c *cluster) harm(random *rand.Rand, restarted func(*member)) {
	leader := c.leader()
	switch random.IntN(3) {
	case 0:
		c.kill(leader)
		time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
		restarted(c.start(leader.id, nil))
	case 1:
		c.net.partition(c.others(leader.id), []string{leader.id})
		time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
		c.net.partition()
	case 2:
		_ = leader.TransferLeadership(context.Background())
	}
}
