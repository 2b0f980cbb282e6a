package reaper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// stage is a store with a reaper at work on it, in virtual time.
type stage struct {
	t     *testing.T
	state *store.State

	mu        sync.Mutex // protects the following
	index     uint64
	proposals int
	fail      error
}

func newStage(t *testing.T, limit int64) *stage {
	s := &stage{t: t, state: store.New()}
	s.apply(&pb.Command{Kind: &pb.Command_CreateCluster{CreateCluster: &pb.CreateCluster{Cluster: &pb.Cluster{
		Id: "c", Spec: &pb.ClusterSpec{Name: "default", TaskHistoryLimit: limit}}}}})
	s.apply(&pb.Command{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: &pb.Node{
		Id: "n1", Spec: &pb.NodeSpec{Role: pb.NodeRole_NODE_ROLE_WORKER, Availability: pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE},
		Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_READY}}}}})
	s.apply(&pb.Command{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: "web", Spec: &pb.ServiceSpec{
		Name: "web", Task: &pb.TaskSpec{}, Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: 1}}}}}})
	return s
}

func (s *stage) apply(cmds ...*pb.Command) {
	s.t.Helper()
	for _, err := range s.commit(cmds...) {
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *stage) commit(cmds ...*pb.Command) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index++
	return s.state.Apply(s.index, &pb.Entry{Commands: cmds, At: timestamppb.Now()})
}

func (s *stage) propose(_ context.Context, cmds ...*pb.Command) ([]error, error) {
	s.mu.Lock()
	s.proposals++
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		return nil, fail
	}
	return s.commit(cmds...), nil
}

func (s *stage) run() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	r := New(Config{State: s.state, Propose: s.propose, Logger: slog.New(slog.DiscardHandler)})
	go func() { done <- r.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Run: %v", err)
		}
	}
}

// add makes n tasks in a slot that have reached a state on n1.
func (s *stage) add(slot uint64, n int, state, desired pb.TaskState) {
	s.t.Helper()
	for i := range n {
		id := fmt.Sprintf("t-%d-%d-%d", slot, s.index, i)
		s.apply(
			&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
				Id: id, ServiceId: "web", ServiceName: "web", SpecVersion: 1, Slot: slot, DesiredState: pb.TaskState_TASK_STATE_RUNNING}}}}},
			&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{{Id: id, NodeId: "n1"}}}}},
			&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{NodeId: "n1",
				Reports: []*pb.TaskStatusReport{{Id: id, Status: &pb.TaskStatus{State: state}}}}}},
			&pb.Command{Kind: &pb.Command_SetDesired{SetDesired: &pb.SetDesired{Tasks: []*pb.TaskDesired{{Id: id, State: desired}}}}},
		)
	}
}

func (s *stage) wantTasks(n int) {
	s.t.Helper()
	synctest.Wait()
	got := 0
	for range s.state.View().Tasks() {
		got++
	}
	if got != n {
		s.t.Errorf("%d tasks, want %d", got, n)
	}
}

const (
	running  = pb.TaskState_TASK_STATE_RUNNING
	failed   = pb.TaskState_TASK_STATE_FAILED
	shutdown = pb.TaskState_TASK_STATE_SHUTDOWN
	remove   = pb.TaskState_TASK_STATE_REMOVE
)

func TestLoopTrimsHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 2)
		s.add(1, 5, failed, shutdown)
		defer s.run()()
		s.add(1, 1, running, running)
		time.Sleep(time.Second)
		s.wantTasks(3)
		s.add(2, 4, failed, shutdown)
		s.add(2, 1, running, running)
		s.wantTasks(8)
		time.Sleep(time.Second)
		s.wantTasks(6)

		s.apply(&pb.Command{Kind: &pb.Command_UpdateClusterSpec{UpdateClusterSpec: &pb.UpdateClusterSpec{
			Spec: &pb.ClusterSpec{Name: "default", TaskHistoryLimit: 0}}}})
		time.Sleep(time.Second)
		s.wantTasks(2)
	})
}

func TestLoopBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 0)
		defer s.run()()
		for range 20 {
			s.add(1, 1, failed, remove)
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second)
		s.wantTasks(0)
		if s.proposals > 2 {
			t.Errorf("%d proposals for 200 ms of work", s.proposals)
		}
		before := s.proposals
		time.Sleep(time.Hour)
		if s.proposals != before {
			t.Errorf("%d proposals in an idle hour", s.proposals-before)
		}
	})
}

func TestLoopDeletesRemovedServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 5)
		s.add(1, 1, running, remove)
		s.add(2, 1, failed, remove)
		s.apply(&pb.Command{Kind: &pb.Command_RemoveService{RemoveService: &pb.RemoveService{Id: "web"}}})
		defer s.run()()
		time.Sleep(time.Minute)
		s.wantTasks(1)
		if s.state.View().Service("web") == nil {
			t.Fatal("the service went before its tasks")
		}
		s.apply(&pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{Id: "n1",
			Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_DOWN}}}})
		time.Sleep(time.Second)
		s.wantTasks(0)
		if s.state.View().Service("web") != nil {
			t.Error("the service is still there")
		}
	})
}

func TestLoopDeletesServiceThatNeverHadTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 5)
		defer s.run()()
		s.apply(&pb.Command{Kind: &pb.Command_RemoveService{RemoveService: &pb.RemoveService{Id: "web"}}})
		time.Sleep(time.Second)
		synctest.Wait()
		if s.state.View().Service("web") != nil {
			t.Error("the service is still there")
		}
	})
}

func TestLoopRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 0)
		s.fail = errors.New("no majority")
		defer s.run()()
		s.add(1, 3, failed, remove)
		time.Sleep(10 * time.Second)
		s.wantTasks(3)
		if s.proposals > 10 {
			t.Errorf("%d proposals in 10 s without success", s.proposals)
		}
		s.mu.Lock()
		s.fail = nil
		s.mu.Unlock()
		time.Sleep(3 * time.Second)
		s.wantTasks(0)
	})
}

func TestLoopStartsOverWhenItLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 0)
		s.add(1, 3, failed, remove)
		snapshot := s.state.Snapshot()
		defer s.run()()
		time.Sleep(time.Second)
		s.wantTasks(0)
		s.mu.Lock()
		s.index += 10
		snapshot.Index = s.index
		s.mu.Unlock()
		if err := s.state.Restore(snapshot); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		s.wantTasks(0)
	})
}

// BenchmarkReapSlots goes through 10,000 slots with six finished tasks each.
func BenchmarkReapSlots(b *testing.B) {
	service := serviceWith(0, 0, 1)
	tasks := slotOf(b, "failed/shutdown@up failed/shutdown@up failed/shutdown@up failed/shutdown@up failed/shutdown@up failed/shutdown@up running/running@up")
	for b.Loop() {
		for range 10_000 {
			if ids := Reap(Slot{Service: service, Tasks: tasks, Limit: 5, Node: nodeOf}); len(ids) != 1 {
				b.Fatal(ids)
			}
		}
	}
}
