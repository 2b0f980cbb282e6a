package placement_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/manager/placement"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// cluster is a store without raft: what is proposed is applied at once.
type cluster struct {
	*store.State
	mu    sync.Mutex
	index uint64
	// hook, if set, is asked with each proposal before it is applied.
	hook   func([]*pb.Command) error
	hookMu sync.Mutex
	// log is what was proposed, if record is set.
	log    []*pb.Command
	record bool
}

func newCluster() *cluster { return &cluster{State: store.New()} }

func (c *cluster) propose(_ context.Context, cmds ...*pb.Command) ([]error, error) {
	if err := c.ask(cmds); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.record {
		c.log = append(c.log, cmds...)
	}
	c.index++
	return c.Apply(c.index, &pb.Entry{Commands: cmds, At: timestamppb.New(time.Now())}), nil
}

func (c *cluster) ask(cmds []*pb.Command) error {
	c.hookMu.Lock()
	defer c.hookMu.Unlock()
	if c.hook == nil {
		return nil
	}
	return c.hook(cmds)
}

func (c *cluster) before(hook func([]*pb.Command) error) {
	c.hookMu.Lock()
	defer c.hookMu.Unlock()
	c.hook = hook
}

// must applies commands of which none may be refused.
func (c *cluster) must(t testing.TB, cmds ...*pb.Command) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index++
	for _, err := range c.Apply(c.index, &pb.Entry{Commands: cmds, At: timestamppb.New(time.Now())}) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// run runs placement until the returned function is called or the test ends.
func (c *cluster) run(t testing.TB) (stop func()) {
	// Not t.Context, which ends before the clean-up.
	ctx, cancel := context.WithCancelCause(context.Background())
	p := placement.New(placement.Config{State: c.State, Propose: c.propose, Logger: slog.New(slog.DiscardHandler)})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); !errors.Is(err, errStopped) {
			t.Errorf("placement ended: %v", err)
		}
	})
	stop = func() { cancel(errStopped); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

var errStopped = errors.New("test is over")

// count tells how many recorded commands satisfy a condition.
func (c *cluster) count(is func(*pb.Command) bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, cmd := range c.log {
		if is(cmd) {
			n++
		}
	}
	return n
}

func node(id string, labels map[string]string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: &pb.Node{
		Id:   id,
		Spec: &pb.NodeSpec{Labels: labels, Role: pb.NodeRole_NODE_ROLE_WORKER, Availability: pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE},
		Role: pb.NodeRole_NODE_ROLE_WORKER,
		Description: &pb.NodeDescription{
			Hostname:  id,
			Platform:  &pb.Platform{Os: "linux", Architecture: "amd64"},
			Resources: &pb.Resources{NanoCpus: 64e9, MemoryBytes: 256 << 30},
		},
		Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_READY},
	}}}}
}

func report(id string, state pb.NodeState) *pb.Command {
	return &pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{Id: id, Status: &pb.NodeStatus{State: state}}}}
}

func spec(id string, task *pb.TaskSpec) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: id, Spec: &pb.ServiceSpec{
		Name: id,
		Task: task,
		Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: 1}},
	}}}}
}

func tasks(service string, from, n int) *pb.Command {
	create := &pb.CreateTasks{}
	for i := range n {
		create.Tasks = append(create.Tasks, &pb.Task{
			Id:           fmt.Sprintf("%s.%07d", service, from+i),
			ServiceId:    service,
			ServiceName:  service,
			SpecVersion:  1,
			Slot:         uint64(from + i + 1),
			DesiredState: pb.TaskState_TASK_STATE_RUNNING,
			Status:       &pb.TaskStatus{State: pb.TaskState_TASK_STATE_PENDING},
		})
	}
	return &pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: create}}
}

func desired(id string, state pb.TaskState) *pb.Command {
	return &pb.Command{Kind: &pb.Command_SetDesired{SetDesired: &pb.SetDesired{Tasks: []*pb.TaskDesired{{Id: id, State: state}}}}}
}

func status(nodeID, id string, state pb.TaskState) *pb.Command {
	return &pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{NodeId: nodeID, Reports: []*pb.TaskStatusReport{
		{Id: id, Status: &pb.TaskStatus{State: state, At: timestamppb.New(time.Now())}},
	}}}}
}

// assigned blocks until n tasks were assigned since the watch began.
func assigned(t testing.TB, w *store.Watch, n int) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	for n > 0 {
		changes, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("%d tasks not assigned: %v", n, err)
		}
		for _, c := range changes {
			if task, ok := c.New.(*pb.Task); ok && task != nil && task.Status.State == pb.TaskState_TASK_STATE_ASSIGNED {
				n--
			}
		}
	}
}
