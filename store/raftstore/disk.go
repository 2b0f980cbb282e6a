package raftstore

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/minid/minid/fault"
)

// logStore is what raft keeps on disk besides snapshots.
type logStore interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

const (
	logFile = "raft.db"
	// lockTimeout is how long another process may hold the log when we start.
	lockTimeout = 5 * time.Second
	// retryEvery is how often a vote that could not be written is tried again.
	retryEvery = 250 * time.Millisecond
)

// openDisk opens log and snapshots, on disk or in memory. Encryption at rest
// goes here, around both.
func openDisk(cfg Config) (*disk, error) {
	d := &disk{standDown: 2 * cfg.Timing.Election, gaveUp: make(chan struct{})}
	if cfg.Memory != nil {
		d.logStore, d.snapshots = cfg.Memory, &cfg.Memory.snapshots
		return d, nil
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	snapshots, err := openSnapshots(cfg.Dir, cfg.MaxSnapshots, newLogger(cfg.Logger))
	if err != nil {
		return nil, err
	}
	bolt, err := raftboltdb.New(raftboltdb.Options{
		Path:                    filepath.Join(cfg.Dir, logFile),
		MsgpackUseNewTimeFormat: true,
		BoltOptions: &bbolt.Options{
			Timeout:        lockTimeout,
			FreelistType:   bbolt.FreelistMapType,
			NoFreelistSync: true, // rebuilt at start; every commit writes less
		},
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fault.New(fault.State, "open %s: another process holds it", filepath.Join(cfg.Dir, logFile)).
			WithTry("stop the other minid of this data directory")
	}
	if err != nil {
		return nil, err
	}
	d.logStore, d.snapshots = bolt, snapshots
	return d, nil
}

// disk guards against a disk that is full or broken. An entry that cannot be
// appended is refused, and raft steps down; then another manager should lead,
// so this one does not stand for election for a moment. A term or vote that
// cannot be written must not be given: raft would panic, so it waits instead,
// and takes no part until the disk takes it.
type disk struct {
	logStore
	snapshots raft.SnapshotStore
	standDown time.Duration

	mu       sync.Mutex
	failure  error // of the last append that failed
	failedAt time.Time
	refusing error // of the last append, nil if it succeeded
	awaited  error // of the term or vote that waits for the disk
	gaveUp   chan struct{}
	once     sync.Once
}

func (d *disk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

func (d *disk) StoreLogs(logs []*raft.Log) error {
	err := d.logStore.StoreLogs(logs)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refusing = err
	if err != nil {
		d.failure, d.failedAt = err, time.Now()
	}
	return err
}

// lastFailure is the error of the last append that failed; raft passes on its
// text only.
func (d *disk) lastFailure() (at time.Time, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failedAt, d.failure
}

// trouble is why the disk does not take writes now, nil if it does.
func (d *disk) trouble() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return cmp.Or(d.awaited, d.refusing)
}

func (d *disk) await(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.awaited = err
	return err
}

func (d *disk) Set(key, value []byte) error {
	d.insist(func() error { return d.logStore.Set(key, value) })
	return nil
}

func (d *disk) SetUint64(key []byte, value uint64) error {
	failedAt, failure := d.lastFailure()
	if rest := d.standDown - time.Since(failedAt); failure != nil && rest > 0 {
		select {
		case <-time.After(rest):
		case <-d.gaveUp:
		}
	}
	d.insist(func() error { return d.logStore.SetUint64(key, value) })
	return nil
}

// insist writes until it succeeds. When the store shuts down first, it ends
// raft's goroutine: to return would be to claim that the write is durable.
func (d *disk) insist(write func() error) {
	for d.await(write()) != nil {
		select {
		case <-time.After(retryEvery):
		case <-d.gaveUp:
			runtime.Goexit()
		}
	}
}

// giveUp ends all waiting for the disk.
func (d *disk) giveUp() { d.once.Do(func() { close(d.gaveUp) }) }

func (d *disk) close() error {
	d.giveUp()
	return d.logStore.Close()
}
