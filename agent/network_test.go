package agent_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minid/minid/agent/faketask"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	itemTask     = pb.ItemKind_ITEM_KIND_TASK
	itemSpec     = pb.ItemKind_ITEM_KIND_SPEC
	itemEndpoint = pb.ItemKind_ITEM_KIND_ENDPOINT
	itemPeer     = pb.ItemKind_ITEM_KIND_PEER
	itemKeys     = pb.ItemKind_ITEM_KIND_KEYS
)

func peer(id string) *pb.Assignment {
	return &pb.Assignment{Kind: &pb.Assignment_Peer{Peer: &pb.NetworkPeer{NodeId: id}}}
}

func endpoint(task string, serving bool) *pb.Assignment {
	return &pb.Assignment{Kind: &pb.Assignment_Endpoint{Endpoint: &pb.NetworkEndpoint{TaskId: task, NetworkId: "net", Serving: serving}}}
}

func networkKeys(key string) *pb.Assignment {
	return &pb.Assignment{Kind: &pb.Assignment_Keys{Keys: &pb.NetworkKeys{Keys: []*pb.NetworkKey{{Key: []byte(key)}}}}}
}

// onNetwork puts the task of assignments on a network.
func onNetwork(items []*pb.Assignment) []*pb.Assignment {
	for _, item := range items {
		if t := item.GetTask(); t != nil {
			t.Addresses = []*pb.TaskAddress{{NetworkId: "net", Addresses: []string{"10.0.0.2/20"}}}
		}
	}
	return items
}

func (w *world) knows(kind pb.ItemKind, want ...string) {
	w.Helper()
	if got := w.network.Items(kind); !slices.Equal(got, want) {
		w.Errorf("the network knows %v of %v, want %v", got, kind, want)
	}
}

func TestNetworkHearsTheAssignments(t *testing.T) {
	play(t, faketask.New(nil), func(w *world) {
		m := w.managers["m1"]
		m.set = join(onNetwork(assign("t1", running)), []*pb.Assignment{endpoint("t1", false), peer("n1"), peer("n2")})
		w.start("m1")
		w.pass(time.Second)
		w.knows(itemTask, "t1")
		w.knows(itemPeer, "n1", "n2")
		w.knows(itemSpec)
		if got := w.runtime.Wanted("t1").Addresses; len(got) != 1 || got[0].Addresses[0] != "10.0.0.2/20" {
			t.Errorf("the runtime was given %v", got)
		}
		replaced := w.network.Replaced()
		m.diff(0, []*pb.AssignmentKey{{Kind: itemPeer, Id: "n2"}}, endpoint("t1", true), endpoint("t2", true))
		w.pass(time.Second)
		w.knows(itemPeer, "n1")
		w.knows(itemEndpoint, "t1@net", "t2@net")
		if !w.network.Item(itemEndpoint, "t1@net").GetEndpoint().GetServing() {
			t.Error("the network does not know that a task serves")
		}
		if w.network.Replaced() != replaced {
			t.Error("a diff replaced all that the network knows")
		}
		m.diff(0, nil, secret("hush"))
		w.pass(time.Second)
		w.knows(itemTask, "t1")
	}, "m1")
}

// A restarted node knows its network without a manager, but for the keys.
func TestNetworkIsRestoredFromDisk(t *testing.T) {
	const key = "a key that is nobody's business!"
	play(t, faketask.New(nil), func(w *world) {
		m := w.managers["m1"]
		m.set = join(onNetwork(assign("t1", running)), []*pb.Assignment{endpoint("t1", true), peer("n1"), networkKeys(key)})
		w.start("m1")
		w.pass(time.Second)
		w.knows(itemKeys, "")
		m.diff(0, nil, peer("n2"), networkKeys(key))
		w.pass(time.Second)
		w.stop()
		if data, err := os.ReadFile(w.db); err != nil || strings.Contains(string(data), key) {
			t.Errorf("a key is on disk (%v)", err)
		}
		w.cut("m1", true)
		w.network = &faketask.Network{}
		w.start("m1")
		w.pass(time.Second)
		if w.network.Replaced() != 1 {
			t.Errorf("the network was told %d times", w.network.Replaced())
		}
		w.knows(itemTask, "t1")
		w.knows(itemEndpoint, "t1@net")
		w.knows(itemPeer, "n1", "n2")
		w.knows(itemKeys)
		w.cut("m1", false)
		w.pass(time.Minute)
		w.knows(itemKeys, "")
		w.knows(itemPeer, "n1")
	}, "m1")
}

// While a set comes in parts, what the network knew stays.
func TestNetworkHearsOfASetWhenItIsComplete(t *testing.T) {
	play(t, faketask.New(nil), func(w *world) {
		m := w.managers["m1"]
		m.set = []*pb.Assignment{peer("n1"), peer("n2"), peer("n3")}
		w.start("m1")
		w.pass(time.Second)
		m.locked(func() { m.set, m.rest = assign("t1", running), 2 })
		m.drop()
		w.pass(time.Minute)
		w.knows(itemPeer, "n1", "n2", "n3")
		w.want(m, "t1", running)
		m.diff(0, nil, peer("n1"))
		w.pass(time.Second)
		w.knows(itemPeer, "n1", "n2", "n3")
		m.diff(0, nil, peer("n4"))
		w.pass(time.Second)
		w.knows(itemPeer, "n1", "n4")
		w.knows(itemTask, "t1")
		w.stop()
		w.cut("m1", true)
		w.network = &faketask.Network{}
		w.start("m1")
		w.pass(time.Second)
		w.knows(itemPeer, "n1", "n4")
	}, "m1")
}

func TestAttachProbe(t *testing.T) {
	play(t, faketask.New(nil), func(w *world) {
		m := w.managers["m1"]
		for i := range 2 {
			w.network.Results = append(w.network.Results, &pb.ProbeResult{ToName: fmt.Sprint("n", i), Ok: i == 0, Detail: "0.3 ms"})
		}
		w.start("m1")
		w.pass(time.Second)
		got := w.attach(m, &pb.Attach{Id: "a1", Kind: &pb.Attach_Probe{Probe: &pb.ProbeAttach{NodeIds: []string{"n2"}}}})
		if want := "open a1\nprobe n0 true 0.3 ms\nprobe n1 false 0.3 ms\n"; got != want {
			t.Errorf("probe: %q, want %q", got, want)
		}
		if probes := w.network.Probes(); len(probes) != 1 || !slices.Equal(probes[0].NodeIds, []string{"n2"}) {
			t.Errorf("asked for %v", probes)
		}
		w.stop()
		w.network = nil
		w.start("m1")
		w.pass(time.Second)
		got = w.attach(m, &pb.Attach{Id: "a2", Kind: &pb.Attach_Probe{Probe: &pb.ProbeAttach{}}})
		if !strings.Contains(got, "error") {
			t.Errorf("probe without a network: %q", got)
		}
	}, "m1")
}
