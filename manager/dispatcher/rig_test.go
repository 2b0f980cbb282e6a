package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// rig is a store without raft and a dispatcher over an in-memory network.
type rig struct {
	t      *testing.T
	state  *store.State
	d      *Dispatcher
	client pb.DispatcherClient
	stop   context.CancelFunc

	mu        sync.Mutex
	index     uint64
	proposals [][]*pb.Command
	// What proposals fail with, if anything.
	broken error
	// How long a commit takes.
	commit time.Duration
}

// newRig makes a cluster of nodes n1, n2, …, all ready, and a running dispatcher.
func newRig(t *testing.T, nodes int) *rig {
	r := &rig{t: t, state: store.New(), commit: time.Millisecond}
	r.apply(&pb.Command{Kind: &pb.Command_CreateCluster{CreateCluster: &pb.CreateCluster{Cluster: &pb.Cluster{
		Id: "c", Spec: &pb.ClusterSpec{Name: "default", HeartbeatPeriod: durationpb.New(2 * time.Second)},
	}}}})
	for i := range nodes {
		r.apply(createNode(fmt.Sprintf("n%d", i+1), pb.NodeState_NODE_STATE_READY))
	}
	r.d = New(Config{
		State: r.state, Propose: r.propose, Logger: slog.New(slog.DiscardHandler),
		Managers: func() []*pb.ManagerPeer { return []*pb.ManagerPeer{{NodeId: "n1", Addr: "10.0.0.1:2377"}} },
		Identify: func(ctx context.Context) (string, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			return md.Get("node")[0], nil
		},
	})
	r.run()
	r.serve()
	return r
}

func createNode(id string, state pb.NodeState) *pb.Command {
	return &pb.Command{Kind: &pb.Command_CreateNode{CreateNode: &pb.CreateNode{Node: &pb.Node{
		Id:     id,
		Spec:   &pb.NodeSpec{Role: pb.NodeRole_NODE_ROLE_WORKER, Availability: pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE},
		Role:   pb.NodeRole_NODE_ROLE_WORKER,
		Status: &pb.NodeStatus{State: state, Addr: "bufconn"},
		// As its agent will say.
		Description: &pb.NodeDescription{Hostname: id},
	}}}}
}

// run starts the dispatcher's term, in a bubble; r.stop ends it.
func (r *rig) run() {
	ctx, stop := context.WithCancel(r.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := r.d.Run(ctx); !errors.Is(err, context.Canceled) {
			r.t.Errorf("Run = %v", err)
		}
	}()
	r.stop = func() { stop(); <-ended }
	r.t.Cleanup(r.stop)
	synctest.Wait()
}

func (r *rig) serve() {
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	pb.RegisterDispatcherServer(server, r.d)
	go server.Serve(listener)
	conn, err := grpc.NewClient("passthrough:bufconn",
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.client = pb.NewDispatcherClient(conn)
	r.t.Cleanup(func() { r.stop(); conn.Close(); server.Stop() })
}

// propose applies after the commit time, unless proposals are broken.
func (r *rig) propose(ctx context.Context, cmds ...*pb.Command) ([]error, error) {
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(r.commit):
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return nil, r.broken
	}
	r.proposals = append(r.proposals, cmds)
	return r.applyLocked(cmds), nil
}

func (r *rig) breakProposals(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = err
}

func (r *rig) applyLocked(cmds []*pb.Command) []error {
	r.index++
	return r.state.Apply(r.index, &pb.Entry{Commands: cmds, At: timestamppb.Now()})
}

// apply changes the store as the other rooms would.
func (r *rig) apply(cmds ...*pb.Command) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, err := range r.applyLocked(cmds) {
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) service(id string, secrets ...string) {
	r.t.Helper()
	container := &pb.ContainerSpec{Image: "docker.io/library/" + id}
	for _, s := range secrets {
		container.Secrets = append(container.Secrets, &pb.FileReference{Id: s, Name: s, Target: s})
	}
	r.apply(&pb.Command{Kind: &pb.Command_CreateService{CreateService: &pb.CreateService{Id: id, Spec: &pb.ServiceSpec{
		Name: id, Task: &pb.TaskSpec{Container: container},
		Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: 1}},
	}}}})
}

