package orchestrator

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/scheduler"
	"github.com/minid/minid/store"
)

// survey is a service's tasks on the nodes there are, as the scheduler counts
// them: per branch of each spread preference, then per node. It moves them in
// thought, one at a time, as long as that evens out a level without making one
// above it worse. Every such move makes the sums of squares of the levels
// smaller, in their order, so that there is a last one; without preferences
// there are no more of them than needed.
type survey struct {
	set    *set
	keys   []scheduler.SpreadKey
	counts map[string]int
	nodes  map[string]*spread
	fit    []*spread
	most   int // tasks of the service that a node may have; 0 is no limit
	lends  bool

	held     int       // places of the parallelism that are taken
	open     bool      // a task has no node yet, but will
	unheard  bool      // a node that fits has not been heard of
	stuck    bool      // a slot would move, but does not run
	vainly   bool      // too many moves were undone to begin others
	progress time.Time // when the last move came to its end
	again    time.Time // when patience ends
	pairs    []*slot
	flop     *pb.Task
}

// spread is a node, and the keys that it is counted by, outermost first.
type spread struct {
	id      string
	keys    []string
	settled []*slot // that may move, the highest number last
}

// survey looks at all slots and nodes.
func (s *set) survey() *survey {
	v := &survey{
		set: s, counts: map[string]int{}, nodes: map[string]*spread{}, lends: !s.startFirst(),
		most: int(min(s.spec.GetPlacement().GetMaxReplicasPerNode(), 1<<31)), progress: s.balance.status.GetAskedAt().AsTime(),
	}
	if store.FixedHostPort(s.spec) != nil {
		v.most = 1
	}
	for _, text := range s.spec.GetPlacement().GetSpread() {
		if key, err := scheduler.ParseSpread(text); err == nil {
			v.keys = append(v.keys, key)
		}
	}
	for n := range s.nodes.Nodes() {
		v.add(n)
	}
	slots := slices.Collect(maps.Values(s.slots))
	byName(slots)
	for _, sl := range slots {
		v.count(sl)
	}
	return v
}

func (v *survey) add(n *pb.Node) {
	at := &spread{id: n.Id}
	path := ""
	for _, key := range v.keys {
		path += "\x00" + key.Of(n)
		at.keys = append(at.keys, path)
	}
	at.keys = append(at.keys, path+"\x01"+n.Id)
	v.nodes[n.Id] = at
	if n.GetSpec().GetAvailability() != pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE || !v.set.fitsNow(n) {
		return
	}
	switch n.GetStatus().GetState() {
	case pb.NodeState_NODE_STATE_READY:
		v.fit = append(v.fit, at)
	case pb.NodeState_NODE_STATE_UNKNOWN:
		v.unheard = true
	}
}

// count enters a slot where it is, or will be.
func (v *survey) count(sl *slot) {
	if len(sl.live) == 0 {
		v.stuck = v.stuck || sl.occupied
		return
	}
	at := sl.spot
	if at.node == "" && at.from == "" && !at.open && !at.refused { // no rebalancing yet
		at.node, at.settled = sl.live[0].NodeId, true
	}
	if n := v.nodes[at.node]; n != nil {
		v.shift(n, 1)
		if at.settled && !sl.busy {
			n.settled = append(n.settled, sl)
		}
	}
	if at.holds {
		v.held++
	}
	if at.from != "" {
		v.pairs = append(v.pairs, sl)
	} else if at.open {
		v.open = true
	}
	v.flop = cmp.Or(v.flop, at.flop)
	if t := sl.live[0]; at.from == "" && t.RunningAt.AsTime().After(v.progress) && t.RunningAt != nil {
		v.progress = t.RunningAt.AsTime()
	}
}

func (v *survey) shift(n *spread, by int) {
	for _, key := range n.keys {
		v.counts[key] += by
	}
}

