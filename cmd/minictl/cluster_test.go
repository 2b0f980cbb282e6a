package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/cmd/minictl/spec"
	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/id"
	"github.com/minid/minid/manager/allocator"
	"github.com/minid/minid/manager/controlapi"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/rpc"
	"github.com/minid/minid/store"
)

// epoch is when the test cluster was made; commands run two minutes later.
var epoch = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func testNow() time.Time { return epoch.Add(2 * time.Minute) }

// cluster is the real control API and allocator over a real store, with a robot
// in place of orchestrator, placement and agents, on a unix socket.
type cluster struct {
	state *store.State
	host  string

	mu    sync.Mutex
	index uint64

	pb.UnimplementedLocalServer
	images  []*pb.Image
	outside atomic.Bool  // the node is in no cluster
	severed atomic.Bool  // no way leads to node3
	asked   atomic.Value // what init or join was told of the network
	stopped atomic.Bool  // nobody carries out what is wanted
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "mctl") // short: a socket's path has 107 characters
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &cluster{state: store.New(), host: "unix://" + filepath.Join(dir, "s")}
	c.seed(t)
	self := rpc.Identity{NodeID: nodeID(1), Role: pb.NodeRole_NODE_ROLE_MANAGER}
	server := rpc.NewLocalServer(rpc.ServerConfig{Self: func() rpc.Identity { return self }, Log: slog.New(slog.DiscardHandler)})
	pb.RegisterControlServer(server, controlServer{c, controlapi.New(controlapi.Config{State: c.state, Propose: c.propose, Attacher: c,
		RotateTokens: c.tokens, Managers: c.managers, Logger: slog.New(slog.DiscardHandler)})})
	pb.RegisterLocalServer(server, c)
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(ln) })
	wg.Go(func() { c.robot(ctx) })
	wg.Go(func() { c.allocator().Run(ctx) })
	t.Cleanup(func() {
		cancel()
		server.Stop()
		wg.Wait()
		os.RemoveAll(dir)
	})
	return c
}

// controlServer answers as a worker does while the node is in no cluster.
type controlServer struct {
	c *cluster
	*controlapi.Server
}

func (s controlServer) ListNodes(ctx context.Context, req *pb.ListRequest) (*pb.ListNodesResponse, error) {
	if s.c.outside.Load() {
		return nil, fault.New(fault.NotManager, "this node is not a swarm manager").WithTry("minictl swarm init, or minictl swarm join --token TOKEN HOST:2377")
	}
	return s.Server.ListNodes(ctx, req)
}

func (c *cluster) seed(t testing.TB) {
	snap := &pb.Snapshot{Index: 1, Objects: []*pb.Object{{Kind: &pb.Object_Cluster{Cluster: &pb.Cluster{Id: "clusterid0000000000000001", Meta: meta(1),
		Spec: &pb.ClusterSpec{Name: "default", TaskHistoryLimit: 5, DefaultAddressPools: []string{"10.0.0.0/8"}, SubnetMaskLength: 20}, RootCaCert: []byte("-----BEGIN CERTIFICATE-----\nroot\n-----END CERTIFICATE-----\n"),
		JoinTokens: &pb.JoinTokens{Worker: "MNTKN-1-ca-worker", Manager: "MNTKN-1-ca-manager"}}}}}}
	for i := 1; i <= 3; i++ {
		n := &pb.Node{Id: nodeID(i), Meta: meta(1), Spec: &pb.NodeSpec{Role: pb.NodeRole_NODE_ROLE_WORKER, Availability: pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE},
			Role: pb.NodeRole_NODE_ROLE_WORKER, Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_READY, Addr: fmt.Sprintf("10.0.0.%d", i)},
			Description: &pb.NodeDescription{Hostname: fmt.Sprintf("node%d", i), EngineVersion: "0.1.0",
				DataPathAddr: fmt.Sprintf("10.0.0.%d", i), DataPathMtu: 1500, WireguardKey: []byte("key"), Routes: []string{"192.168.7.0/24"},
				Platform: &pb.Platform{Os: "linux", Architecture: "amd64"}, Resources: &pb.Resources{NanoCpus: 2e9, MemoryBytes: 4 << 30}}}
		if i == 1 {
			n.Spec.Role, n.Role = pb.NodeRole_NODE_ROLE_MANAGER, pb.NodeRole_NODE_ROLE_MANAGER
		}
		snap.Objects = append(snap.Objects, &pb.Object{Kind: &pb.Object_Node{Node: n}})
	}
	snap.Objects = append(snap.Objects, &pb.Object{Kind: &pb.Object_Network{Network: ingressNetwork()}})
	if err := c.state.Restore(snap); err != nil {
		t.Fatal(err)
	}
	c.index = 1
}

