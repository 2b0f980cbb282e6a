package integration_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	pb "github.com/minid/minid/proto/minid/v1"
)

// TestAddressesScarce: a small network hands out all its addresses, again and at
// once, and says what is missing when there are none.
func TestAddressesScarce(t *testing.T) {
	w := sharedSwarm(t)
	n := w.Nodes()[0]
	w.network(t, "scarce", "--subnet", "10.201.0.0/29")
	w.create(t, n, service{name: "few", replicas: 3, flags: []string{"--network", "scarce", "--env", "QUIET=1", "--stop-grace-period", "2s"}})
	ctl(t, n, "service", "scale", "--detach", "few=0")
	ctl(t, n, "service", "scale", "--detach", "few=3")
	tasks, err := n.AwaitRunning(t.Context(), "few", 3, patience)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "tasks with addresses of others before them", patience, func() error { return w.eachIsItself(t, tasks, "http://few:8080/") })

	w.create(t, n, service{name: "guest", flags: []string{"--network", "scarce", "--endpoint-mode", "dnsrr", "--stop-grace-period", "1s"}})
	ctl(t, n, "service", "scale", "--detach", "few=4")
	const why = "no free address in network scarce (10.201.0.0/29, 5 of 5 used)"
	await(t, "a task that waits for an address", patience, func() error {
		if out := ctl(t, n, "service", "ps", "--no-trunc", "few"); !strings.Contains(out, why) {
			return fmt.Errorf("service ps does not say why:\n%s", out)
		}
		return nil
	})
	says(t, "task why", ctl(t, n, "task", "why", "few.4"), why)
	says(t, "network inspect", ctl(t, n, "network", "inspect", "-v", "--pretty", "scarce"), "few", "guest", "10.201.0.0/29")
	ctl(t, n, "service", "scale", "--detach", "guest=0")
	if tasks, err = n.AwaitRunning(t.Context(), "few", 4, patience); err != nil {
		t.Fatal(err)
	}
	await(t, "the address of another service's task", patience, func() error { return w.eachIsItself(t, tasks, "http://few:8080/") })
}

// eachIsItself finds each task at its own address only, and all through the
// service's, as the first of them sees it.
func (w *world) eachIsItself(t *testing.T, tasks []*pb.Task, virtual string) error {
	t.Helper()
	from := w.containerOf(t, tasks[0])
	at := map[string]bool{}
	for _, task := range tasks {
		addr := addressOn(t, task, 0)
		if at[addr] {
			return fmt.Errorf("%s was given twice", addr)
		}
		at[addr] = true
		out, err := runBeside(from, "get", "http://"+addr+":8080/")
		if err != nil {
			return err
		}
		if got := readAnswer(out).host; got != task.Id[:12] {
			return fmt.Errorf("%s is %s and not task %s", addr, got, task.Id)
		}
	}
	out, err := runBeside(from, "load", virtual, "40", "2", "oneshot")
	if err != nil {
		return err
	}
	if by, _ := counted(t, out); len(by) != len(tasks) {
		return fmt.Errorf("%d of %d tasks answer: %v", len(by), len(tasks), by)
	}
	return nil
}

// TestDatagramsMove: a client that sends from one port all the time is led to
// the task that took the place of the one it spoke to.
func TestDatagramsMove(t *testing.T) {
	w := sharedSwarm(t)
	n := w.Nodes()[0]
	w.network(t, "moving")
	tasks := w.create(t, n, service{name: "moving", flags: []string{"--network", "moving", "--publish", "18110:8080/udp", "--stop-grace-period", "1s"}, command: []string{"udp"}})
	caller := w.create(t, n, service{name: "mover", flags: []string{"--network", "moving", "--stop-grace-period", "1s"}, command: []string{"sleep"}})
	bin, err := sampleBinary()
	if err != nil {
		t.Fatal(err)
	}
	chats := []*running{
		startBeside(t, w.containerOf(t, caller[0]), "chat", "moving:8080", "40001"),
		start(t, w.Outside, bin, "chat", w.Nodes()[3].Addr+":18110", "40002"),
		start(t, w.Outside, bin, "chat", w.Nodes()[4].Addr+":18110", "40003"),
	}
	for range 2 {
		for _, c := range chats {
			c.awaitOutput(t, tasks[0].Id[:12])
		}
		before := tasks[0].Id
		ctl(t, n, "service", "update", "--detach", "--force", "moving")
		await(t, "another task", patience, func() (err error) {
			if tasks, err = n.AwaitRunning(t.Context(), "moving", 1, patience); err == nil && tasks[0].Id == before {
				err = fmt.Errorf("still task %s", before)
			}
			return err
		})
	}
	for _, c := range chats {
		c.awaitOutput(t, tasks[0].Id[:12])
	}
}

