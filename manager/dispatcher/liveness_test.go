package dispatcher

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
)

// The lazy heap says the same as looking at every node every time.
func TestLivenessAgainstLookingAtAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, all := newLiveness(), map[string]time.Time{}
		now := time.Unix(0, 0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			node := fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "node"))
			by := time.Duration(rapid.IntRange(0, 10).Draw(t, "seconds")) * time.Second
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				l.expect(node, now.Add(by))
				all[node] = now.Add(by)
			case 1:
				l.forget(node)
				delete(all, node)
			case 2:
				l.postpone(by)
				for n := range all {
					all[n] = all[n].Add(by)
				}
			case 3:
				now = now.Add(by)
				var want []string
				for n, at := range all {
					if !at.After(now) {
						want = append(want, n)
						delete(all, n)
					}
				}
				got := l.expired(now)
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Fatalf("expired %v, want %v", got, want)
				}
			}
			if len(l.byNode) != len(all) {
				t.Fatalf("%d nodes are known, want %d", len(l.byNode), len(all))
			}
			for _, at := range all {
				if wait := l.next(now, time.Hour); wait > max(0, at.Sub(now)) {
					t.Fatalf("next look in %v, a node is due in %v", wait, at.Sub(now))
				}
			}
		}
	})
}

func TestPatienceKeepsTheBudgets(t *testing.T) {
	if got := patience(defaultPeriod); got > 7*time.Second {
		t.Errorf("a lost worker is noticed after %v: no time left to replace its tasks within 8 s", got)
	}
	if got := grace(defaultPeriod); got > 8*time.Second {
		t.Errorf("grace is %v", got)
	}
	if got := heartbeatPeriod(nil); got != defaultPeriod {
		t.Errorf("without a cluster the period is %v", got)
	}
	c := &pb.Cluster{Spec: &pb.ClusterSpec{HeartbeatPeriod: durationpb.New(5 * time.Second)}}
	if got := heartbeatPeriod(c); got != 5*time.Second {
		t.Errorf("the period is %v, want the cluster's", got)
	}
}

func TestAdmission(t *testing.T) {
	a, now := admission{}, time.Unix(100, 0)
	for range admitMost {
		if _, ok := a.admit("n", now); !ok {
			t.Fatal("refused within the limit")
		}
		now = now.Add(time.Second)
	}
	if retry, ok := a.admit("n", now); ok || retry != admitWithin-admitMost*time.Second {
		t.Errorf("over the limit: %v, retry in %v", ok, retry)
	}
	if _, ok := a.admit("other", now); !ok {
		t.Error("one node's sessions count for another")
	}
	if _, ok := a.admit("n", now.Add(admitWithin)); !ok {
		t.Error("refused when the window has passed")
	}
}