func meta(version uint64) *pb.Meta {
	return &pb.Meta{Version: version, CreatedAt: timestamppb.New(epoch), UpdatedAt: timestamppb.New(epoch)}
}

func nodeID(i int) string { return fmt.Sprintf("node%d00000000000000000000", i) }

// propose commits at once; every entry is a millisecond later than the last.
func (c *cluster) propose(_ context.Context, cmds ...*pb.Command) ([]error, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index++
	at := timestamppb.New(epoch.Add(time.Duration(c.index) * time.Millisecond))
	return c.state.Apply(c.index, &pb.Entry{Commands: cmds, At: at}), nil
}

func (c *cluster) tokens(_ context.Context, worker, manager bool) (*pb.JoinTokens, error) {
	tokens := proto.Clone(c.state.View().Cluster().JoinTokens).(*pb.JoinTokens)
	if worker {
		tokens.Worker += "2"
	}
	if manager {
		tokens.Manager += "2"
	}
	_, err := c.propose(context.Background(), &pb.Command{Kind: &pb.Command_SetJoinTokens{SetJoinTokens: &pb.SetJoinTokens{Tokens: tokens}}})
	return tokens, err
}

func (c *cluster) managers() map[string]*pb.ManagerStatus {
	return map[string]*pb.ManagerStatus{nodeID(1): {Leader: true, Reachable: true, Addr: "10.0.0.1:2377"}}
}

func (c *cluster) allocator() *allocator.Allocator {
	return allocator.New(allocator.Config{State: c.state, Propose: c.propose, Random: func(b []byte) { rand.Read(b) }, Logger: slog.New(slog.DiscardHandler)})
}

