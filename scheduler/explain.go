package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Explanation is why a task fits on so many nodes.
type Explanation struct {
	// Nodes is how many there are, Fit how many could run the task.
	Nodes, Fit int
	// Refused sums up the other nodes by filter and reason, most nodes first.
	Refused []*pb.FilterCount
	// Hint is a command that would make room, empty if none is known.
	Hint string
}

// Headline is "0 of 5 nodes fit".
func (e Explanation) Headline() string {
	return fmt.Sprintf("%d of %d nodes fit", e.Fit, e.Nodes)
}

// Reasons is "3 lack label disk=ssd, 1 is draining".
func (e Explanation) Reasons() string {
	parts := make([]string, len(e.Refused))
	for i, c := range e.Refused {
		parts[i] = fmt.Sprintf("%d %s", c.GetNodes(), c.GetReason())
	}
	return strings.Join(parts, ", ")
}

// Told is what a task that no node takes is told: what it waits for, and why
// in vain. One that is for a certain node hears of that alone.
func (e Explanation) Told(w Waiting) (what, why string) {
	if w.Node == "" {
		return e.Headline(), e.Reasons()
	}
	for _, c := range e.Refused {
		why = "the node " + c.GetReason()
	}
	return "waiting for its node", why
}

// Summary is headline and reasons in one sentence.
func (e Explanation) Summary() string {
	if len(e.Refused) == 0 {
		return e.Headline()
	}
	return e.Headline() + ": " + e.Reasons()
}

// Explain sums up, for one task of a group, what every node says to it.
func (s *Set) Explain(g Group, w Waiting) Explanation {
	g.Tasks = []Waiting{w}
	defer s.giveBack(s.borrow(g))
	q := s.query(g)
	t := tally{}
	e := Explanation{}
	advice := advisor{query: q, service: cmp.Or(g.Name, g.Service)}
	for n := range s.asked(w) {
		e.Nodes++
		i, refused := q.refuse(n)
		if refused == nil {
			e.Fit++
			continue
		}
		t.add(i, *refused)
		advice.consider(n, i)
	}
	e.Refused = t.counts()
	if e.Fit == 0 {
		e.Hint = advice.hint(e.Nodes, w)
	}
	return e
}

// asked yields the nodes that a task could be meant for.
func (s *Set) asked(w Waiting) func(yield func(*node) bool) {
	return func(yield func(*node) bool) {
		if w.Node != "" {
			if n := s.nodes[w.Node]; n != nil && n.known {
				yield(n)
			}
			return
		}
		for _, n := range s.slots {
			if n != nil && n.known && !yield(n) {
				return
			}
		}
	}
}

// Verdicts tells for one task of a group what each node says to it: those that
// fit in the order of preference, then the others by name.
func (s *Set) Verdicts(g Group, w Waiting, now time.Time) []*pb.NodeVerdict {
	g.Tasks = []Waiting{w}
	defer s.giveBack(s.borrow(g))
	r := s.newRun(g, now)
	ranked := r.ranking(s.asked(w))
	verdicts := make([]*pb.NodeVerdict, 0, s.known)
	for i, c := range ranked {
		v := r.verdict(c.node)
		v.Fits, v.Rank = true, uint32(i+1)
		verdicts = append(verdicts, v)
	}
	for n := range s.asked(w) {
		i, refused := r.refuse(n)
		if refused == nil {
			continue
		}
		v := r.verdict(n)
		v.Filter, v.Reason = filters[i].name, refused.one()
		verdicts = append(verdicts, v)
	}
	slices.SortStableFunc(verdicts[len(ranked):], func(a, b *pb.NodeVerdict) int {
		return cmp.Or(cmp.Compare(a.NodeName, b.NodeName), cmp.Compare(a.NodeId, b.NodeId))
	})
	return verdicts
}

func (q *query) verdict(n *node) *pb.NodeVerdict {
	return &pb.NodeVerdict{
		NodeId:       n.id,
		NodeName:     n.name,
		ServiceTasks: uint64(q.service.nodes[n]),
		TotalTasks:   uint64(n.tasks),
	}
}

// refuse finds the first filter that refuses a node, by its place in filters,
// nil when the node fits.
func (q *query) refuse(n *node) (int, *refusal) {
	for i, f := range filters {
		if !f.fits(q, n) {
			why := f.why(q, n)
			return i, &why
		}
	}
	return 0, nil
}

