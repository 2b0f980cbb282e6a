package orchestrator

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// seat is one run's share of a place: where one of its tasks has to complete.
type seat struct {
	place
	run   *run
	tasks []*pb.Task // of the run, oldest first

	// Set by look.
	live    []*pb.Task // the one to keep first; without those that leave
	leaving []*pb.Task // live ones that their node may not keep
	tries   uint64     // how many failed
	seatCount

	wake time.Time // when to look again
}

// seatCount is what a seat counts for in its run.
type seatCount struct {
	counts bool // in what has to complete
	done   bool // one has completed
	busy   bool // one may be running, or will at a time that is fixed
	vacant bool // has no live task and wants one
	spent  bool // has failed as often as it may
}

// look works out what is true of a seat, and counts it.
func (s *jobSet) look(sl *seat) {
	sl.run.discount(sl)
	sl.live, sl.leaving, sl.wake = sl.live[:0], sl.leaving[:0], time.Time{}
	sl.seatCount = seatCount{}
	for _, t := range sl.tasks {
		sl.done = sl.done || t.GetStatus().GetState() == pb.TaskState_TASK_STATE_COMPLETE
		sl.busy = sl.busy || !s.over(t)
		switch {
		case !live(t):
		case s.mustGo(t):
			sl.leaving = append(sl.leaving, t)
		default:
			sl.live = append(sl.live, t)
		}
	}
	slices.SortFunc(sl.live, func(a, b *pb.Task) int {
		return cmp.Or(-cmp.Compare(a.GetStatus().GetState(), b.GetStatus().GetState()), compareAge(a, b))
	})
	last := sl.last()
	sl.tries = last.GetRestartCount()
	if failedItself(last) {
		sl.tries++
	}
	wanted, now := s.wanted(sl)
	sl.counts = wanted || s.perNode() && (sl.done || len(sl.live) > 0)
	idle := sl.run.open && wanted && !sl.done && len(sl.live) == 0
	sl.spent = idle && failedItself(last) && s.usedUp(sl, last)
	if idle && !sl.spent {
		waits := s.waits(sl, last)
		sl.busy = sl.busy || waits
		sl.vacant = now && !waits
	}
	sl.run.count(sl)
}

func (r *run) discount(sl *seat) {
	r.add(sl, -1)
	delete(r.vacant, sl.place)
	delete(r.spent, sl.place)
}

func (r *run) count(sl *seat) {
	r.add(sl, 1)
	if sl.vacant {
		r.vacant[sl.place] = sl
	}
	if sl.spent {
		r.spent[sl.place] = sl
	}
}

func (r *run) add(sl *seat, n int) {
	r.failures += n * int(sl.tries)
	if sl.counts {
		r.total += n
	}
	if sl.done && sl.counts {
		r.done += n
	}
	if sl.busy {
		r.busy += n
	}
}

// wanted tells whether a seat belongs to what has to complete, and whether it
// may have a task now.
func (s *jobSet) wanted(sl *seat) (wanted, now bool) {
	if !s.perNode() {
		ok := sl.slot <= s.completions()
		return ok, ok
	}
	n := s.nodes.Node(sl.node)
	wanted = !beyondReach(n) &&
		n.GetSpec().GetAvailability() == pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE &&
		s.fitsVersion(n, sl.run.record.GetSpecVersion())
	return wanted, wanted && n.GetStatus().GetState() == pb.NodeState_NODE_STATE_READY
}

// mustGo tells whether a live task's node is lost, drained or unfit.
func (s *jobSet) mustGo(t *pb.Task) bool {
	n, lost := s.nodeOf(t)
	return lost || n != nil && (store.Draining(n) || !s.fitsVersion(n, t.SpecVersion))
}

// last is the newest task, nil if there is none.
func (sl *seat) last() *pb.Task {
	if len(sl.tasks) == 0 {
		return nil
	}
	return sl.tasks[len(sl.tasks)-1]
}

func failedItself(t *pb.Task) bool {
	switch t.GetStatus().GetState() {
	case pb.TaskState_TASK_STATE_FAILED, pb.TaskState_TASK_STATE_REJECTED:
		return true
	}
	return false
}

// usedUp tells whether the restart policy allows no more tries. That a job is
// restarted in any case is taken for: when it fails.
func (s *jobSet) usedUp(sl *seat, last *pb.Task) bool {
	policy := s.policy(sl.run)
	if policy.GetCondition() == pb.RestartPolicy_CONDITION_NONE {
		return true
	}
	restarts := last.RestartCount
	if window := policy.GetWindow().AsDuration(); window > 0 {
		restarts = recentRestarts(sl.tasks, last, window)
	}
	limit := policy.GetMaxAttempts()
	return limit > 0 && restarts >= limit
}

