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
)

// A rolling update goes in batches. A batch replaces up to parallelism stale
// slots and ends when each of its new tasks has either run for the monitor
// period or failed; after the delay the next one begins. Everything is read
// off the store: the tasks on trial are those of the new version made since
// the last batch ended (UpdateStatus.last_batch_at), the failures are listed
// by id. Only what ends by itself is a failure; a task whose node is lost is
// replaced and the replacement put on trial.

func (s *set) updateConfig() *pb.UpdateConfig { return s.service.GetSpec().GetUpdate() }

func (s *set) startFirst() bool {
	return s.updateConfig().GetOrder() == pb.UpdateConfig_ORDER_START_FIRST
}

// isStale tells whether a slot holds, or last held, a task that the update
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

// findTrial returns the update's task of a slot while its batch lasts, and
// whether the update has been here at all. The update's task is the first of
// its version that was not lost; later ones are restarts of it.
func (s *set) findTrial(sl *slot) (trial *pb.Task, tried bool) {
	status := s.service.GetUpdateStatus()
	if status.GetState() != pb.UpdateState_UPDATE_STATE_UPDATING || status.ToVersion != s.service.SpecVersion {
		return nil, false
	}
	for _, t := range sl.tasks {
		inLine := live(t) || endedItself(t) && t.DesiredState < pb.TaskState_TASK_STATE_REMOVE
		if t.SpecVersion != s.service.SpecVersion || t.Replaces == "" || !inLine {
			continue
		}
		made := t.GetMeta().GetCreatedAt().AsTime()
		if made.Before(status.StartedAt.AsTime()) || made.Before(status.LastBatchAt.AsTime()) {
			return nil, true
		}
		return t, true
	}
	return nil, false
}

// judge tells how a slot's trial stands, and sees to it being looked at when
// the monitor period ends. The time counts from when the store learned that
// the task runs, by the leader's clock.
func (s *set) judge(sl *slot) verdict {
	t := sl.trial
	switch {
	case t == nil:
		return undecided
	case endedItself(t):
		return failed
	case t.GetStatus().GetState() < pb.TaskState_TASK_STATE_RUNNING || len(sl.live) != 1:
		return undecided
	}
	at := t.GetMeta().GetUpdatedAt().AsTime().Add(durationOr(s.updateConfig().GetMonitor(), defaultMonitor))
	if at.After(s.now) {
		s.wakeAt(sl, at)
		return undecided
	}
	return good
}

// roll begins, continues, pauses or completes the update.
func (s *set) roll() {
	s.status = s.service.GetUpdateStatus()
	switch {
	case s.status.GetToVersion() == s.service.SpecVersion:
		if s.status.State == pb.UpdateState_UPDATE_STATE_COMPLETED && len(s.stale) > 0 {
			s.begin()
		}
	case s.service.SpecVersion > 1:
		s.begin()
	}
	if s.status.GetState() != pb.UpdateState_UPDATE_STATE_UPDATING {
		return
	}
	if s.noteFailures(); s.status.State == pb.UpdateState_UPDATE_STATE_PAUSED {
		return
	}
	switch {
	case s.pending > 0:
	case len(s.stale) == 0:
		s.complete()
	case len(s.trials) > 0:
		s.endBatch()
	default:
		s.nextBatch()
	}
}

// setStatus plans a change of the update's progress.
func (s *set) setStatus(change func(*pb.UpdateStatus)) {
	s.status = proto.CloneOf(s.status)
	change(s.status)
	s.plan.Update = s.status
}

func (s *set) begin() {
	s.status = &pb.UpdateStatus{
		State:     pb.UpdateState_UPDATE_STATE_UPDATING,
		StartedAt: timestamppb.New(s.now),
		Message:   "update in progress",
		ToVersion: s.service.SpecVersion,
	}
	s.plan.Update = s.status
}

func (s *set) complete() {
	s.setStatus(func(u *pb.UpdateStatus) {
		u.State = pb.UpdateState_UPDATE_STATE_COMPLETED
		u.CompletedAt = timestamppb.New(s.now)
		u.Message = "update completed"
		if s.now.Equal(u.StartedAt.AsTime()) {
			u.Message = "update completed: no task had to be replaced"
		}
		if n := len(u.FailedTasks); n > 0 {
			u.Message = fmt.Sprintf("update completed; tasks of %d of %d slots failed", n, s.present)
		}
	})
}

// endBatch makes the tasks on trial part of the past: it ends after they were made.
func (s *set) endBatch() {
	end := s.now
	for _, sl := range s.trials {
		if made := sl.trial.GetMeta().GetCreatedAt().AsTime(); !made.Before(end) {
			end = made.Add(time.Nanosecond)
		}
	}
	s.setStatus(func(u *pb.UpdateStatus) { u.LastBatchAt = timestamppb.New(end) })
}

// noteFailures records new failures, and pauses when there are too many.
func (s *set) noteFailures() {
	if len(s.failed) == 0 {
		return
	}
	known := make(map[string]bool, len(s.status.FailedTasks))
	for _, id := range s.status.FailedTasks {
		known[id] = true
	}
	maps.DeleteFunc(s.failed, func(_ place, sl *slot) bool { return known[sl.trial.Id] })
	if len(s.failed) == 0 {
		return
	}
	fresh := slices.SortedFunc(maps.Values(s.failed), func(a, b *slot) int { return comparePlaces(a.place, b.place) })
	s.setStatus(func(u *pb.UpdateStatus) {
		for _, sl := range fresh {
			u.FailedTasks = append(u.FailedTasks, sl.trial.Id)
		}
		if s.tooMany(len(u.FailedTasks)) {
			u.State = pb.UpdateState_UPDATE_STATE_PAUSED
			u.Message = "update paused: " + s.failure(fresh[len(fresh)-1].trial)
		}
	})
}

func (s *set) tooMany(failures int) bool {
	c := s.updateConfig()
	return c.GetFailureAction() != pb.UpdateConfig_FAILURE_ACTION_CONTINUE &&
		float64(failures) > c.GetMaxFailureRatio()*float64(s.present)
}

// failure tells which task failed and why.
func (s *set) failure(t *pb.Task) string {
	where := fmt.Sprint(t.Slot)
	if t.Slot == 0 {
		where = t.NodeId
	}
	st := t.GetStatus()
	why := cmp.Or(st.GetError(), st.GetMessage(), "ended early")
	if code := st.GetContainer().GetExitCode(); code != 0 && st.GetError() == "" {
		why = fmt.Sprintf("exit code %d", code)
	}
	return fmt.Sprintf("task %s.%s.%s failed: %s", t.ServiceName, where, t.Id, why)
}

// nextBatch replaces the next stale slots, once the delay has passed. The time
// must be after the last batch's end, for trials are told apart by it.
func (s *set) nextBatch() {
	if last := s.status.GetLastBatchAt(); last != nil {
		at := last.AsTime().Add(s.updateConfig().GetDelay().AsDuration())
		if !s.now.After(at) {
			s.rollAt = at.Add(time.Nanosecond)
			return
		}
	}
	batch := s.candidates()
	if p := s.updateConfig().GetParallelism(); p > 0 && uint64(len(batch)) > p {
		batch = batch[:p]
	}
	for _, sl := range batch {
		s.renew(sl)
	}
}

// candidates are the slots whose turn has not come, those first that do not
// run anyway.
func (s *set) candidates() []*slot {
	var slots []*slot
	for sl := range maps.Values(s.stale) {
		if !sl.tried && !sl.busy && s.mayCreate(sl) {
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
	s.create(sl, next)
}
