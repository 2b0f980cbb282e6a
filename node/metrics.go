package node

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// What a node measures. Labels take few values: roles and states, never ids.
var (
	infoDesc        = desc("info", "1; tells version and role.", "version", "role")
	sessionDesc     = desc("agent_session", "1 while the agent has a session with the leader.")
	tasksHereDesc   = desc("agent_tasks_running", "Tasks that run on this node.")
	certDesc        = desc("certificate_expires_seconds", "Seconds until the node's certificate expires.")
	leaderDesc      = desc("leader", "1 on the manager that leads the cluster.")
	lastContactDesc = desc("raft_last_contact_seconds", "Seconds since this manager heard from the leader; 0 on the leader.")
	appliedDesc     = desc("raft_applied_index", "Index of the last raft entry in this manager's state.")
	nodesDesc       = desc("nodes", "Nodes of the cluster by state; from the leader only.", "state")
	tasksDesc       = desc("tasks", "Tasks of the cluster by observed state, with those kept as history; from the leader only.", "state")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("minid_"+name, help, labels, nil)
}

// collector reads a node's figures at each scrape.
type collector struct{ n *Node }

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		infoDesc, sessionDesc, tasksHereDesc, certDesc, leaderDesc, lastContactDesc, appliedDesc, nodesDesc, tasksDesc,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	n := c.n
	gauge(infoDesc, 1, n.cfg.Version, roleLabel(n.keys.Self().Role))
	m, err := n.present()
	if err != nil {
		return
	}
	gauge(sessionDesc, bit(m.hasSession()))
	gauge(tasksHereDesc, float64(m.running()))
	gauge(certDesc, time.Until(n.keys.ExpiresAt()).Seconds())
	control := m.manager()
	if control == nil {
		return
	}
	leads := control.manager.Leader().Self
	gauge(leaderDesc, bit(leads))
	gauge(appliedDesc, float64(control.manager.State().View().Index()))
	if heard := control.raft.LastContact(); !heard.IsZero() {
		gauge(lastContactDesc, max(0, time.Since(heard).Seconds()))
	}
	if leads {
		control.census.collect(gauge)
	}
}

func bit(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// census counts nodes and tasks by state from what changes, so that a scrape
// costs the same however many there are.
type census struct {
	mu    sync.Mutex
	nodes map[pb.NodeState]int
	tasks map[pb.TaskState]int
}

// run counts until ctx ends.
func (c *census) run(ctx context.Context, state *store.State) error {
	kinds := []pb.Kind{pb.Kind_KIND_NODE, pb.Kind_KIND_TASK}
	err := state.Follow(ctx, func() {}, kinds, c.session)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// begin counts all that is there.
func (c *census) begin(view store.View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes, c.tasks = map[pb.NodeState]int{}, map[pb.TaskState]int{}
	for n := range view.Nodes() {
		c.count(n, 1)
	}
	for t := range view.Tasks() {
		c.count(t, 1)
	}
}

func (c *census) session(ctx context.Context, view store.View, batches <-chan []store.Change) error {
	c.begin(view)
	for {
		select {
		case changes := <-batches:
			c.take(changes)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *census) take(changes []store.Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, change := range changes {
		c.count(change.Old, -1)
		c.count(change.New, 1)
	}
}

func (c *census) count(object store.Object, by int) {
	switch o := object.(type) {
	case *pb.Node:
		c.nodes[o.GetStatus().GetState()] += by
	case *pb.Task:
		c.tasks[o.GetStatus().GetState()] += by
	}
}

// collect emits every state, so that a count that falls to zero is seen.
func (c *census) collect(gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for state, name := range pb.NodeState_name {
		if state != 0 {
			gauge(nodesDesc, float64(c.nodes[pb.NodeState(state)]), stateLabel(name, "NODE_STATE_"))
		}
	}
	for state, name := range pb.TaskState_name {
		if state != 0 || c.tasks[0] > 0 {
			gauge(tasksDesc, float64(c.tasks[pb.TaskState(state)]), stateLabel(name, "TASK_STATE_"))
		}
	}
}

// stateLabel turns TASK_STATE_RUNNING into running.
func stateLabel(name, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(name, prefix))
}
