package raftstore

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// maxEntry bounds one log entry in bytes. Batches aim at 1 MiB; the rest is
// room for their last item.
const maxEntry = 3 << 19

// enqueueTimeout bounds the wait for a place in raft's queue.
const enqueueTimeout = 10 * time.Second

// Propose carries out commands on all managers. Many calls may be in flight;
// they share disk writes and messages. It returns one error per command, nil
// or the refusal, once this manager's own state contains them.
//
// An error of its own means that the commands were not carried out, or, with
// fault.Unavailable or when ctx ended, that this is not known; its text says which.
func (s *Store) Propose(ctx context.Context, cmds ...*pb.Command) ([]error, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	data, err := proto.Marshal(&pb.Entry{Commands: cmds, At: timestamppb.Now()})
	if err != nil {
		return nil, fault.New(fault.Invalid, "encode commands: %w", err)
	}
	if len(data) > maxEntry {
		return nil, fault.New(fault.Invalid, "propose commands: %d bytes are more than the %d that an entry may have", len(data), maxEntry)
	}
	future, err := ask(ctx, s.gate, func() raft.ApplyFuture { return s.raft.Apply(data, enqueueTimeout) })
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
			return nil, err
		}
		return nil, s.commitError(err)
	}
	answers, _ := future.Response().([]error)
	return answers, nil
}

// commitError explains why an entry has no answer.
func (s *Store) commitError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		if id, addr := s.Leader(); id != "" && id != s.cfg.NodeID {
			return fault.New(fault.Unavailable, "propose: this manager does not lead, node %s at %s does: %w", id, addr, err)
		}
		return fault.New(fault.Unavailable, "propose: the managers have no leader at the moment: %w", err).
			WithTry("the same again in some seconds; a majority of the managers must be up")
	case errors.Is(err, raft.ErrLeadershipLost):
		return fault.New(fault.Unavailable, "propose: leadership was lost on the way; the change may or may not have been made: %w", err).
			WithTry("look whether it was made, then the same again")
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return fault.New(fault.Unavailable, "propose: the leader is overloaded, nothing was changed: %w", err)
	case errors.Is(err, errStopping):
		return fault.New(fault.Unavailable, "propose: this manager is stopping, nothing was changed: %w", err)
	case errors.Is(err, raft.ErrRaftShutdown):
		return fault.New(fault.Unavailable, "propose: this manager is stopping; the change may or may not have been made: %w", err)
	}
	if _, failure := s.disk.lastFailure(); failure != nil {
		err = failure
	}
	return fault.New(fault.Unavailable, "propose: the leader's disk refuses the change, nothing was changed: %w", err).
		WithTry("free space on the disk of the leader's data directory")
}