// robot brings tasks to where they should be, from the first state on and on
// every change.
func (c *cluster) robot(ctx context.Context) {
	kinds := []pb.Kind{pb.Kind_KIND_SERVICE, pb.Kind_KIND_TASK, pb.Kind_KIND_NODE}
	c.state.Follow(ctx, func() {}, kinds, func(ctx context.Context, _ store.View, changes <-chan []store.Change) error {
		for {
			c.carryOut(ctx)
			select {
			case <-changes:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	})
}

func (c *cluster) carryOut(ctx context.Context) {
	if c.stopped.Load() {
		return
	}
	view := c.state.View()
	for s := range view.Services() {
		if cmds := moves(view, s); len(cmds) > 0 {
			time.Sleep(20 * time.Millisecond) // so that watchers see every step
			c.propose(ctx, cmds...)
		}
	}
}

// moves are the next steps of a service's tasks. The image's name says how they
// fare: "broken" ones fail, "oom" ones run out of memory, others run. Whatever
// has a constraint fits nowhere.
func moves(view store.View, s *pb.Service) []*pb.Command {
	var tasks []*pb.Task
	for t := range view.TasksByService(s.Id) {
		tasks = append(tasks, t)
	}
	if s.Removing {
		return removal(s, tasks)
	}
	if spec.IsJob(s.Spec) {
		return jobMoves(s, tasks)
	}
	want := s.Spec.GetReplicated().GetReplicas()
	var cmds []*pb.Command
	done := true
	for slot := uint64(1); slot <= want; slot++ {
		next := slotMoves(s, slot, tasks)
		done = done && len(next) == 0
		cmds = append(cmds, next...)
	}
	for _, t := range tasks {
		if t.Slot > want && t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING {
			cmds = append(cmds, stop(t)...)
		}
	}
	if done {
		cmds = append(cmds, rolloutMoves(s)...)
	}
	return append(cmds, drainMoves(view, s, tasks)...)
}

// rolloutMoves end a rollout whose tasks are as wanted, well or, with a broken
// image, badly.
func rolloutMoves(s *pb.Service) []*pb.Command {
	const why = "1 of 1 updated tasks failed"
	broken := strings.Contains(s.Spec.Task.Container.Image, "broken")
	status := &pb.UpdateStatus{State: pb.UpdateState_UPDATE_STATE_COMPLETED, ToVersion: s.SpecVersion, Message: "update completed"}
	switch back := s.UpdateStatus.GetState() == pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED; {
	case back && broken:
		status.State, status.Message = pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED, why
	case back:
		status.State = pb.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED
		status.Message = strings.Replace(s.UpdateStatus.Message, "in progress", "completed", 1)
	case s.UpdateStatus != nil || s.SpecVersion == 1:
		return nil
	case broken && s.Spec.Update.FailureAction == pb.UpdateConfig_FAILURE_ACTION_ROLLBACK:
		return []*pb.Command{{Kind: &pb.Command_RollbackService{RollbackService: &pb.RollbackService{Id: s.Id, Reason: why}}}}
	case broken:
		status.State, status.Message = pb.UpdateState_UPDATE_STATE_PAUSED, why
	}
	return []*pb.Command{{Kind: &pb.Command_SetUpdateStatus{SetUpdateStatus: &pb.SetUpdateStatus{Id: s.Id, Status: status}}}}
}

func removal(s *pb.Service, tasks []*pb.Task) []*pb.Command {
	var cmds []*pb.Command
	var ids []string
	for _, t := range tasks {
		cmds = append(cmds, stop(t)...)
		ids = append(ids, t.Id)
	}
	return append(cmds, &pb.Command{Kind: &pb.Command_DeleteTasks{DeleteTasks: &pb.DeleteTasks{Ids: ids}}},
		&pb.Command{Kind: &pb.Command_DeleteService{DeleteService: &pb.DeleteService{Id: s.Id}}})
}

func stop(t *pb.Task) []*pb.Command {
	return []*pb.Command{
		{Kind: &pb.Command_SetDesired{SetDesired: &pb.SetDesired{Tasks: []*pb.TaskDesired{{Id: t.Id, State: pb.TaskState_TASK_STATE_SHUTDOWN}}}}},
		report(t, &pb.TaskStatus{State: pb.TaskState_TASK_STATE_SHUTDOWN, At: t.Meta.UpdatedAt}),
	}
}

func report(t *pb.Task, s *pb.TaskStatus) *pb.Command {
	return &pb.Command{Kind: &pb.Command_ReportStatuses{ReportStatuses: &pb.ReportStatuses{NodeId: t.NodeId, Reports: []*pb.TaskStatusReport{{Id: t.Id, Status: s}}}}}
}

func slotMoves(s *pb.Service, slot uint64, tasks []*pb.Task) []*pb.Command {
	var current *pb.Task
	var cmds []*pb.Command
	for _, t := range tasks {
		switch {
		case t.Slot != slot || t.DesiredState > pb.TaskState_TASK_STATE_RUNNING:
		case t.SpecVersion != s.SpecVersion:
			cmds = append(cmds, stop(t)...)
		default:
			current = t
		}
	}
	if current == nil {
		return append(cmds, &pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
			Id: id.New(), ServiceId: s.Id, ServiceName: s.Spec.Name, Slot: slot, SpecVersion: s.SpecVersion, DesiredState: pb.TaskState_TASK_STATE_RUNNING}}}}})
	}
	return append(cmds, step(s, current)...)
}

