// Package restarts reads the restarts of a slot from its tasks: how long a
// life is long, and which slots' tasks end again and again. It is for all who
// decide by that or tell of it, so that they say the same.
package restarts

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/minid/minid/internal/why"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// few is how many short lives in a row are a loop.
	few = 3
	// minLongLife is a long life where delays are short.
	minLongLife = 20 * time.Second
)

// LongLife is how long a task ran at least, for its end to be no part of a
// loop: twice the longest restart delay, as Kubernetes' ten minutes are twice
// its five, and no less than 20 s.
func LongLife(p *pb.RestartPolicy) time.Duration {
	return max(2*p.GetMaxDelay().AsDuration(), minLongLife)
}

// Loop is a slot whose tasks end soon, one after the other, or that has no
// restarts left.
type Loop struct {
	// Last is the task that ended last, as far as it is kept.
	Last *pb.Task
	// Newest is the slot's newest task, maybe the same.
	Newest *pb.Task

	policy *pb.RestartPolicy
}

// Loops returns those of a service's slots that are in a loop, in order.
func Loops(s *pb.Service, tasks []*pb.Task, now time.Time) []Loop {
	type place struct {
		slot, run uint64
		node      string
	}
	slots := map[place][]*pb.Task{}
	for _, t := range tasks {
		p := place{slot: t.Slot, run: t.JobRun}
		if t.Slot == 0 {
			p.node = t.NodeId
		}
		slots[p] = append(slots[p], t)
	}
	var loops []Loop
	for _, tasks := range slots {
		if l, ok := Find(s, tasks, now); ok {
			loops = append(loops, l)
		}
	}
	slices.SortFunc(loops, func(a, b Loop) int {
		return cmp.Or(cmp.Compare(a.Last.Slot, b.Last.Slot), cmp.Compare(a.Last.NodeId, b.Last.NodeId))
	})
	return loops
}

// Find returns the loop that the tasks of one slot are in, if they are in one.
// A task that has run for a long life ends it, and so does one that is told to
// stop.
func Find(s *pb.Service, slot []*pb.Task, now time.Time) (Loop, bool) {
	l := Loop{policy: s.GetSpec().GetTask().GetRestart()}
	for _, t := range slot {
		if l.Newest == nil || newer(t, l.Newest) {
			l.Newest = t
		}
	}
	for _, t := range slot {
		if endedItself(t) && t.SpecVersion == l.Newest.SpecVersion && (l.Last == nil || newer(t, l.Last)) {
			l.Last = t
		}
	}
	return l, l.Last != nil && (l.GivenUp() || l.spins(now))
}

// GivenUp tells that no restarts are left.
func (l Loop) GivenUp() bool {
	return l.Newest == l.Last && l.Last.DesiredState == pb.TaskState_TASK_STATE_SHUTDOWN && !l.done() &&
		l.policy.GetMaxAttempts() > 0 && l.Last.RestartCount >= l.policy.GetMaxAttempts()
}

// done tells that the slot has come to its good end, be it after failures.
func (l Loop) done() bool {
	return l.Newest == l.Last && l.policy.GetCondition() == pb.RestartPolicy_CONDITION_ON_FAILURE &&
		l.Last.GetStatus().GetState() == pb.TaskState_TASK_STATE_COMPLETE
}

// spins tells whether short lives come one after the other.
func (l Loop) spins(now time.Time) bool {
	if l.Restarts() < few || l.Newest.DesiredState > pb.TaskState_TASK_STATE_RUNNING || l.done() {
		return false
	}
	if l.Newest.RunningAt == nil {
		return true
	}
	until := now
	if endedItself(l.Newest) {
		until = l.Newest.GetStatus().GetAt().AsTime()
	}
	return until.Sub(l.Newest.RunningAt.AsTime()) < LongLife(l.policy)
}

// Restarts is how many there were since the first short life ended.
func (l Loop) Restarts() uint64 { return l.Newest.GetStreak().GetRestarts() }

// Text tells of the loop in one line, without the slot's name: "restarts again
// and again: 7 times in 2m10s, last: exit code 1, next try in 40s". Until the
// next restart only the time that is left changes.
func (l Loop) Text(now time.Time) string {
	return fmt.Sprintf("%s, last: %s%s", l.count(), Why(l.Last), l.next(now))
}

func (l Loop) count() string {
	if !l.GivenUp() {
		took := l.Newest.GetMeta().GetCreatedAt().AsTime().Sub(l.Newest.GetStreak().GetSince().AsTime())
		return fmt.Sprintf("restarts again and again: %d times in %s", l.Restarts(), span(took))
	}
	limit := fmt.Sprintf("%d restarts are", l.policy.GetMaxAttempts())
	if l.policy.GetMaxAttempts() == 1 {
		limit = "1 restart is"
	}
	if w := l.policy.GetWindow().AsDuration(); w > 0 {
		return fmt.Sprintf("is given up: %s all that may be within %v", limit, w)
	}
	return fmt.Sprintf("is given up: %s all that may be", limit)
}

func (l Loop) next(now time.Time) string {
	left := l.Newest.GetStartAfter().AsTime().Sub(now)
	switch state := l.Newest.GetStatus().GetState(); {
	case l.GivenUp():
		return ""
	case state == pb.TaskState_TASK_STATE_RUNNING:
		return ", running once more"
	case state < pb.TaskState_TASK_STATE_STARTING && left > 0:
		return ", next try in " + span(max(left, time.Second))
	}
	return ", trying once more"
}

// Why says in words how a task ended.
func Why(t *pb.Task) string {
	if text := why.Task(t); text != "" {
		return text
	}
	if t.GetStatus().GetState() == pb.TaskState_TASK_STATE_COMPLETE {
		return "it finished (exit code 0)"
	}
	return "it failed"
}

// span is a duration to a second, or to a tenth where that is little.
func span(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func endedItself(t *pb.Task) bool {
	switch t.GetStatus().GetState() {
	case pb.TaskState_TASK_STATE_COMPLETE, pb.TaskState_TASK_STATE_FAILED, pb.TaskState_TASK_STATE_REJECTED:
		return true
	}
	return false
}

func newer(a, b *pb.Task) bool {
	return cmp.Or(a.GetMeta().GetCreatedAt().AsTime().Compare(b.GetMeta().GetCreatedAt().AsTime()),
		cmp.Compare(a.SpecVersion, b.SpecVersion), cmp.Compare(a.Id, b.Id)) > 0
}
