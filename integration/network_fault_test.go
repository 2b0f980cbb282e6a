package integration_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

// TestNetworkTakesFaults does to the control plane and to the kernel what
// happens to them, while clients in tasks and outside go on asking.
func TestNetworkTakesFaults(t *testing.T) {
	w := sharedSwarm(t)
	f := w.fixture(t, fixture{name: "faulty", network: "faulty", port: 18100, replicas: 5})
	f.awaitWhole(t, "at first")
	for _, story := range []struct {
		name string
		tell func(*testing.T)
	}{
		{"leader killed", f.leaderKilled},
		{"managers gone", f.managersGone},
		{"daemons killed", f.daemonsKilled},
		{"kernel damaged", f.kernelDamaged},
		{"node cut off", f.nodeCutOff},
	} {
		if !t.Run(story.name, story.tell) {
			return // the next would begin with what this one left
		}
	}
}

// leaderKilled: no request fails, and the next leader's changes reach everyone.
func (f *fixture) leaderKilled(t *testing.T) {
	leader, follower, worker := f.names(t)
	tr := f.traffic(t, worker, f.Nodes()[4])
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	retry(t, f.world, "service", "scale", "--detach", f.name+"=8")
	// A node that stays away for longer is down, and its tasks are replaced.
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := follower.AwaitRunning(t.Context(), f.name, 8, patience); err != nil {
		t.Error(err)
	}
	f.awaitReady(t, 5)
	f.replicas = 8
	f.awaitWhole(t, "with another leader")
	tr.end(t)
}

// managersGone: what is programmed stays, on workers with names, also after
// their minid begins anew.
func (f *fixture) managersGone(t *testing.T) {
	managers, worker, other := f.Nodes()[:3], f.Nodes()[3], f.Nodes()[4]
	tr := f.traffic(t, worker, other)
	entry := f.traffic(t, other, managers[0])
	for _, n := range managers {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(3 * time.Second)
	// The names of a node's tasks end with its minid, and come back with it.
	named := tr.loads[0]
	out, _ := named.terminate(t)
	if _, failed := counted(t, out); failed != 0 {
		t.Errorf("without managers:\n%s", out)
	}
	tr.loads = tr.loads[1:]
	if err := worker.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "names on a worker that nobody speaks to", patience, func() error {
		_, err := runBeside(f.caller(worker), "get", f.virtual())
		return err
	})
	time.Sleep(3 * time.Second)
	var starts sync.WaitGroup
	for _, n := range managers {
		starts.Go(func() {
			if err := n.Start(); err != nil {
				t.Error(err)
			}
		})
	}
	starts.Wait()
	awaitWrite(t, managers[0], patience)
	f.awaitReady(t, 5)
	f.awaitWhole(t, "with managers again")
	tr.end(t)
	entry.end(t)
}

