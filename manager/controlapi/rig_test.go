package controlapi

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// What must never come out of an answer.
const (
	secretData  = "LEAK-secret-data"
	pullAuth    = "LEAK-pull-auth"
	rootKey     = "LEAK-root-key"
	workerToken = "LEAK-worker-token"
	networkKey  = "LEAK-network-key-of-32-bytes----"
)

// rig is a store without raft behind a server.
type rig struct {
	t        *testing.T
	state    *store.State
	server   *Server
	managers map[string]*pb.ManagerStatus
	attach   func(ctx context.Context, node string, req *pb.Attach) (AttachStream, error)

	mu    sync.Mutex
	index uint64
}

// Attach is what the test chose.
func (r *rig) Attach(ctx context.Context, node string, req *pb.Attach) (AttachStream, error) {
	return r.attach(ctx, node, req)
}

// newRig makes a cluster of m1 (manager), w1 and w2 (workers), all ready, with
// its ingress network.
func newRig(t *testing.T) *rig {
	r := &rig{t: t, state: store.New(), managers: map[string]*pb.ManagerStatus{
		"node-m1": {Leader: true, Reachable: true, Addr: "10.0.0.1:2377"},
	}}
	r.server = New(Config{
		State: r.state, Propose: r.propose, Attacher: r, Logger: slog.New(slog.DiscardHandler),
		Managers: func() map[string]*pb.ManagerStatus { return r.managers },
		RotateTokens: func(context.Context, bool, bool) (*pb.JoinTokens, error) {
			return r.state.View().Cluster().JoinTokens, nil
		},
	})
	r.apply(&pb.Command{Kind: &pb.Command_CreateCluster{CreateCluster: &pb.CreateCluster{Cluster: &pb.Cluster{
		Id: "cluster", Spec: normalClusterSpec(nil), RootCaCert: []byte("cert"), RootCaKey: []byte(rootKey),
		JoinTokens: &pb.JoinTokens{Worker: workerToken, Manager: workerToken},
	}}}}, &pb.Command{Kind: &pb.Command_SetNetworkKeys{SetNetworkKeys: &pb.SetNetworkKeys{
		Keys: []*pb.NetworkKey{{Epoch: 1, Key: []byte(networkKey)}},
	}}})
	r.network(&pb.NetworkSpec{Name: "ingress", Ingress: true})
	r.node("node-m1", "m1", pb.NodeRole_NODE_ROLE_MANAGER)
	r.node("node-w1", "w1", pb.NodeRole_NODE_ROLE_WORKER)
	r.node("node-w2", "w2", pb.NodeRole_NODE_ROLE_WORKER)
	r.apply(&pb.Command{Kind: &pb.Command_SetManagerAddr{SetManagerAddr: &pb.SetManagerAddr{Id: "node-m1", Addr: "10.0.0.1:2377"}}})
	return r
}

func (r *rig) propose(_ context.Context, cmds ...*pb.Command) ([]error, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index++
	return r.state.Apply(r.index, &pb.Entry{Commands: cmds, At: timestamppb.New(time.Unix(int64(r.index), 0))}), nil
}

func (r *rig) apply(cmds ...*pb.Command) {
	r.t.Helper()
	refused, _ := r.propose(r.t.Context(), cmds...)
	for _, err := range refused {
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) node(id, name string, role pb.NodeRole) {
	r.t.Helper()
	r.apply(&pb.Command{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: &pb.Node{
		Id: id, Role: role, Description: &pb.NodeDescription{Hostname: name},
		Spec:   &pb.NodeSpec{Role: role, Availability: pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE},
		Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_READY},
	}}}})
}

// network creates a network through the server.
func (r *rig) network(spec *pb.NetworkSpec) *pb.Network {
	r.t.Helper()
	answer, err := r.server.CreateNetwork(r.t.Context(), &pb.CreateNetworkRequest{Spec: spec})
	if err != nil {
		r.t.Fatal(err)
	}
	return answer.Network
}

// create creates a service through the server.
func (r *rig) create(spec *pb.ServiceSpec) *pb.Service {
	r.t.Helper()
	answer, err := r.server.CreateService(r.t.Context(), &pb.CreateServiceRequest{Spec: spec})
	if err != nil {
		r.t.Fatal(err)
	}
	return answer.Service
}

// task makes a task of a service and brings it into a state on a node.
func (r *rig) task(id, service string, slot uint64, node string, state pb.TaskState) {
	r.t.Helper()
	r.apply(
		&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
			Id: id, ServiceId: r.state.View().ServiceByName(service).GetId(), ServiceName: service,
			SpecVersion: 1, Slot: slot, DesiredState: pb.TaskState_TASK_STATE_RUNNING,
		}}}}},
		&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{{Id: id, NodeId: node}}}}},
		&pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{NodeId: node, Reports: []*pb.TaskStatusReport{{
			Id: id, Status: &pb.TaskStatus{State: state, Container: &pb.ContainerStatus{ContainerId: id}},
		}}}}},
	)
}

// web is a valid spec to vary.
func web() *pb.ServiceSpec {
	return &pb.ServiceSpec{
		Name: "web",
		Task: &pb.TaskSpec{Container: &pb.ContainerSpec{Image: "nginx"}},
		Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: 2}},
	}
}

func wantClass(t *testing.T, err error, class fault.Class) {
	t.Helper()
	if err == nil || fault.ClassOf(err) != class {
		t.Errorf("error %v (%v), want %v", err, fault.ClassOf(err), class)
	}
}

// collector is the server's end of a stream of answers.
type collector[M any] struct {
	grpc.ServerStream
	ctx  context.Context
	sent chan *M
}

func collect[M any](ctx context.Context) *collector[M] {
	return &collector[M]{ctx: ctx, sent: make(chan *M)}
}

func (c *collector[M]) Context() context.Context { return c.ctx }

func (c *collector[M]) Send(m *M) error {
	select {
	case c.sent <- m:
		return nil
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
}

// pipe is an attachment to an agent that the test plays.
type pipe struct {
	up     chan *pb.AttachUp
	down   chan *pb.AttachDown
	broken error // what Recv fails with once up is closed; io.EOF if nil
	closed chan struct{}
	once   sync.Once
}

func newPipe() *pipe {
	return &pipe{up: make(chan *pb.AttachUp, 16), down: make(chan *pb.AttachDown, 16), closed: make(chan struct{})}
}

func (p *pipe) Recv() (*pb.AttachUp, error) {
	select {
	case m, ok := <-p.up:
		if !ok {
			return nil, cmp.Or(p.broken, io.EOF)
		}
		return m, nil
	case <-p.closed:
		return nil, io.EOF
	}
}

func (p *pipe) Send(m *pb.AttachDown) error {
	select {
	case p.down <- m:
		return nil
	case <-p.closed:
		return io.EOF
	}
}

func (p *pipe) Close() { p.once.Do(func() { close(p.closed) }) }
