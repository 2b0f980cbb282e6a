package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/minid/minid/integration/cluster"
	"github.com/minid/minid/integration/sample/image"
	pb "github.com/minid/minid/proto/minid/v1"
)

// registryPort is where the images are served, in the hub.
const registryPort = 5000

// tour is the state of the tour.
type tour struct {
	c *cluster.Cluster
	// ctl is the manager that minictl talks to: a follower, to show that any
	// manager answers.
	ctl *cluster.Node
	n   int
}

type step struct {
	title string
	do    func(context.Context) error
}

func (t *tour) steps() []step {
	return []step{
		{"A registry with the sample image, in two versions", t.serveImages},
		{"Three managers and two workers make a cluster", t.form},
		{"A network over all nodes, and a service on it: three replicas, spread over the zones: managers, n4, n5", t.create},
		{"A task of another service reaches it by its name", t.callByName},
		{"Its published port answers on every node, and sees who calls", t.visit},
		{"A killed container is replaced", t.killContainer},
		{"A lost worker's tasks are replaced", t.loseWorker},
		{"The leader dies: its port answers, writes go on, no container is restarted", t.loseLeader},
		{"A rolling update to v2, while clients go on asking", t.update},
		{"The logs of all replicas, in order of time", t.logs},
		{"A secret reaches the tasks it was given to", t.secret},
		{"A service that fits nowhere says why", t.why},
		{"Everything is removed again", t.remove},
	}
}

func (t *tour) heading(title string) {
	t.n++
	fmt.Printf("\n\n== %d. %s\n", t.n, title)
}

// minictl shows a command and what it prints.
func (t *tour) minictl(ctx context.Context, args ...string) (cluster.Result, error) {
	return t.minictlInput(ctx, "", args...)
}

func (t *tour) minictlInput(ctx context.Context, input string, args ...string) (cluster.Result, error) {
	fmt.Printf("\n%s$ minictl %s\n", t.ctl.Name, quoted(args))
	res, err := t.ctl.CtlInput(ctx, input, args...)
	fmt.Print(indent(res.Stderr), indent(res.Stdout))
	return res, err
}

func quoted(args []string) string {
	words := slices.Clone(args)
	for i, w := range words {
		if strings.ContainsAny(w, " ={}*") && strings.Contains(w, " ") {
			words[i] = "'" + w + "'"
		}
	}
	return strings.Join(words, " ")
}

func indent(text string) string {
	if text == "" {
		return ""
	}
	return "    " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n    ") + "\n"
}

func (t *tour) imageRef(version string) string {
	return fmt.Sprintf("%s:%d/sample:%s", t.c.HubAddr(), registryPort, version)
}

func (t *tour) serveImages(ctx context.Context) error {
	l, err := t.c.Listen(registryPort)
	if err != nil {
		return err
	}
	go http.Serve(l, registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	for _, version := range []string{"v1", "v2"} {
		img, err := image.Build(ctx, image.Options{Version: version})
		if err != nil {
			return err
		}
		if err := t.push(ctx, t.imageRef(version), img); err != nil {
			return err
		}
		fmt.Println("    " + t.imageRef(version))
	}
	return nil
}

func (t *tour) form(ctx context.Context) error {
	began := time.Now()
	if err := t.c.Swarm(ctx, 3, 2); err != nil {
		return err
	}
	for _, n := range t.c.Nodes() {
		if err := n.AllowRegistry(fmt.Sprintf("%s:%d", t.c.HubAddr(), registryPort)); err != nil {
			return err
		}
	}
	fmt.Printf("    %.1f s\n", time.Since(began).Seconds())
	t.ctl = t.c.Nodes()[1]
	for i, zone := range []string{"a", "a", "a", "b", "c"} {
		if _, err := t.ctl.Ctl(ctx, "node", "update", "--label-add", "zone="+zone, t.c.Nodes()[i].Name); err != nil {
			return err
		}
	}
	_, err := t.minictl(ctx, "node", "ls")
	return err
}

func (t *tour) create(ctx context.Context) error {
	if _, err := t.minictl(ctx, "network", "create", "front"); err != nil {
		return err
	}
	_, err := t.minictl(ctx, "service", "create", "--name", "web", "--replicas", "3", "--network", "front", "--publish", "8080:8080",
		"--placement-pref", "spread=node.labels.zone", "--replicas-max-per-node", "1", "--restart-delay", "1s", "--update-delay", "1s", "--update-monitor", "2s",
		t.imageRef("v1"))
	if err != nil {
		return err
	}
	if _, err := t.minictl(ctx, "service", "ps", "web"); err != nil {
		return err
	}
	tasks, err := t.ctl.AwaitRunning(ctx, "web", 3, 30*time.Second)
	if err != nil {
		return err
	}
	nodes := map[string]bool{}
	for _, task := range tasks {
		nodes[task.NodeId] = true
	}
	if len(nodes) != 3 {
		return fmt.Errorf("the three replicas are on %d nodes", len(nodes))
	}
	return nil
}

// outside reaches the cluster from the hub's namespace, and nothing else.
func (t *tour) outside() *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
		return t.c.DialOutside(addr, 5*time.Second)
	}}
}

