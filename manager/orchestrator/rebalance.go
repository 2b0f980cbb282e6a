package orchestrator

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// A rebalancing spreads a service's tasks anew: as long as a move to the node
// that the scheduler would choose now evens things out (survey.go), a slot gets
// a second task beside its own, which takes over as if its node drained. Where
// that one goes is the scheduler's decision; if it goes where nothing is gained,
// or nowhere, that is undone. When this happens more often than not, or a
// replacement fails, the rebalancing gives up. It keeps to the pace of the
// update settings.

const (
	// mostMoves bounds how many slots move at a time, whatever the settings say.
	mostMoves = 100
	// mostUndone bounds how often it tries in vain.
	mostUndone = 3
	// movePatience is how long a replacement may find no node.
	movePatience = 10 * time.Second
	// joinWindow is how long a node counts as new.
	joinWindow = 5 * time.Minute
)

// Join is the last time that a node joined the cluster.
type Join struct {
	Node string // its name
	At   time.Time
}

// balance is what the working set knows of a rebalancing.
type balance struct {
	// status is that of the reconcile that runs.
	status *pb.Rebalance
	// join is looked at once.
	join Join
	// stale: the survey may say something new. again is when it will anyway.
	stale bool
	again time.Time
}

// spot is what a slot means to a rebalancing.
type spot struct {
	// node is where it counts, from the node that it moves away from.
	node, from string
	// open: it will be placed soon. refused: it cannot be.
	open, refused bool
	// holds: it takes one place of the parallelism. settled: it may move.
	holds, settled bool
	// flop is a replacement that failed.
	flop *pb.Task
}

func (s *set) rebalancing() bool {
	return s.balance.status.GetAskedAt() != nil && s.balance.status.CompletedAt == nil
}

// setBalance plans a change of the rebalancing's progress.
func (s *set) setBalance(change func(*pb.Rebalance)) {
	s.balance.status = proto.CloneOf(s.balance.status)
	change(s.balance.status)
	s.plan.Rebalance = s.balance.status
}

func (s *set) endBalance(how string) {
	s.setBalance(func(r *pb.Rebalance) { r.CompletedAt, r.Message = timestamppb.New(s.now), how })
}

func (s *set) giveUp(why string) {
	s.endBalance("gave up, " + cmp.Or(s.movedText(), "none moved") + ": " + why)
}

// evens tells whether a task was made to take the place of another that runs
// on a node with too many.
func (s *set) evens(from, to *pb.Task) bool { return s.rebalancing() && s.paired(from, to) }

func (s *set) paired(from, to *pb.Task) bool {
	return to.Replaces == from.Id && s.upToDate(from) && s.upToDate(to) && !s.moving(from) && !s.moving(to)
}

// spotOf works out a slot's spot while its service is rebalanced.
func (s *set) spotOf(sl *slot) (at spot) {
	r := s.service.GetRebalance()
	if !store.Rebalancing(s.service) || len(sl.live) == 0 {
		return at
	}
	t := sl.live[0]
	for _, other := range sl.live[1:] {
		if s.paired(t, other) {
			at.from, at.node, at.holds = t.NodeId, cmp.Or(other.NodeId, t.NodeId), true
			at.open, at.refused = other.NodeId == "", waitsInVain(other)
			return at
		}
	}
	at.node, at.refused = t.NodeId, waitsInVain(t)
	at.open = (t.NodeId == "" || s.moving(t)) && !at.refused
	fresh := t.Replaces != "" && !t.GetMeta().GetCreatedAt().AsTime().Before(r.AskedAt.AsTime())
	running := t.GetStatus().GetState() == pb.TaskState_TASK_STATE_RUNNING
	switch until := t.RunningAt.AsTime().Add(s.rollout().GetDelay().AsDuration()); {
	case len(sl.live) > 1, fresh && !running:
		at.holds = true
	case fresh && until.After(s.now):
		at.holds = true
		s.wakeAt(sl, until)
	default:
		at.settled = running && s.upToDate(t) && !s.moving(t)
	}
	newest := sl.tasks[len(sl.tasks)-1]
	if newest.Replaces == t.Id && endedItself(newest) && !newest.GetMeta().GetCreatedAt().AsTime().Before(r.AskedAt.AsTime()) {
		at.flop = newest
	}
	return at
}

func waitsInVain(t *pb.Task) bool { return t.NodeId == "" && len(t.GetStatus().GetRefused()) > 0 }

