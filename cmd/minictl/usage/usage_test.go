package usage

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	pb "github.com/minid/minid/proto/minid/v1"
)

func TestBetween(t *testing.T) {
	first := &pb.Usage{CpuNs: 1e9, ReadBytes: 100, WrittenBytes: 200, ReceivedBytes: 300, SentBytes: 400}
	for name, row := range map[string]struct {
		last   *pb.Usage
		passed time.Duration
		want   Rate
		ok     bool
	}{
		"two seconds":      {&pb.Usage{CpuNs: 4e9, ReadBytes: 102, WrittenBytes: 204, ReceivedBytes: 306, SentBytes: 408}, 2 * time.Second, Rate{1.5, 1, 2, 3, 4}, true},
		"half a second":    {&pb.Usage{CpuNs: 2e9, ReadBytes: 100, WrittenBytes: 200, ReceivedBytes: 300, SentBytes: 400}, time.Second / 2, Rate{CPUs: 2}, true},
		"began anew":       {&pb.Usage{CpuNs: 5e8, ReadBytes: 99, WrittenBytes: 202, SentBytes: 402}, 2 * time.Second, Rate{Written: 1, Sent: 1}, true},
		"no time":          {first, 0, Rate{}, false},
		"time ran back":    {first, -time.Second, Rate{}, false},
		"no second sample": {nil, time.Second, Rate{}, false},
	} {
		if got, ok := Between(first, row.last, row.passed); got != row.want || ok != row.ok {
			t.Errorf("%s: %+v, %t", name, got, ok)
		}
	}
	if _, ok := Between(nil, first, time.Second); ok {
		t.Error("one sample has a rate")
	}
}

// sample of a node at a second, with tasks of so many CPU seconds each.
func sample(node string, second int64, tasks ...uint64) *pb.NodeUsage {
	s := &pb.NodeUsage{NodeId: node, NodeName: "host-" + node, At: timestamppb.New(time.Unix(second, 0)),
		Total: &pb.Usage{CpuNs: uint64(second) * 1e9, NanoCpus: 2e9, MemoryBytes: 1 << 30, MemoryLimitBytes: 4 << 30}}
	for i, seconds := range tasks {
		s.Tasks = append(s.Tasks, &pb.TaskUsage{TaskId: fmt.Sprint(node, i), ServiceName: "web", Slot: uint64(i + 1),
			Usage: &pb.Usage{CpuNs: seconds * 1e9, MemoryBytes: 1 << 20}})
	}
	return s
}

func failed(node, why string) *pb.NodeUsage {
	return &pb.NodeUsage{NodeId: node, NodeName: "host-" + node, Error: why}
}

// play takes whole rounds.
func play(t testing.TB, b *Board, rounds ...[]*pb.NodeUsage) {
	t.Helper()
	for _, round := range rounds {
		before := b.Rounds
		for i, s := range round {
			s.Last = i == len(round)-1
			if b.Take(s) != s.Last {
				t.Error("a round ends when it should not")
			}
		}
		if b.Rounds != before+1 {
			t.Error("rounds are not counted")
		}
	}
}

// lines tell rows apart.
func lines(rows []Row) []string {
	Sort(rows, "name")
	var out []string
	for _, r := range rows {
		out = append(out, fmt.Sprintf("%s@%s %.2f %t %s", r.Name(), r.NodeName, r.Rate.CPUs, r.Rated, r.Trouble))
	}
	return out
}

