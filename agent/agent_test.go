package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minid/minid/agent"
	"github.com/minid/minid/agent/faketask"
	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	ready    = pb.TaskState_TASK_STATE_READY
	running  = pb.TaskState_TASK_STATE_RUNNING
	shutdown = pb.TaskState_TASK_STATE_SHUTDOWN
	period   = 2 * time.Second
)

// manager is a scripted dispatcher.
type manager struct {
	pb.UnimplementedDispatcherServer
	addr     string
	listener *bufconn.Listener
	server   *grpc.Server

	mu sync.Mutex
	// leader, when set, is where sessions are sent instead.
	leader string
	// set is what each new session begins with; seq counts on from it.
	// rest is how many diffs the test sends to complete it.
	set  []*pb.Assignment
	rest uint32
	seq  uint64
	// acks tells whether status batches are acknowledged, beats whether
	// heartbeats are answered.
	acks, beats bool
	session     grpc.BidiStreamingServer[pb.AgentMessage, pb.ManagerMessage]
	end         chan struct{}
	sessions    int
	batches     []*pb.StatusBatch
	described   []string // runtime versions told
	// latest status told of each task.
	latest   map[string]*pb.TaskStatus
	attached chan attachStream
	detach   chan struct{}
}

// Session implements the dispatcher.
func (m *manager) Session(stream grpc.BidiStreamingServer[pb.AgentMessage, pb.ManagerMessage]) error {
	first, err := stream.Recv()
	if err != nil || first.GetHello() == nil {
		return status.Error(codes.InvalidArgument, "hello first")
	}
	end, err := m.open(stream)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		for {
			msg, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			m.hear(msg)
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-end:
		return status.Error(codes.Unavailable, "session ended by the test")
	}
}

func (m *manager) open(stream grpc.BidiStreamingServer[pb.AgentMessage, pb.ManagerMessage]) (chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leader != "" {
		st, err := status.New(codes.FailedPrecondition, "not the leader").WithDetails(&pb.NotLeader{LeaderAddr: m.leader})
		return nil, errors.Join(st.Err(), err)
	}
	m.sessions++
	m.session, m.end = stream, make(chan struct{})
	m.seq = 1
	welcome := &pb.Welcome{HeartbeatPeriod: durationpb.New(period), Managers: []*pb.ManagerPeer{{NodeId: m.addr, Addr: m.addr}}}
	return m.end, errors.Join(
		stream.Send(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Welcome{Welcome: welcome}}),
		stream.Send(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Assignments{Assignments: &pb.AssignmentSet{Sequence: m.seq, Items: m.set, Rest: m.rest}}}),
	)
}

func (m *manager) hear(msg *pb.AgentMessage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case msg.GetDescription() != nil:
		m.described = append(m.described, msg.GetDescription().GetRuntimeVersion())
	case msg.GetHeartbeat() != nil && m.beats:
		m.session.Send(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
	case msg.GetStatuses() != nil:
		m.batches = append(m.batches, msg.GetStatuses())
		for _, r := range msg.GetStatuses().GetReports() {
			m.latest[r.GetId()] = r.GetStatus()
		}
		if m.acks {
			m.session.Send(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Ack{Ack: &pb.StatusAck{Number: msg.GetStatuses().GetNumber()}}})
		}
	}
}

// Attach implements the dispatcher; the test holds the stream until detach.
func (m *manager) Attach(stream attachStream) error {
	m.attached <- stream
	select {
	case <-m.detach:
	case <-stream.Context().Done():
	}
	return nil
}

func (m *manager) locked(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// send sends a diff, skip further than it should be.
func (m *manager) diff(skip uint64, remove []*pb.AssignmentKey, put ...*pb.Assignment) {
	m.locked(func() {
		m.seq += 1 + skip
		m.session.Send(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Diff{Diff: &pb.AssignmentDiff{Sequence: m.seq, Put: put, Remove: remove}}})
	})
}

// drop ends the present session.
func (m *manager) drop() { m.locked(func() { close(m.end) }) }

func (m *manager) state(id string) (s pb.TaskState) {
	m.locked(func() { s = m.latest[id].GetState() })
	return s
}

// count is how many sessions there were.
func (m *manager) count() (n int) {
	m.locked(func() { n = m.sessions })
	return n
}

func (m *manager) status(id string) (s *pb.TaskStatus) {
	m.locked(func() { s = m.latest[id] })
	return s
}

// world is managers, one node's disk and runtime, and at times its agent.
type world struct {
	*testing.T
	managers map[string]*manager
	runtime  *faketask.Runtime
	network  *faketask.Network // may be nil
	db       string
	cancel   context.CancelFunc
	done     chan error
	agent    *agent.Agent
	mu       sync.Mutex
	dialed   []string
	away     map[string]bool
	version  atomic.Pointer[string]
}

// play runs a test in virtual time with managers of these names.
func play(t *testing.T, runtime *faketask.Runtime, test func(*world), managers ...string) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, runtime: runtime, network: &faketask.Network{}, managers: map[string]*manager{}, away: map[string]bool{}, db: filepath.Join(dir, "agent.db")}
		w.version.Store(new(string))
		for _, addr := range managers {
			m := &manager{
				addr: addr, listener: bufconn.Listen(1 << 20), server: grpc.NewServer(),
				acks: true, beats: true, latest: map[string]*pb.TaskStatus{},
				attached: make(chan attachStream, 1), detach: make(chan struct{}),
			}
			pb.RegisterDispatcherServer(m.server, m)
			go m.server.Serve(m.listener)
			w.managers[addr] = m
		}
		test(w)
		w.stop()
		for _, m := range w.managers {
			m.server.Stop()
		}
	})
}