// ranked is a candidate with the counts of its branches, outermost first.
type ranked struct {
	candidate
	branches []int
}

// ranking orders the nodes that fit as Place would choose them.
func (r *run) ranking(nodes func(yield func(*node) bool)) []ranked {
	counts := map[string]int{}
	for n, tasks := range r.service.nodes {
		if !n.known {
			continue
		}
		for _, path := range r.paths(n) {
			counts[path] += tasks
		}
	}
	var all []ranked
	for n := range nodes {
		if _, refused := r.refuse(n); refused != nil {
			continue
		}
		c := ranked{candidate: r.candidate(n)}
		for _, path := range r.paths(n) {
			c.branches = append(c.branches, counts[path])
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b ranked) int {
		if a.flapping == b.flapping {
			if c := slices.Compare(a.branches, b.branches); c != 0 {
				return c
			}
		}
		if a.candidate.before(b.candidate) {
			return -1
		}
		return 1
	})
	return all
}

// paths names the branches of a node, outermost first.
func (r *run) paths(n *node) []string {
	var paths []string
	path := ""
	for _, key := range r.need.spread {
		path += "\x00" + key.value(n)
		paths = append(paths, path)
	}
	return paths
}

// tally sums up refusals.
type tally map[tallyKey]tallied

type tallyKey struct {
	filter int
	reason reason
}

type tallied struct {
	nodes int
	// The smallest shortage, and whether there were others.
	short resources
	mixed bool
}

func (t tally) add(filter int, r refusal) {
	key := tallyKey{filter, r.reason}
	sum, met := t[key]
	if met && sum.short != r.short {
		sum.mixed = true
		sum.short = resources{min(sum.short.cpu, r.short.cpu), min(sum.short.mem, r.short.mem)}
	} else {
		sum.short = r.short
	}
	sum.nodes++
	t[key] = sum
}

func (t tally) counts() []*pb.FilterCount {
	keys := slices.SortedFunc(maps.Keys(t), func(a, b tallyKey) int {
		return cmp.Or(cmp.Compare(t[b].nodes, t[a].nodes), cmp.Compare(a.filter, b.filter), cmp.Compare(a.reason.one, b.reason.one))
	})
	var counts []*pb.FilterCount
	for _, key := range keys {
		sum := t[key]
		r := refusal{key.reason, sum.short}
		text := r.one()
		if sum.nodes > 1 {
			text = r.many(sum.mixed)
		}
		counts = append(counts, &pb.FilterCount{Filter: filters[key.filter].name, Nodes: uint32(sum.nodes), Reason: text})
	}
	return counts
}

// one is what a single refused node does.
func (r refusal) one() string {
	if r.short == (resources{}) {
		return r.reason.one
	}
	return "needs " + r.short.words()
}

// many is what several nodes do that were refused for the same reason.
func (r refusal) many(mixed bool) string {
	switch {
	case r.short == (resources{}):
		return r.reason.many
	case mixed:
		return "need at least " + r.short.words()
	}
	return "need " + r.short.words()
}

// words is "0.5 more CPUs and 212 MiB more memory".
func (r resources) words() string {
	var parts []string
	if r.cpu > 0 {
		noun := " more CPUs"
		if r.cpu == 1e9 {
			noun = " more CPU"
		}
		parts = append(parts, formatCPU(r.cpu)+noun)
	}
	if r.mem > 0 {
		parts = append(parts, formatBytes(r.mem)+" more memory")
	}
	return strings.Join(parts, " and ")
}

// formatCPU rounds up to thousandths.
func formatCPU(nano int64) string {
	milli := (nano + 1e6 - 1) / 1e6
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%d.%03d", milli/1000, milli%1000), "0"), ".")
}

// formatBytes rounds up to whole KiB, MiB or, from 10 GiB, GiB.
func formatBytes(n int64) string {
	for _, u := range [...]struct {
		size, from int64
		name       string
	}{{1 << 30, 10 << 30, "GiB"}, {1 << 20, 1 << 20, "MiB"}, {1 << 10, 1, "KiB"}} {
		if n >= u.from {
			return fmt.Sprintf("%d %s", (n+u.size-1)/u.size, u.name)
		}
	}
	return "0 KiB"
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