// rebalance begins, continues or ends a rebalancing. It looks at the service as
// a whole only when a slot or node means something new to it.
func (s *set) rebalance() {
	s.balance.status = s.service.GetRebalance()
	if s.balance.join != (Join{}) {
		s.askForJoin()
		s.balance.join = Join{}
	}
	again := s.balance.again
	if !store.Rebalancing(s.service) || !s.balance.stale && (again.IsZero() || again.After(s.now)) {
		return
	}
	s.balance.stale, s.balance.again = false, time.Time{}
	if s.paused() {
		s.giveUp("the update is paused")
		return
	}
	v := s.survey()
	if v.flop != nil {
		s.giveUp(failure(v.flop))
		return
	}
	undone := s.undoVain(v)
	r := s.balance.status
	v.vainly = r.Undone > min(r.Moved, mostUndone)
	switch {
	case v.vainly && v.held == undone:
		s.giveUp(r.Message)
	case undone == 0:
		s.moveNext(v)
	default:
		s.mindBalance(v)
	}
}

// undoVain stops replacements that are for nothing before they start.
func (s *set) undoVain(v *survey) (undone int) {
	for _, sl := range v.pairs {
		from, to := s.pairOf(sl)
		why := v.vain(sl, from, to)
		if why == "" {
			continue
		}
		undone++
		s.claim(sl)
		s.shut(to)
		s.setBalance(func(r *pb.Rebalance) { r.Undone, r.Message = r.Undone+1, why })
	}
	return undone
}

// moveNext begins as many moves as there are free places, or ends.
func (s *set) moveNext(v *survey) {
	free := mostMoves - v.held
	if p := s.rollout().GetParallelism(); p > 0 {
		free = int(min(p, mostMoves)) - v.held
	}
	// After a move in vain the others' outcome is waited for: it may change things.
	waits := s.active() || v.open || v.unheard || v.vainly || s.balance.status.Undone > 0 && len(v.pairs) > 0
	for ; free > 0 && !waits; free-- {
		sl := v.next()
		if sl == nil {
			break
		}
		s.claim(sl)
		s.createAt(sl.place, &pb.Task{
			SpecVersion: s.service.SpecVersion, DesiredState: pb.TaskState_TASK_STATE_READY, Replaces: sl.live[0].Id,
		})
		v.held++
	}
	if v.held == 0 && !waits && !v.stuck {
		s.endBalance(cmp.Or(s.movedText(), "nothing to move"))
		return
	}
	s.mindBalance(v)
}

// movedText is "3 moved".
func (s *set) movedText() string {
	if s.balance.status.GetMoved() == 0 {
		return ""
	}
	return fmt.Sprintf("%d moved", s.balance.status.Moved)
}

// mindBalance ends a rebalancing that has got nowhere for the length of the
// update's deadline.
func (s *set) mindBalance(v *survey) {
	deadline := durationOr(s.rollout().GetDeadline(), defaultDeadline)
	if deadline > 0 && !s.active() {
		at := v.progress.Add(deadline)
		if !at.After(s.now) {
			s.giveUp(fmt.Sprintf("no progress for %v", deadline))
			return
		}
		s.balance.again = at
	}
	s.balance.again = earliest(s.balance.again, v.again)
}

// askForJoin asks for a rebalancing if a node that joined would get some of
// the service's tasks.
func (s *set) askForJoin() {
	at := s.balance.join.At
	known := s.service.GetMeta().GetCreatedAt().AsTime().After(at) || !s.balance.status.GetAskedAt().AsTime().Before(at)
	if !s.replicated() || s.service.Removing || store.Rebalancing(s.service) || known || !s.now.Before(at.Add(joinWindow)) {
		return
	}
	if v := s.survey(); v.next() == nil && !v.stuck {
		return
	}
	s.balance.status = &pb.Rebalance{AskedAt: timestamppb.New(s.now), Message: "node " + s.balance.join.Node + " joined"}
	s.plan.Rebalance = s.balance.status
}

// slotName is "web.3".
func (s *set) slotName(sl *slot) string {
	return fmt.Sprintf("%s.%d", s.service.GetSpec().GetName(), sl.slot)
}

// nodeName is a node's host name.
func (s *set) nodeName(id string) string {
	return cmp.Or(s.nodes.Node(id).GetDescription().GetHostname(), id)
}

// waitingText is why a task has no node: "0 of 3 nodes fit: 2 are draining".
func waitingText(t *pb.Task) string {
	text := strings.TrimPrefix(t.GetStatus().GetMessage(), "waiting: ")
	if why := t.GetStatus().GetError(); why != "" {
		text += ": " + why
	}
	return text
}

// byName sorts slots.
func byName(slots []*slot) {
	slices.SortFunc(slots, func(a, b *slot) int { return comparePlaces(a.place, b.place) })
}
