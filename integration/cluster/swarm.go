package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/minid/minid/client"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Swarm starts nodes and joins them into one cluster: n1 to n<managers> are
// managers, the rest workers.
func (c *Cluster) Swarm(ctx context.Context, managers, workers int) error {
	first, err := c.Node()
	if err != nil {
		return err
	}
	if _, err := first.Ctl(ctx, "swarm", "init", "--advertise-addr", first.Addr); err != nil {
		return err
	}
	var joining sync.WaitGroup
	errs := make([]error, managers+workers)
	for i := 1; i < managers+workers; i++ {
		role := "manager"
		if i >= managers {
			role = "worker"
		}
		node, err := c.Node()
		if err != nil {
			return err
		}
		joining.Go(func() { errs[i] = node.Join(ctx, first, role) })
	}
	joining.Wait()
	return errors.Join(errs...)
}

// Join joins the node to the cluster that via is a manager of.
func (n *Node) Join(ctx context.Context, via *Node, role string) error {
	token, err := via.Ctl(ctx, "swarm", "join-token", "-q", role)
	if err != nil {
		return err
	}
	_, err = n.Ctl(ctx, "swarm", "join", "--advertise-addr", n.Addr, "--token", strings.TrimSpace(token.Stdout), via.Addr+":2377")
	return err
}

// API is a client of the node's control socket. Close it.
func (n *Node) API() (*client.Client, error) { return client.Dial(n.Socket(), client.Options{}) }

// Info asks the node about itself.
func (n *Node) Info(ctx context.Context) (*pb.InfoResponse, error) {
	api, err := n.API()
	if err != nil {
		return nil, err
	}
	defer api.Close()
	return api.Local.Info(ctx, &pb.InfoRequest{})
}

// Leader waits until one of the running managers leads.
func (c *Cluster) Leader(ctx context.Context) (*Node, error) {
	var leader *Node
	err := Await(ctx, 30*time.Second, func() error {
		for _, n := range c.Nodes() {
			if n.Pid() == 0 {
				continue
			}
			if info, err := n.Info(ctx); err == nil && info.Leader {
				leader = n
				return nil
			}
		}
		return errors.New("no manager leads")
	})
	return leader, err
}

// Tasks lists a service's tasks that should run, as this node's manager knows them.
func (n *Node) Tasks(ctx context.Context, service string) ([]*pb.Task, error) {
	all, err := n.AllTasks(ctx, service)
	var live []*pb.Task
	for _, t := range all {
		if t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING {
			live = append(live, t)
		}
	}
	return live, err
}

// AllTasks lists a service's tasks with their history.
func (n *Node) AllTasks(ctx context.Context, service string) ([]*pb.Task, error) {
	api, err := n.API()
	if err != nil {
		return nil, err
	}
	defer api.Close()
	res, err := api.Control.ListTasks(ctx, &pb.ListTasksRequest{Services: []string{service}})
	return res.GetTasks(), err
}

// AwaitRunning waits until exactly want tasks of a service should run and do.
func (n *Node) AwaitRunning(ctx context.Context, service string, want int, within time.Duration) ([]*pb.Task, error) {
	var tasks []*pb.Task
	err := Await(ctx, within, func() (err error) {
		if tasks, err = n.Tasks(ctx, service); err != nil {
			return err
		}
		running := 0
		for _, t := range tasks {
			if t.GetStatus().GetState() == pb.TaskState_TASK_STATE_RUNNING {
				running++
			}
		}
		if running != want || len(tasks) != want {
			return fmt.Errorf("%d of %d tasks of %s run: %s", running, want, service, describe(tasks))
		}
		return nil
	})
	return tasks, err
}

func describe(tasks []*pb.Task) string {
	var parts []string
	for _, t := range tasks {
		s := t.GetStatus()
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("slot %d on %.8s %s %s %s", t.Slot, t.NodeId,
			strings.TrimPrefix(s.GetState().String(), "TASK_STATE_"), s.GetMessage(), s.GetError())))
	}
	return strings.Join(parts, "; ")
}

// Await repeats ask until it succeeds or the time is over; the error is ask's last.
func Await(ctx context.Context, within time.Duration, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("still not after %s: %w", within, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
