package raftstore

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

func onDisk(t *testing.T) func(*Config) {
	dir := t.TempDir()
	return func(cfg *Config) {
		cfg.Memory, cfg.Dir = nil, filepath.Join(dir, cfg.NodeID)
	}
}

func TestRestartFromDisk(t *testing.T) {
	for _, interval := range []uint64{10_000, 20} {
		t.Run(fmt.Sprintf("snapshots every %d", interval), func(t *testing.T) {
			tune := onDisk(t)
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3, func(cfg *Config) {
					tune(cfg)
					cfg.SnapshotInterval = interval
				})
				for i := range 100 {
					c.mustPropose(node(fmt.Sprintf("x%03d", i)))
				}
				time.Sleep(time.Minute)
				c.mustPropose(node("last"))
				c.awaitNode(c.members["n3"], "last")
				want := c.leader().State().Snapshot()
				if taken := snapshotFiles(t, c.members["n1"]); (taken > 0) != (interval == 20) {
					t.Errorf("%d snapshots on disk", taken)
				}
				for id, m := range c.members {
					c.kill(m)
					c.start(id, nil)
				}
				c.leader()
				got := c.leader().State().Snapshot()
				got.Index = want.Index // the new term's first entry
				if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
					t.Errorf("after the restart (-before +after):\n%s", diff)
				}
				c.mustPropose(node("on it goes"))
			})
		})
	}
}

func snapshotFiles(t *testing.T, m *member) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(m.cfg.Dir, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestLaggingFollowerGetsSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, func(cfg *Config) { cfg.SnapshotInterval = 20 })
		lagging := c.members[c.others(c.leader().id)[0]]
		_, watch := lagging.State().ViewAndWatch()
		defer watch.Close()
		c.net.partition(c.others(lagging.id), []string{lagging.id})
		for i := range 200 {
			c.mustPropose(node(fmt.Sprintf("x%03d", i)))
		}
		time.Sleep(time.Minute)
		c.mustPropose(node("last"))
		c.net.partition()
		c.awaitNode(lagging, "last")
		if _, err := watch.Next(t.Context()); !fault.Is(err, fault.Lagged) {
			t.Errorf("a watch over a snapshot's gap: %v", err)
		}
		want, got := c.leader().State().Snapshot(), lagging.State().Snapshot()
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("leader and follower differ:\n%s", diff)
		}
	})
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	open := func() (*Store, error) {
		return Open(Config{NodeID: "n1", Addr: "n1", Dir: dir, Stream: newNetwork().listen("n1"), Bootstrap: true})
	}
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(); !fault.Is(err, fault.State) {
		t.Errorf("opening it twice: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
	if s, err = open(); err != nil {
		t.Fatalf("after it was closed: %v", err)
	}
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestOpenNeedsItsConfig(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{NodeID: "a", Addr: "a", Stream: newNetwork().listen("a")},
		{NodeID: "a", Addr: "a", Stream: newNetwork().listen("a"), Dir: "x", Memory: NewMemory()},
	} {
		if _, err := Open(cfg); !fault.Is(err, fault.Invalid) {
			t.Errorf("Open(%+v): %v", cfg, err)
		}
	}
}

func TestDamagedSnapshotIsRefusedWhole(t *testing.T) {
	full := store.New()
	full.Apply(1, &pb.Entry{Commands: []*pb.Command{node("a"), node("b")}})
	var good bytes.Buffer
	if err := writeSnapshot(&good, full.View()); err != nil {
		t.Fatal(err)
	}
	into := store.New()
	into.Apply(1, &pb.Entry{Commands: []*pb.Command{node("mine")}})
	before := into.Snapshot()
	if err := readSnapshot(bytes.NewReader(good.Bytes()[:good.Len()-1]), into); err == nil {
		t.Error("a cut snapshot was taken")
	}
	if !proto.Equal(before, into.Snapshot()) {
		t.Error("a refused snapshot changed the state")
	}
	if err := readSnapshot(strings.NewReader(good.String()), into); err != nil || !proto.Equal(full.Snapshot(), into.Snapshot()) {
		t.Errorf("a good snapshot: %v", err)
	}
}