func (w *world) start(addrs ...string) {
	cfg := agent.Config{
		NodeID: "n1", NodeName: "alpha", DB: w.db,
		Runtime: w.runtime, Logs: w.runtime, Exec: w.runtime, Usage: w.runtime,
		Describe: func(context.Context) *pb.NodeDescription {
			return &pb.NodeDescription{Hostname: "alpha", RuntimeVersion: *w.version.Load(), Platform: &pb.Platform{Os: "linux", Architecture: "amd64"}}
		},
		Dial:     w.dial,
		Managers: addrs,
		Logger:   slog.New(slog.DiscardHandler),
	}
	if w.network != nil {
		cfg.Network = w.network
	}
	w.agent = agent.New(cfg)
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(w.Context())
	w.done = make(chan error, 1)
	go func(a *agent.Agent) { w.done <- a.Run(ctx) }(w.agent)
}

// stop ends the agent as SIGTERM does; containers stay.
func (w *world) stop() {
	w.Helper()
	if w.cancel == nil {
		return
	}
	w.cancel()
	if err := <-w.done; !errors.Is(err, context.Canceled) {
		w.Errorf("agent: %v", err)
	}
	w.cancel = nil
}

func (w *world) dial(_ context.Context, addr string) (agent.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dialed = append(w.dialed, addr)
	m := w.managers[addr]
	if m == nil || w.away[addr] {
		return nil, fmt.Errorf("no route to %s", addr)
	}
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return m.listener.DialContext(ctx) }))
}

// cut makes a manager unreachable for new sessions, or reachable again.
func (w *world) cut(addr string, away bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away[addr] = away
}

func (w *world) dials() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.dialed)
}

func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) want(m *manager, id string, state pb.TaskState) {
	w.Helper()
	if got := m.state(id); got != state {
		w.Errorf("task %s is %v (%v), want %v", id, got, m.status(id), state)
	}
}

func (w *world) runs() int { return len(w.runtime.History()) }

// assign makes assignments of a task and its spec.
func assign(id string, desired pb.TaskState, change ...func(*pb.ContainerSpec)) []*pb.Assignment {
	c := &pb.ContainerSpec{Image: "x"}
	for _, f := range change {
		f(c)
	}
	service := "service-of-" + id
	return []*pb.Assignment{
		{Kind: &pb.Assignment_Spec{Spec: &pb.AssignedSpec{ServiceId: service, ServiceName: "web", Version: 1, Task: &pb.TaskSpec{Container: c}}}},
		taskOnly(id, desired),
	}
}

func taskOnly(id string, desired pb.TaskState) *pb.Assignment {
	return &pb.Assignment{Kind: &pb.Assignment_Task{Task: &pb.AssignedTask{
		Id: id, ServiceId: "service-of-" + id, SpecVersion: 1, Slot: 1, DesiredState: desired, ObservedState: pb.TaskState_TASK_STATE_ASSIGNED,
	}}}
}

func withSecret(c *pb.ContainerSpec) {
	c.Secrets = []*pb.FileReference{{Id: "sec1", Name: "password"}}
}

func secret(data string) *pb.Assignment {
	return &pb.Assignment{Kind: &pb.Assignment_Secret{Secret: &pb.Secret{Id: "sec1", Spec: &pb.SecretSpec{Name: "password", Data: []byte(data)}}}}
}

func join(sets ...[]*pb.Assignment) (all []*pb.Assignment) {
	for _, s := range sets {
		all = append(all, s...)
	}
	return all
}

type attachStream = grpc.BidiStreamingServer[pb.AttachUp, pb.AttachDown]

// read collects what comes up an Attach stream until the agent closes it.
func read(stream attachStream) string {
	var out strings.Builder
	for {
		m, err := stream.Recv()
		if err != nil {
			if err != io.EOF {
				fmt.Fprintf(&out, "broken: %v\n", err)
			}
			return out.String()
		}
		switch {
		case m.GetOpen() != "":
			fmt.Fprintf(&out, "open %s\n", m.GetOpen())
		case m.GetError() != "":
			fmt.Fprintf(&out, "error %s\n", m.GetError())
		case m.GetUsage() != nil:
			for _, task := range m.GetUsage().GetTasks() {
				fmt.Fprintf(&out, "usage of %s: %d MiB\n", task.GetTaskId(), task.GetUsage().GetMemoryBytes()>>20)
			}
		case m.GetProbe() != nil:
			fmt.Fprintf(&out, "probe %s %t %s\n", m.GetProbe().GetToName(), m.GetProbe().GetOk(), m.GetProbe().GetDetail())
		case m.GetExec().GetExit() != nil:
			fmt.Fprintf(&out, "exit %d %s\n", m.GetExec().GetExit().GetCode(), m.GetExec().GetExit().GetError())
		case m.GetExec() != nil:
			fmt.Fprintf(&out, "out %s", m.GetExec().GetStdout())
		case m.GetLogs() != nil:
			for _, e := range m.GetLogs().GetEntries() {
				fmt.Fprintf(&out, "log %s\n", e.GetText())
			}
		}
	}
}
