package testcluster

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/client"
	"github.com/minid/minid/fault"
	"github.com/minid/minid/node"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	worker  = pb.NodeRole_NODE_ROLE_WORKER
	manager = pb.NodeRole_NODE_ROLE_MANAGER
)

// life runs a test of one cluster in virtual time. LIFE_LOG=1 shows the nodes' logs.
func life(t *testing.T, test func(l *lifeRig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(t)
		if os.Getenv("LIFE_LOG") != "" {
			c.Log = slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})
		}
		defer c.Close()
		test(&lifeRig{Cluster: c, t: t})
	})
}

type lifeRig struct {
	*Cluster
	t *testing.T
}

// await waits in virtual time for a condition; what says what is not so yet.
func (l *lifeRig) await(d time.Duration, condition func() (what string)) {
	l.t.Helper()
	for end := time.Now().Add(d); ; time.Sleep(100 * time.Millisecond) {
		what := condition()
		if what == "" {
			return
		}
		if time.Now().After(end) {
			l.t.Fatalf("after %v: %s", d, what)
		}
	}
}

// info asks a node what it is; one that just starts has a moment.
func (l *lifeRig) info(n *Node) *pb.InfoResponse {
	l.t.Helper()
	var info *pb.InfoResponse
	l.await(5*time.Second, func() string {
		if err := n.call(func(api *client.Client) (err error) {
			info, err = api.Local.Info(context.Background(), &pb.InfoRequest{})
			return err
		}); err != nil {
			return fmt.Sprintf("info of %s: %v", n.Name, err)
		}
		return ""
	})
	return info
}

func (l *lifeRig) do(what string, do func(ctx context.Context, api pb.ControlClient) error) {
	l.t.Helper()
	if err := l.Control(context.Background(), do); err != nil {
		l.t.Fatalf("%s: %v", what, err)
	}
}

func (l *lifeRig) nodes() map[string]*pb.Node {
	l.t.Helper()
	byID := map[string]*pb.Node{}
	l.do("list nodes", func(ctx context.Context, api pb.ControlClient) error {
		res, err := api.ListNodes(ctx, &pb.ListRequest{})
		for _, n := range res.GetNodes() {
			byID[n.Id] = n
		}
		return err
	})
	return byID
}

func (l *lifeRig) setRole(id string, role pb.NodeRole) error {
	return l.Control(context.Background(), func(ctx context.Context, api pb.ControlClient) error {
		have, err := api.GetNode(ctx, &pb.GetRequest{Ref: id})
		if err != nil {
			return err
		}
		spec := proto.CloneOf(have.Spec)
		spec.Role = role
		_, err = api.UpdateNode(ctx, &pb.UpdateNodeRequest{Ref: id, Spec: spec})
		return err
	})
}

// awaitRole waits until node and cluster agree on a node's role, and voters with it.
func (l *lifeRig) awaitRole(n *Node, role pb.NodeRole) {
	l.t.Helper()
	id := l.info(n).NodeId
	l.await(time.Minute, func() string {
		if got := l.info(n); got.Role != role || got.Error != "" {
			return fmt.Sprintf("%s is %v, %s; want %v", n.Name, got.Role, got.Error, role)
		}
		seen := l.nodes()[id]
		if vote := seen.GetManagerStatus() != nil; vote != (role == manager) || seen.Role != role {
			return fmt.Sprintf("%s is seen as %v with vote %v", n.Name, seen.Role, vote)
		}
		return ""
	})
}

func (l *lifeRig) leader() *Node {
	l.t.Helper()
	var leader *Node
	l.await(time.Minute, func() string {
		for _, n := range l.Nodes {
			if n.Up() && l.info(n).Leader {
				leader = n
				return ""
			}
		}
		return "nobody leads"
	})
	return leader
}