// get fetches a page from the hub's namespace.
func (t *tour) get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := t.outside().RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

func (t *tour) nodeOf(ctx context.Context, id string) (*cluster.Node, error) {
	for _, n := range t.c.Nodes() {
		if info, err := n.Info(ctx); err == nil && info.NodeId == id {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no node has the id %s", id)
}

func (t *tour) killContainer(ctx context.Context) error {
	tasks, err := t.ctl.AwaitRunning(ctx, "web", 3, 30*time.Second)
	if err != nil {
		return err
	}
	victim := tasks[0]
	pid := int(victim.Status.Container.Pid)
	fmt.Printf("    kill -9 %d   # web.%d\n", pid, victim.Slot)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	if err := t.replaced(ctx, victim); err != nil {
		return err
	}
	_, err = t.minictl(ctx, "service", "ps", "web")
	return err
}

// replaced waits until a task has ended and its slot runs again.
func (t *tour) replaced(ctx context.Context, victim *pb.Task) error {
	began := time.Now()
	err := cluster.Await(ctx, 40*time.Second, func() error {
		tasks, err := t.ctl.Tasks(ctx, "web")
		if err != nil {
			return err
		}
		for _, task := range tasks {
			if task.Slot == victim.Slot && task.Id != victim.Id && task.Status.State == pb.TaskState_TASK_STATE_RUNNING {
				return nil
			}
		}
		return fmt.Errorf("slot %d is not replaced", victim.Slot)
	})
	if err == nil {
		fmt.Printf("    replaced after %.1f s\n", time.Since(began).Seconds())
	}
	return err
}

func (t *tour) loseWorker(ctx context.Context) error {
	tasks, err := t.ctl.AwaitRunning(ctx, "web", 3, 30*time.Second)
	if err != nil {
		return err
	}
	workers := t.c.Nodes()[3:]
	var victim *pb.Task
	var lost *cluster.Node
	for _, task := range tasks {
		if n, err := t.nodeOf(ctx, task.NodeId); err == nil && slices.Contains(workers, n) {
			victim, lost = task, n
		}
	}
	if lost == nil {
		return errors.New("no worker has a task")
	}
	lost.PowerOff()
	if err := t.replaced(ctx, victim); err != nil {
		return err
	}
	if _, err := t.minictl(ctx, "node", "ls"); err != nil {
		return err
	}
	fmt.Printf("    %s: power on\n", lost.Name)
	return lost.Start()
}

func (t *tour) loseLeader(ctx context.Context) error {
	leader, err := t.c.Leader(ctx)
	if err != nil {
		return err
	}
	t.ctl = t.other(leader)
	before, err := t.ctl.AwaitRunning(ctx, "web", 3, 30*time.Second)
	if err != nil {
		return err
	}
	if err := leader.Kill(); err != nil {
		return err
	}
	began := time.Now()
	body, err := t.get(ctx, pageAt(leader))
	if err != nil {
		return err
	}
	fmt.Printf("    no minid runs on %s, but its kernel does, and port 8080 there leads to a task:\n%s", leader.Name, indent(body))
	if err := cluster.Await(ctx, 30*time.Second, func() error {
		_, err := t.ctl.CtlInput(ctx, fmt.Sprint(began), "config", "create", fmt.Sprintf("after-%d", time.Now().UnixNano()), "-")
		return err
	}); err != nil {
		return err
	}
	fmt.Printf("    a write was accepted %.1f s after the leader's death\n", time.Since(began).Seconds())
	if err := leader.Start(); err != nil {
		return err
	}
	after, err := t.ctl.AwaitRunning(ctx, "web", 3, 30*time.Second)
	if err != nil {
		return err
	}
	if pids(before) != pids(after) {
		return fmt.Errorf("containers were restarted: %s before, %s after", pids(before), pids(after))
	}
	fmt.Printf("    the containers are the same as before: %s\n", pids(after))
	_, err = t.minictl(ctx, "node", "ls")
	return err
}

// other is a manager that is not the leader.
func (t *tour) other(leader *cluster.Node) *cluster.Node {
	for _, n := range t.c.Nodes()[:3] {
		if n != leader {
			return n
		}
	}
	return leader
}

func pids(tasks []*pb.Task) string {
	var list []string
	for _, task := range tasks {
		list = append(list, fmt.Sprintf("web.%d=%d", task.Slot, task.Status.Container.Pid))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}