func (s *jobSet) policy(r *run) *pb.RestartPolicy {
	return s.specOf(r.record.GetSpecVersion()).GetRestart()
}

// waits tells whether a task that failed before it was to start, being
// prepared, is not to be followed yet: so that the pace is the same.
func (s *jobSet) waits(sl *seat, last *pb.Task) bool {
	if !failedItself(last) || last.StartAfter == nil || !last.StartAfter.AsTime().After(s.now) {
		return false
	}
	s.wakeAt(sl, last.StartAfter.AsTime())
	return true
}

func (s *jobSet) wakeAt(sl *seat, at time.Time) {
	sl.wake = at
	s.alarms.set(sl.place, at)
}

// tend gives one seat what it needs, but for a new task.
func (s *jobSet) tend(sl *seat) {
	if sl.run.expired {
		s.giveUp(sl)
		return
	}
	s.shut(sl.leaving...)
	for _, t := range sl.tasks {
		if state := t.GetStatus().GetState(); state > pb.TaskState_TASK_STATE_RUNNING && state != pb.TaskState_TASK_STATE_COMPLETE {
			s.shut(t)
		}
	}
	wanted, _ := s.wanted(sl)
	switch {
	case !sl.run.goesOn() || sl.done || !wanted && !s.perNode():
		s.shut(sl.live...)
	case len(sl.live) > 0:
		s.shut(sl.live[1:]...)
		s.advance(sl, sl.live[0])
	}
}

// giveUp gives up a seat with all its history.
func (s *jobSet) giveUp(sl *seat) {
	for _, t := range sl.tasks {
		s.desire(t, pb.TaskState_TASK_STATE_REMOVE)
	}
}

// advance lets a task start that had to wait, for what is left of others in
// its place or for the time of a new try.
func (s *jobSet) advance(sl *seat, t *pb.Task) {
	if t.DesiredState != pb.TaskState_TASK_STATE_READY || !s.clear(sl, t) {
		return
	}
	if after := t.StartAfter; after != nil && after.AsTime().After(s.now) {
		s.wakeAt(sl, after.AsTime())
		return
	}
	s.desire(t, pb.TaskState_TASK_STATE_RUNNING)
}

// clear tells whether nothing can run any more in a place but for one task,
// and for those of other runs that go on.
func (s *jobSet) clear(sl *seat, but *pb.Task) bool {
	for _, r := range s.runs {
		other := r.seats[sl.place]
		if other == nil || r != sl.run && r.goesOn() {
			continue
		}
		for _, t := range other.tasks {
			if t != but && !s.over(t) {
				return false
			}
		}
	}
	return true
}

// fill makes tasks where a run wants some, as many as may run at a time.
func (s *jobSet) fill(r *run) {
	free := s.concurrency() - r.busy
	if len(r.vacant) > 0 {
		free = s.fillVacant(r, free)
	}
	if s.perNode() {
		return
	}
	for r.untried <= s.completions() && r.seats[place{slot: r.untried}] != nil {
		r.untried++
	}
	for n := r.untried; n <= s.completions() && free > 0; n++ {
		p := place{slot: n}
		if r.seats[p] == nil {
			s.createAt(p, s.following(&seat{place: p, run: r}))
			free--
		}
	}
}

// fillVacant fills seats that had a task before; where one is still to end, the
// new one takes its share of the concurrency.
func (s *jobSet) fillVacant(r *run, free int) (left int) {
	for _, p := range slices.SortedFunc(maps.Keys(r.vacant), comparePlaces) {
		sl := r.vacant[p]
		if !sl.busy {
			if free <= 0 {
				continue
			}
			free--
		}
		s.createAt(p, s.following(sl))
	}
	return free
}

// following is the next task of a seat. After a failure it goes by the restart
// policy's pace; what was lost or sent away is replaced at once.
func (s *jobSet) following(sl *seat) *pb.Task {
	last := sl.last()
	next := &pb.Task{
		SpecVersion:  sl.run.record.SpecVersion,
		JobRun:       sl.run.number,
		DesiredState: pb.TaskState_TASK_STATE_RUNNING,
		Replaces:     last.GetId(),
		RestartCount: sl.tries,
	}
	var after time.Time
	if last != nil {
		policy := s.policy(sl.run)
		next.Streak = s.streakAfter(last, policy)
		after = last.StartAfter.AsTime()
		if failedItself(last) {
			after = s.now.Add(restartDelay(policy, next.Streak.GetRestarts()-1))
		}
	}
	if after.After(s.now) {
		next.StartAfter = timestamppb.New(after)
	}
	if after.After(s.now) || !s.clear(sl, nil) {
		next.DesiredState = pb.TaskState_TASK_STATE_READY
	}
	return next
}