// step is the way of one task.
func step(s *pb.Service, t *pb.Task) []*pb.Command {
	if t.Status.State == pb.TaskState_TASK_STATE_NEW {
		return nil // it has no addresses yet
	}
	if t.Status.State == pb.TaskState_TASK_STATE_PENDING {
		if len(s.Spec.Task.GetPlacement().GetConstraints()) == 0 {
			return []*pb.Command{{Kind: &pb.Command_AssignTasks{AssignTasks: &pb.AssignTasks{Tasks: []*pb.TaskAssignment{{Id: t.Id, NodeId: nodeID(int(t.Slot-1)%3 + 1)}}}}}}
		}
		if t.Status.Refused != nil {
			return nil
		}
		waits := &pb.TaskStatus{State: pb.TaskState_TASK_STATE_PENDING, At: t.Meta.CreatedAt, Message: "waiting: 0 of 3 nodes fit: 3 lack label disk=ssd",
			Refused: []*pb.FilterCount{{Filter: "constraint", Nodes: 3, Reason: "lacks label disk=ssd"}}}
		return []*pb.Command{{Kind: &pb.Command_ExplainTasks{ExplainTasks: &pb.ExplainTasks{Tasks: []*pb.TaskStatusReport{{Id: t.Id, Status: waits}}}}}}
	}
	next := &pb.TaskStatus{At: timestamppb.New(epoch.Add(time.Minute)), Container: &pb.ContainerStatus{ContainerId: t.Id}}
	switch t.Status.State {
	case pb.TaskState_TASK_STATE_ASSIGNED:
		next.State, next.Message = pb.TaskState_TASK_STATE_PREPARING, "pulling image"
	case pb.TaskState_TASK_STATE_PREPARING:
		next.State, next.Ports = pb.TaskState_TASK_STATE_RUNNING, modePorts(s.Spec.Task.Ports, pb.PortConfig_MODE_HOST)
		switch image := s.Spec.Task.Container.Image; {
		case strings.Contains(image, "broken"):
			next.State, next.Error, next.Container.ExitCode = pb.TaskState_TASK_STATE_FAILED, "task: non-zero exit (1)", 1
		case strings.Contains(image, "oom"):
			next.State, next.Container.ExitCode, next.Container.OomKilled = pb.TaskState_TASK_STATE_FAILED, 137, true
		}
	default:
		return nil
	}
	return []*pb.Command{report(t, next)}
}

// Attach plays the agent's side of logs, exec, probes and samples.
func (c *cluster) Attach(_ context.Context, node string, req *pb.Attach) (controlapi.AttachStream, error) {
	a := newAttachment()
	if probe := req.GetProbe(); probe != nil {
		go a.probe(node, probe.NodeIds, c.severed.Load())
		return a, nil
	}
	if req.GetUsage() != nil {
		if c.severed.Load() && node == nodeID(3) {
			return nil, fault.New(fault.Unavailable, "attach to node %s: the node is not connected", node)
		}
		go a.usage(c.state, node)
		return a, nil
	}
	if exec := req.GetExec(); exec != nil {
		go a.exec(exec.Start)
		return a, nil
	}
	entry := func(ms int, stream pb.Stream, text string) *pb.LogEntry {
		return &pb.LogEntry{At: timestamppb.New(epoch.Add(time.Duration(ms) * time.Millisecond)), Stream: stream, Text: []byte(text)}
	}
	go func() {
		a.up <- &pb.AttachUp{Kind: &pb.AttachUp_Logs{Logs: &pb.LogBatch{Entries: []*pb.LogEntry{
			entry(1, pb.Stream_STREAM_STDOUT, "hello"), entry(2, pb.Stream_STREAM_STDERR, "trouble")}}}}
		close(a.up)
	}()
	return a, nil
}

// attachment is a stream to a pretended agent.
type attachment struct {
	up   chan *pb.AttachUp
	down chan *pb.AttachDown
	done chan struct{}
	once sync.Once
}

func newAttachment() *attachment {
	return &attachment{up: make(chan *pb.AttachUp, 16), down: make(chan *pb.AttachDown, 16), done: make(chan struct{})}
}

func (a *attachment) Recv() (*pb.AttachUp, error) {
	select {
	case m, ok := <-a.up:
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-a.done:
		return nil, io.EOF
	}
}

func (a *attachment) Send(m *pb.AttachDown) error {
	select {
	case a.down <- m:
		return nil
	case <-a.done:
		return io.EOF
	}
}

func (a *attachment) Close() { a.once.Do(func() { close(a.done) }) }