// vain tells why a move under way is for nothing, empty if it is not. The
// account is as if it had not been begun, then.
func (v *survey) vain(sl *slot, from, to *pb.Task) string {
	name := v.set.slotName(sl)
	switch at := to.GetMeta().GetCreatedAt().AsTime().Add(movePatience); {
	case waitsInVain(to) && !at.After(v.set.now):
		return fmt.Sprintf("the replacement of %s waits: %s", name, waitingText(to))
	case waitsInVain(to):
		v.again = earliest(v.again, at)
	case to.NodeId == from.NodeId:
		return fmt.Sprintf("the replacement of %s found no other node than %s", name, v.set.nodeName(from.NodeId))
	case to.NodeId != "" && !v.gained(from.NodeId, to.NodeId):
		return fmt.Sprintf("the replacement of %s landed on %s, no emptier than %s", name, v.set.nodeName(to.NodeId), v.set.nodeName(from.NodeId))
	}
	return ""
}

// pairOf is a slot's task that moves, and the one that takes its place.
func (s *set) pairOf(sl *slot) (from, to *pb.Task) {
	for _, to := range sl.live[1:] {
		if s.paired(sl.live[0], to) {
			return sl.live[0], to
		}
	}
	return nil, nil
}

// gained tells whether a move that is counted already was worth it. If not, it
// is counted no longer.
func (v *survey) gained(from, to string) bool {
	a, b := v.nodes[from], v.nodes[to]
	if a == nil || b == nil {
		return true // the node is gone, and the slot is seen to elsewhere
	}
	v.shift(b, -1)
	v.shift(a, 1)
	if !v.gains(a, b) {
		return false
	}
	v.shift(a, -1)
	v.shift(b, 1)
	return true
}

// gains tells whether moving a task from one node to another evens things out.
func (v *survey) gains(from, to *spread) bool {
	for i, key := range from.keys {
		if key == to.keys[i] {
			continue
		}
		if d := v.counts[key] - v.counts[to.keys[i]]; d != 1 {
			return d > 1
		}
	}
	return false
}

// next finds a slot that is worth moving and moves it in thought, nil if there
// is none. Slots whose moves are under way and have no node yet are moved first.
func (v *survey) next() *slot {
	v.foresee()
	best := v.emptiest()
	if best[""] == nil {
		return nil
	}
	sources := slices.Clone(v.fit)
	slices.SortFunc(sources, func(a, b *spread) int { return cmp.Or(-v.compare(a, b), cmp.Compare(a.id, b.id)) })
	for _, from := range sources {
		to := v.target(from, best)
		if !v.gains(from, to) {
			continue
		}
		last := len(from.settled) - 1
		if last < 0 {
			v.stuck = true
			continue
		}
		sl := from.settled[last]
		from.settled = from.settled[:last]
		v.shift(from, -1)
		v.shift(to, 1)
		return sl
	}
	return nil
}

// foresee moves, in thought, what moves already but has no node yet.
func (v *survey) foresee() {
	for _, sl := range v.pairs {
		if from := v.nodes[sl.spot.from]; sl.spot.open && from != nil {
			best := v.emptiest()
			if best[""] == nil {
				return
			}
			to := v.target(from, best)
			v.shift(from, -1)
			v.shift(to, 1)
		}
	}
	v.pairs = nil
}

// emptiest finds, of all nodes that fit and of those in each branch, the one
// that the scheduler would choose.
func (v *survey) emptiest() map[string]*spread {
	best := map[string]*spread{}
	for _, n := range v.fit {
		if v.most > 0 && v.counts[n.keys[len(n.keys)-1]] >= v.most {
			continue
		}
		for _, branch := range append([]string{""}, n.keys[:len(n.keys)-1]...) {
			if other := best[branch]; other == nil || v.compare(n, other) < 0 {
				best[branch] = n
			}
		}
	}
	return best
}

// target is where the scheduler would put the replacement of a task: if that
// counts no more, its own branches look emptier.
func (v *survey) target(from *spread, best map[string]*spread) *spread {
	to := best[""]
	if !v.lends {
		return to
	}
	v.shift(from, -1)
	for _, branch := range from.keys[:len(from.keys)-1] {
		if n := best[branch]; n != nil && v.compare(n, to) < 0 {
			to = n
		}
	}
	v.shift(from, 1)
	return to
}

// compare orders nodes as the scheduler does, the emptiest branches first.
func (v *survey) compare(a, b *spread) int {
	for i, key := range a.keys {
		if d := v.counts[key] - v.counts[b.keys[i]]; d != 0 {
			return d
		}
	}
	return 0
}
