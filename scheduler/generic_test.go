package scheduler

import (
	"testing"

	pb "github.com/minid/minid/proto/minid/v1"
)

func generic(kind string, count int64, ids ...string) nodeOption {
	return func(n *pb.Node) {
		r := n.Description.Resources
		r.Generic = append(r.Generic, &pb.GenericResource{Kind: kind, Count: count, Ids: ids})
	}
}

func TestGenericResources(t *testing.T) {
	s := setOf(
		testNode("a", generic("gpu", 0, "g0", "g1", "g2")),
		testNode("b", generic("gpu", 2), generic("fpga", 1)),
		testNode("c", generic("fpga", 4)),
	)
	g := groupFor("web", needGeneric("gpu", 2), 3)
	if got := place(t, s, g); got["a"] != 1 || got["b"] != 1 || len(got) != 2 {
		t.Fatalf("placed %v", got)
	}
	want := "0 of 3 nodes fit: 1 has no generic resource gpu, 1 needs 1 more of the generic resource gpu, 1 needs 2 more of the generic resource gpu"
	if got := s.Explain(g, g.Tasks[0]).Summary(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := place(t, s, groupFor("small", needGeneric("gpu", 1), 2)); got["a"] != 1 || len(got) != 1 {
		t.Errorf("placed %v", got)
	}
	// What a task held is there again when it ends, and when its node has more.
	s.RemoveTask("web.0")
	s.RemoveTask("web.1")
	s.PutNode(testNode("c", generic("fpga", 4), generic("gpu", 2)))
	if got := place(t, s, groupFor("again", needGeneric("gpu", 2), 3)); len(got) != 3 {
		t.Errorf("placed %v", got)
	}
}

// A task takes over what the one that it replaces holds, when that ends first.
func TestGenericResourcesOfTheReplaced(t *testing.T) {
	s := setOf(testNode("a", generic("gpu", 1)))
	place(t, s, groupFor("web", needGeneric("gpu", 1), 1))
	next := groupFor("web", needGeneric("gpu", 1), 1)
	next.Version, next.Tasks = 2, []Waiting{{ID: "new", Replaces: "web.0"}}
	next.StopFirst = false
	if got := place(t, s, next); len(got) != 0 {
		t.Errorf("start-first: placed %v beside the one that holds it", got)
	}
	next.StopFirst = true
	if got := place(t, s, next); got["a"] != 1 {
		t.Errorf("stop-first: placed %v", got)
	}
}

func TestGenericResourcesOfANodeThatLostThem(t *testing.T) {
	task, n := runningTask("web", "t", "n1"), testNode("n1", generic("gpu", 1))
	if ok, why := StillFits(task, n, needGeneric("gpu", 1)); !ok {
		t.Errorf("refused: %s", why)
	}
	if ok, why := StillFits(task, testNode("n1"), needGeneric("gpu", 1)); ok || why != "has no generic resource gpu" {
		t.Errorf("got %v, %q", ok, why)
	}
}
