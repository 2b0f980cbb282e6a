// Package reaper bounds history: it deletes tasks that nobody needs any more,
// and services that were removed once their last task is gone.
//
// A task that is wanted REMOVE goes as soon as it has ended, or its node is
// beyond reach. Other tasks that ended stay as their slot's history, up to the
// cluster's limit; so do those that the orchestrator still reasons from. A job's
// tasks are never history while their run is listed and they completed; the
// orchestrator gives up those of runs that are not.
package reaper

import (
	"cmp"
	"slices"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// Slot is one slot's tasks and what decides about them.
type Slot struct {
	// Service is nil when it does not exist; then nothing is kept.
	Service *pb.Service
	// Tasks of one slot, or of a global service on one node.
	Tasks []*pb.Task
	// Limit is how many finished tasks to keep; negative is all.
	Limit int64
	// Node returns nil for a node that does not exist.
	Node func(id string) *pb.Node
}

// Reap returns the ids of the tasks to delete, oldest first.
func Reap(in Slot) (ids []string) {
	tasks := slices.SortedFunc(slices.Values(in.Tasks), compareAge)
	var history []*pb.Task
	for _, t := range tasks {
		switch {
		case !in.over(t):
		case in.Service == nil || t.DesiredState == pb.TaskState_TASK_STATE_REMOVE:
			ids = append(ids, t.Id)
		case t.DesiredState > pb.TaskState_TASK_STATE_RUNNING:
			history = append(history, t)
		}
	}
	keep := in.keep()
	if keep < 0 {
		return ids
	}
	for _, t := range history[:max(0, len(history)-keep)] {
		if t != tasks[len(tasks)-1] && t != in.trial(tasks) && !in.counts(t, tasks) {
			ids = append(ids, t.Id)
		}
	}
	return ids
}

func compareAge(a, b *pb.Task) int {
	return cmp.Or(
		a.GetMeta().GetCreatedAt().AsTime().Compare(b.GetMeta().GetCreatedAt().AsTime()),
		cmp.Compare(a.SpecVersion, b.SpecVersion),
		cmp.Compare(a.Id, b.Id),
	)
}

// over tells whether a task has ended, or nobody will ever say so.
func (in *Slot) over(t *pb.Task) bool {
	switch {
	case t.GetStatus().GetState() > pb.TaskState_TASK_STATE_RUNNING:
		return true
	case in.Service != nil && t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING:
		return false
	case t.NodeId == "":
		return true
	}
	n := in.Node(t.NodeId)
	return n == nil || n.GetStatus().GetState() == pb.NodeState_NODE_STATE_DOWN
}

// keep is the length of the history: the limit, or what the restart policy
// needs to count attempts in.
func (in *Slot) keep() int {
	if in.Limit < 0 {
		return -1
	}
	keep := int(in.Limit)
	if attempts := in.Service.GetSpec().GetTask().GetRestart().GetMaxAttempts(); attempts > 0 {
		keep = max(keep, int(attempts)+1)
	}
	return keep
}

// counts tells whether a job's task says how its run stands: that its work is
// done here, or how often and how recently it was tried so far.
func (in *Slot) counts(t *pb.Task, tasks []*pb.Task) bool {
	run := store.Run(in.Service, t.JobRun)
	switch {
	case run == nil:
		return false
	case t.GetStatus().GetState() == pb.TaskState_TASK_STATE_COMPLETE:
		return true
	case run.State != pb.JobState_JOB_STATE_RUNNING:
		return false
	}
	tries := 1 + in.Service.GetSpec().GetTask().GetRestart().GetMaxAttempts()
	for _, newer := range slices.Backward(tasks) {
		if newer.JobRun != t.JobRun {
			continue
		}
		if newer == t {
			return true
		}
		if tries--; tries == 0 {
			return false
		}
	}
	return false
}

// trial is the task by which a running update judges the slot: the first of
// the version that it moves to. Besides it, a slot's newest task always stays:
// without it the orchestrator would take a slot that it gave up for a new one.
func (in *Slot) trial(tasks []*pb.Task) *pb.Task {
	status := in.Service.GetUpdateStatus()
	switch status.GetState() {
	case pb.UpdateState_UPDATE_STATE_UPDATING, pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED:
	default:
		return nil
	}
	for _, t := range tasks {
		if t.SpecVersion == in.Service.SpecVersion && !t.GetMeta().GetCreatedAt().AsTime().Before(status.StartedAt.AsTime()) {
			return t
		}
	}
	return nil
}
