package dispatcher

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// defaultOrphanTime is Swarm's, for a cluster that does not set one.
const defaultOrphanTime = 24 * time.Hour

// orphanTime is how long a node may be down before its tasks are given up, and
// with them the addresses that they hold.
func orphanTime(c *pb.Cluster) time.Duration {
	if d := c.GetSpec().GetOrphanTime(); d != nil {
		return d.AsDuration()
	}
	return defaultOrphanTime
}

// orphanage knows which nodes are down and until when their tasks are kept. It
// goes by what the store says, so a new leader gives them no more time.
type orphanage struct {
	mu    sync.Mutex
	after time.Duration
	due   *liveness
}

// load takes all nodes in, for the first time or after changes were missed.
func (o *orphanage) load(view store.View) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.after, o.due = orphanTime(view.Cluster()), newLiveness()
	for n := range view.Nodes() {
		o.noteLocked(n.Id, n)
	}
}

// note takes in a node as it is now, nil if it is gone.
func (o *orphanage) note(id string, n *pb.Node) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.noteLocked(id, n)
}

func (o *orphanage) noteLocked(id string, n *pb.Node) {
	if n == nil || !isDown(n) || n.Status.Since == nil {
		o.due.forget(id)
		return
	}
	o.due.expect(id, n.GetStatus().GetSince().AsTime().Add(o.after))
}

// retime looks at all nodes again if the cluster allows another time now.
func (o *orphanage) retime(view store.View) {
	o.mu.Lock()
	same := o.after == orphanTime(view.Cluster())
	o.mu.Unlock()
	if !same {
		o.load(view)
	}
}

// expired removes and returns the nodes whose time is over.
func (o *orphanage) expired(now time.Time) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.due.expired(now)
}

// watchOrphans ends the tasks of nodes that were down for too long.
func (t *term) watchOrphans(ctx context.Context) error {
	for {
		for _, node := range t.orphans.expired(time.Now()) {
			if err := t.endOrphans(ctx, node); err != nil && ctx.Err() == nil {
				t.log.Warn("report orphaned tasks", "node", node, "error", err)
				t.orphans.note(node, t.cfg.State.View().Node(node))
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(housekeeping):
		}
	}
}

// maxOrphans bounds the reports of one proposal: about half a megabyte.
const maxOrphans = 4096

func (t *term) endOrphans(ctx context.Context, node string) error {
	reports := orphaned(t.cfg.State.View(), node, time.Now())
	for chunk := range slices.Chunk(reports, maxOrphans) {
		attempt, cancel := context.WithTimeout(ctx, proposeTimeout)
		_, err := t.cfg.Propose(attempt, &pb.Command{Kind: &pb.Command_ReportStatuses{
			ReportStatuses: &pb.ReportStatuses{NodeId: node, Reports: chunk}}})
		cancel()
		if err != nil {
			return err
		}
	}
	if len(reports) > 0 {
		t.log.Info("tasks orphaned", "node", node, "tasks", len(reports))
	}
	return nil
}

// orphaned are the last reports on a down node's tasks that had not ended. The
// store takes them only if the node is still down then.
func orphaned(view store.View, node string, now time.Time) []*pb.TaskStatusReport {
	n := view.Node(node)
	if n == nil || !isDown(n) {
		return nil
	}
	why := fmt.Sprintf("its node was down for %v", orphanTime(view.Cluster()))
	var reports []*pb.TaskStatusReport
	for task := range view.TasksByNode(node) {
		if state := task.GetStatus().GetState(); state < pb.TaskState_TASK_STATE_ASSIGNED || state > pb.TaskState_TASK_STATE_RUNNING {
			continue
		}
		reports = append(reports, &pb.TaskStatusReport{Id: task.Id, Status: &pb.TaskStatus{
			State: pb.TaskState_TASK_STATE_ORPHANED, At: timestamppb.New(now), Message: why, Container: task.Status.Container,
		}})
	}
	return reports
}
