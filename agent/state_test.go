package agent

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"
)

func item(kind, id int, rev string) *pb.Assignment {
	name := fmt.Sprint(id)
	switch kind {
	case 0:
		return &pb.Assignment{Kind: &pb.Assignment_Task{Task: &pb.AssignedTask{Id: name, ServiceId: rev}}}
	case 1:
		return &pb.Assignment{Kind: &pb.Assignment_Spec{Spec: &pb.AssignedSpec{
			ServiceId: name, Version: 1, ServiceName: rev, Task: &pb.TaskSpec{Container: &pb.ContainerSpec{Image: rev}},
		}}}
	case 2:
		return &pb.Assignment{Kind: &pb.Assignment_Secret{Secret: &pb.Secret{Id: name, Spec: &pb.SecretSpec{Name: rev}}}}
	case 3:
		return &pb.Assignment{Kind: &pb.Assignment_Config{Config: &pb.Config{Id: name, Spec: &pb.ConfigSpec{Name: rev}}}}
	case 4:
		return &pb.Assignment{Kind: &pb.Assignment_Network{Network: &pb.AssignedNetwork{Id: name, Spec: &pb.NetworkSpec{Name: rev}}}}
	case 5:
		return &pb.Assignment{Kind: &pb.Assignment_Service{Service: &pb.NetworkService{ServiceId: name, NetworkId: "n", Name: rev}}}
	case 6:
		return &pb.Assignment{Kind: &pb.Assignment_Endpoint{Endpoint: &pb.NetworkEndpoint{TaskId: name, NetworkId: "n", NodeId: rev}}}
	case 7:
		return &pb.Assignment{Kind: &pb.Assignment_Peer{Peer: &pb.NetworkPeer{NodeId: name, Name: rev}}}
	case 8:
		return &pb.Assignment{Kind: &pb.Assignment_Published{Published: &pb.PublishedService{ServiceId: name, Name: rev}}}
	case 9:
		return &pb.Assignment{Kind: &pb.Assignment_Backend{Backend: &pb.PublishedBackend{ServiceId: "s", NodeId: name, Serving: uint32(len(rev))}}}
	default:
		return &pb.Assignment{Kind: &pb.Assignment_Keys{Keys: &pb.NetworkKeys{Keys: []*pb.NetworkKey{{Key: []byte(rev)}}}}}
	}
}

// kinds is how many of them item makes.
const kinds = 11

func key(kind, id int) *pb.AssignmentKey {
	name := fmt.Sprint(id)
	switch kind {
	case 1:
		name = specKey(name, 1)
	case 5, 6:
		name += "@n"
	case 9:
		name = "s@" + name
	case 10:
		name = ""
	}
	return &pb.AssignmentKey{Kind: pb.ItemKind(kind + 1), Id: name}
}

// TestDiffsAddUp: a set with diffs on top, in memory and on disk, is the same
// as a set of what is left; the disk has all of it but secrets and keys. The
// first diffs may be the rest of the set.
func TestDiffsAddUp(t *testing.T) {
	dir := t.TempDir()
	files := 0
	rapid.Check(t, func(t *rapid.T) {
		files++
		d, err := openDisk(filepath.Join(dir, fmt.Sprint(files)))
		if err != nil {
			t.Fatal(err)
		}
		d.db.NoSync = true
		defer d.close()
		model := map[[2]int]*pb.Assignment{}
		draw := func(label string) (puts []*pb.Assignment) {
			for i := range rapid.IntRange(0, 5).Draw(t, label) {
				k := drawKey(t)
				model[k] = item(k[0], k[1], fmt.Sprint(label, i))
				puts = append(puts, model[k])
			}
			return puts
		}
		before := &pb.AssignmentSet{Sequence: 1, Items: draw("before")}
		clear(model)
		set := &pb.AssignmentSet{Sequence: 1, Items: draw("set"), Rest: rapid.Uint32Range(0, 3).Draw(t, "rest")}
		got := newSet(set)
		old := newSet(before)
		if err := errors.Join(d.saveSet(before), d.saveNetwork(old.network), d.saveSet(set)); err != nil {
			t.Fatal(err)
		}
		if set.Rest == 0 {
			if err := d.saveNetwork(got.network); err != nil {
				t.Fatal(err)
			}
		}
		for seq := range set.Rest + uint32(rapid.IntRange(0, 6).Draw(t, "diffs")) {
			diff := &pb.AssignmentDiff{Sequence: uint64(seq) + 2}
			for range rapid.IntRange(0, 3).Draw(t, "removes") {
				if seq < set.Rest {
					break
				}
				k := drawKey(t)
				diff.Remove = append(diff.Remove, key(k[0], k[1]))
				delete(model, k)
			}
			diff.Put = draw(fmt.Sprint("diff", seq))
			if err := errors.Join(got.apply(diff), d.saveDiff(diff)); err != nil {
				t.Fatal(err)
			}
			if seq+1 == set.Rest {
				if err := d.saveNetwork(got.network); err != nil {
					t.Fatal(err)
				}
			}
		}
		want := newSet(&pb.AssignmentSet{Sequence: got.sequence})
		for _, a := range model {
			want.put(a)
		}
		same := cmp.Options{protocmp.Transform(), cmp.AllowUnexported(assignments{}, itemKey{})}
		if diff := cmp.Diff(want, got, same); diff != "" {
			t.Fatalf("memory (-want +got):\n%s", diff)
		}
		s, err := d.load()
		if err != nil {
			t.Fatal(err)
		}
		clear(want.secrets)
		delete(want.network, itemKey{kind: pb.ItemKind_ITEM_KIND_KEYS})
		want.sequence = 0
		if diff := cmp.Diff(want, s.assignments, same); diff != "" {
			t.Fatalf("disk (-want +got):\n%s", diff)
		}
	})
}

