package integration_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestDrainAndPause(t *testing.T) {
	w := sharedSwarm(t)
	via, target := w.Nodes()[1], w.Nodes()[4]
	id := idOf(t, via, target.Name)
	t.Cleanup(func() { target.Ctl(context.Background(), "info"); activate(w, target.Name) })
	tasks := w.makeService(t, via, "settled", 5)
	if len(tasksOn(tasks, id)) != 1 {
		t.Fatalf("five tasks are not spread over five nodes: %v", tasks)
	}
	// Pause: what runs stays, nothing new comes.
	ctl(t, via, "node", "update", "--availability", "pause", target.Name)
	before := w.allContainers("settled")
	ctl(t, via, "service", "scale", "--detach", "settled=10")
	tasks, err := via.AwaitRunning(t.Context(), "settled", 10, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(tasksOn(tasks, id)); got != 1 {
		t.Errorf("%d tasks on the paused node, not 1", got)
	}
	after := w.allContainers("settled")
	for task, was := range before {
		if after[task] != was {
			t.Errorf("task %s was touched by the pause", task)
		}
	}
	// Drain: everything goes.
	ctl(t, via, "node", "update", "--availability", "drain", target.Name)
	tasks = awaitReplaced(t, via, "settled", 10, id, 30*time.Second)
	await(t, "containers gone from the drained node", 20*time.Second, func() error {
		if left := containers(target); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
	// Active again: nothing moves back, new tasks come.
	ctl(t, via, "node", "update", "--availability", "active", target.Name)
	nothingMoves(t, via, "settled", tasks)
	ctl(t, via, "service", "scale", "--detach", "settled=12")
	if tasks, err = via.AwaitRunning(t.Context(), "settled", 12, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if got := len(tasksOn(tasks, id)); got != 2 {
		t.Errorf("%d new tasks on the emptiest node, not 2", got)
	}
}

func activate(w *world, name string) {
	if n, err := w.manager(); err == nil {
		n.Ctl(context.Background(), "node", "update", "--availability", "active", name)
	}
}

// TestMembershipChanges goes through a node's ways in and out of a cluster.
func TestMembershipChanges(t *testing.T) {
	w := ownSwarm(t)
	w.makeService(t, w.Nodes()[0], "resident", 5)
	t.Run("promote and demote", func(t *testing.T) { promoteAndDemote(t, w) })
	t.Run("demote the leader", func(t *testing.T) { demoteLeader(t, w) })
	t.Run("remove refused", func(t *testing.T) { removeRefused(t, w) })
	t.Run("worker leaves and comes back", func(t *testing.T) { workerLeaves(t, w) })
	t.Run("manager leaves", func(t *testing.T) { managerLeaves(t, w) })
	t.Run("demote a lost manager", func(t *testing.T) { demoteLost(t, w) })
	t.Run("remove a dead node", func(t *testing.T) { removeDead(t, w) })
}

// promoteAndDemote makes worker n4 a manager and back. Its containers go on.
func promoteAndDemote(t *testing.T, w *world) {
	nodes := w.Nodes()
	before := w.allContainers("resident")
	ctl(t, nodes[0], "node", "promote", "n4")
	awaitManager(t, nodes[0], "n4", true)
	// The new manager answers for the cluster, and its vote counts.
	awaitWrite(t, nodes[3], 20*time.Second)
	if err := nodes[1].Kill(); err != nil {
		t.Fatal(err)
	}
	awaitWrite(t, nodes[3], 20*time.Second)
	if err := nodes[1].Start(); err != nil {
		t.Fatal(err)
	}
	w.awaitReady(t, 5)
	ctl(t, nodes[3], "node", "demote", "n4")
	awaitManager(t, nodes[0], "n4", false)
	await(t, "n4 knows", 20*time.Second, func() error {
		res, err := nodes[3].Ctl(t.Context(), "node", "ls")
		if err == nil {
			return fmt.Errorf("a worker lists nodes: %s", res.Stdout)
		}
		if res.Code != 8 && res.Code != 9 && !strings.Contains(res.Stderr, "not a manager") {
			return err
		}
		return nil
	})
	refused(t, nodes[3], 8, []string{"not a manager"}, "service", "ls")
	w.awaitReady(t, 5)
	sameContainers(t, "promoted and demoted", before, w.allContainers("resident"))
}

// awaitManager waits until a node is a manager that is reached, or none.
func awaitManager(t *testing.T, via *cluster.Node, name string, want bool) {
	t.Helper()
	await(t, fmt.Sprintf("%s manager: %t", name, want), 30*time.Second, func() error {
		node, err := nodeOf(t.Context(), via, name)
		if err != nil {
			return err
		}
		if got := node.GetManagerStatus().GetReachable(); got != want {
			return fmt.Errorf("role %v, status %v", node.GetRole(), node.GetManagerStatus())
		}
		return nil
	})
}

func demoteLeader(t *testing.T, w *world) {
	leader := leaderOf(t, w)
	via := others(w, leader)[0]
	before := w.allContainers("resident")
	ctl(t, leader, "node", "demote", leader.Name)
	took := awaitWrite(t, via, 20*time.Second)
	t.Logf("leader demoted: writes accepted after %v", took.Round(10*time.Millisecond))
	awaitManager(t, via, leader.Name, false)
	await(t, "another leads", 20*time.Second, func() error {
		info, err := leader.Info(t.Context())
		if err == nil && (info.Leader || info.Role != pb.NodeRole_NODE_ROLE_WORKER) {
			err = fmt.Errorf("%s: leader %t, role %v", leader.Name, info.Leader, info.Role)
		}
		return err
	})
	awaitNode(t, via, leader.Name, ready, 20*time.Second)
	sameContainers(t, "leader demoted", before, w.allContainers("resident"))
	ctl(t, via, "node", "promote", leader.Name)
	awaitManager(t, via, leader.Name, true)
	awaitWrite(t, leader, 20*time.Second)
}

func removeRefused(t *testing.T, w *world) {
	via := w.Nodes()[0]
	refused(t, via, 1, []string{"Try: "}, "node", "rm", "n5")
	refused(t, via, 1, []string{"Try: "}, "node", "rm", "n2")
	refused(t, via, 3, nil, "node", "rm", "n99")
}

func workerLeaves(t *testing.T, w *world) {
	via, worker := w.Nodes()[0], w.Nodes()[4]
	old := idOf(t, via, worker.Name)
	ctl(t, worker, "swarm", "leave")
	if left := containers(worker); len(left) > 0 {
		t.Errorf("containers are left on the node that left: %v", left)
	}
	awaitReplaced(t, via, "resident", 5, old, 20*time.Second)
	awaitNode(t, via, old, down, 20*time.Second)
	refused(t, worker, 8, []string{"not part of a cluster"}, "swarm", "leave")
	ctl(t, via, "node", "rm", old)
	if err := worker.Join(t.Context(), via, "worker"); err != nil {
		t.Fatal(err)
	}
	w.awaitReady(t, 5)
	if now := idOf(t, via, worker.Name); now == old {
		t.Error("a node that left came back under its old identity")
	}
}

func managerLeaves(t *testing.T, w *world) {
	leader := leaderOf(t, w)
	gone := others(w, leader)[0]
	old := idOf(t, leader, gone.Name)
	refused(t, gone, 1, []string{"--force"}, "swarm", "leave")
	ctl(t, gone, "swarm", "leave", "--force")
	awaitWrite(t, leader, 20*time.Second)
	awaitReplaced(t, leader, "resident", 5, old, 20*time.Second)
	awaitNode(t, leader, old, down, 20*time.Second)
	// As in Swarm, a manager's name goes in two steps.
	refused(t, leader, 1, []string{"minictl node demote"}, "node", "rm", old)
	ctl(t, leader, "node", "demote", old)
	await(t, "removed", 20*time.Second, func() error {
		_, err := leader.Ctl(t.Context(), "node", "rm", old)
		return err
	})
	if err := gone.Join(t.Context(), leader, "manager"); err != nil {
		t.Fatal(err)
	}
	awaitManager(t, leader, gone.Name, true)
	w.awaitReady(t, 5)
}

// demoteLost takes the vote of a manager that lost power. Back, it is a worker.
func demoteLost(t *testing.T, w *world) {
	leader := leaderOf(t, w)
	lost := others(w, leader)[1]
	lost.PowerOff()
	awaitNode(t, leader, lost.Name, down, 25*time.Second)
	ctl(t, leader, "node", "demote", lost.Name)
	await(t, "role taken", 20*time.Second, func() error {
		node, err := nodeOf(t.Context(), leader, lost.Name)
		if err == nil && node.Role != pb.NodeRole_NODE_ROLE_WORKER {
			err = fmt.Errorf("role %v", node.Role)
		}
		return err
	})
	awaitWrite(t, leader, 20*time.Second)
	if err := lost.Start(); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, leader, lost.Name, ready, 30*time.Second)
	await(t, "a worker by its certificate", 20*time.Second, func() error {
		info, err := lost.Info(t.Context())
		if err == nil && info.Role != pb.NodeRole_NODE_ROLE_WORKER {
			err = fmt.Errorf("role %v", info.Role)
		}
		return err
	})
	if _, err := leader.AwaitRunning(t.Context(), "resident", 5, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	ctl(t, leader, "node", "promote", lost.Name)
	awaitManager(t, leader, lost.Name, true)
	awaitWrite(t, lost, 20*time.Second)
}

// removeDead forgets a node that lost power, with its tasks. When its machine
// comes back it may not return.
func removeDead(t *testing.T, w *world) {
	via, dead := w.Nodes()[0], w.Nodes()[3]
	id := idOf(t, via, dead.Name)
	dead.PowerOff()
	awaitReplaced(t, via, "resident", 5, id, 25*time.Second)
	ctl(t, via, "node", "rm", dead.Name)
	if err := dead.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "stale containers gone", 20*time.Second, func() error {
		if left := containers(dead); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
	refusedAsRemoved(t, via, dead, id)
	ctl(t, dead, "swarm", "leave")
	if err := dead.Join(t.Context(), via, "worker"); err != nil {
		t.Fatal(err)
	}
	w.awaitReady(t, 5)
}

func refusedAsRemoved(t *testing.T, via, dead *cluster.Node, id string) {
	t.Helper()
	list, err := api(t, via).Control.ListNodes(t.Context(), &pb.ListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(list.Nodes, func(n *pb.Node) bool { return n.Id == id }) {
		t.Errorf("the removed %s is in the list again", dead.Name)
	}
	await(t, "log of the removed node says why", 20*time.Second, func() error {
		if log := dead.LogTail(50); !strings.Contains(log, "removed") {
			return fmt.Errorf("log: %s", log)
		}
		return nil
	})
}

// TestJoiningWrongly tries every wrong way into a cluster.
func TestJoiningWrongly(t *testing.T) {
	w := ownWorld(t)
	var nodes []*cluster.Node
	for range 3 {
		n, err := w.Node()
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, n)
	}
	first, second, other := nodes[0], nodes[1], nodes[2]
	refused(t, first, 8, []string{"swarm init", "swarm join"}, "node", "ls")
	ctl(t, first, "swarm", "init", "--advertise-addr", first.Addr)
	ctl(t, other, "swarm", "init", "--advertise-addr", other.Addr)
	refused(t, first, 1, []string{"already part of", "swarm leave"}, "swarm", "init")

	worker, foreign := ctl(t, first, "swarm", "join-token", "-q", "worker"), ctl(t, other, "swarm", "join-token", "-q", "worker")
	join := func(token string, to *cluster.Node) []string {
		return []string{"swarm", "join", "--advertise-addr", second.Addr, "--token", token, to.Addr + ":2377"}
	}
	for what, c := range map[string]struct {
		token string
		to    *cluster.Node
		says  string
	}{
		"nonsense":           {"nonsense", first, "token"},
		"wrong secret":       {worker[:strings.LastIndex(worker, "-")+1] + strings.Repeat("0", len(worker)-strings.LastIndex(worker, "-")-1), first, "token"},
		"another cluster's":  {foreign, first, "CA"},
		"to another cluster": {worker, other, "CA"},
	} {
		t.Run(what, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			res, err := second.Ctl(ctx, join(c.token, c.to)...)
			t.Logf("code %d: %s", res.Code, res.Stderr)
			if err == nil || !strings.Contains(res.Stderr, c.says) {
				t.Errorf("join does not refuse with %q: %v", c.says, err)
			}
		})
	}
	ctl(t, first, "swarm", "join-token", "--rotate", "-q", "worker")
	refused(t, second, 9, []string{"token"}, join(worker, first)...)

	// A worker's token makes workers, whatever else is asked.
	if err := second.Join(t.Context(), first, "worker"); err != nil {
		t.Fatal(err)
	}
	if info, err := second.Info(t.Context()); err != nil || info.Role != pb.NodeRole_NODE_ROLE_WORKER {
		t.Errorf("joined as %v: %v", info.GetRole(), err)
	}
	refused(t, second, 1, []string{"already part of", "swarm leave"}, join(worker, first)...)
	refused(t, second, 1, []string{"already part of"}, "swarm", "init")
	refused(t, second, 8, []string{"not a manager"}, "node", "ls")
	refused(t, second, 8, []string{"not a manager"}, "swarm", "join-token", "worker")
	w.awaitMembers(t, first, 2)
}

// awaitMembers waits for a cluster of so many ready nodes.
func (w *world) awaitMembers(t *testing.T, via *cluster.Node, want int) {
	t.Helper()
	await(t, "members", 20*time.Second, func() error {
		list, err := api(t, via).Control.ListNodes(t.Context(), &pb.ListRequest{})
		if err == nil && len(list.Nodes) != want {
			err = fmt.Errorf("%d nodes, not %d: %v", len(list.Nodes), want, list.Nodes)
		}
		return err
	})
}
