// Package store is the cluster's replicated state machine, without raft.
package store

import (
	"context"
	"iter"

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
	Index    uint64
	Kind     pb.Kind
	ID       string
	Old, New Object
}

// State holds every object.
type State struct{}

// New returns an empty state.
func New() *State { panic("stub") }

// Apply carries out a log entry and returns one error per command, nil for
// those that were applied. Deterministic, no I/O. Refusals are *fault.Error.
// It panics on a command that it does not know.
func (s *State) Apply(index uint64, e *pb.Entry) []error { panic("stub") }

// View returns the present state as an immutable snapshot.
func (s *State) View() View { panic("stub") }

// Watch returns the changes after an index, of the kinds given (none: all).
// index 0 means from now on.
func (s *State) Watch(index uint64, kinds ...pb.Kind) *Watch { panic("stub") }

// ViewAndWatch returns a snapshot and all that changes after it.
func (s *State) ViewAndWatch(kinds ...pb.Kind) (View, *Watch) { panic("stub") }

// Snapshot returns the whole state.
func (s *State) Snapshot() *pb.Snapshot { panic("stub") }

// Restore replaces the whole state; watchers see Lagged.
func (s *State) Restore(*pb.Snapshot) error { panic("stub") }

// Watch reads changes in order.
type Watch struct{}

// Next blocks until there are changes and returns all of them, oldest first.
// It fails with ctx's cause or, when the reader was too slow, fault.Lagged.
func (w *Watch) Next(ctx context.Context) ([]Change, error) { panic("stub") }

// Close ends the watch; a pending Next returns.
func (w *Watch) Close() { panic("stub") }

// View is an immutable snapshot. Lookups return nil for what is not there.
// What it returns must not be changed.
type View struct{}

func (v View) Index() uint64                                              { panic("stub") }
func (v View) Cluster() *pb.Cluster                                       { panic("stub") }
func (v View) Node(id string) *pb.Node                                    { panic("stub") }
func (v View) Nodes() iter.Seq[*pb.Node]                                  { panic("stub") }
func (v View) Service(id string) *pb.Service                              { panic("stub") }
func (v View) ServiceByName(name string) *pb.Service                      { panic("stub") }
func (v View) Services() iter.Seq[*pb.Service]                            { panic("stub") }
func (v View) Task(id string) *pb.Task                                    { panic("stub") }
func (v View) Tasks() iter.Seq[*pb.Task]                                  { panic("stub") }
func (v View) TasksByService(id string) iter.Seq[*pb.Task]                { panic("stub") }
func (v View) TasksByNode(id string) iter.Seq[*pb.Task]                   { panic("stub") }
func (v View) TasksBySlot(service string, slot uint64) iter.Seq[*pb.Task] { panic("stub") }
func (v View) Secret(id string) *pb.Secret                                { panic("stub") }
func (v View) SecretByName(name string) *pb.Secret                        { panic("stub") }
func (v View) Secrets() iter.Seq[*pb.Secret]                              { panic("stub") }
func (v View) Config(id string) *pb.Config                                { panic("stub") }
func (v View) ConfigByName(name string) *pb.Config                        { panic("stub") }
func (v View) Configs() iter.Seq[*pb.Config]                              { panic("stub") }

// ByPrefix returns the objects of a kind whose id starts with prefix.
func (v View) ByPrefix(kind pb.Kind, prefix string) iter.Seq[Object] { panic("stub") }

// TaskSpec returns the spec of a version of a service, nil if it is no longer kept.
func TaskSpec(s *pb.Service, version uint64) *pb.TaskSpec { panic("stub") }
