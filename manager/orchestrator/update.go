package orchestrator

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// A rollout, to a new version or back, replaces the stale slots, as many at a
// time as its parallelism says. A slot's place is free for the next one when
// its new task runs, or has failed, and the delay has passed; the monitor
// period runs meanwhile, and the last ones end the rollout. Everything is read
// off the store: the tasks on trial are those of the new version made since
// UpdateStatus.started_at, the failures are listed there by id. Only what ends
// by itself is a failure; a task whose node is lost is replaced and the
// replacement put on trial.

// defaultDeadline is how long a rollout may go without progress.
const defaultDeadline = 10 * time.Minute

// rollout is how slots are replaced at present.
func (s *set) rollout() *pb.UpdateConfig { return store.Rollout(s.service) }

func (s *set) startFirst() bool { return store.StartsFirst(s.service) }

// rolls tells whether a rollout goes on.
func rolls(u *pb.UpdateStatus) bool {
	return u.GetState() == pb.UpdateState_UPDATE_STATE_UPDATING || u.GetState() == pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED
}

func (s *set) active() bool { return rolls(s.status) }

func (s *set) paused() bool {
	state := s.status.GetState()
	return state == pb.UpdateState_UPDATE_STATE_PAUSED || state == pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED
}

// isStale tells whether a slot holds, or last held, a task that the rollout
// has to replace. One where it may not create is left out, and so is one
// where the restart policy forbids another try.
func (s *set) isStale(sl *slot) bool {
	if s.global() && !s.keepsUp(s.nodes.Node(sl.node)) {
		return false
	}
	if t := s.newestPresent(sl); endedItself(t) {
		if _, again := s.restarts(sl, t); !again {
			return false
		}
	}
	if len(sl.live) == 0 {
		last := sl.last()
		return last != nil && !s.upToDate(last)
	}
	return slices.ContainsFunc(sl.live, func(t *pb.Task) bool { return !s.upToDate(t) })
}

// keepsUp tells whether a node takes part in updates of global services: a
// paused one keeps what it has.
func (s *set) keepsUp(n *pb.Node) bool {
	return !beyondReach(n) && n.GetSpec().GetAvailability() == pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE
}

// newestPresent is the newest task of the present version, nil if there is none.
func (s *set) newestPresent(sl *slot) *pb.Task {
	for _, t := range slices.Backward(sl.tasks) {
		if t.SpecVersion == s.service.SpecVersion {
			return t
		}
	}
	return nil
}

// roll begins, continues, ends or completes the rollout.
func (s *set) roll() {
	s.status = s.service.GetUpdateStatus()
	switch {
	case s.status.GetToVersion() == s.service.SpecVersion:
		if s.done() && len(s.stale) > 0 {
			s.begin()
		}
	case s.service.SpecVersion > 1:
		s.begin()
	}
	if !s.active() {
		return
	}
	if s.noteFailures(); !s.active() {
		return
	}
	switch {
	case len(s.stale) > 0:
		s.renewNext()
		s.minded()
	case s.pending == 0:
		s.complete()
	default:
		s.minded()
	}
}

// setStatus plans a change of the rollout's progress.
func (s *set) setStatus(change func(*pb.UpdateStatus)) {
	s.status = proto.CloneOf(s.status)
	change(s.status)
	s.plan.Update = s.status
}

// begin starts an update, or what is left of a rollback that was over.
func (s *set) begin() {
	state, message := pb.UpdateState_UPDATE_STATE_UPDATING, "update in progress"
	if store.RollingBack(s.service) {
		state, message = pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED, "rollback in progress"
	}
	s.status = &pb.UpdateStatus{State: state, StartedAt: timestamppb.New(s.now), Message: message, ToVersion: s.service.SpecVersion}
	s.plan.Update = s.status
}

// maxFailures bounds the failures that a rollout lists: one that goes on
// whatever fails may fail for ever.
const maxFailures = 1000

