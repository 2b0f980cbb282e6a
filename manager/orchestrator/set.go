package orchestrator

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// place is what a task is for: a slot of a replicated service, or a node for
// a global one.
type place struct {
	slot uint64
	node string
}

func placeOf(t *pb.Task) place {
	if t.Slot == 0 {
		return place{node: t.NodeId}
	}
	return place{slot: t.Slot}
}

func byPlace(tasks []*pb.Task) map[place][]*pb.Task {
	places := map[place][]*pb.Task{}
	for _, t := range tasks {
		places[placeOf(t)] = append(places[placeOf(t)], t)
	}
	return places
}

func comparePlaces(a, b place) int {
	return cmp.Or(cmp.Compare(a.slot, b.slot), cmp.Compare(a.node, b.node))
}

// set is the working set for one service: its slots, and of those what the
// decisions about the service as a whole need. It goes by what it was told
// last; slots that may have changed are marked in dirty.
type set struct {
	ground
	// alike holds the versions that differ from the present one in nothing
	// that a running task would notice.
	alike map[uint64]bool

	slots  map[place]*slot
	dirty  map[place]bool
	alarms alarms[place]
	// Counts and kinds of slots, kept by look.
	present   int
	stale     map[place]*slot
	untouched map[place]*slot // stale, and the rollout has not been there
	trials    map[place]*slot
	inAir     map[place]*slot // trials that neither run nor failed
	failed    map[place]*slot // trials whose failure may not be on record
	// Of the slots that the rollout concerns, those that hold a place of its
	// parallelism, and those whose trial is undecided.
	concerned, held, pending int
	moves
	balance balance

	// Of the reconcile that runs.
	status *pb.UpdateStatus
	rollAt time.Time
	acted  []*slot
}

func newSet(fits Fits, newID func() string) *set {
	return &set{
		ground: newGround(fits, newID),
		slots:  map[place]*slot{}, dirty: map[place]bool{},
		stale: map[place]*slot{}, untouched: map[place]*slot{},
		trials: map[place]*slot{}, inAir: map[place]*slot{}, failed: map[place]*slot{},
		moves: moves{ready: map[place]*slot{}},
	}
}

// turnTo takes note of the service and the nodes as they are now. When only
// the update has moved on, no slot is affected.
func (s *set) turnTo(service *pb.Service, nodes Nodes) {
	old := s.service
	s.service, s.nodes = service, nodes
	if old == service || sameRules(old, service) {
		return
	}
	s.spec, s.balance.stale = service.GetSpec().GetTask(), true
	s.alike, s.fitting = map[uint64]bool{}, map[fitsOn]fitAnswer{}
	for _, v := range service.GetVersions() {
		s.alike[v.Version] = !templateDiffers(v.Spec, s.spec)
	}
	s.touchAll(maps.Keys(s.slots))
	if s.global() {
		for n := range nodes.Nodes() {
			s.touch(place{node: n.Id})
		}
	}
}

// sameRules tells whether two forms of a service ask the same of every slot.
func sameRules(a, b *pb.Service) bool {
	ua, ub := a.GetUpdateStatus(), b.GetUpdateStatus()
	return a != nil && store.Rebalancing(a) == store.Rebalancing(b) &&
		a.GetRebalance().GetAskedAt().AsTime().Equal(b.GetRebalance().GetAskedAt().AsTime()) && a.Spec == b.Spec && a.SpecVersion == b.SpecVersion && a.Removing == b.Removing &&
		ua.GetState() == ub.GetState() && ua.GetToVersion() == ub.GetToVersion() &&
		ua.GetStartedAt().AsTime().Equal(ub.GetStartedAt().AsTime())
}

func (s *set) global() bool { return s.service.GetSpec().GetGlobal() != nil }

func (s *set) touch(p place) { s.dirty[p] = true }

func (s *set) touchAll(places iter.Seq[place]) {
	for p := range places {
		s.touch(p)
	}
}

// load fills a new working set.
func (s *set) load(tasks []*pb.Task) {
	for p, tasks := range byPlace(tasks) {
		s.put(p, tasks)
	}
}

// put replaces the tasks of one slot.
func (s *set) put(p place, tasks []*pb.Task) {
	sl := s.slots[p]
	if sl == nil {
		if len(tasks) == 0 && !s.global() {
			return
		}
		sl = &slot{place: p}
		s.slots[p] = sl
	}
	sl.tasks = tasks
	slices.SortFunc(sl.tasks, compareAge)
	s.touch(p)
}

func compareAge(a, b *pb.Task) int {
	return cmp.Or(
		a.GetMeta().GetCreatedAt().AsTime().Compare(b.GetMeta().GetCreatedAt().AsTime()),
		cmp.Compare(a.SpecVersion, b.SpecVersion),
		cmp.Compare(a.Id, b.Id),
	)
}

// reconcile decides about the slots that are dirty or due, and the service.
func (s *set) reconcile(now time.Time) Plan {
	s.now, s.plan, s.rollAt, s.acted = now, Plan{}, time.Time{}, nil
	for _, a := range s.alarms.due(now) {
		s.touch(a.key)
	}
	slots := s.lookAtDirty()
	if s.service.Removing {
		for _, sl := range slots {
			s.remove(sl)
		}
		return s.plan
	}
	s.scaleIn()
	s.roll()
	s.rebalance()
	if s.paused() && s.status != s.service.GetUpdateStatus() || store.Rebalancing(s.service) && !s.rebalancing() {
		// What has not started must not, wherever it is.
		slots = slices.SortedFunc(maps.Values(s.slots), func(a, b *slot) int { return comparePlaces(a.place, b.place) })
	}
	for _, sl := range slots {
		s.tend(sl)
	}
	s.relieve()
	s.scaleOut()
	for _, sl := range s.acted {
		sl.busy = false
	}
	s.alarms.drop(func(a alarm[place]) bool {
		sl := s.slots[a.key]
		return sl == nil || !sl.wake.Equal(a.at)
	})
	s.plan.Next = earliest(s.alarms.next(), s.rollAt)
	if s.rebalancing() {
		s.plan.Next = earliest(s.plan.Next, s.balance.again)
	}
	return s.plan
}

// lookAtDirty brings the dirty slots up to date and returns them in order.
func (s *set) lookAtDirty() []*slot {
	places := slices.SortedFunc(maps.Keys(s.dirty), comparePlaces)
	s.dirty = map[place]bool{} // one that was large is slow to go through, also when it is empty
	slots := make([]*slot, 0, len(places))
	for _, p := range places {
		sl := s.slots[p]
		if sl == nil {
			if !s.global() {
				continue
			}
			sl = &slot{place: p}
			s.slots[p] = sl
		}
		s.look(sl)
		slots = append(slots, sl)
		if len(sl.tasks) == 0 && (!s.global() || s.nodes.Node(p.node) == nil) {
			delete(s.slots, p)
		}
	}
	return slots
}

// claim takes a slot for one decision: nothing else in this reconcile adds to
// it, and whatever it waited for is over.
func (s *set) claim(sl *slot) {
	sl.busy, sl.wake = true, time.Time{}
	s.acted = append(s.acted, sl)
}

// remove gives up a slot with all its history.
func (s *set) remove(sl *slot) {
	s.claim(sl)
	s.retire(sl)
	for _, t := range sl.tasks {
		s.desire(t, pb.TaskState_TASK_STATE_REMOVE)
	}
}

// wakeAt has a slot looked at again.
func (s *set) wakeAt(sl *slot, at time.Time) {
	if sl.wake.IsZero() || at.Before(sl.wake) {
		sl.wake = at
		s.alarms.set(sl.place, at)
	}
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