func (l *lifeRig) serve(name string, replicas uint64) {
	l.t.Helper()
	l.do("create service", func(ctx context.Context, api pb.ControlClient) error {
		_, err := api.CreateService(ctx, &pb.CreateServiceRequest{Spec: &pb.ServiceSpec{
			Name: name,
			Task: &pb.TaskSpec{Container: &pb.ContainerSpec{Image: steady}},
			Mode: &pb.ServiceSpec_Replicated{Replicated: &pb.ReplicatedMode{Replicas: replicas}},
		}})
		return err
	})
	l.awaitRunning(int(replicas))
}

// awaitRunning waits until so many tasks run, by the cluster's word and on the nodes.
func (l *lifeRig) awaitRunning(want int) {
	l.t.Helper()
	l.await(2*time.Minute, func() string {
		told := 0
		l.do("list tasks", func(ctx context.Context, api pb.ControlClient) error {
			told = 0
			res, err := api.ListTasks(ctx, &pb.ListTasksRequest{})
			for _, t := range res.GetTasks() {
				if t.Status.State == pb.TaskState_TASK_STATE_RUNNING && t.DesiredState == pb.TaskState_TASK_STATE_RUNNING {
					told++
				}
			}
			return err
		})
		there := 0
		for _, n := range l.Nodes {
			there += alive(n)
		}
		if told != want || there != want {
			return fmt.Sprintf("%d tasks told running, %d processes; want %d", told, there, want)
		}
		return ""
	})
}

func alive(n *Node) (count int) {
	for _, run := range n.Runtime.History() {
		if run.Ended.IsZero() {
			count++
		}
	}
	return count
}

func (n *Node) leave(force bool) error {
	return n.call(func(api *client.Client) error {
		_, err := api.Local.Leave(context.Background(), &pb.LeaveRequest{Force: force})
		return err
	})
}

func (n *Node) init(req *pb.InitRequest) error {
	return n.call(func(api *client.Client) error {
		_, err := api.Local.Init(context.Background(), req)
		return err
	})
}

func (l *lifeRig) tokens(rotate bool) *pb.JoinTokens {
	l.t.Helper()
	var tokens *pb.JoinTokens
	l.do("read tokens", func(ctx context.Context, api pb.ControlClient) (err error) {
		tokens, err = api.RotateJoinToken(ctx, &pb.RotateJoinTokenRequest{Worker: rotate, Manager: rotate})
		return err
	})
	return tokens
}

func (l *lifeRig) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// refused wants an error of a class with a next step.
func (l *lifeRig) refused(err error, class fault.Class, says string) {
	l.t.Helper()
	if !fault.Is(err, class) || !strings.Contains(fmt.Sprint(err), says) || fault.TryOf(err) == "" {
		l.t.Errorf("got %v (%v, try %q), want %v with %q and a next step", err, fault.ClassOf(err), fault.TryOf(err), class, says)
	}
}

func TestPromoteAndDemote(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Form(context.Background(), 1, 2)
		l.serve("web", 6)
		founder, other, third := l.Nodes[0], l.Nodes[1], l.Nodes[2]
		l.refused(l.setRole(l.info(founder).NodeId, worker), fault.State, "last manager")
		for _, n := range []*Node{other, third} {
			l.must(l.setRole(l.info(n).NodeId, manager))
			l.awaitRole(n, manager)
		}
		time.Sleep(5 * time.Second) // until agents heard of the new managers
		// The founder leads and is demoted: the lead goes over.
		l.must(l.setRole(l.info(founder).NodeId, worker))
		l.awaitRole(founder, worker)
		if l.leader() == founder {
			t.Error("the founder still leads")
		}
		// It must come back as one of them, and not found its cluster again.
		l.must(l.setRole(l.info(founder).NodeId, manager))
		l.awaitRole(founder, manager)
		if a, b := l.info(founder).ClusterId, l.info(other).ClusterId; a != b || len(l.nodes()) != 3 {
			t.Errorf("clusters %s and %s, %d nodes", a, b, len(l.nodes()))
		}
		l.leader().Kill()
		l.awaitRunningAtLeast(4)
		if starts := l.starts(); starts > 6+6 {
			t.Errorf("%d starts for 6 tasks: changing roles must not touch them", starts)
		}
	})
}

