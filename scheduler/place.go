package scheduler

import (
	"time"
)

// Group is the waiting tasks of one version of one service: equal but for
// their history.
type Group struct {
	Service string
	// Name is the service's, for hints.
	Name    string
	Version uint64
	Need    *Requirements
	// StopFirst tells that a task starts only when the one it replaces has
	// ended, so that it may count on what that one holds.
	StopFirst bool
	Tasks     []Waiting
}

// Waiting is a task to be placed.
type Waiting struct {
	ID string
	// Node is set for a task that can run nowhere else (global services).
	Node string
	// Replaces is the task whose place this one takes, if any.
	Replaces string
}

// Decision is a task's node.
type Decision struct{ Task, Node string }

// run is one group on its way to its nodes.
type run struct {
	query
	flapping map[*node]bool
	start    int // of the ring of positions
	want     int
	chosen   []*node
}

// Place finds nodes for a group's tasks, in their order, and accounts for them
// as if they were assigned; RemoveTask undoes that for a task that was not.
// It returns the tasks that fit nowhere as well.
func (s *Set) Place(g Group, now time.Time) ([]Decision, []Waiting) {
	lent := s.borrow(g)
	defer s.giveBack(lent)
	if _, known := s.unfit[g.Need.key]; known && len(lent) == 0 {
		return nil, g.Tasks
	}
	r := s.newRun(g, now)
	r.want = len(g.Tasks)
	switch {
	case s.pack:
		r.packed()
	case len(g.Need.spread) > 0:
		r.spread()
	default:
		r.fill()
	}
	if r.missing() && len(lent) == 0 && g.Need.maxPerNode == 0 {
		s.unfit[g.Need.key] = struct{}{}
	}
	decisions, left := match(g.Tasks, r.chosen, lent)
	for _, d := range decisions {
		s.changes++
		s.tasks[d.Task] = r.holding(s.nodes[d.Node])
	}
	return decisions, left
}

// Check looks whether a task that names its node fits there, and accounts for
// it if so. Otherwise it says why not, in words that follow the node's name.
func (s *Set) Check(g Group, w Waiting) (ok bool, why string) {
	g.Tasks = []Waiting{w}
	defer s.giveBack(s.borrow(g))
	q := s.query(g)
	n := s.nodes[w.Node]
	if n == nil || !n.known {
		return false, "is gone"
	}
	if _, refused := q.refuse(n); refused != nil {
		return false, refused.one()
	}
	h := q.holding(n)
	s.hold(h)
	s.changes++
	s.tasks[w.ID] = h
	return true, ""
}

func (s *Set) query(g Group) *query {
	return &query{set: s, need: g.Need, service: s.service(g.Service)}
}

func (s *Set) newRun(g Group, now time.Time) *run {
	r := &run{query: *s.query(g)}
	r.flapping = s.flapping(r.service, g.Version, now)
	if len(s.slots) > 0 {
		r.start = int(hash(g.Service) % uint64(len(s.slots)))
	}
	return r
}

// hash is FNV-1a: the same on every manager.
func hash(text string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	return h
}

func (q *query) holding(n *node) holding {
	return holding{node: n, service: q.service, need: q.need, wanted: true}
}

func (r *run) missing() bool { return len(r.chosen) < r.want }

func (r *run) take(n *node) {
	r.set.hold(r.holding(n))
	r.chosen = append(r.chosen, n)
}

// fill places without preferences. The nodes without a task of the service
// come first, the emptiest first of all: it walks the levels upwards and stops
// as soon as all tasks are placed. Only when the tasks outnumber these nodes
// does it order those that have some.
func (r *run) fill() {
	members := r.set.candidates(r.need)
	for k := 0; k < len(r.set.levels) && r.missing(); k++ {
		if r.set.levels[k].count > 0 {
			ring(r.set.levels[k].members, members, r.start, len(r.set.slots), r.visit)
		}
	}
	if !r.missing() {
		return
	}
	rest := branch{}
	for n := range r.service.nodes {
		if n.level >= 0 && members.has(n.pos) && r.fits(n) {
			rest.leaf = append(rest.leaf, r.candidate(n))
		}
	}
	for n := range r.flapping {
		if r.service.nodes[n] == 0 && n.level >= 0 && members.has(n.pos) && r.fits(n) {
			rest.leaf = append(rest.leaf, r.candidate(n))
		}
	}
	rest.leaf.order()
	r.drain(&rest)
}

// visit gives a task to the node at a position if it fits and has none of the
// service, and tells whether to go on.
func (r *run) visit(pos int) bool {
	if r.short(pos) != (resources{}) {
		return true
	}
	n := r.set.slots[pos]
	if r.service.nodes[n] == 0 && !r.flapping[n] && r.fits(n) {
		r.take(n)
	}
	return r.missing()
}

// borrow takes off the books what the tasks hold that the group's tasks
// replace and that end before these start. On a draining node nothing is placed
// anyway: there, it only keeps its branch from looking fuller than it will be.
func (s *Set) borrow(g Group) map[string]holding {
	var lent map[string]holding
	for _, w := range g.Tasks {
		h, held := s.tasks[w.Replaces]
		if w.Replaces == "" || !held || (!g.StopFirst && h.wanted && !h.node.draining()) {
			continue
		}
		if _, twice := lent[w.Replaces]; twice {
			continue
		}
		if lent == nil {
			lent = map[string]holding{}
		}
		lent[w.Replaces] = h
		s.release(h)
	}
	return lent
}

func (s *Set) giveBack(lent map[string]holding) {
	for _, h := range lent {
		s.hold(h)
	}
}

// match hands out the chosen nodes. A task that replaces one on a chosen node
// gets that node, so that nobody else waits for what the old one holds; the
// others are served in order.
func match(tasks []Waiting, chosen []*node, lent map[string]holding) ([]Decision, []Waiting) {
	decisions := make([]Decision, 0, len(chosen))
	if len(lent) > 0 {
		tasks, chosen, decisions = matchReplaced(tasks, chosen, lent, decisions)
	}
	for i, n := range chosen {
		decisions = append(decisions, Decision{tasks[i].ID, n.id})
	}
	return decisions, tasks[len(chosen):]
}

func matchReplaced(tasks []Waiting, chosen []*node, lent map[string]holding, decisions []Decision) ([]Waiting, []*node, []Decision) {
	open := map[*node]int{}
	for _, n := range chosen {
		open[n]++
	}
	var others []Waiting
	for _, w := range tasks {
		h, ok := lent[w.Replaces]
		if !ok || open[h.node] == 0 {
			others = append(others, w)
			continue
		}
		open[h.node]--
		decisions = append(decisions, Decision{w.ID, h.node.id})
	}
	var rest []*node
	for _, n := range chosen {
		if open[n] > 0 {
			open[n]--
			rest = append(rest, n)
		}
	}
	return others, rest, decisions
}
