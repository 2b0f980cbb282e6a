package raftstore

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// Memory is a disk for simulations: it outlives the Store that uses it, as a
// disk does its process, and can be made to fail.
type Memory struct {
	*raft.InmemStore
	snapshots memorySnapshots

	mu   sync.Mutex
	fail error
}

// NewMemory returns an empty memory, for one node.
func NewMemory() *Memory { return &Memory{InmemStore: raft.NewInmemStore()} }

// Forget empties the memory, as removing the directory does.
func (m *Memory) Forget() {
	m.InmemStore = raft.NewInmemStore()
	m.snapshots.mu.Lock()
	defer m.snapshots.mu.Unlock()
	m.snapshots.newest = nil
}

// FailWrites makes every write fail with err until it is called with nil.
func (m *Memory) FailWrites(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *Memory) failure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fail
}

// StoreLog implements raft.LogStore.
func (m *Memory) StoreLog(l *raft.Log) error { return m.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (m *Memory) StoreLogs(logs []*raft.Log) error {
	if err := m.failure(); err != nil {
		return err
	}
	return m.InmemStore.StoreLogs(logs)
}

// Set implements raft.StableStore.
func (m *Memory) Set(key, value []byte) error {
	if err := m.failure(); err != nil {
		return err
	}
	return m.InmemStore.Set(key, value)
}

// SetUint64 implements raft.StableStore.
func (m *Memory) SetUint64(key []byte, value uint64) error {
	if err := m.failure(); err != nil {
		return err
	}
	return m.InmemStore.SetUint64(key, value)
}

// Close leaves everything for the next Store.
func (m *Memory) Close() error { return nil }

// memorySnapshots keeps the newest complete snapshot.
type memorySnapshots struct {
	mu     sync.Mutex
	newest *memorySnapshot
}

type memorySnapshot struct {
	bytes.Buffer
	meta  raft.SnapshotMeta
	store *memorySnapshots
}

var errNoSnapshot = errors.New("there is no such snapshot in memory")

// Create implements raft.SnapshotStore.
func (s *memorySnapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &memorySnapshot{store: s, meta: raft.SnapshotMeta{
		Version: version, ID: "newest", Index: index, Term: term,
		Configuration: configuration, ConfigurationIndex: configurationIndex,
	}}, nil
}

// List implements raft.SnapshotStore.
func (s *memorySnapshots) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest == nil {
		return nil, nil
	}
	meta := s.newest.meta
	return []*raft.SnapshotMeta{&meta}, nil
}

// Open implements raft.SnapshotStore.
func (s *memorySnapshots) Open(string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest == nil {
		return nil, nil, errNoSnapshot
	}
	meta := s.newest.meta
	return &meta, io.NopCloser(bytes.NewReader(s.newest.Bytes())), nil
}

// ID implements raft.SnapshotSink.
func (s *memorySnapshot) ID() string { return s.meta.ID }

// Close makes the snapshot the newest.
func (s *memorySnapshot) Close() error {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.meta.Size = int64(s.Len())
	s.store.newest = s
	return nil
}

// Cancel implements raft.SnapshotSink: what was not closed never was.
func (s *memorySnapshot) Cancel() error { return nil }