func drawKey(t *rapid.T) [2]int {
	kind, id := rapid.IntRange(0, kinds-1).Draw(t, "kind"), rapid.IntRange(0, 4).Draw(t, "id")
	if kind == kinds-1 {
		id = 0 // there is one set of keys
	}
	return [2]int{kind, id}
}

func TestGaps(t *testing.T) {
	tests := []struct {
		have, diff uint64
		ok         bool
	}{{1, 2, true}, {1, 3, false}, {1, 1, false}, {2, 1, false}, {0, 1, false}}
	for _, test := range tests {
		a := newAssignments()
		a.sequence = test.have
		err := a.apply(&pb.AssignmentDiff{Sequence: test.diff})
		if (err == nil) != test.ok || (err != nil && !errors.Is(err, errGap)) {
			t.Errorf("%d after %d: %v", test.diff, test.have, err)
		}
	}
}

func TestDiskKeepsWhatARestartNeeds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	d, err := openDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	spec := item(1, 1, "web")
	spec.GetSpec().Task.Container.PullAuth = []byte("auth")
	newest := map[string]*pb.TaskStatus{"a": {State: pb.TaskState_TASK_STATE_READY}}
	peers := []*pb.ManagerPeer{{NodeId: "m", Addr: "m:1"}}
	err = errors.Join(
		d.saveSet(&pb.AssignmentSet{Sequence: 4, Items: []*pb.Assignment{item(0, 1, "1"), spec}}),
		d.saveEnd("b", &pb.TaskStatus{State: pb.TaskState_TASK_STATE_FAILED}),
		d.saveEnd("gone", &pb.TaskStatus{State: pb.TaskState_TASK_STATE_FAILED}),
		d.saveStatuses([]string{"a", "gone"}, func(id string) *pb.TaskStatus { return newest[id] }),
		d.saveManagers(peers, "m:1"),
		d.close(),
	)
	if err != nil {
		t.Fatal(err)
	}
	if d, err = openDisk(path); err != nil {
		t.Fatal(err)
	}
	defer d.close()
	s, err := d.load()
	if err != nil {
		t.Fatal(err)
	}
	if len(s.statuses) != 2 || s.statuses["a"].GetState() != pb.TaskState_TASK_STATE_READY || s.leader != "m:1" || len(s.managers) != 1 {
		t.Errorf("read back %+v", s)
	}
	task := &pb.AssignedTask{Id: "1", ServiceId: "1", SpecVersion: 1}
	if why := s.assignments.missing(task); why == "" {
		t.Error("a spec whose credentials are not here must wait")
	}
	s.assignments.put(spec)
	if why := s.assignments.missing(task); why != "" {
		t.Errorf("missing: %s", why)
	}
}