// TestStacksApart: two stacks that both have a db find their own, under all
// kinds of names.
func TestStacksApart(t *testing.T) {
	w := sharedSwarm(t)
	n := w.Nodes()[0]
	clients, dbs := map[string]container{}, map[string][]*pb.Task{}
	for stack, mode := range map[string]string{"red": "vip", "tan": "dnsrr"} {
		w.network(t, stack)
		flags := []string{"--network", "name=" + stack + ",alias=db", "--env", "QUIET=1", "--endpoint-mode", mode}
		if mode == "vip" {
			flags = append(flags, "--publish", "18120:8080")
		}
		dbs[stack] = w.create(t, n, service{name: stack + "_db", replicas: 2, flags: flags})
		client := w.create(t, n, service{name: stack + "_web", flags: []string{"--network", stack, "--stop-grace-period", "1s"}, command: []string{"sleep"}})
		clients[stack] = w.containerOf(t, client[0])
	}
	for stack, c := range clients {
		for _, name := range []string{"db", stack + "_db", "tasks.db"} {
			out, err := runBeside(c, "load", "http://"+name+":8080/", "20", "2", "oneshot")
			if err != nil {
				t.Errorf("%s from %s: %v", name, stack, err)
				continue
			}
			by, _ := counted(t, out)
			for _, task := range dbs[stack] {
				delete(by, task.Id[:12])
			}
			if len(by) > 0 {
				t.Errorf("%s from %s leads to others: %v", name, stack, by)
			}
		}
	}
	names(t, clients["red"], dbs["red"])
	// Round robin is the tasks' own addresses, and nothing more.
	out, err := runBeside(clients["tan"], "resolve", "db")
	var own []string
	for _, task := range dbs["tan"] {
		own = append(own, addressOn(t, task, 0))
	}
	slices.Sort(own)
	if got := strings.Fields(out); err != nil || !slices.Equal(got, own) {
		t.Errorf("db of stack tan is %v and not %v: %v", got, own, err)
	}
	if out, err := runBeside(clients["red"], "resolve", "tan_db"); err == nil {
		t.Errorf("stack red sees stack tan: %s", out)
	}
}

// names asks for ports and for the names of addresses.
func names(t *testing.T, c container, tasks []*pb.Task) {
	t.Helper()
	out, err := runBeside(c, "srv", "_8080._tcp.red_db")
	if err != nil || len(strings.Fields(out)) != 2 {
		t.Errorf("ports: %q, %v", out, err)
	}
	for _, target := range strings.Fields(out) {
		host, port, _ := net.SplitHostPort(target)
		if _, err := runBeside(c, "get", "http://"+net.JoinHostPort(host, port)+"/"); err != nil || port != "8080" {
			t.Errorf("target %s: %v", target, err)
		}
	}
	for _, task := range tasks {
		out, err := runBeside(c, "ptr", addressOn(t, task, 0))
		if err != nil || !strings.HasPrefix(out, fmt.Sprintf("red_db.%d.%s", task.Slot, task.Id)) {
			t.Errorf("the name of task %s: %q, %v", task.Id, out, err)
		}
	}
	vip, err := runBeside(c, "resolve", "red_db")
	if err != nil {
		t.Error(err)
	}
	if out, err := runBeside(c, "ptr", vip); err != nil || !strings.HasPrefix(out, "red_db") {
		t.Errorf("the name of %s: %q, %v", vip, out, err)
	}
}