func want(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestBoard(t *testing.T) {
	var b Board
	play(t, &b, []*pb.NodeUsage{sample("a", 10, 5), failed("b", "away")})
	want(t, "tasks without a rate", lines(b.Tasks()), []string{"web.1@host-a 0.00 false "})
	want(t, "troubles", lines(b.Troubles()), []string{"host-b@host-b 0.00 false away"})

	// A task more, and a node that comes.
	play(t, &b, []*pb.NodeUsage{sample("a", 12, 6, 1), sample("b", 100, 7)})
	want(t, "tasks", lines(b.Tasks()), []string{"web.1@host-a 0.50 true ", "web.1@host-b 0.00 false ", "web.2@host-a 0.00 false "})
	want(t, "nodes", lines(b.Nodes()), []string{"host-a@host-a 1.00 true ", "host-b@host-b 0.00 false "})

	// A node that is away for a round is rated over the time that passed; one that
	// restarted has no time that ran back.
	play(t, &b, []*pb.NodeUsage{failed("a", "lost"), sample("b", 102, 8)})
	want(t, "what is left", lines(b.Tasks()), []string{"web.1@host-b 0.50 true "})
	want(t, "troubles", lines(b.Troubles()), []string{"host-a@host-a 0.00 false lost"})
	play(t, &b, []*pb.NodeUsage{sample("a", 20, 8), sample("b", 90, 1)})
	want(t, "tasks", lines(b.Tasks()), []string{"web.1@host-a 0.25 true ", "web.1@host-b 0.00 false "})
	want(t, "troubles", lines(b.Troubles()), nil)

	sum := b.Total()
	if sum.Nodes != 2 || sum.Tasks != 2 || sum.CPUs != 4 || sum.MemoryUsed != 2<<30 || sum.MemoryBytes != 8<<30 || sum.Rate.CPUs != 1 {
		t.Errorf("the sum is %+v", sum)
	}
	// A node that is no part of a round is gone.
	play(t, &b, []*pb.NodeUsage{sample("b", 92, 1)})
	want(t, "nodes", lines(b.Nodes()), []string{"host-b@host-b 1.00 true "})
}

func TestRow(t *testing.T) {
	for want, row := range map[string]Row{
		"n1":     {NodeID: "id", NodeName: "n1"},
		"id":     {NodeID: "id"},
		"web.3":  {NodeID: "id", TaskID: "t", Service: "web", Slot: 3},
		"log.id": {NodeID: "id", TaskID: "t", Service: "log"},
	} {
		if got := row.Name(); got != want {
			t.Errorf("%+v is %s", row, got)
		}
	}
	for want, row := range map[float64]Row{
		0.5:  {Usage: &pb.Usage{MemoryBytes: 2, MemoryLimitBytes: 4}, NodeMemory: 8},
		0.25: {Usage: &pb.Usage{MemoryBytes: 2}, NodeMemory: 8},
		0:    {Usage: &pb.Usage{MemoryBytes: 2}},
	} {
		if got := row.MemoryShare(); got != want {
			t.Errorf("%v has %v", row.Usage, got)
		}
	}
}

// Every order is total: rows come out the same however they went in, and no row
// uses more than the one before.
func TestSortProperties(t *testing.T) {
	if Sort(nil, "colour") {
		t.Error("there is an order by colour")
	}
	rapid.Check(t, func(t *rapid.T) {
		small := rapid.Uint64Range(0, 3)
		rows := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) Row {
			return Row{TaskID: rapid.StringN(1, 4, 8).Draw(t, "id"), Service: "web", Slot: small.Draw(t, "slot"),
				Rate:  Rate{CPUs: float64(small.Draw(t, "cpu")), Sent: float64(small.Draw(t, "sent")), Read: float64(small.Draw(t, "read"))},
				Usage: &pb.Usage{MemoryBytes: small.Draw(t, "memory")}}
		}), 0, 8, func(r Row) string { return r.TaskID }).Draw(t, "rows")
		for _, o := range orders {
			order := o.name
			a, b := slices.Clone(rows), rapid.Permutation(rows).Draw(t, "other")
			if !Sort(a, order) || !Sort(b, order) {
				t.Fatalf("no order by %s", order)
			}
			for i := range a {
				if a[i].TaskID != b[i].TaskID || i > 0 && o.of(a[i]) > o.of(a[i-1]) {
					t.Fatalf("%s: %v and %v", order, a, b)
				}
			}
		}
	})
}