// noteFailures records new failures, and ends the rollout when there are too many.
func (s *set) noteFailures() {
	if len(s.failed) == 0 || s.carriesOn() && len(s.status.FailedTasks) >= maxFailures {
		return
	}
	known := make(map[string]bool, len(s.status.FailedTasks))
	for _, id := range s.status.FailedTasks {
		known[id] = true
	}
	maps.DeleteFunc(s.failed, func(_ place, sl *slot) bool { return known[sl.trial.task.Id] })
	if len(s.failed) == 0 {
		return
	}
	fresh := slices.SortedFunc(maps.Values(s.failed), func(a, b *slot) int { return comparePlaces(a.place, b.place) })
	s.setStatus(func(u *pb.UpdateStatus) {
		for _, sl := range fresh {
			u.FailedTasks = append(u.FailedTasks, sl.trial.task.Id)
		}
	})
	if s.tooMany(len(s.status.FailedTasks)) {
		s.fail(failure(fresh[len(fresh)-1].trial.task))
	}
}

// tooMany compares as Swarm does: with the slots that the rollout replaces.
func (s *set) tooMany(failures int) bool {
	return !s.carriesOn() && float64(failures) > s.rollout().GetMaxFailureRatio()*float64(s.concerned)
}

func (s *set) carriesOn() bool {
	return s.rollout().GetFailureAction() == pb.UpdateConfig_FAILURE_ACTION_CONTINUE
}

// renewNext replaces as many stale slots as there are free places.
func (s *set) renewNext() {
	next := s.candidates()
	if p := s.rollout().GetParallelism(); p > 0 {
		free := max(0, int(min(p, uint64(len(s.slots))))-s.held)
		next = next[:min(free, len(next))]
	}
	for _, sl := range next {
		s.renew(sl)
	}
}

// candidates are the slots whose turn has not come, those first that do not
// run anyway.
func (s *set) candidates() []*slot {
	if p := s.rollout().GetParallelism(); p > 0 && uint64(s.held) >= p {
		return nil
	}
	var slots []*slot
	for _, sl := range s.untouched {
		if !sl.busy && s.mayCreate(sl) {
			slots = append(slots, sl)
		}
	}
	slices.SortFunc(slots, func(a, b *slot) int {
		return cmp.Or(compareBools(a.runningTask() != nil, b.runningTask() != nil), comparePlaces(a.place, b.place))
	})
	return slots
}

// renew puts a task of the present version into a slot. A running one stays
// until that is ready; anything less goes at once.
func (s *set) renew(sl *slot) {
	s.claim(sl)
	s.shut(sl.leaving...)
	keep := sl.runningTask()
	for _, t := range sl.live {
		if t != keep {
			s.shut(t)
		}
	}
	next := &pb.Task{SpecVersion: s.service.SpecVersion, DesiredState: s.startState(sl)}
	switch {
	case keep == nil:
		next.Replaces = sl.last().Id
	case s.startFirst():
		next.Replaces, next.DesiredState = keep.Id, pb.TaskState_TASK_STATE_RUNNING
	default:
		next.Replaces = keep.Id
	}
	s.createAt(sl.place, next)
}

// minded ends a rollout that has got nowhere for the length of its deadline,
// 0 being none. Only a slot that gives its place back is progress.
func (s *set) minded() {
	deadline := durationOr(s.rollout().GetDeadline(), defaultDeadline)
	if deadline == 0 || len(s.inAir)+len(s.stale) == 0 {
		return
	}
	since := s.status.GetStartedAt().AsTime()
	if !s.now.Before(since.Add(deadline)) {
		for _, sl := range s.trials {
			if sl.settled.After(since) {
				since = sl.settled
			}
		}
	}
	at := since.Add(deadline)
	if s.now.Before(at) {
		s.rollAt = at
		return
	}
	s.fail(fmt.Sprintf("no progress for %v: %s", deadline, s.obstacle(s.holdup())))
}