// TestKindsOfNetworks: each kind keeps to what it is for.
func TestKindsOfNetworks(t *testing.T) {
	w := sharedSwarm(t)
	n := w.Nodes()[0]
	w.network(t, "near", "-d", "bridge")
	w.network(t, "shut", "--internal")
	w.network(t, "dual", "--ipv6")
	quick := []string{"--stop-grace-period", "1s"}
	near := w.create(t, n, service{name: "near", replicas: 5, global: true, flags: append(quick, "--network", "near")})
	shut := w.create(t, n, service{name: "shut", replicas: 2, flags: append(quick, "--network", "shut")})
	dual := w.create(t, n, service{name: "dual", replicas: 2, flags: append(quick, "--network", "dual")})

	for _, task := range near {
		out, err := runBeside(w.containerOf(t, task), "load", "http://near:8080/", "10", "1", "oneshot")
		if err != nil {
			t.Error(err)
			continue
		}
		if by, _ := counted(t, out); len(by) != 1 || by[task.Id[:12]] != 10 {
			t.Errorf("a bridge network leads to other nodes: %v is not %s", by, task.Id)
		}
	}

	outside := "http://" + registryHost + "/v2/"
	if out, err := runBeside(w.containerOf(t, shut[0]), "get", outside); err == nil {
		t.Errorf("there is a way out of an internal network: %s", out)
	}
	if _, err := runBeside(w.containerOf(t, near[0]), "get", outside); err != nil {
		t.Errorf("there is no way out of another: %v", err)
	}
	if _, err := runBeside(w.containerOf(t, shut[0]), "load", "http://shut:8080/", "10", "1", "oneshot"); err != nil {
		t.Error(err)
	}

	c := w.containerOf(t, dual[0])
	out, err := runBeside(c, "resolve", "dual")
	four, six := 0, ""
	for _, addr := range strings.Fields(out) {
		if strings.Contains(addr, ":") {
			six = addr
		} else {
			four++
		}
	}
	if err != nil || four != 1 || six == "" {
		t.Fatalf("dual is %q, %v", out, err)
	}
	to := []string{six}
	for _, task := range dual {
		if len(task.Addresses[0].Addresses) != 2 {
			t.Fatalf("task %s has %v", task.Id, task.Addresses)
		}
		addr, _, _ := strings.Cut(task.Addresses[0].Addresses[1], "/")
		to = append(to, addr)
	}
	for _, addr := range to {
		if out, err := runBeside(c, "load", "http://["+addr+"]:8080/", "10", "1", "oneshot"); err != nil {
			t.Errorf("%s: %v", addr, err)
		} else if by, _ := counted(t, out); addr == six && len(by) != 2 {
			t.Errorf("%s is only %v", addr, by)
		}
	}
}

// TestNetworksRefused: what cannot be is refused with the names of those in the
// way, and what nobody uses is pruned.
func TestNetworksRefused(t *testing.T) {
	w := sharedSwarm(t)
	n := w.Nodes()[0]
	w.network(t, "plot", "--subnet", "10.202.0.0/16")
	w.create(t, n, service{name: "tenant", flags: []string{"--network", "plot", "--stop-grace-period", "1s"}})
	for _, c := range []struct {
		code  int
		words []string
		args  []string
	}{
		{4, []string{"10.202.3.0/24", "network plot"}, []string{"network", "create", "--subnet", "10.202.3.0/24", "within"}},
		{4, []string{"network plot"}, []string{"network", "create", "--subnet", "10.200.0.0/13", "around"}},
		{2, []string{"10.77.0.0/24", "node n"}, []string{"network", "create", "--subnet", "10.77.0.0/16", "underlay"}},
		{4, []string{"tenant"}, []string{"network", "rm", "plot"}},
		{3, []string{"nowhere"}, []string{"service", "create", "--network", "nowhere", sampleV1}},
	} {
		refused(t, n, c.code, c.words, c.args...)
	}
	ctl(t, n, "network", "create", "idle")
	if out := ctl(t, n, "network", "prune", "--force"); !strings.Contains(out, "idle") || strings.Contains(out, "plot") {
		t.Errorf("pruned: %s", out)
	}
	if out := ctl(t, n, "network", "ls", "--format", "{{.Name}}"); strings.Contains(out, "idle") || !strings.Contains(out, "plot") {
		t.Errorf("networks: %s", out)
	}
}

