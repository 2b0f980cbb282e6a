// Package orchestrator turns services into tasks: it creates them, replaces
// those that ended, and rolls new versions out. It decides which tasks exist
// and what is wanted of them, and nothing else: placement finds their nodes,
// agents run them, the reaper forgets them.
//
// Reconcile is the whole of it as a function: one service, its tasks and the
// nodes, and what to change. All that it has to remember is in the store, so a
// new leader goes on where the old one stopped. The loop (loop.go) keeps the
// function's working set (set.go) between calls, because a service of 10,000
// tasks must not be gone through for every event of one of them.
//
// The unit of thought is the slot: a replica of a replicated service, or the
// place of a global service on one node. A slot has at most one task that is
// live, or two while one takes over from the other:
//
//	restart   the old one has ended; the new one is wanted READY, and RUNNING
//	          once its delay has passed
//	update    stop-first: the new one is wanted READY (image pulled, container
//	          created) beside the old one, which is stopped then; once it has
//	          ended the new one is wanted RUNNING
//	          start-first: the new one is wanted RUNNING at once, and the old
//	          one is stopped when it is
//	move      off a node that drains, or that has too many of a service that is
//	          rebalanced: as an update, to another node
//	node      unfit or down, or its drain's time is over: the old one is stopped
//	          (or beyond reach) and replaced without delay
//
// So the new one never starts before the old one is known to have ended, or
// its node to be down, unless the service asks for start-first.
//
// slot.go tells what is true of a slot, tend.go what it needs, restart.go
// whether to try again, scale.go how many slots there are, trial.go how the
// update's task of a slot stands, update.go which slots are renewed next and
// when that has to end, rollback.go how it ends; drain.go which tasks move and
// when the old one may be spared, rebalance.go and survey.go which move to
// spread a service anew.
//
// Jobs have a core of their own. Their unit is the seat: a run's share of a
// slot, or of a node, where one task has to complete. job.go keeps the runs and
// their seats, seat.go tells what is true of a seat and what it needs, jobrun.go
// which runs begin and end, schedule.go which time is due. What all share is in
// ground.go.
package orchestrator

import (
	"iter"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Nodes is the part of a store.View that tells about nodes.
type Nodes interface {
	// Node returns nil for a node that does not exist.
	Node(id string) *pb.Node
	Nodes() iter.Seq[*pb.Node]
}

// Input is all that Reconcile looks at.
type Input struct {
	Service *pb.Service
	// Tasks of the service, all of them, in any order.
	Tasks []*pb.Task
	Nodes Nodes
	// Fits is the scheduler's answer when nil.
	Fits Fits
	// Join is the last one, where services are rebalanced when nodes join.
	Join Join
	// NewID names new tasks.
	NewID func() string
}

// Plan is what to change. Carrying it out and reconciling again, at the same
// time, comes to an empty plan after a few rounds.
type Plan struct {
	// Update is the new progress of the rolling update; nil leaves it as it is.
	Update *pb.UpdateStatus
	// Rollback ends a failed update; nil is none. Should it be refused, Update holds.
	Rollback *pb.RollbackService
	// Rebalance is the new progress of the rebalancing; nil leaves it as it is.
	Rebalance *pb.Rebalance
	Desired   []*pb.TaskDesired
	Create    []*pb.Task
	// Job is the new status of a job's runs; nil leaves it as it is.
	Job *pb.SetJobStatus
	// Remove ends a job whose time to live has passed.
	Remove *pb.RemoveService
	// Next is when to reconcile again even if nothing happens; zero is never.
	Next time.Time
}

// Empty tells whether there is nothing to change now.
func (p Plan) Empty() bool {
	return p.Update == nil && p.Rollback == nil && p.Rebalance == nil && p.Job == nil && p.Remove == nil &&
		len(p.Desired) == 0 && len(p.Create) == 0
}

// Reconcile compares a service with its tasks and says what to change.
func Reconcile(in Input, now time.Time) Plan {
	s := newWorkingSet(in.Service.GetSpec(), in.Fits, in.NewID)
	s.turnTo(in.Service, in.Nodes)
	s.load(in.Tasks)
	if s, ok := s.(*set); ok {
		s.balance.join = in.Join
	}
	return s.reconcile(now)
}