// TestEndsAreWrittenAtOnce: the container is removed right after the report.
func TestEndsAreWrittenAtOnce(t *testing.T) {
	d, err := openDisk(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	a := &Agent{disk: d, statuses: newStatuses()}
	a.report("t1", &pb.TaskStatus{State: pb.TaskState_TASK_STATE_COMPLETE})
	s, err := d.load()
	if err != nil || s.statuses["t1"].GetState() != pb.TaskState_TASK_STATE_COMPLETE {
		t.Errorf("on disk: %v, %v", s.statuses, err)
	}
}

func TestMissing(t *testing.T) {
	a := newAssignments()
	task := &pb.AssignedTask{Id: "t", ServiceId: "1", SpecVersion: 1}
	spec := item(1, 1, "web")
	spec.GetSpec().Task.Container.Secrets = []*pb.FileReference{{Id: "7", Name: "password"}}
	spec.GetSpec().Task.Container.Configs = []*pb.FileReference{{Id: "8", Name: "settings"}}
	want := []string{
		"waiting for a manager to send the task's spec",
		`waiting for a manager to send secret "password": secrets are not kept on this node's disk`,
		`waiting for a manager to send config "settings"`,
		"",
	}
	var got []string
	for _, next := range []*pb.Assignment{nil, spec, item(2, 7, "password"), item(3, 8, "settings")} {
		if next != nil {
			a.put(next)
		}
		got = append(got, a.missing(task))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestStatusesArrive: however sessions break and acknowledgements get lost, the
// managers hear the newest status of each task in the end.
func TestStatusesArrive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newStatuses()
		heard := map[string]string{}
		var flying []*pb.StatusBatch
		deliver := func() {
			b := flying[0]
			flying = flying[1:]
			for _, r := range b.GetReports() {
				heard[r.GetId()] = r.GetStatus().GetMessage()
			}
			s.ack(b.GetNumber())
		}
		told := map[string]string{}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				id := fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "task"))
				told[id] = fmt.Sprint(i)
				s.put(id, &pb.TaskStatus{Message: told[id]})
			case 2:
				if b := s.batch(); b != nil {
					flying = append(flying, b)
				}
			case 3:
				if rapid.Bool().Draw(t, "broken") {
					flying = nil
					s.newSession()
				} else if len(flying) > 0 {
					deliver()
				}
			}
		}
		for b := s.batch(); b != nil; b = s.batch() {
			flying = append(flying, b)
		}
		for len(flying) > 0 {
			deliver()
		}
		if diff := cmp.Diff(told, heard); diff != "" {
			t.Fatalf("told and heard (-told +heard):\n%s", diff)
		}
		s.newSession()
		if b := s.batch(); b != nil {
			t.Fatalf("acknowledged and sent again: %v", b)
		}
	})
}

func TestBatchesAreBounded(t *testing.T) {
	s := newStatuses()
	for i := range maxReports + 1 {
		s.put(fmt.Sprint(i), &pb.TaskStatus{})
	}
	if a, b := s.batch(), s.batch(); len(a.GetReports()) != maxReports || len(b.GetReports()) != 1 {
		t.Errorf("batches of %d and %d", len(a.GetReports()), len(b.GetReports()))
	}
}

func TestBook(t *testing.T) {
	b := newBook(nil)
	now := time.Now()
	if got := b.pick(now); got != "" {
		t.Errorf("picked %q of none", got)
	}
	b = newBook([]string{"a"})
	for range 3 {
		if got := b.pick(now); got != "a" {
			t.Errorf("picked %q", got)
		}
		b.fail("a", now) // the only one is tried again
	}
	b.learn([]*pb.ManagerPeer{{Addr: "b"}, {Addr: "c"}, {Addr: ""}}, "c")
	if got := b.pick(now); got != "c" {
		t.Errorf("picked %q, want the last leader", got)
	}
	seen := func(now time.Time) map[string]bool {
		out := map[string]bool{}
		for range 100 {
			out[b.pick(now)] = true
		}
		return out
	}
	b.fail("c", now)
	if diff := cmp.Diff(map[string]bool{"b": true}, seen(now)); diff != "" {
		t.Errorf("with two that do not answer (-want +got):\n%s", diff)
	}
	b.decline("b")
	if diff := cmp.Diff(map[string]bool{"b": true}, seen(now)); diff != "" {
		t.Errorf("the one that answers is asked again (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]bool{"a": true, "c": true}, seen(now.Add(putOff))); diff != "" {
		t.Errorf("after a while (-want +got):\n%s", diff)
	}
	b.redirect("d")
	if got := b.pick(now); got != "d" {
		t.Errorf("picked %q, want the leader that was named", got)
	}
}

func TestLeaderOf(t *testing.T) {
	named, err := status.New(codes.FailedPrecondition, "not the leader").WithDetails(&pb.NotLeader{LeaderAddr: "m2"})
	if err != nil {
		t.Fatal(err)
	}
	if addr, ok := leaderOf(fmt.Errorf("session: %w", named.Err())); addr != "m2" || !ok {
		t.Errorf("got %q, %v", addr, ok)
	}
	if _, ok := leaderOf(errors.New("broken")); ok {
		t.Error("found a leader in any error")
	}
}

func TestBackoffGrows(t *testing.T) {
	var b backoff
	var last time.Duration
	for i := range 10 {
		last = b.wait()
		top := min(firstBackoff<<i, lastBackoff)
		if last < top/2 || last > top {
			t.Errorf("wait %d is %v, want half to whole of %v", i, last, top)
		}
	}
	b.reset()
	if again := b.wait(); again > firstBackoff {
		t.Errorf("after a reset it waits %v", again)
	}
}

func TestTaskOrder(t *testing.T) {
	a := newAssignments()
	for i, id := range []string{"d", "c", "b", "a"} {
		a.tasks[id] = &pb.AssignedTask{Id: id, ServiceId: "s", Slot: uint64(i / 2)}
	}
	if got := a.taskIDs(); !slices.Equal(got, []string{"c", "d", "a", "b"}) {
		t.Errorf("order %v", got)
	}
}
