package controlapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// meters play the nodes' side of Usage: each gives a sample at once and one per
// interval, whose CPU counter is the sample's number.
type meters struct {
	mu sync.Mutex
	// silent nodes give no samples, away ones cannot be reached.
	silent, away map[string]bool
	asked        []string
	open         int
}

func (a *meters) set(of map[string]bool, node string, on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	of[node] = on
}

func (a *meters) is(of map[string]bool, node string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return of[node]
}

func (a *meters) measuring() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open
}

func (a *meters) attach(_ context.Context, node string, req *pb.Attach) (AttachStream, error) {
	if a.is(a.away, node) {
		return nil, fault.New(fault.Unavailable, "the node is not connected")
	}
	a.mu.Lock()
	a.open++
	a.asked = append(a.asked, fmt.Sprint(node, " ", req.GetUsage().GetInterval().AsDuration()))
	a.mu.Unlock()
	p := newPipe()
	go func() {
		defer func() { a.mu.Lock(); a.open--; a.mu.Unlock() }()
		if node == "node-w3" {
			time.Sleep(time.Second) // not in step with the others
		}
		tick := time.NewTicker(req.GetUsage().GetInterval().AsDuration())
		defer tick.Stop()
		for n := uint64(1); ; n++ {
			if a.is(a.away, node) {
				p.broken = errors.New("reset")
				close(p.up)
				return
			}
			if !a.is(a.silent, node) {
				p.up <- &pb.AttachUp{Kind: &pb.AttachUp_Usage{Usage: &pb.NodeUsage{NodeId: "liar", NodeName: "liar", Total: &pb.Usage{CpuNs: n},
					Tasks: []*pb.TaskUsage{{TaskId: "t-" + node, Usage: &pb.Usage{Pids: n}}, {TaskId: "forgotten"}, {TaskId: "another's"}}}}}
			}
			select {
			case <-p.closed:
				return
			case <-tick.C:
			}
		}
	}()
	return p, nil
}

// usageRig is a rig whose nodes have a task of web each, but for w2's of db.
func usageRig(t *testing.T) (*rig, *meters) {
	r, a := newRig(t), &meters{silent: map[string]bool{}, away: map[string]bool{}}
	r.attach = a.attach
	r.create(web())
	db := web()
	db.Name = "db"
	r.create(db)
	for i, service := range []string{"web", "web", "db"} {
		node := []string{"node-m1", "node-w1", "node-w2"}[i]
		r.task("t-"+node, service, uint64(i), node, pb.TaskState_TASK_STATE_RUNNING)
	}
	r.task("another's", "web", 3, "node-none", pb.TaskState_TASK_STATE_RUNNING)
	return r, a
}

// rounds runs a call and tells what comes of it, a line per round.
func (r *rig) rounds(ctx context.Context, req *pb.UsageRequest) (lines []string, err error) {
	stream, done := collect[pb.NodeUsage](ctx), make(chan struct{})
	began := time.Now()
	go func() {
		defer close(done)
		var line strings.Builder
		for s := range stream.sent {
			fmt.Fprintf(&line, " %s", s.NodeName)
			if s.Error != "" {
				fmt.Fprintf(&line, "(%s)", s.Error)
			} else {
				fmt.Fprintf(&line, "=%d", s.Total.CpuNs)
			}
			for _, task := range s.Tasks {
				fmt.Fprintf(&line, ",%s.%d", task.ServiceName, task.Slot)
			}
			if s.Last {
				lines = append(lines, fmt.Sprint(time.Since(began).Round(time.Second), line.String()))
				line.Reset()
			}
		}
	}()
	err = r.server.Usage(req, stream)
	close(stream.sent)
	<-done
	return lines, err
}

