package scheduler

// packed places with the strategy binpack: after what always comes first
// (nodes that are not flapping, the buckets of preferences), the node with the
// least room left, then the one with the most tasks. A node that took a task is
// only fuller, so that it stays first until it is full. Which nodes fit is
// found by a look at all of them, once per group.
func (r *run) packed() {
	root := &branch{}
	members := r.set.candidates(r.need)
	whole := &part{}
	partOf := func(*node) *part { return whole }
	if len(r.need.spread) > 0 {
		parts := r.set.partition(r.need.spread)
		partOf = func(n *node) *part { return parts.of[n] }
	}
	for n, tasks := range r.service.nodes {
		if p := partOf(n); p != nil {
			root.count(p.values, tasks)
		}
	}
	for pos, n := range r.set.slots {
		if members.has(pos) && r.short(pos) == (resources{}) {
			r.queue(root, partOf(n), members, n)
		}
	}
	root.order()
	r.drain(root)
}

// fullness is the reserved share of a node's CPUs or memory, whichever is more.
func (s *Set) fullness(n *node) float64 {
	free := s.free[n.pos]
	return max(share(n.total.cpu-free.cpu, n.total.cpu), share(n.total.mem-free.mem, n.total.mem))
}

func share(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return float64(part) / float64(whole)
}
