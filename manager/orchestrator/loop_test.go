package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/minid/minid/proto/minid/v1"
)

// stage is a miniature cluster with the real loop in it, in virtual time.
type stage struct {
	*env
	proposals int
	largest   int   // bytes of one proposal
	fail      error // what Propose answers
	after     bool  // whether it fails after the commit
}

func newStage(t *testing.T, nodes ...string) *stage {
	s := &stage{env: newEnv(t)}
	s.start, s.now = time.Now(), time.Now()
	for _, n := range nodes {
		s.addNode(n)
	}
	return s
}

func (s *stage) propose(_ context.Context, cmds ...*pb.Command) ([]error, error) {
	size := 0
	for _, c := range cmds {
		size += proto.Size(c)
	}
	var fail error
	s.locked(func() {
		s.proposals++
		s.largest = max(s.largest, size)
		fail = s.fail
	})
	if fail != nil && !s.after {
		return nil, fail
	}
	return s.commitAt(time.Now(), cmds...), fail
}

func (s *stage) locked(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

// lead runs the loop until the returned function is called.
func (s *stage) lead() (resign func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	o := New(Config{State: s.state, Propose: s.propose, NewID: s.newID, Logger: slog.New(slog.DiscardHandler)})
	go func() { done <- o.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Run: %v", err)
		}
	}
}

// pass lets time go by, with placement and agents at work.
func (s *stage) pass(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		s.locked(func() { s.now = time.Now() })
		for s.placeAll() || s.runAll() {
			s.checkSlots()
		}
	}
}

func (s *stage) wantRunning(n int, version uint64) {
	s.t.Helper()
	got := 0
	for _, t := range s.running() {
		if t.SpecVersion == version {
			got++
		}
	}
	if got != n {
		s.t.Errorf("%d tasks of version %d run, want %d:\n%s", got, version, n, s.tasks("web"))
	}
}

func TestLoopKeepsServicesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "n1", "n2")
		defer s.lead()()
		s.setService("web", "replicas=3")
		s.setService("mon", "mode=global")
		s.pass(time.Second)
		s.wantRunning(5, 1)

		s.setNode("n2", pb.NodeState_NODE_STATE_DOWN)
		s.pass(100 * time.Millisecond)
		s.wantRunning(4, 1)
		s.addNode("n3")
		s.pass(100 * time.Millisecond)
		s.wantRunning(5, 1)

		s.end("web.1", "failed")
		s.pass(4900 * time.Millisecond)
		s.wantRunning(4, 1)
		s.pass(200 * time.Millisecond)
		s.wantRunning(5, 1)
	})
}

func TestLoopRestsWhenNothingHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "n1")
		defer s.lead()()
		s.setService("web", "replicas=20")
		s.pass(10 * time.Second)
		before := s.proposals
		time.Sleep(time.Hour)
		synctest.Wait()
		if s.proposals != before {
			t.Errorf("%d proposals in an idle hour", s.proposals-before)
		}
	})
}

// TestLoopUpdatesAcrossLeaders: a new leader goes on with the update, its
// failures and the restarts where the old one stopped.
func TestLoopUpdatesAcrossLeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "n1", "n2")
		resign := s.lead()
		s.behave["b"] = fails
		s.setService("web", "replicas=4", "ratio=0.5", "delay=2s", "restart-delay=1h")
		s.pass(time.Second)
		s.setService("web", "image=b")
		s.pass(time.Second)
		resign()
		if u := s.service("web").UpdateStatus; len(u.GetFailedTasks()) != 1 {
			t.Fatalf("after the first batch: %v", u)
		}
		s.pass(10 * time.Second)
		for range 2 {
			resign := s.lead()
			s.pass(1900 * time.Millisecond)
			resign()
			s.pass(5 * time.Second)
		}
		defer s.lead()()
		s.pass(10 * time.Second)
		u := s.service("web").UpdateStatus
		if u.GetState() != pb.UpdateState_UPDATE_STATE_PAUSED || len(u.GetFailedTasks()) != 3 {
			t.Errorf("want a pause after three failures of four, got %v", u)
		}
		s.wantRunning(1, 1)
	})
}

func TestLoopRetriesWhatWasNotCommitted(t *testing.T) {
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after=%v", after), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, "n1", "n2")
				s.fail, s.after = errors.New("no majority"), after
				defer s.lead()()
				s.setService("web", "replicas=3")
				s.pass(5 * time.Second)
				if s.proposals > 20 {
					t.Errorf("%d proposals in 5 s without success", s.proposals)
				}
				s.locked(func() { s.fail = nil })
				s.pass(5 * time.Second)
				s.wantRunning(3, 1)
			})
		})
	}
}

func TestLoopStartsOverWhenItLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "n1")
		defer s.lead()()
		s.setService("web", "replicas=2")
		s.pass(time.Second)
		snapshot := s.state.Snapshot()
		s.setService("web", "replicas=0")
		s.pass(time.Second)
		s.wantRunning(0, 1)
		s.locked(func() {
			s.index++
			snapshot.Index = s.index
		})
		if err := s.state.Restore(snapshot); err != nil {
			t.Fatal(err)
		}
		s.pass(time.Second)
		s.wantRunning(2, 1)
		s.end("web.1", "failed")
		s.pass(6 * time.Second)
		s.wantRunning(2, 1)
	})
}

func TestLoopBoundsProposals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		defer s.lead()()
		s.setService("web", "replicas=20000")
		time.Sleep(time.Second)
		synctest.Wait()
		n := 0
		for range s.state.View().Tasks() {
			n++
		}
		if n != 20000 || s.largest > maxEntry {
			t.Errorf("%d tasks, largest proposal %d bytes", n, s.largest)
		}
	})
}

// TestLoopWelcomesNodes: where the cluster wants it, a node's first session
// rebalances the services that gain, once; its second does not, and neither
// does anything while the cluster does not want it.
func TestLoopWelcomesNodes(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		t.Run(fmt.Sprint(wanted), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, "n1", "n2")
				s.honest = true
				s.apply(&pb.Command{Kind: &pb.Command_CreateCluster{CreateCluster: &pb.CreateCluster{Cluster: &pb.Cluster{
					Id: "c", Spec: &pb.ClusterSpec{RebalanceOnJoin: wanted}}}}})
				defer s.lead()()
				s.setService("web", "replicas=6")
				s.setService("one")
				s.pass(time.Second)
				s.apply(&pb.Command{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: &pb.Node{Id: "n3",
					Spec:   &pb.NodeSpec{Role: pb.NodeRole_NODE_ROLE_WORKER, Availability: pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE},
					Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_UNKNOWN}}}}})
				s.setNode("n3", pb.NodeState_NODE_STATE_READY)
				s.pass(5 * time.Second)
				r := s.service("web").Rebalance
				if got := s.loads("web")["n3"]; wanted != (got == 2) || wanted != (r.GetMoved() == 2) {
					t.Errorf("%d tasks are on the new node: %v", got, r)
				}
				if r := s.service("one").Rebalance; r != nil {
					t.Errorf("a service that gains nothing is rebalanced: %v", r)
				}
				s.pass(10 * time.Minute) // it is no newcomer any more
				s.setNode("n3", pb.NodeState_NODE_STATE_DOWN)
				s.pass(time.Second)
				s.setNode("n3", pb.NodeState_NODE_STATE_READY)
				s.pass(5 * time.Second)
				if now := s.service("web").Rebalance; !proto.Equal(now, r) {
					t.Errorf("a node that comes back is welcomed as a new one: %v", now)
				}
			})
		})
	}
}

// TestLoopDrainsAcrossLeaders: a drain goes on where the last leader left it,
// and its deadline stays what it was.
func TestLoopDrainsAcrossLeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, "n1", "n2")
		resign := s.lead()
		s.setService("web", "replicas=4")
		s.setService("tied", "constraint=node.id==n1")
		s.pass(time.Second)
		s.stubborn["n1"] = true
		s.changeNode("n1", func(n *pb.NodeSpec) {
			n.Availability, n.DrainDeadline = pb.NodeAvailability_NODE_AVAILABILITY_DRAIN, durationpb.New(time.Minute)
		})
		s.pass(time.Second)
		resign()
		s.pass(20 * time.Second)
		s.stubborn["n1"] = false
		defer s.lead()()
		s.pass(5 * time.Second)
		if loads := s.loads("web"); loads["n1"] != 0 || loads["n2"] != 4 {
			t.Errorf("after the second leader came, web is on %v", loads)
		}
		if got := s.loads("tied")["n1"]; got != 1 {
			t.Errorf("what fits nowhere else does not stay: %d", got)
		}
		s.pass(40 * time.Second)
		if got := s.loads("tied")["n1"]; got != 0 {
			t.Errorf("it stays beyond the deadline: %d", got)
		}
		moved := 0
		for range s.state.View().TasksByService(s.service("web").Id) {
			moved++
		}
		if moved != 6 {
			t.Errorf("%d tasks were made for four slots, two of which moved", moved)
		}
	})
}