func (l *lifeRig) awaitRunningAtLeast(want int) {
	l.t.Helper()
	l.await(time.Minute, func() string {
		there := 0
		for _, n := range l.Nodes {
			if n.Up() {
				there += alive(n)
			}
		}
		if there < want {
			return fmt.Sprintf("%d processes, want %d", there, want)
		}
		return ""
	})
}

func (l *lifeRig) starts() (count int) {
	for _, n := range l.Nodes {
		count += len(n.Runtime.History())
	}
	return count
}

// A demotion that minid does not live to complete is completed at its next start.
func TestDemotedWhileDown(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Form(context.Background(), 3, 0)
		lost := l.Nodes[2]
		id := l.info(lost).NodeId
		lost.Kill()
		l.must(l.setRole(id, worker))
		time.Sleep(20 * time.Second)
		lost.Start()
		l.awaitRole(lost, worker)
		l.must(l.setRole(id, manager))
		l.awaitRole(lost, manager)
	})
}

func TestLeave(t *testing.T) {
	life(t, func(l *lifeRig) {
		ctx := context.Background()
		l.Form(ctx, 3, 1)
		l.serve("web", 8)
		left := l.Nodes[3]
		id := l.info(left).NodeId
		l.must(left.leave(false))
		if alive(left) != 0 || l.info(left).NodeId != "" {
			t.Errorf("after leaving: %d tasks, %v", alive(left), l.info(left))
		}
		l.refused(left.leave(false), fault.NotManager, "not part of a cluster")
		l.awaitRunning(8)
		time.Sleep(time.Minute) // until it counts as down
		l.do("remove node", func(ctx context.Context, api pb.ControlClient) error {
			_, err := api.RemoveNode(ctx, &pb.RemoveNodeRequest{Ref: id})
			return err
		})
		// A manager only leaves by force, and gives its vote back.
		leader := l.leader()
		gone := l.info(leader).NodeId
		l.refused(leader.leave(false), fault.State, "this node is a manager")
		l.must(leader.leave(true))
		l.await(time.Minute, func() string {
			if l.nodes()[gone].GetManagerStatus() != nil {
				return "it still has a vote"
			}
			return ""
		})
		l.awaitRunning(8)
		// Both come back as new nodes.
		l.must(left.Join(ctx, l.leader(), l.tokens(false).Worker))
		l.must(leader.Join(ctx, l.leader(), l.tokens(false).Manager))
		l.awaitRole(leader, manager)
	})
}

func TestLastManagerLeaves(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Form(context.Background(), 1, 1)
		l.serve("web", 2)
		first := l.Nodes[0]
		before := l.info(first).ClusterId
		l.refused(first.leave(false), fault.State, "this node is a manager")
		start := time.Now()
		l.must(first.leave(true))
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("leaving took %v", took)
		}
		l.must(first.init(&pb.InitRequest{}))
		if after := l.info(first); after.ClusterId == before || after.Role != manager || len(l.nodes()) != 1 {
			t.Errorf("after a new init: %v, nodes %v", after, l.nodes())
		}
		// The worker's cluster is gone. It says so, and can leave.
		l.await(time.Minute, func() string {
			if l.info(l.Nodes[1]).Error == "" {
				return "the worker does not say that it has no session"
			}
			return ""
		})
		l.must(l.Nodes[1].leave(false))
	})
}

func TestLeaveWhenNoLeaderAnswers(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Form(context.Background(), 3, 1)
		l.Nodes[0].Kill()
		l.Nodes[1].Kill()
		for _, n := range l.Nodes[2:] {
			start := time.Now()
			l.must(n.leave(true))
			if took := time.Since(start); took > 40*time.Second || l.info(n).NodeId != "" {
				t.Errorf("%s left after %v: %v", n.Name, took, l.info(n))
			}
		}
	})
}

