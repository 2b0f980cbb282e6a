package containerd

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/agent/meter"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Usage is agent.Usage's. It reads cgroups where the kernel keeps them and asks
// neither containerd nor a shim: for them, each sample of each task would be a
// call and wake a process.
func (r *Runtime) Usage(ctx context.Context) (*pb.NodeUsage, error) {
	total, err := r.meter.Host()
	if err != nil {
		return nil, err
	}
	sample := &pb.NodeUsage{NodeId: r.cfg.NodeID, At: timestamppb.New(time.Now()), Total: total}
	for _, id := range r.unended() {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		u, err := r.meter.Task(cgroupPath(id))
		switch {
		case meter.Gone(err):
		case err != nil:
			return nil, fmt.Errorf("measure task %s: %w", id, err)
		case u.Pids > 0 || u.CpuNs > 0: // an empty cgroup is that of a task in the making
			sample.Tasks = append(sample.Tasks, &pb.TaskUsage{TaskId: id, Usage: u})
		}
	}
	return sample, nil
}

// unended lists the tasks with a container whose end was not seen, in order.
func (r *Runtime) unended() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []string
	for id, rec := range r.records {
		if rec.Exit == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}
