package orchestrator

import (
	"maps"
	"slices"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// jobSet is the working set for one job: its runs, and of each the seats. It
// goes by what it was told last; places that may have changed are marked in
// dirty, and all runs' seats there are looked at.
type jobSet struct {
	ground

	runs   map[uint64]*run
	dirty  map[place]bool
	alarms alarms[place]
	timetable
	// counted is when progress was last planned to be told.
	counted time.Time

	// Of the reconcile that runs: the status as it will be, and when to look
	// again for the runs' sake.
	next  *pb.JobStatus
	again time.Time
}

// run is what a run of a job has in the working set.
type run struct {
	number uint64
	// record is nil for a run that is not listed any more.
	record *pb.JobRun
	// expired runs are not listed, or have outlived their time to live.
	expired bool
	// open runs take tasks, or would if a node joined.
	open  bool
	seats map[place]*seat
	// untried is the lowest slot that may have no seat.
	untried uint64

	// Counts and kinds of seats, kept by look.
	total, done, busy, failures int
	vacant, spent               map[place]*seat
}

func newJobSet(fits Fits, newID func() string) *jobSet {
	return &jobSet{ground: newGround(fits, newID), runs: map[uint64]*run{}, dirty: map[place]bool{}}
}

// turnTo takes note of the service and the nodes as they are now. When the
// runs have only got on, no seat is affected.
func (s *jobSet) turnTo(service *pb.Service, nodes Nodes) {
	old := s.service
	s.service, s.nodes = service, nodes
	if old == service {
		return
	}
	if old == nil || old.Spec != service.Spec || old.Removing != service.Removing {
		s.spec = service.GetSpec().GetTask()
		s.timetable.turnTo(service.Spec.GetJob().GetSchedule())
		clear(s.fitting)
		for _, r := range s.runs {
			s.touchAll(r)
		}
	}
	for _, record := range service.GetJob().GetRuns() {
		s.run(record.Number).record = record
	}
	for number, r := range s.runs {
		if store.Run(service, number) == nil {
			r.record = nil
		}
		s.classify(r)
	}
}

// run returns what there is of a run, from now on.
func (s *jobSet) run(number uint64) *run {
	r := s.runs[number]
	if r == nil {
		r = &run{number: number, seats: map[place]*seat{}, untried: 1, vacant: map[place]*seat{}, spent: map[place]*seat{}}
		s.runs[number] = r
	}
	return r
}

// classify works out what a run is, and has its seats looked at if that has
// changed.
func (s *jobSet) classify(r *run) {
	open, expired := s.isOpen(r), s.isExpired(r)
	if open == r.open && expired == r.expired {
		return
	}
	r.open, r.expired = open, expired
	s.touchAll(r)
}

func (r *run) goesOn() bool { return r.record.GetState() == pb.JobState_JOB_STATE_RUNNING }

// isOpen: besides runs that go on, a global job that runs once for its version
// is never quite finished, for a node may join while its tasks are there.
func (s *jobSet) isOpen(r *run) bool {
	return r.goesOn() || s.perNode() && s.schedule() == nil && !s.isExpired(r) &&
		r.record.GetState() == pb.JobState_JOB_STATE_COMPLETE &&
		r.number == s.service.GetJob().GetLastRun() && r.record.GetSpecVersion() == s.service.SpecVersion
}

func (s *jobSet) isExpired(r *run) bool {
	end := s.expiry(r.record)
	return r.record == nil || !end.IsZero() && !end.After(s.now)
}

// expiry is when an ended run's tasks are given up; zero is never.
func (s *jobSet) expiry(r *pb.JobRun) time.Time {
	ttl := s.service.GetSpec().GetJob().GetTtl()
	if ttl == nil || r.GetEndedAt() == nil {
		return time.Time{}
	}
	return r.EndedAt.AsTime().Add(ttl.AsDuration())
}

func (s *jobSet) perNode() bool { return s.service.GetSpec().GetGlobalJob() != nil }

func (s *jobSet) completions() uint64 {
	return max(1, s.service.GetSpec().GetReplicatedJob().GetCompletions())
}

// concurrency is how many seats of a run may be busy; without limit where
// there is one for each node.
func (s *jobSet) concurrency() int {
	if s.perNode() {
		return int(^uint(0) >> 1)
	}
	if limit := s.service.GetSpec().GetReplicatedJob().GetMaxConcurrent(); limit > 0 {
		return int(limit)
	}
	return int(s.completions())
}

// touchAll has all of a run's seats looked at; an open run of a global job has
// one on each node.
func (s *jobSet) touchAll(r *run) {
	for p := range r.seats {
		s.dirty[p] = true
	}
	if r.open && s.perNode() {
		for n := range s.nodes.Nodes() {
			s.dirty[place{node: n.Id}] = true
		}
	}
}

// load fills a new working set.
func (s *jobSet) load(tasks []*pb.Task) {
	for p, tasks := range byPlace(tasks) {
		s.put(p, tasks)
	}
}

// put replaces the tasks of one place, which may be of several runs.
func (s *jobSet) put(p place, tasks []*pb.Task) {
	s.dirty[p] = true
	for _, r := range s.runs {
		if seat := r.seats[p]; seat != nil {
			seat.tasks = nil
		}
	}
	slices.SortFunc(tasks, compareAge)
	for _, t := range tasks {
		seat := s.run(t.JobRun).seat(p)
		seat.tasks = append(seat.tasks, t)
	}
}

func (r *run) seat(p place) *seat {
	sl := r.seats[p]
	if sl == nil {
		sl = &seat{place: p, run: r}
		r.seats[p] = sl
	}
	return sl
}

// reconcile decides about the runs, and about the seats that are dirty or due.
func (s *jobSet) reconcile(now time.Time) Plan {
	s.now, s.plan, s.next, s.again = now, Plan{}, nil, time.Time{}
	for _, a := range s.alarms.due(now) {
		s.dirty[a.key] = true
	}
	for _, r := range s.runs {
		s.classify(r)
	}
	seats := s.lookAtDirty()
	if s.service.Removing {
		for _, seat := range seats {
			s.giveUp(seat)
		}
		return s.plan
	}
	s.record()
	for _, seat := range seats {
		s.tend(seat)
	}
	for _, number := range slices.Sorted(maps.Keys(s.runs)) {
		if r := s.runs[number]; r.goesOn() && s.keeps(r) {
			s.fill(r)
		}
	}
	s.alarms.drop(func(a alarm[place]) bool { return !s.awaited(a) })
	s.plan.Next = earliest(s.alarms.next(), s.again)
	return s.plan
}

// keeps tells whether a run that goes on still does after this reconcile.
func (s *jobSet) keeps(r *run) bool {
	i := slices.IndexFunc(s.next.GetRuns(), func(n *pb.JobRun) bool { return n.Number == r.number })
	return i >= 0 && s.next.Runs[i].State == pb.JobState_JOB_STATE_RUNNING
}

func (s *jobSet) awaited(a alarm[place]) bool {
	for _, r := range s.runs {
		if seat := r.seats[a.key]; seat != nil && seat.wake.Equal(a.at) {
			return true
		}
	}
	return false
}

// lookAtDirty brings the seats at dirty places up to date and returns them in
// order. Runs that are not listed any more go with their last seat.
func (s *jobSet) lookAtDirty() []*seat {
	places := slices.SortedFunc(maps.Keys(s.dirty), comparePlaces)
	numbers := slices.Sorted(maps.Keys(s.runs))
	s.dirty = map[place]bool{} // one that was large is slow to go through, also when it is empty
	seats := make([]*seat, 0, len(places))
	for _, p := range places {
		for _, number := range numbers {
			if seat := s.seatAt(s.runs[number], p); seat != nil {
				s.look(seat)
				seats = append(seats, seat)
			}
		}
	}
	for _, number := range numbers {
		if r := s.runs[number]; r.record == nil && len(r.seats) == 0 {
			delete(s.runs, number)
		}
	}
	return seats
}

// seatAt returns a run's seat at a place, nil if it has nothing to do there.
func (s *jobSet) seatAt(r *run, p place) *seat {
	onNode := p.node != "" && r.open && s.perNode() && s.nodes.Node(p.node) != nil
	sl := r.seats[p]
	switch {
	case sl == nil && onNode:
		return r.seat(p)
	case sl == nil:
		return nil
	case len(sl.tasks) == 0 && !onNode:
		r.discount(sl)
		delete(r.seats, p)
		r.untried = min(r.untried, max(1, p.slot))
		return nil
	}
	return sl
}