func TestForceNewCluster(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Form(context.Background(), 3, 1)
		l.serve("web", 4)
		left := l.Nodes[0]
		l.Nodes[1].PowerOff()
		l.Nodes[2].PowerOff()
		time.Sleep(10 * time.Second)
		if err := left.call(func(api *client.Client) error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_, err := api.Control.ListNodes(ctx, &pb.ListRequest{})
			return err
		}); err == nil {
			t.Fatal("one manager of three still answers")
		}
		l.refused(l.Nodes[3].init(&pb.InitRequest{ForceNewCluster: true}), fault.NotManager, "no manager works here")
		before := l.starts()
		l.must(left.init(&pb.InitRequest{ForceNewCluster: true}))
		if !l.info(left).Leader {
			t.Error("it does not lead")
		}
		l.awaitRunning(4)
		if now := l.starts(); now > before+4 {
			t.Errorf("%d starts to replace at most 4 tasks", now-before)
		}
		// The lost ones come back one by one.
		for _, n := range l.Nodes[1:3] {
			n.Start()
			l.awaitRole(n, manager)
		}
		l.awaitRunning(4)
		// And it is no special cluster after a restart.
		left.Kill()
		left.Start()
		l.awaitRole(left, manager)
		l.serve("more", 4)
	})
}

func (l *lifeRig) awaitJoinable(n *Node, token string, via *Node) {
	l.t.Helper()
	l.must(n.Join(context.Background(), via, token))
}

func TestTokenRotation(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Form(context.Background(), 1, 1)
		old := l.tokens(false)
		fresh := l.tokens(true)
		n := l.Node()
		for _, token := range []string{old.Worker, old.Manager} {
			l.refused(n.Join(context.Background(), l.Nodes[0], token), fault.Denied, "not valid any more")
		}
		// A join that failed leaves nothing: the node can do either.
		l.refused(n.leave(false), fault.NotManager, "not part of a cluster")
		l.awaitJoinable(n, fresh.Manager, l.Nodes[0])
		l.awaitRole(n, manager)
		l.refused(n.Join(context.Background(), l.Nodes[0], fresh.Worker), fault.State, "already part of one")
		l.refused(n.init(&pb.InitRequest{}), fault.State, "already part of one")
		if role := l.info(l.Nodes[1]).Role; role != worker {
			t.Errorf("the worker that joined before is %v", role)
		}
	})
}

func TestCertificatesRenew(t *testing.T) {
	life(t, func(l *lifeRig) {
		first := l.Node()
		l.must(first.init(&pb.InitRequest{Spec: &pb.ClusterSpec{CertExpiry: durationpb.New(time.Hour)}}))
		tokens := l.tokens(false)
		for _, token := range []string{tokens.Manager, tokens.Worker} {
			l.must(l.Node().Join(context.Background(), first, token))
		}
		l.serve("web", 4)
		for range 6 {
			time.Sleep(30 * time.Minute)
			for _, n := range l.Nodes {
				info := l.info(n)
				if left := time.Until(info.CertExpiresAt.AsTime()); left < 5*time.Minute || info.Error != "" {
					t.Errorf("%s: certificate good for %v, error %q", n.Name, left, info.Error)
				}
			}
		}
		if starts := l.starts(); starts != 4 {
			t.Errorf("%d starts of 4 tasks: renewal must not touch them", starts)
		}
	})
}

// A node that was off until its certificate expired says so, runs on what it
// has, and can leave and join again.
func TestExpiredCertificate(t *testing.T) {
	life(t, func(l *lifeRig) {
		first := l.Node()
		l.must(first.init(&pb.InitRequest{Spec: &pb.ClusterSpec{CertExpiry: durationpb.New(time.Hour)}}))
		late := l.Node()
		l.must(late.Join(context.Background(), first, l.tokens(false).Worker))
		late.Kill()
		time.Sleep(2 * time.Hour)
		late.Start()
		l.await(time.Minute, func() string {
			if told := l.info(late).Error; !strings.Contains(told, "expired") || !strings.Contains(told, "swarm leave") {
				return fmt.Sprintf("info says %q", told)
			}
			return ""
		})
		l.must(late.leave(true))
		l.must(late.Join(context.Background(), first, l.tokens(false).Worker))
		l.awaitRole(late, worker)
	})
}

