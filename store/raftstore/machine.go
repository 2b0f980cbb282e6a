package raftstore

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// machine lets raft drive a store.State.
type machine struct{ state *store.State }

// Apply implements raft.FSM.
func (m machine) Apply(l *raft.Log) any {
	var e pb.Entry
	if err := proto.Unmarshal(l.Data, &e); err != nil {
		panic(fmt.Sprintf("raftstore: entry %d cannot be read: %v: the log is damaged or was written by something else", l.Index, err))
	}
	return m.state.Apply(l.Index, &e)
}

// ApplyBatch implements raft.BatchingFSM.
func (m machine) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			answers[i] = m.Apply(l)
		}
	}
	return answers
}

// Snapshot implements raft.FSM; the view stays as it is while entries go on.
func (m machine) Snapshot() (raft.FSMSnapshot, error) { return snapshot{m.state.View()}, nil }

// Restore implements raft.FSM.
func (m machine) Restore(source io.ReadCloser) error {
	defer source.Close()
	return readSnapshot(source, m.state)
}

type snapshot struct{ view store.View }

// Persist implements raft.FSMSnapshot.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := writeSnapshot(sink, s.view); err != nil {
		return errors.Join(fmt.Errorf("write snapshot: %w", err), sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (s snapshot) Release() {}

const (
	snapshotBuffer = 256 << 10
	// maxObject bounds one object of a snapshot; more is damage. The largest,
	// a service with many versions, stays far below.
	maxObject = 64 << 20
)

// A snapshot is a pb.Snapshot without objects, then pb.Objects, each after its
// length. None of it needs more memory than its largest object, or the events.

func writeSnapshot(to io.Writer, v store.View) error {
	w := bufio.NewWriterSize(to, snapshotBuffer)
	if _, err := protodelim.MarshalTo(w, v.Head()); err != nil {
		return err
	}
	for o := range v.Objects() {
		if _, err := protodelim.MarshalTo(w, o); err != nil {
			return err
		}
	}
	return w.Flush()
}

func readSnapshot(from io.Reader, into *store.State) error {
	r := bufio.NewReaderSize(from, snapshotBuffer)
	options := protodelim.UnmarshalOptions{MaxSize: maxObject}
	var header pb.Snapshot
	if err := options.UnmarshalFrom(r, &header); err != nil {
		return fmt.Errorf("read head of snapshot: %w", err)
	}
	return into.RestoreObjects(&header, func(yield func(*pb.Object, error) bool) {
		for {
			o := new(pb.Object)
			err := options.UnmarshalFrom(r, o)
			if errors.Is(err, io.EOF) || !yield(o, err) {
				return
			}
		}
	})
}