func (r *rig) secret(id string) {
	r.t.Helper()
	r.apply(&pb.Command{Kind: &pb.Command_CreateSecret{CreateSecret: &pb.CreateSecret{
		Id: id, Spec: &pb.SecretSpec{Name: id, Data: []byte("data of " + id)},
	}}})
}

// task makes a task and places it.
func (r *rig) task(id, service, node string, desired pb.TaskState) {
	r.t.Helper()
	r.apply(
		&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
			Id: id, ServiceId: service, ServiceName: service, SpecVersion: 1, Slot: 1, DesiredState: desired,
		}}}}},
		&pb.Command{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{{Id: id, NodeId: node}}}}},
	)
}

func (r *rig) desire(id string, state pb.TaskState) {
	r.t.Helper()
	r.apply(&pb.Command{Kind: &pb.Command_SetDesired{SetDesired: &pb.SetDesired{Tasks: []*pb.TaskDesired{{Id: id, State: state}}}}})
}

func (r *rig) nodeState(id string) pb.NodeState {
	return r.state.View().Node(id).GetStatus().GetState()
}

// commands returns what was proposed so far.
func (r *rig) commands() []*pb.Command {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*pb.Command
	for _, p := range r.proposals {
		all = append(all, p...)
	}
	return all
}

func (r *rig) proposed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.proposals)
}

// agent is the other end of a session.
type agent struct {
	r      *rig
	node   string
	stream grpc.BidiStreamingClient[pb.AgentMessage, pb.ManagerMessage]
	cancel context.CancelFunc
}

func (r *rig) ctxOf(node string) (context.Context, context.CancelFunc) {
	return context.WithCancel(metadata.AppendToOutgoingContext(r.t.Context(), "node", node))
}

// open opens a session and says hello.
func (r *rig) open(node string) *agent {
	r.t.Helper()
	ctx, cancel := r.ctxOf(node)
	r.t.Cleanup(cancel)
	stream, err := r.client.Session(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	a := &agent{r: r, node: node, stream: stream, cancel: cancel}
	a.send(&pb.AgentMessage{Kind: &pb.AgentMessage_Hello{Hello: &pb.Hello{Description: &pb.NodeDescription{Hostname: node}}}})
	return a
}

func (a *agent) send(m *pb.AgentMessage) {
	a.r.t.Helper()
	// io.EOF: the session ended; receiving tells why.
	if err := a.stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
		a.r.t.Fatalf("send: %v", err)
	}
}

func (a *agent) beat() {
	a.r.t.Helper()
	a.send(&pb.AgentMessage{Kind: &pb.AgentMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
}

func (a *agent) report(number uint64, reports ...*pb.TaskStatusReport) {
	a.r.t.Helper()
	a.send(&pb.AgentMessage{Kind: &pb.AgentMessage_Statuses{Statuses: &pb.StatusBatch{Number: number, Reports: reports}}})
}

func status(id string, state pb.TaskState) *pb.TaskStatusReport {
	return &pb.TaskStatusReport{Id: id, Status: &pb.TaskStatus{State: state, At: timestamppb.Now()}}
}

// next returns the next message that is no heartbeat.
func (a *agent) next() *pb.ManagerMessage {
	a.r.t.Helper()
	for {
		m, err := a.stream.Recv()
		if err != nil {
			a.r.t.Fatalf("receive on %s: %v", a.node, err)
		}
		if m.GetHeartbeat() == nil {
			return m
		}
	}
}

// acked skips diffs and returns the number of the next ack.
func (a *agent) acked() uint64 {
	a.r.t.Helper()
	m := a.next()
	for m.GetDiff() != nil {
		m = a.next()
	}
	return m.GetAck().GetNumber()
}

// greeted takes the welcome and the full set, and leaves the peers out of it.
func (a *agent) greeted() *pb.AssignmentSet {
	a.r.t.Helper()
	if m := a.next(); m.GetWelcome() == nil {
		a.r.t.Fatalf("first message is %v, want a welcome", m)
	}
	m := a.next()
	if m.GetAssignments() == nil {
		a.r.t.Fatalf("second message is %v, want assignments", m)
	}
	set := m.GetAssignments()
	set.Items = slices.DeleteFunc(set.Items, func(i *pb.Assignment) bool { return i.GetPeer() != nil })
	return set
}

// end reads until the session ends and returns why.
func (a *agent) end() error {
	for {
		if _, err := a.stream.Recv(); err != nil {
			return err
		}
	}
}
