package raftstore

import (
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

func TestSnapshotLimitChangesInUse(t *testing.T) {
	s, err := openSnapshots(t.TempDir(), 3, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	take := func(index uint64) {
		t.Helper()
		sink, err := s.Create(raft.SnapshotVersionMax, index, 1, raft.Configuration{}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 6 {
		take(uint64(i + 1))
	}
	if list, err := s.List(); err != nil || len(list) != 4 {
		t.Fatalf("%d snapshots with 3 beside the newest, %v", len(list), err)
	}
	if err := s.keep(0); err != nil {
		t.Fatal(err)
	}
	take(7)
	list, err := s.List()
	if err != nil || len(list) != 1 || list[0].Index != 7 {
		t.Errorf("with none beside the newest: %v, %v", list, err)
	}
}