// TestNetworkChecked: a check of a whole network is content, and one of a network
// that someone filters says where.
func TestNetworkChecked(t *testing.T) {
	w := sharedSwarm(t)
	n, deaf := w.Nodes()[0], w.Nodes()[3]
	w.network(t, "checked", "-o", "encrypted")
	tasks := w.create(t, n, service{name: "checked", replicas: 5, global: true,
		flags: []string{"--network", "checked", "--publish", "18130:8080", "--stop-grace-period", "1s"}})
	content := func() error {
		res := try(t, n, "network", "check")
		if res.Code != 0 || !strings.Contains(res.Stdout, "on 5 nodes succeeded") {
			return fmt.Errorf("exit code %d: %s%s", res.Code, res.Stdout, res.Stderr)
		}
		return nil
	}
	await(t, "all probes succeed", patience, content)
	out := ctl(t, n, "network", "check")
	for _, pair := range w.Nodes()[1:] {
		says(t, "network check", out, pair.Addr)
	}
	says(t, "network check", out, "18130/tcp of checked", "WireGuard", "packets of")
	pretty := ctl(t, n, "network", "inspect", "-v", "--pretty", "checked")
	says(t, "network inspect", pretty, "encrypted", "VIP", "18130->8080/tcp")
	for i, task := range tasks {
		says(t, "network inspect", pretty, addressOn(t, task, 0), w.Nodes()[i].Addr)
	}

	shell(t, deaf, "nft 'add table inet firewall; add chain inet firewall in { type filter hook input priority -10; }; add rule inet firewall in udp dport 4789 drop'")
	t.Cleanup(func() { shell(t, deaf, "nft delete table inet firewall 2>/dev/null || true") })
	res := try(t, n, "network", "check")
	if res.Code != 1 {
		t.Errorf("exit code %d: %s", res.Code, res.Stderr)
	}
	failed := 0
	for line := range strings.Lines(res.Stdout) {
		if strings.Contains(line, "FAILED") {
			failed++
			// A port of other nodes may lead to the deaf one's task.
			if !strings.Contains(line, "18130/tcp") {
				says(t, "what failed", line, deaf.Name)
			}
		}
	}
	says(t, "network check", res.Stdout, "is UDP port 4789 open between the nodes?")
	if failed < 8 {
		t.Errorf("%d probes failed:\n%s", failed, res.Stdout)
	}
	shell(t, deaf, "nft delete table inet firewall")
	await(t, "all probes succeed again", patience, content)
}

// TestNarrowPath: when packets have to be smaller on the way to one node, large
// answers still come through every kind of network and through the mesh.
func TestNarrowPath(t *testing.T) {
	w := sharedSwarm(t)
	n, narrow := w.Nodes()[0], w.Nodes()[3]
	w.network(t, "wide")
	w.network(t, "coded", "-o", "encrypted")
	tasks := w.create(t, n, service{name: "bulky", replicas: 5, global: true, flags: []string{"--network", "wide", "--network", "coded",
		"--publish", "18140:8080", "--env", "QUIET=1", "--stop-grace-period", "1s"}})
	large := func() error {
		here := w.containerOf(t, tasksOn(tasks, idOf(t, n, narrow.Name))[0])
		for i, task := range tasks {
			there := w.containerOf(t, task)
			for _, try := range []struct {
				from container
				host string
			}{{here, addressOn(t, task, 0)}, {here, addressOn(t, task, 1)}, {there, "bulky"}} {
				if _, err := runBeside(try.from, "load", "http://"+try.host+":8080/?size=300000", "3", "1", "oneshot"); err != nil {
					return fmt.Errorf("task %d: %w", i, err)
				}
			}
		}
		for _, entry := range w.Nodes() {
			if out, err := w.outside(t, "load", fmt.Sprintf("http://%s:18140/?size=300000", entry.Addr), "10", "2", "oneshot"); err != nil {
				return fmt.Errorf("through %s: %w: %s", entry.Name, err, out)
			}
		}
		return nil
	}
	await(t, "large answers", patience, large)
	resize := func(bytes int) {
		t.Helper()
		shell(t, narrow, fmt.Sprint("ip link set eth0 mtu ", bytes))
		if out, err := w.onHub(fmt.Sprint("ip link set port4 mtu ", bytes)); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		// It tells of itself when its minid starts, and each minute.
		if err := narrow.Kill(); err != nil {
			t.Error(err)
		}
		if err := narrow.Start(); err != nil {
			t.Error(err)
		}
		w.awaitReady(t, 5)
	}
	resize(1300)
	defer resize(1500)
	t.Logf("large answers after %v", await(t, "large answers by small packets", patience, large))
	await(t, "a check of the narrow path", patience, func() error {
		if res := try(t, n, "network", "check"); res.Code != 0 {
			return fmt.Errorf("%s%s", res.Stdout, res.Stderr)
		}
		return nil
	})
}