// exec knows "cat", which copies its input, "fail" and "missing".
func (a *attachment) exec(start *pb.ExecStart) {
	out := func(o *pb.ExecOutput) { a.up <- &pb.AttachUp{Kind: &pb.AttachUp_Exec{Exec: o}} }
	exit := &pb.ExecExit{}
	switch start.Command[0] {
	case "cat":
		for open := true; open; {
			select {
			case m := <-a.down:
				if in := m.GetExec().GetStdin(); in != nil {
					out(&pb.ExecOutput{Kind: &pb.ExecOutput_Stdout{Stdout: in}})
				}
				open = !m.GetExec().GetCloseStdin() && !bytes.Contains(m.GetExec().GetStdin(), []byte{4})
			case <-a.done:
				return
			}
		}
	case "fail":
		out(&pb.ExecOutput{Kind: &pb.ExecOutput_Stderr{Stderr: []byte("no luck\n")}})
		exit.Code = 42
	default:
		exit.Code, exit.Error = 127, fmt.Sprintf("exec %q: executable file not found in $PATH", start.Command[0])
	}
	out(&pb.ExecOutput{Kind: &pb.ExecOutput_Exit{Exit: exit}})
}

// The node's own side.

func (c *cluster) Info(context.Context, *pb.InfoRequest) (*pb.InfoResponse, error) {
	info := &pb.InfoResponse{Name: "node1", Version: "0.1.0", Addr: "10.0.0.1:2377", DataDir: "/var/lib/minid",
		Description: c.state.View().Node(nodeID(1)).Description}
	if !c.outside.Load() {
		info.NodeId, info.ClusterId, info.Role, info.Leader = nodeID(1), "clusterid0000000000000001", pb.NodeRole_NODE_ROLE_MANAGER, true
	}
	return info, nil
}

func (c *cluster) Init(_ context.Context, req *pb.InitRequest) (*pb.InitResponse, error) {
	if !c.outside.Load() {
		return nil, fault.New(fault.State, "init swarm: this node is already part of a swarm").WithTry("minictl swarm leave")
	}
	c.outside.Store(false)
	c.asked.Store(fmt.Sprintf("init: data path %q, port %d, pools %q, mask %d", req.DataPathAddr, req.Spec.DataPathPort, req.Spec.DefaultAddressPools, req.Spec.SubnetMaskLength))
	return &pb.InitResponse{NodeId: nodeID(1), WorkerToken: "MNTKN-1-ca-worker", Addr: req.AdvertiseAddr + ":2377"}, nil
}

func (c *cluster) JoinCluster(_ context.Context, req *pb.JoinClusterRequest) (*pb.JoinClusterResponse, error) {
	if req.Addrs[0] != "10.0.0.9:2377" {
		return nil, fault.New(fault.Unavailable, "join swarm: no manager at %s", req.Addrs[0])
	}
	if req.Token != "MNTKN-1-ca-worker" {
		return nil, fault.New(fault.Denied, "join swarm: the token is not valid").WithTry("minictl swarm join-token worker, on a manager")
	}
	c.asked.Store(fmt.Sprintf("join: data path %q", req.DataPathAddr))
	return &pb.JoinClusterResponse{NodeId: nodeID(2), Role: pb.NodeRole_NODE_ROLE_WORKER}, nil
}

func (c *cluster) Leave(_ context.Context, req *pb.LeaveRequest) (*pb.LeaveResponse, error) {
	if !req.Force {
		return nil, fault.New(fault.State, "leave swarm: this node is a manager").WithTry("minictl swarm leave --force")
	}
	c.outside.Store(true)
	return &pb.LeaveResponse{}, nil
}

func (c *cluster) ListImages(context.Context, *pb.ListImagesRequest) (*pb.ListImagesResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &pb.ListImagesResponse{Images: slices.Clone(c.images)}, nil
}

func (c *cluster) LoadImage(stream grpc.ClientStreamingServer[pb.LoadImageRequest, pb.LoadImageResponse]) error {
	var size int64
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		size += int64(len(m.Chunk))
	}
	if size == 0 {
		return fault.New(fault.Invalid, "load image: the archive is empty")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.images = append(c.images, &pb.Image{Name: "docker.io/library/sample:1", Digest: "sha256:" + strings.Repeat("ab", 32), SizeBytes: size, CreatedAt: timestamppb.New(epoch)})
	return stream.SendAndClose(&pb.LoadImageResponse{Images: c.images})
}

func (c *cluster) RemoveImage(_ context.Context, req *pb.RemoveImageRequest) (*pb.RemoveImageResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.images) == 0 {
		return nil, fault.New(fault.NotFound, "remove image %s: there is none", req.Name)
	}
	c.images = nil
	return &pb.RemoveImageResponse{}, nil
}
