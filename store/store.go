// Package store is the cluster's replicated state machine, without raft.
//
// Apply carries out log entries, one after the other, and depends on nothing
// but the entry and the state before it: every manager that applies the same
// log holds the same objects. View is an immutable snapshot and costs nothing;
// Watch delivers every change after one. Writers never wait for readers.
//
// The files: tables.go holds objects and indexes, apply*.go the commands with
// their preconditions, view.go the queries, watch.go the changes, snapshot.go
// the whole; events.go what people hear of the changes, life.go what a task
// tells of itself.
package store

import (
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Object is any stored object. Stored objects are never changed in place.
type Object interface {
	proto.Message
	GetId() string
	GetMeta() *pb.Meta
}

// Change is one object's step from Old to New; Old is nil for a creation, New
// for a removal.
type Change struct {
	// Index is the raft index of the entry that made the change.
	Index    uint64
	Kind     pb.Kind
	ID       string
	Old, New Object
}

// State holds every object. One writer applies; any number of readers take
// views and watch.
type State struct {
	writer  sync.Mutex // held by Apply and Restore
	present atomic.Pointer[tables]
	history *history
}

// New returns an empty state.
func New() *State {
	s := &State{history: newHistory(maxHistory)}
	s.present.Store(newTables())
	return s
}

// Apply carries out a log entry and returns one error per command, nil for
// those that were applied. Deterministic, no I/O. Refusals are *fault.Error.
// The state keeps parts of the entry, which must not be changed afterwards.
//
// It panics on a command that it does not know, and when index is not above
// that of the last entry: to stop is better than to diverge.
func (s *State) Apply(index uint64, e *pb.Entry) []error {
	s.writer.Lock()
	defer s.writer.Unlock()
	before := s.present.Load()
	if index <= before.index {
		panic(fmt.Sprintf("store: entry %d after entry %d: the log goes back", index, before.index))
	}
	tx := begin(before, index, e.GetAt())
	errs := make([]error, len(e.GetCommands()))
	for i, c := range e.GetCommands() {
		errs[i] = tx.apply(c)
	}
	tx.chronicle = tx.chronicled()
	s.publish(tx)
	return errs
}

// publish shows the outcome of a transaction to views and watches, to both at once.
func (s *State) publish(tx *txn) {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	s.present.Store(&tx.tables)
	s.history.append(tx.index, tx.changes)
}

// View returns the present state as an immutable snapshot, at no cost.
func (s *State) View() View { return View{s.present.Load()} }

// Watch returns the changes after an index, of the kinds given (none: all).
// index 0 means from now on. If the changes since index are not known any
// more, Next says so with fault.Lagged.
func (s *State) Watch(index uint64, kinds ...pb.Kind) *Watch {
	past := s.history.past.Load()
	if index == 0 {
		return s.history.watch(past.end(), 0, kinds)
	}
	return s.history.watch(past.position(index), index, kinds)
}

// ViewAndWatch returns a snapshot and all that changes after it.
func (s *State) ViewAndWatch(kinds ...pb.Kind) (View, *Watch) {
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	return s.View(), s.history.watch(s.history.past.Load().end(), 0, kinds)
}
