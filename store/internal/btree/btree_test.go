package btree_test

import (
	"cmp"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/minid/minid/store/internal/btree"
)

type pair struct{ key, value int }

func newTree() btree.Tree[int, pair] {
	return btree.New(func(p pair) int { return p.key }, cmp.Compare[int])
}

// model is what a tree must be equal to, the slow and obvious way.
type model map[int]int

func (m model) from(key int) []pair {
	var out []pair
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k >= key {
			out = append(out, pair{k, m[k]})
		}
	}
	return out
}

func check(t *rapid.T, tree btree.Tree[int, pair], want model, probe int) {
	t.Helper()
	if tree.Len() != len(want) {
		t.Fatalf("Len() = %d, want %d", tree.Len(), len(want))
	}
	if got := slices.Collect(tree.All()); !slices.Equal(got, want.from(-1)) {
		t.Fatalf("All() = %v, want %v", got, want.from(-1))
	}
	if got := slices.Collect(tree.From(probe)); !slices.Equal(got, want.from(probe)) {
		t.Fatalf("From(%d) = %v, want %v", probe, got, want.from(probe))
	}
	if got := tree.Get(probe); got.value != want[probe] {
		t.Fatalf("Get(%d) = %v, want %d", probe, got, want[probe])
	}
}

// Every snapshot must stay as it was, whatever happens to the tree afterwards.
func TestTreeIsAMapWithSnapshots(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type snapshot struct {
			tree btree.Tree[int, pair]
			want model
		}
		tree, want, edit := newTree(), model{}, &btree.Edit{}
		var snapshots []snapshot
		span := rapid.SampledFrom([]int{10, 200, 3000}).Draw(t, "span")
		for range rapid.IntRange(0, 40).Draw(t, "rounds") {
			first := rapid.IntRange(0, span).Draw(t, "first")
			count := rapid.IntRange(0, 300).Draw(t, "count")
			step := rapid.IntRange(1, 7).Draw(t, "step")
			remove := rapid.Bool().Draw(t, "remove")
			for i := range count {
				k := (first + i*step) % (span + 1)
				if remove {
					_, had := want[k]
					delete(want, k)
					if tree.Delete(edit, k) != had {
						t.Fatalf("Delete(%d) did not report %v", k, had)
					}
				} else {
					want[k] = first + i
					tree.Set(edit, pair{k, first + i})
				}
			}
			if rapid.Bool().Draw(t, "snapshot") {
				snapshots = append(snapshots, snapshot{tree, maps.Clone(want)})
				edit = &btree.Edit{}
			}
			check(t, tree, want, first)
		}
		for _, s := range snapshots {
			check(t, s.tree, s.want, span/2)
		}
	})
}

func TestIterationStops(t *testing.T) {
	tree, edit := newTree(), &btree.Edit{}
	for i := range 1000 {
		tree.Set(edit, pair{i, i})
	}
	for stop := range 1000 {
		seen := 0
		for p := range tree.From(0) {
			if seen++; p.key == stop {
				break
			}
		}
		if seen != stop+1 {
			t.Fatalf("saw %d items before stopping at %d", seen, stop)
		}
	}
}
