package raftstore

import (
	"io"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// snapshots is raft's store of snapshot files with a limit that can change
// while it is in use: a store with another limit takes the old one's place.
type snapshots struct {
	dir    string
	logger hclog.Logger
	store  atomic.Pointer[raft.FileSnapshotStore]
}

func openSnapshots(dir string, beside int, logger hclog.Logger) (*snapshots, error) {
	s := &snapshots{dir: dir, logger: logger}
	return s, s.keep(beside)
}

// keep sets how many snapshots stay beside the newest, from the next one on.
func (s *snapshots) keep(beside int) error {
	store, err := raft.NewFileSnapshotStoreWithLogger(s.dir, beside+1, s.logger)
	if err == nil {
		s.store.Store(store)
	}
	return err
}

// Create implements raft.SnapshotStore.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, transport raft.Transport) (raft.SnapshotSink, error) {
	return s.store.Load().Create(version, index, term, configuration, configurationIndex, transport)
}

// List implements raft.SnapshotStore.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) { return s.store.Load().List() }

// Open implements raft.SnapshotStore.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	return s.store.Load().Open(id)
}
