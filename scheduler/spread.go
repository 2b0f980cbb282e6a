package scheduler

// candidate is a node that fits, and what it is ordered by.
type candidate struct {
	node     *node
	flapping bool
	service  int // tasks of the service
	tasks    int
	ring     int // distance from the service's start on the ring of positions
	// With the strategy binpack: the reserved share, the fullest being first.
	// Service is nothing then, and tasks counts down.
	full float64
}

func (c candidate) before(o candidate) bool {
	switch {
	case c.flapping != o.flapping:
		return o.flapping
	case c.full != o.full:
		return c.full > o.full
	case c.service != o.service:
		return c.service < o.service
	case c.tasks != o.tasks:
		return c.tasks < o.tasks
	}
	return c.ring < o.ring
}

func (r *run) candidate(n *node) candidate {
	size := len(r.set.slots)
	c := candidate{
		node:     n,
		flapping: r.flapping[n],
		service:  r.service.nodes[n],
		tasks:    n.tasks,
		ring:     (n.pos - r.start + size) % size,
	}
	if r.set.pack {
		c.service, c.tasks, c.full = 0, -n.tasks, r.set.fullness(n)
	}
	return c
}

// took brings a candidate up to date after it was given a task.
func (c *candidate) took(s *Set) {
	if s.pack {
		c.tasks--
		c.full = s.fullness(c.node)
		return
	}
	c.service++
	c.tasks++
}

// branch is the nodes that share a value of each spread preference so far: the
// next preference divides it into more branches, after the last one it is a
// leaf. Branches in a queue have nodes that fit; the first of those is the
// first of the first.
type branch struct {
	tasks int // of the service, on all its nodes
	byTag map[string]*branch
	kids  queue[*branch]
	// A leaf's nodes come one by one, emptiest first, from a walk over those
	// without a task of the service, as long as there are any; the others, which
	// all come after them, are in a queue.
	walk *walk
	leaf queue[candidate]
}

func (b *branch) first() candidate {
	for len(b.kids) > 0 {
		b = b.kids[0]
	}
	if b.walk != nil {
		return b.walk.at
	}
	return b.leaf[0]
}

func (b *branch) empty() bool { return len(b.kids) == 0 && b.walk == nil && len(b.leaf) == 0 }

// before orders sibling branches: a flapping node is the last resort even if
// that leaves the tasks unevenly spread.
func (b *branch) before(o *branch) bool {
	if x, y := b.first().flapping, o.first().flapping; x != y {
		return y
	}
	if b.tasks != o.tasks {
		return b.tasks < o.tasks
	}
	if len(b.kids) > 0 {
		return b.kids[0].before(o.kids[0])
	}
	return b.first().before(o.first())
}

// spread places with preferences: each task goes down the branches with the
// fewest tasks of the service. A branch whose nodes are full drops out and the
// others get its share.
func (r *run) spread() {
	root := &branch{}
	members := r.set.candidates(r.need)
	parts := r.set.partition(r.need.spread)
	for n, tasks := range r.service.nodes {
		part := parts.of[n]
		if part == nil {
			continue // on a node that is gone
		}
		root.count(part.values, tasks)
		r.queue(root, part, members, n)
	}
	for n := range r.flapping {
		if part := parts.of[n]; part != nil && r.service.nodes[n] == 0 {
			r.queue(root, part, members, n)
		}
	}
	for _, part := range parts.all {
		w := &walk{members: members, part: part}
		if w.advance(r) {
			root.find(part.values).walk = w
		}
	}
	root.order()
	r.drain(root)
}

// queue adds a node that fits to its leaf.
func (r *run) queue(root *branch, p *part, members bitset, n *node) {
	if n.level >= 0 && members.has(n.pos) && r.fits(n) {
		leaf := root.find(p.values)
		leaf.leaf = append(leaf.leaf, r.candidate(n))
	}
}

// find returns the branch at the end of a path of values.
func (b *branch) find(values []string) *branch {
	for _, value := range values {
		kid := b.byTag[value]
		if kid == nil {
			if b.byTag == nil {
				b.byTag = map[string]*branch{}
			}
			kid = &branch{}
			b.byTag[value] = kid
		}
		b = kid
	}
	return b
}

// count adds a node's tasks to the branches it belongs to, whether or not it
// has room for more.
func (b *branch) count(values []string, tasks int) {
	b.find(values)
	for _, value := range values {
		b = b.byTag[value]
		b.tasks += tasks
	}
}

// order puts the branches that have nodes that fit in order.
func (b *branch) order() {
	for _, kid := range b.byTag {
		if kid.order(); !kid.empty() {
			b.kids = append(b.kids, kid)
		}
	}
	b.kids.order()
	b.leaf.order()
}

// drain gives tasks to the first node again and again.
func (r *run) drain(b *branch) {
	for r.missing() && !b.empty() {
		r.descend(b)
	}
}

// descend gives the first node of a branch a task and restores its order. Only
// that node can have become full by it.
func (r *run) descend(b *branch) {
	b.tasks++
	if len(b.kids) > 0 {
		kid := b.kids[0]
		r.descend(kid)
		if kid.empty() {
			b.kids.pop()
		} else {
			b.kids.fix()
		}
		return
	}
	if b.walk != nil {
		c := b.walk.at
		r.take(c.node)
		if r.fits(c.node) {
			c.took(r.set)
			b.leaf.push(c)
		}
		if !b.walk.advance(r) {
			b.walk = nil
		}
		return
	}
	n := b.leaf[0].node
	r.take(n)
	if r.fits(n) {
		b.leaf[0].took(r.set)
		b.leaf.fix()
	} else {
		b.leaf.pop()
	}
}