func TestChangedAddress(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Form(context.Background(), 3, 1)
		time.Sleep(5 * time.Second) // until agents heard of all managers
		for i, n := range l.Nodes[:3] {
			moved := fmt.Sprintf("%s:%d", n.ip(), 3000+i)
			n.Kill()
			n.Configure = func(cfg *node.Config) { cfg.ListenAddr, cfg.AdvertiseAddr = moved, moved }
			n.Start()
			id := l.info(n).NodeId
			l.await(time.Minute, func() string {
				if got := l.nodes()[id]; got.GetManagerStatus().GetAddr() != moved || got.GetManagerAddr() != moved {
					return fmt.Sprintf("%s is known at %s", n.Name, got.GetManagerAddr())
				}
				if info := l.info(l.Nodes[3]); info.Error != "" || !slices.Contains(info.ManagerAddrs, moved) {
					return fmt.Sprintf("the worker knows %v, %s", info.ManagerAddrs, info.Error)
				}
				return ""
			})
		}
		l.serve("web", 4)
	})
}

// The address of the only manager changes: its worker finds it through a joined
// address no more, but the cluster itself goes on.
func TestChangedAddressOfTheOnlyManager(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Form(context.Background(), 1, 0)
		only := l.Nodes[0]
		moved := only.ip() + ":3000"
		only.Kill()
		only.Configure = func(cfg *node.Config) { cfg.ListenAddr, cfg.AdvertiseAddr = moved, moved }
		only.Start()
		l.await(time.Minute, func() string {
			if info := l.info(only); info.Addr != moved || info.Error != "" || !info.Leader {
				return fmt.Sprint(info)
			}
			return ""
		})
		l.serve("web", 1)
	})
}

func TestRemovedNode(t *testing.T) {
	for _, down := range []bool{false, true} {
		t.Run(fmt.Sprintf("down=%v", down), func(t *testing.T) {
			life(t, func(l *lifeRig) {
				l.Form(context.Background(), 1, 1)
				l.serve("web", 4)
				gone := l.Nodes[1]
				id := l.info(gone).NodeId
				if down {
					gone.Kill()
				}
				l.do("remove node", func(ctx context.Context, api pb.ControlClient) error {
					_, err := api.RemoveNode(ctx, &pb.RemoveNodeRequest{Ref: id, Force: true})
					return err
				})
				if down {
					gone.Start()
				}
				l.awaitRemoved(gone)
				l.awaitRunning(4)
				gone.Kill() // and knows it at its next start
				gone.Start()
				l.awaitRemoved(gone)
				l.must(gone.leave(true))
				l.must(gone.Join(context.Background(), l.Nodes[0], l.tokens(false).Worker))
				l.awaitRole(gone, worker)
			})
		})
	}
}

func (l *lifeRig) awaitRemoved(n *Node) {
	l.t.Helper()
	l.await(time.Minute, func() string {
		told := l.info(n).Error
		if !strings.Contains(told, "was removed from its cluster") || !strings.Contains(told, "minictl swarm leave --force") || alive(n) != 0 {
			return fmt.Sprintf("%d tasks run; info says %q", alive(n), told)
		}
		return ""
	})
}

func TestPortInUse(t *testing.T) {
	life(t, func(l *lifeRig) {
		n := l.Node()
		squatter, err := l.Net.Listen(n.addr())
		l.must(err)
		l.refused(n.init(&pb.InitRequest{}), fault.Unavailable, "address already in use")
		if info := l.info(n); info.NodeId != "" || info.Error != "" {
			t.Errorf("after a failed init: %v", info)
		}
		squatter.Close()
		l.must(n.init(&pb.InitRequest{}))
		l.serve("web", 2)
		// At a restart the node runs its tasks and takes the port when it is free.
		n.Kill()
		l.Net.Revive(n.ip())
		squatter, err = l.Net.Listen(n.addr())
		l.must(err)
		n.Start()
		l.await(time.Minute, func() string {
			if told := l.info(n).Error; !strings.Contains(told, "address already in use") {
				return fmt.Sprintf("info says %q", told)
			}
			return ""
		})
		if alive(n) != 2 {
			t.Errorf("%d tasks run", alive(n))
		}
		squatter.Close()
		l.awaitRole(n, manager)
		if l.starts() != 2 {
			t.Errorf("%d starts of 2 tasks", l.starts())
		}
	})
}

