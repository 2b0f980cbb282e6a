package allocator_test

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

	"github.com/minid/minid/manager/allocator"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// cluster is a store without raft: what is proposed is applied at once.
type cluster struct {
	*store.State
	mu    sync.Mutex
	index uint64
	// hook, if set, is asked with each proposal before it is applied.
	hook func([]*pb.Command) error
	// proposed counts commands.
	proposed int
	// random is what the next network key is filled with.
	random byte
}

func newCluster() *cluster { return &cluster{State: store.New()} }

func (c *cluster) propose(_ context.Context, cmds ...*pb.Command) ([]error, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proposed += len(cmds)
	if c.hook != nil {
		if err := c.hook(cmds); err != nil {
			return nil, err
		}
	}
	return c.apply(cmds), nil
}

func (c *cluster) apply(cmds []*pb.Command) []error {
	c.index++
	return c.Apply(c.index, &pb.Entry{Commands: cmds, At: timestamppb.New(time.Now())})
}

// before sets what is asked with each proposal.
func (c *cluster) before(hook func([]*pb.Command) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hook = hook
}

func (c *cluster) try(cmds ...*pb.Command) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.apply(cmds)...)
}

// must applies commands of which none may be refused.
func (c *cluster) must(t testing.TB, cmds ...*pb.Command) {
	t.Helper()
	if err := c.try(cmds...); err != nil {
		t.Fatal(err)
	}
}

// count is how many commands were proposed so far.
func (c *cluster) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proposed
}

var errStopped = errors.New("test is over")

// run runs the allocator until the returned function is called or the test ends.
func (c *cluster) run(t testing.TB) (stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	a := allocator.New(allocator.Config{State: c.State, Propose: c.propose, Logger: slog.New(slog.DiscardHandler),
		Random: func(b []byte) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.random++
			for i := range b {
				b[i] = c.random
			}
		}})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Run(ctx); !errors.Is(err, errStopped) {
			t.Errorf("allocator ended: %v", err)
		}
	})
	stop = func() { cancel(errStopped); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

// start runs a cluster with the allocator in virtual time.
func start(t *testing.T, test func(*testing.T, *cluster)) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.must(t, createCluster(&pb.ClusterSpec{Name: "default"}))
		stop := c.run(t)
		defer stop()
		test(t, c)
	})
}

// pass lets virtual time pass and all that it brings come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func createCluster(spec *pb.ClusterSpec) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateCluster{CreateCluster: &pb.CreateCluster{Cluster: &pb.Cluster{Id: "c", Spec: spec}}}}
}

func createNode(id string, routes ...string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: &pb.Node{
		Id: id, Spec: &pb.NodeSpec{}, Description: &pb.NodeDescription{Hostname: "host-" + id, Routes: routes},
	}}}}
}

func describe(id string, routes ...string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{
		Id: id, Description: &pb.NodeDescription{Hostname: "host-" + id, Routes: routes},
	}}}
}

func removeNode(id string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Id: id, Force: true}}}
}

// network is one with an id that is its name; without subnets it gets one.
func network(id string, subnets ...string) *pb.NetworkSpec {
	s := &pb.NetworkSpec{Name: id}
	for _, subnet := range subnets {
		s.Pools = append(s.Pools, &pb.AddressPool{Subnet: subnet})
	}
	return s
}

func createNetwork(spec *pb.NetworkSpec) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateNetwork{CreateNetwork: &pb.CreateNetwork{Id: spec.Name, Spec: spec}}}
}

func removeNetwork(id string) *pb.Command {
	return &pb.Command{Kind: &pb.Command_RemoveNetwork{RemoveNetwork: &pb.RemoveNetwork{Id: id}}}
}

func ingressNetwork(subnets ...string) *pb.Command {
	s := network("ingress", subnets...)
	s.Ingress = true
	return createNetwork(s)
}

// service is a spec on networks.
func service(name string, networks ...string) *pb.ServiceSpec {
	s := &pb.ServiceSpec{Name: name, Task: &pb.TaskSpec{},
		Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: 1}}}
	for _, n := range networks {
		s.Task.Networks = append(s.Task.Networks, &pb.NetworkAttachment{NetworkId: n, NetworkName: n})
	}
	return s
}

func publish(s *pb.ServiceSpec, protocol pb.PortConfig_Protocol, published, target uint32) *pb.ServiceSpec {
	s.Task.Ports = append(s.Task.Ports, &pb.PortConfig{Protocol: protocol, Published: published, Target: target, Mode: pb.PortConfig_MODE_INGRESS})
	return s
}

func createService(s *pb.ServiceSpec) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: s.Name, Spec: s}}}
}

func updateService(s *pb.ServiceSpec) *pb.Command {
	return &pb.Command{Kind: &pb.Command_UpdateServiceSpec{UpdateServiceSpec: &pb.UpdateServiceSpec{Id: s.Name, Spec: s}}}
}

func removeService(id string) []*pb.Command {
	return []*pb.Command{
		{Kind: &pb.Command_RemoveService{RemoveService: &pb.RemoveService{Id: id}}},
		{Kind: &pb.Command_DeleteService{DeleteService: &pb.DeleteService{Id: id}}},
	}
}

// tasks makes tasks SERVICE.FROM and so on.
func tasks(service string, from, n int) *pb.Command {
	create := &pb.CreateTasks{}
	for i := range n {
		create.Tasks = append(create.Tasks, &pb.Task{
			Id: fmt.Sprintf("%s.%07d", service, from+i), ServiceId: service, ServiceName: service,
			SpecVersion: 1, Slot: uint64(from + i + 1), DesiredState: pb.TaskState_TASK_STATE_RUNNING,
		})
	}
	return &pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: create}}
}

func taskID(service string, i int) string { return fmt.Sprintf("%s.%07d", service, i) }

// end takes tasks that have no node yet out of the cluster.
func end(service string, of ...int) []*pb.Command {
	set, forget := &pb.SetDesired{}, &pb.DeleteTasks{}
	for _, i := range of {
		set.Tasks = append(set.Tasks, &pb.TaskDesired{Id: taskID(service, i), State: pb.TaskState_TASK_STATE_REMOVE})
		forget.Ids = append(forget.Ids, taskID(service, i))
	}
	return []*pb.Command{{Kind: &pb.Command_SetDesired{SetDesired: set}}, {Kind: &pb.Command_DeleteTasks{DeleteTasks: forget}}}
}

// addresses of a task, network by network.
func (c *cluster) addresses(service string, i int) (all []string) {
	for _, a := range c.View().Task(taskID(service, i)).GetAddresses() {
		all = append(all, a.Addresses...)
	}
	return all
}

// allocated counts a service's tasks that have their addresses.
func (c *cluster) allocated(service string) int {
	n := 0
	for t := range c.View().TasksByService(service) {
		if t.Status.State == pb.TaskState_TASK_STATE_PENDING {
			n++
		}
	}
	return n
}