// daemonsKilled: minid ends at any moment of programming networks, services and
// ports, on every node, and all comes out as wanted.
func (f *fixture) daemonsKilled(t *testing.T) {
	nodes := f.Nodes()
	bin, err := sampleBinary()
	if err != nil {
		t.Fatal(err)
	}
	holds := []*running{startBeside(t, f.callers[3], "hold", f.virtual()), start(t, f.Outside, bin, "hold", f.published(nodes[4]))}
	for _, h := range holds {
		h.awaitOutput(t, "holding")
	}
	kills, stop := hammer(t, nodes)
	defer stop()
	retry(t, f.world, "service", "scale", "--detach", f.name+"=10")
	retry(t, f.world, "network", "create", "late")
	retry(t, f.world, "service", "create", "--detach", "--name", "late", "--replicas", "5", "--network", "late", "--publish", "18101:8080", sampleV1)
	kills.Wait()
	f.replicas = 10
	late := f.lateService(t)
	f.awaitWhole(t, "after all minids were killed")
	tasks, err := nodes[0].AwaitRunning(t.Context(), "late", 5, stormPatience)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		late.port = 18101
		await(t, "late through "+n.Name, patience, func() error {
			out, err := f.outside(t, "load", late.published(n), "10", "2", "oneshot")
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	for _, task := range tasks {
		await(t, "late asks itself", patience, func() error {
			_, err := runBeside(f.containerOf(t, task), "load", "http://late:8080/", "10", "2", "oneshot")
			return err
		})
	}
	for _, h := range holds {
		if out, code := h.terminate(t); code != 0 {
			t.Errorf("a connection did not last: %s", out)
		}
	}
}

// lateService is what daemonsKilled makes; it is removed with the test.
func (f *fixture) lateService(t *testing.T) fixture {
	t.Helper()
	f.undo(t, "network", "rm", "late")
	f.drop(t, "late")
	return fixture{world: f.world, name: "late", network: "late", replicas: 5}
}

// damage is done by hand on one node.
type damage struct {
	node   int
	script string
}

// kernelDamaged: whatever someone deletes is there again soon.
func (f *fixture) kernelDamaged(t *testing.T) {
	overlay := func(n *cluster.Node) string {
		return "nsenter --net=" + filepath.Join(n.RunDir(), "overlay", f.networkID) + " "
	}
	inTask := func(i int) string { return fmt.Sprintf("nsenter --target %d --net ", f.callers[i].pid) }
	all := f.Nodes()
	rounds := map[string][]damage{
		"links deleted": {
			{0, "ip link del mnmesh0"},
			{1, overlay(all[1]) + "ip link del $(" + overlay(all[1]) + "ip -o link show type vxlan | cut -d: -f2 | cut -d@ -f1)"},
			{2, overlay(all[2]) + "ip link del mnbr0"},
			{3, "for l in $(" + overlay(all[3]) + "ip -o link show type veth | cut -d: -f2 | cut -d@ -f1); do " + overlay(all[3]) + "ip link del $l; done"},
			{4, "ip link del mnlocal0"},
		},
		"rules flushed": {
			{0, "nft flush ruleset"},
			{1, "nft delete table inet minid_mesh || nft delete table ip minid_mesh"},
			{2, "nft delete table inet minid_overlay; nft flush table inet minid_local || nft flush table ip minid_local"},
			{3, inTask(3) + "nft flush ruleset"},
			{4, inTask(4) + "nft delete table inet minid_dns || " + inTask(4) + "nft delete table ip minid_dns"},
		},
		"ways changed": {
			{0, "ip route flush table 28014"},
			{1, "ip rule del priority 1090"},
			{2, "ip route flush dev mnmesh0"},
			{3, overlay(all[3]) + "ip neigh flush all nud permanent; " + overlay(all[3]) + "bridge fdb flush dev mnbr0 || true"},
			{4, "ip link set mnmesh0 down; ip link set mnlocal0 down"},
		},
	}
	for _, name := range []string{"links deleted", "rules flushed", "ways changed"} {
		for _, d := range rounds[name] {
			shell(t, all[d.node], d.script)
		}
		f.awaitWhole(t, "with "+name)
	}
}

// nodeCutOff: its tasks are replaced and nobody asks them any more; afterwards
// it is a node like the others.
func (f *fixture) nodeCutOff(t *testing.T) {
	nodes := f.Nodes()
	lost := nodes[3]
	id := idOf(t, nodes[0], lost.Name)
	if err := lost.Cut(); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, nodes[0], lost.Name, pb.NodeState_NODE_STATE_DOWN, patience)
	awaitReplaced(t, nodes[0], f.name, f.replicas, id, patience)
	time.Sleep(time.Second)
	f.traffic(t, nodes[4], nodes[2]).lastFor(t, 2*time.Second)
	if err := lost.Heal(); err != nil {
		t.Fatal(err)
	}
	f.awaitReady(t, 5)
	f.awaitWhole(t, "with the node back")
}

func (tr *traffic) lastFor(t *testing.T, d time.Duration) {
	t.Helper()
	time.Sleep(d)
	tr.end(t)
}

// TestScaledUnderLoad: a service grows from one task to fifty and back while it
// is asked, and no request fails.
func TestScaledUnderLoad(t *testing.T) {
	w := sharedSwarm(t)
	f := w.fixture(t, fixture{name: "burst", network: "burst", port: 18102, replicas: 1})
	worker, entry := w.Nodes()[3], w.Nodes()[4]
	loads := []*running{
		startBeside(t, f.caller(worker), endless(f.virtual(), "oneshot")...), startBeside(t, f.caller(entry), endless(f.virtual(), "keepalive")...),
		w.loadOutside(t, f.published(entry), "oneshot"), w.loadOutside(t, f.published(w.Nodes()[0]), "keepalive"),
	}
	for _, n := range []int{50, 1} {
		began := time.Now()
		ctl(t, w.Nodes()[0], "service", "scale", "--detach", fmt.Sprint(f.name, "=", n))
		if _, err := w.Nodes()[0].AwaitRunning(t.Context(), f.name, n, 2*patience); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d tasks after %v", n, time.Since(began).Round(10*time.Millisecond))
	}
	await(t, "the containers of 49 tasks end", patience, func() error {
		if left := w.allContainers(f.name); len(left) != 1 {
			return fmt.Errorf("%d containers", len(left))
		}
		return nil
	})
	total := 0
	for _, l := range loads {
		out, _ := l.terminate(t)
		by, failed := counted(t, out)
		total += len(by)
		if failed != 0 {
			t.Errorf("%d requests failed:\n%s", failed, out)
		}
	}
	// Connections that are kept stay where they are.
	if total < 20 {
		t.Errorf("only %d answers came from different tasks", total)
	}
}