// Only one of many at once wins, and the others say so.
func TestInitAndJoinAtOnce(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Form(context.Background(), 1, 0)
		token := l.tokens(false).Worker
		n := l.Node()
		results := make(chan error, 6)
		for i := range 6 {
			go func() {
				if i%2 == 0 {
					results <- n.init(&pb.InitRequest{})
					return
				}
				results <- n.Join(context.Background(), l.Nodes[0], token)
			}()
		}
		won := 0
		for range 6 {
			if err := <-results; err == nil {
				won++
			} else {
				l.refused(err, fault.State, "")
			}
		}
		if won != 1 {
			t.Errorf("%d of them succeeded", won)
		}
		l.await(time.Minute, func() string { return l.info(n).Error })
	})
}

func TestJoinWithoutAManager(t *testing.T) {
	life(t, func(l *lifeRig) {
		l.Form(context.Background(), 1, 0)
		token := l.tokens(false).Worker
		n := l.Node()
		l.Nodes[0].Kill()
		if err := n.Join(context.Background(), l.Nodes[0], token); !fault.Is(err, fault.Unavailable) {
			t.Errorf("join without a manager: %v", err)
		}
		l.Nodes[0].Start()
		l.leader()
		l.must(n.Join(context.Background(), l.Nodes[0], token))
	})
}

func TestMetricsAndHealth(t *testing.T) {
	life(t, func(l *lifeRig) {
		for range 2 {
			n := l.Node()
			n.Kill()
			n.Configure = func(cfg *node.Config) { cfg.MetricsAddr, cfg.Version = n.ip()+":9100", "1.2.3" }
			n.Start()
		}
		first, second := l.Nodes[0], l.Nodes[1]
		if code, body := l.get(first, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "minictl swarm init") {
			t.Errorf("/readyz without a cluster: %d %q", code, body)
		}
		if code, _ := l.get(first, "/healthz"); code != http.StatusOK {
			t.Errorf("/healthz: %d", code)
		}
		l.must(first.init(&pb.InitRequest{}))
		l.must(second.Join(context.Background(), first, l.tokens(false).Worker))
		l.serve("web", 3)
		_, body := l.get(first, "/metrics")
		for _, line := range []string{
			`minid_info{role="manager",version="1.2.3"} 1`, "minid_leader 1", "minid_agent_session 1",
			"minid_raft_last_contact_seconds 0", `minid_nodes{state="ready"} 2`, `minid_nodes{state="down"} 0`,
			`minid_tasks{state="running"} 3`, "minid_certificate_expires_seconds 7.7", "minid_raft_applied_index ", "go_goroutines ",
		} {
			if !strings.Contains(body, "\n"+line) {
				t.Errorf("the leader's metrics lack %q", line)
			}
		}
		_, body = l.get(second, "/metrics")
		if !strings.Contains(body, `minid_info{role="worker",version="1.2.3"} 1`) || strings.Contains(body, "minid_tasks{") {
			t.Errorf("the worker's metrics: %s", body)
		}
		if code, body := l.get(second, "/readyz"); code != http.StatusOK || !strings.Contains(body, "worker, ") {
			t.Errorf("/readyz of the worker: %d %q", code, body)
		}
		first.Kill()
		l.await(time.Minute, func() string {
			if code, body := l.get(second, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no session with a leader") {
				return fmt.Sprintf("/readyz of a worker without a leader: %d %q", code, body)
			}
			return ""
		})
	})
}

func (l *lifeRig) get(n *Node, path string) (int, string) {
	l.t.Helper()
	web := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return l.Net.Dial(ctx, n.ip(), addr)
		},
	}}
	res, err := web.Get("http://" + n.ip() + ":9100" + path)
	l.must(err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	l.must(err)
	return res.StatusCode, string(body)
}
