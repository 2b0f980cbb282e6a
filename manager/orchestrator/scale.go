package orchestrator

import (
	"cmp"
	"slices"

	pb "github.com/minid/minid/proto/minid/v1"
)

func (s *set) replicas() int { return int(s.service.GetSpec().GetReplicated().GetReplicas()) }

// scaleOut fills the lowest free slots.
func (s *set) scaleOut() {
	if s.global() {
		return
	}
	missing := s.replicas() - s.present
	for n := uint64(1); missing > 0; n++ {
		sl := s.slots[place{slot: n}]
		if sl == nil {
			sl = &slot{place: place{slot: n}}
		}
		if !sl.occupied {
			s.createAt(sl.place, s.first(sl))
			missing--
		}
	}
}

// scaleIn gives up the slots that are missed least.
func (s *set) scaleIn() {
	if s.global() || s.present <= s.replicas() {
		return
	}
	for _, sl := range s.leastMissed()[:s.present-s.replicas()] {
		s.remove(sl)
	}
}

// leastMissed sorts the slots: those that do not run, the least advanced
// first; then those that would have to move; then those on the node that has
// most, whose number goes down as they are taken; high numbers before low ones.
// As in Swarm, where nothing moves.
func (s *set) leastMissed() []*slot {
	slots := make([]*slot, 0, s.present)
	for _, sl := range s.slots {
		if sl.occupied {
			slots = append(slots, sl)
		}
	}
	slices.SortFunc(slots, func(a, b *slot) int { return cmp.Compare(a.slot, b.slot) })
	onNode := map[string]int{}
	rank := make(map[*slot]int, len(slots))
	for _, sl := range slots {
		if t := sl.runningTask(); t != nil {
			onNode[t.NodeId]++
			rank[sl] = onNode[t.NodeId]
		}
	}
	slices.SortFunc(slots, func(a, b *slot) int {
		return cmp.Or(
			cmp.Compare(a.progress(), b.progress()),
			-compareBools(a.moving, b.moving),
			-cmp.Compare(rank[a], rank[b]),
			-cmp.Compare(a.slot, b.slot),
		)
	})
	return slots
}

// progress is the state of a slot's furthest live task; none is lowest.
func (sl *slot) progress() pb.TaskState {
	progress := pb.TaskState(-1)
	for _, t := range sl.live {
		progress = max(progress, t.GetStatus().GetState())
	}
	return progress
}
