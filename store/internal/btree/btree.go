// Package btree is an ordered set with O(1) snapshots: a B-tree whose nodes
// are copied on their first change within an Edit.
//
// A Tree is a value. Assigning it is taking a snapshot; as long as every writer
// brings a new Edit after that, the snapshot never changes. Items carry their
// own keys, so an index costs little more than a pointer per item (go-memdb's
// radix trees cost some 400 bytes; see the benchmarks of package store).
package btree

import (
	"iter"
	"slices"
)

// maxItems of a node; its half is the least that a node other than the root has.
// 32 keeps a copied path of a million items below 2 KiB.
const maxItems = 32

// Edit owns the nodes made under it, and may change them in place. Stop using
// it once a snapshot was taken.
type Edit struct{ _ byte }

// Tree is an ordered set of items, distinct by key. Make it with New.
type Tree[K, V any] struct {
	key     func(V) K
	compare func(a, b K) int
	root    *node[V]
	size    int
}

type node[V any] struct {
	owner    *Edit
	items    []V
	children []*node[V] // one more than items; none in a leaf
}

// New returns an empty tree ordered by compare over the keys of its items.
func New[K, V any](key func(V) K, compare func(a, b K) int) Tree[K, V] {
	return Tree[K, V]{key: key, compare: compare}
}

// Len returns the number of items.
func (t *Tree[K, V]) Len() int { return t.size }

// Get returns the item with a key, the zero V if there is none.
func (t *Tree[K, V]) Get(key K) V {
	for n := t.root; n != nil; {
		i, found := t.search(n, key)
		if found {
			return n.items[i]
		}
		if n.leaf() {
			break
		}
		n = n.children[i]
	}
	var none V
	return none
}

// From iterates in order over the items whose key is not below the one given.
func (t Tree[K, V]) From(key K) iter.Seq[V] {
	return func(yield func(V) bool) {
		if t.root != nil {
			t.ascendFrom(t.root, key, yield)
		}
	}
}

// All iterates in order over all items.
func (t Tree[K, V]) All() iter.Seq[V] {
	return func(yield func(V) bool) {
		if t.root != nil {
			t.root.ascend(yield)
		}
	}
}

// Set adds an item, or replaces the one with the same key.
func (t *Tree[K, V]) Set(edit *Edit, item V) {
	if t.root == nil {
		t.root = &node[V]{owner: edit}
	}
	t.root = t.root.own(edit)
	if t.insert(t.root, item) {
		t.size++
	}
	if len(t.root.items) > maxItems {
		middle, right := t.root.split()
		t.root = &node[V]{owner: edit, items: []V{middle}, children: []*node[V]{t.root, right}}
	}
}

// Delete removes the item with a key and reports whether there was one.
func (t *Tree[K, V]) Delete(edit *Edit, key K) bool {
	if t.root == nil {
		return false
	}
	t.root = t.root.own(edit)
	found := t.remove(t.root, key)
	if found {
		t.size--
	}
	if len(t.root.items) == 0 {
		if t.root.leaf() {
			t.root = nil
		} else {
			t.root = t.root.children[0]
		}
	}
	return found
}

// search returns the position of the first item of a node that is not below
// key, and whether it has that key.
func (t *Tree[K, V]) search(n *node[V], key K) (int, bool) {
	low, high := 0, len(n.items)
	for low < high {
		middle := int(uint(low+high) >> 1)
		switch c := t.compare(t.key(n.items[middle]), key); {
		case c == 0:
			return middle, true
		case c < 0:
			low = middle + 1
		default:
			high = middle
		}
	}
	return low, false
}

// insert puts an item below an owned node, which may then hold one too many.
func (t *Tree[K, V]) insert(n *node[V], item V) (added bool) {
	i, found := t.search(n, t.key(item))
	if found {
		n.items[i] = item
		return false
	}
	if n.leaf() {
		n.items = slices.Insert(n.items, i, item)
		return true
	}
	child := n.ownChild(i)
	added = t.insert(child, item)
	if len(child.items) > maxItems {
		middle, right := child.split()
		n.items = slices.Insert(n.items, i, middle)
		n.children = slices.Insert(n.children, i+1, right)
	}
	return added
}

// remove takes an item from below an owned node, which may then hold one too few.
func (t *Tree[K, V]) remove(n *node[V], key K) bool {
	i, found := t.search(n, key)
	if n.leaf() {
		if found {
			n.items = slices.Delete(n.items, i, i+1)
		}
		return found
	}
	child := n.ownChild(i)
	if found {
		n.items[i] = child.removeLast()
	} else {
		found = t.remove(child, key)
	}
	n.refill(i)
	return found
}

// removeLast takes the greatest item from below an owned node.
func (n *node[V]) removeLast() V {
	last := len(n.items) - 1
	if n.leaf() {
		item := n.items[last]
		n.items = slices.Delete(n.items, last, last+1)
		return item
	}
	item := n.ownChild(last + 1).removeLast()
	n.refill(last + 1)
	return item
}

// refill mends child i if it has too few items: it is joined with a neighbour
// and, should that be too much, split evenly again.
func (n *node[V]) refill(i int) {
	if len(n.children[i].items) >= maxItems/2 {
		return
	}
	if i == len(n.children)-1 {
		i--
	}
	left, right := n.ownChild(i), n.children[i+1]
	left.items = append(append(left.items, n.items[i]), right.items...)
	left.children = append(left.children, right.children...)
	if len(left.items) > maxItems {
		n.items[i], n.children[i+1] = left.split()
		return
	}
	n.items = slices.Delete(n.items, i, i+1)
	n.children = slices.Delete(n.children, i+1, i+2)
}

// split cuts an owned node into itself, the middle item and a new right node.
func (n *node[V]) split() (V, *node[V]) {
	middle := len(n.items) / 2
	item := n.items[middle]
	right := &node[V]{owner: n.owner, items: slices.Clone(n.items[middle+1:])}
	if !n.leaf() {
		right.children = slices.Clone(n.children[middle+1:])
		clear(n.children[middle+1:])
		n.children = n.children[:middle+1]
	}
	clear(n.items[middle:])
	n.items = n.items[:middle]
	return item, right
}

func (n *node[V]) leaf() bool { return len(n.children) == 0 }

// own returns the node itself if the edit made it, else a copy that it owns.
func (n *node[V]) own(edit *Edit) *node[V] {
	if n.owner == edit {
		return n
	}
	return &node[V]{owner: edit, items: slices.Clone(n.items), children: slices.Clone(n.children)}
}

func (n *node[V]) ownChild(i int) *node[V] {
	n.children[i] = n.children[i].own(n.owner)
	return n.children[i]
}

func (n *node[V]) ascend(yield func(V) bool) bool {
	for i, item := range n.items {
		if !n.leaf() && !n.children[i].ascend(yield) {
			return false
		}
		if !yield(item) {
			return false
		}
	}
	return n.leaf() || n.children[len(n.items)].ascend(yield)
}

func (t *Tree[K, V]) ascendFrom(n *node[V], key K, yield func(V) bool) bool {
	i, found := t.search(n, key)
	if !found && !n.leaf() && !t.ascendFrom(n.children[i], key, yield) {
		return false
	}
	for ; i < len(n.items); i++ {
		if !yield(n.items[i]) {
			return false
		}
		if !n.leaf() && !n.children[i+1].ascend(yield) {
			return false
		}
	}
	return true
}