func wantLines(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("rounds:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// All nodes that are ready, each with the tasks that it has by the store's word.
func TestUsage(t *testing.T) {
	for name, row := range map[string]struct {
		req  *pb.UsageRequest
		want []string
	}{
		"all":      {&pb.UsageRequest{Rounds: 2}, []string{"0s m1=1,web.0 w1=1,web.1 w2=1,db.2", "2s m1=2,web.0 w1=2,web.1 w2=2,db.2"}},
		"one":      {&pb.UsageRequest{Rounds: 2, Nodes: []string{"w1"}, Interval: durationpb.New(5 * time.Second)}, []string{"0s w1=1,web.1", "5s w1=2,web.1"}},
		"services": {&pb.UsageRequest{Rounds: 1, Services: []string{"web"}}, []string{"0s m1=1,web.0 w1=1,web.1 w2=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, a := usageRig(t)
				got, err := r.rounds(t.Context(), row.req)
				if err != nil {
					t.Fatal(err)
				}
				wantLines(t, got, row.want)
				time.Sleep(time.Minute)
				if n := a.measuring(); n != 0 {
					t.Errorf("%d nodes measure on", n)
				}
			})
		})
	}
}

// A node that cannot be reached, one that falls silent, one that breaks off, one
// that goes: each is told of, and the others hardly wait.
func TestUsageOfNodesInTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := usageRig(t)
		a.set(a.away, "node-w2", true)
		at := func(seconds float64, do func()) { time.AfterFunc(time.Duration(seconds*float64(time.Second)), do) }
		at(3.5, func() { a.set(a.away, "node-w2", false) })
		at(6.5, func() { a.set(a.silent, "node-w1", true) })
		at(13.5, func() { a.set(a.away, "node-w2", true); a.set(a.silent, "node-w1", false) })
		at(18.5, func() {
			r.apply(&pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{
				Id: "node-w2", Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_DOWN, Message: "missed 3 heartbeats"},
			}}})
			r.node("node-w3", "w3", pb.NodeRole_NODE_ROLE_WORKER)
		})
		at(24.5, func() {
			r.apply(&pb.Command{Kind: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Id: "node-w2", Force: true}}})
		})
		got, err := r.rounds(t.Context(), &pb.UsageRequest{Rounds: 10, Interval: durationpb.New(3 * time.Second), Services: []string{"db"}})
		if err != nil {
			t.Fatal(err)
		}
		wantLines(t, got, []string{
			"0s m1=1 w1=1 w2(the node is not connected)",
			"3s m1=2 w1=2 w2(the node is not connected)",
			"6s m1=3 w1=3 w2=1,db.2",
			"11s m1=4 w1(it gave no sample within 5s) w2=3,db.2", // the one wait for w1
			"13s m1=5 w1(it gave no sample within 5s) w2=4,db.2",
			"16s m1=6 w1=6 w2(connection lost: reset)",
			"18s m1=7 w1=7 w2(the node is not connected)",
			"21s m1=8 w1=8 w2(it is down: missed 3 heartbeats)",
			"24s m1=9 w1=9 w2(it is down: missed 3 heartbeats) w3=1",
			"27s m1=10 w1=10 w3=2",
		})
	})
}

// An attachment on which nothing comes is tried anew.
func TestUsageOpensSilentAttachmentsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := usageRig(t)
		a.set(a.silent, "node-w1", true)
		if _, err := r.rounds(t.Context(), &pb.UsageRequest{Rounds: 10}); err != nil {
			t.Fatal(err)
		}
		want := []string{"node-m1 2s", "node-w1 2s", "node-w1 2s", "node-w2 2s"}
		synctest.Wait()
		if slices.Sort(a.asked); !slices.Equal(a.asked, want) {
			t.Errorf("opened %q, want %q", a.asked, want)
		}
	})
}

func TestUsageEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := usageRig(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("the caller is gone")
		time.AfterFunc(time.Minute, func() { cancel(gone) })
		if lines, err := r.rounds(ctx, &pb.UsageRequest{}); !errors.Is(err, gone) || len(lines) < 30 {
			t.Errorf("%d rounds, error %v", len(lines), err)
		}
		time.Sleep(time.Minute)
		if n := a.measuring(); n != 0 {
			t.Errorf("%d nodes measure on", n)
		}
		var leader atomic.Value
		leader.Store("node-m1")
		r.server.cfg.Managers = func() map[string]*pb.ManagerStatus {
			return map[string]*pb.ManagerStatus{leader.Load().(string): {Leader: true}}
		}
		time.AfterFunc(time.Minute, func() { leader.Store("node-w1") })
		lines, err := r.rounds(t.Context(), &pb.UsageRequest{})
		if wantClass(t, err, fault.Unavailable); len(lines) < 30 {
			t.Errorf("%d rounds", len(lines))
		}
	})
}

func TestUsageRefuses(t *testing.T) {
	r, _ := usageRig(t)
	for class, req := range map[fault.Class]*pb.UsageRequest{
		fault.NotFound: {Nodes: []string{"nobody"}},
		fault.Invalid:  {Interval: durationpb.New(time.Millisecond)},
	} {
		_, err := r.rounds(t.Context(), req)
		wantClass(t, err, class)
	}
	_, err := r.rounds(t.Context(), &pb.UsageRequest{Services: []string{"nothing"}})
	wantClass(t, err, fault.NotFound)
	for _, id := range []string{"node-m1", "node-w1", "node-w2"} {
		r.apply(&pb.Command{Kind: &pb.Command_ReportNode{ReportNode: &pb.ReportNode{Id: id, Status: &pb.NodeStatus{State: pb.NodeState_NODE_STATE_DOWN}}}})
	}
	_, err = r.rounds(t.Context(), &pb.UsageRequest{})
	wantClass(t, err, fault.State)
}

// Rounds of any story: one result of every node, each sample at most once and
// the newest first; complete means that no node owes any.
func TestUsageRoundProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newUsageRound(time.Second, time.Unix(0, 0))
		count, sent, owes := uint64(0), map[string]uint64{}, map[string]bool{}
		anyNode := func() string {
			return rapid.SampledFrom(slices.Sorted(maps.Keys(r.nodes))).Draw(t, "node")
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				fresh := slices.ContainsFunc(slices.Collect(maps.Values(r.nodes)), func(n *usageNode) bool { return n.sample != nil })
				if want := len(owes) == 0 && fresh; r.complete() != want {
					t.Fatalf("complete is %t, %d nodes owe, any fresh is %t", !want, len(owes), fresh)
				}
			},
			"expect": func(t *rapid.T) {
				id := fmt.Sprint("n", len(sent))
				sent[id], owes[id] = 0, true
				r.expect(id)
			},
			"drop": func(t *rapid.T) {
				if len(r.nodes) == 0 {
					return
				}
				id := anyNode()
				r.drop(id)
				delete(owes, id)
			},
			"tell": func(t *rapid.T) {
				if len(r.nodes) == 0 {
					return
				}
				m := measurement{node: anyNode(), err: errors.New("no")}
				if rapid.Bool().Draw(t, "sample") {
					count++
					m = measurement{node: m.node, sample: &pb.NodeUsage{NodeId: m.node, Total: &pb.Usage{CpuNs: count}}}
				}
				r.take(m)
				delete(owes, m.node)
			},
			"finish": func(t *rapid.T) {
				want := slices.Sorted(maps.Keys(r.nodes))
				var got []string
				now := time.Unix(int64(count), 0)
				for _, s := range r.finish(now) {
					got = append(got, s.NodeId)
					if (s.Error == "") != (s.Total.GetCpuNs() > sent[s.NodeId]) {
						t.Fatalf("%s: %v after %d", s.NodeId, s, sent[s.NodeId])
					}
					sent[s.NodeId] = max(sent[s.NodeId], s.Total.GetCpuNs())
				}
				if !slices.Equal(got, want) || !r.deadline.After(now) {
					t.Fatalf("a round of %q has %q", want, got)
				}
				clear(owes)
				for id, n := range r.nodes {
					if n.failure == "" {
						owes[id] = true
					}
				}
			},
		})
	})
}
