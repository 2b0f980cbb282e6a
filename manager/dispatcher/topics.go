package dispatcher

import (
	"slices"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
)

// change is what becomes of one network item. It is made once and shared by all
// sessions that it goes to.
type change struct {
	key itemKey
	// had tells whether the agents had the item before.
	had bool
	// put is what they get, nil when the item goes.
	put *pb.Assignment
}

// topic is a set of items that the same nodes have to know. A node joins it with
// its first reason and leaves it with its last.
type topic struct {
	items map[itemKey]*pb.Assignment
	// network that it is of, and node when it is of that one alone.
	network, node string
	// local networks reach no other node; encrypted ones need keys.
	local, encrypted bool
	// nodes counts each one's reasons.
	nodes map[string]int

	// Since the last round: what changed, and who came and went.
	touched      bool
	changes      []*change
	joined, left map[string]bool
}

func newTopic() *topic {
	return &topic{items: map[itemKey]*pb.Assignment{}, nodes: map[string]int{}, joined: map[string]bool{}, left: map[string]bool{}}
}

// set makes an item what it should be, nil for not there, and tells whether that
// changed anything.
func (t *topic) set(key itemKey, item *pb.Assignment) bool {
	old, had := t.items[key]
	switch {
	case item == nil && !had, had && item != nil && proto.Equal(old, item):
		return false
	case item == nil:
		delete(t.items, key)
	default:
		t.items[key] = item
	}
	t.changes = append(t.changes, &change{key: key, had: had, put: item})
	return true
}

// join gives a node one more reason, and tells whether it is its first.
func (t *topic) join(node string) bool {
	if t.nodes[node]++; t.nodes[node] > 1 {
		return false
	}
	if t.left[node] {
		delete(t.left, node)
	} else {
		t.joined[node] = true
	}
	return true
}

// leave takes one away, and tells whether it was its last.
func (t *topic) leave(node string) bool {
	if !release(t.nodes, node) {
		return false
	}
	if t.joined[node] {
		delete(t.joined, node)
	} else {
		t.left[node] = true
	}
	return true
}

// empty tells whether nothing is left of a topic, so that it can be forgotten.
func (t *topic) empty() bool { return len(t.items) == 0 && len(t.nodes) == 0 }

// publish hands every node what it has to hear and ends the round. Those who
// were there get the changes, those who came everything, and those who went are
// told to forget everything.
func (t *topic) publish(tell func(node string, changes []*change)) {
	if len(t.changes) > 0 {
		for node := range t.nodes {
			if !t.joined[node] {
				tell(node, t.changes)
			}
		}
	}
	if len(t.joined) > 0 {
		all := t.all()
		for node := range t.joined {
			tell(node, all)
		}
	}
	if len(t.left) > 0 {
		none := slices.Concat(t.changes, t.none())
		for node := range t.left {
			tell(node, none)
		}
	}
	t.settle()
}

// settle ends a round.
func (t *topic) settle() {
	t.changes = nil
	clear(t.joined)
	clear(t.left)
}

// all are the changes that bring a node from nothing to the present.
func (t *topic) all() []*change {
	out := make([]*change, 0, len(t.items))
	for key, item := range t.items {
		out = append(out, &change{key: key, put: item})
	}
	return out
}

// none are those that bring it back.
func (t *topic) none() []*change {
	out := make([]*change, 0, len(t.items))
	for key := range t.items {
		out = append(out, &change{key: key, had: true})
	}
	return out
}

// coalesce leaves one change per item, in the order of their first mention, and
// none where an item came and went.
func coalesce(changes []*change) []*change {
	if len(changes) < 2 {
		return changes
	}
	at := make(map[itemKey]int, len(changes))
	var out []*change
	for _, c := range changes {
		i, seen := at[c.key]
		if !seen {
			at[c.key] = len(out)
			out = append(out, c)
			continue
		}
		if first := out[i]; first.had != c.had || first.put != c.put {
			out[i] = &change{key: c.key, had: first.had, put: c.put}
		}
	}
	return slices.DeleteFunc(out, func(c *change) bool { return !c.had && c.put == nil })
}
