package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/minid/minid/fault"
)

// ErrLeadershipLost is the cause of the end of a Lead scope's context.
var ErrLeadershipLost = errors.New("leadership was lost")

// leadPause is the least time between two attempts of the same leader.
const leadPause = time.Second

// leadership is what raft last told about this node's leadership. Each change
// makes a new epoch, so that losing it and winning it back is not overlooked.
type leadership struct {
	notify chan bool // raft writes every change

	mu      sync.Mutex
	leading bool
	epoch   uint64
	changed chan struct{} // closed at the next change
}

func newLeadership() *leadership {
	return &leadership{notify: make(chan bool), changed: make(chan struct{})}
}

// follow takes in raft's changes until ctx ends, and then counts as not leading.
func (l *leadership) follow(ctx context.Context, logger *slog.Logger) {
	for {
		select {
		case leading := <-l.notify:
			l.set(leading)
			logger.Info("leadership changed", "leading", leading)
		case <-ctx.Done():
			l.set(false)
			return
		}
	}
}

// ignore takes in raft's changes, which it would wait to get rid of, until done;
// false after the timeout.
func (l *leadership) ignore(done <-chan struct{}, timeout time.Duration) bool {
	end := time.After(timeout)
	for {
		select {
		case <-l.notify:
		case <-done:
			return true
		case <-end:
			return false
		}
	}
}

func (l *leadership) set(leading bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading = leading
	l.epoch++
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *leadership) get() (leading bool, epoch uint64, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leading, l.epoch, l.changed
}

// await blocks until this node leads and returns the epoch.
func (l *leadership) await(ctx context.Context) (uint64, error) {
	for {
		leading, epoch, changed := l.get()
		if leading {
			return epoch, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// scope returns a context that ends with the epoch, with cause ErrLeadershipLost.
func (l *leadership) scope(ctx context.Context, epoch uint64) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			_, now, changed := l.get()
			if now != epoch {
				cancel(ErrLeadershipLost)
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	return ctx, func() {
		cancel(nil)
		watching.Wait()
	}
}

// Lead runs fn whenever this node becomes the leader and its state contains
// everything that was committed before. fn's context ends with cause
// ErrLeadershipLost when leadership does; Lead waits for fn before anything
// else. If fn returns while the node still leads, another manager gets the
// lead; without another one, fn is started again after a second.
//
// Lead returns when ctx ends, with nil.
func (s *Store) Lead(ctx context.Context, fn func(context.Context) error) error {
	for ctx.Err() == nil {
		epoch, err := s.leadership.await(ctx)
		if err != nil {
			return nil
		}
		scope, end := s.leadership.scope(ctx, epoch)
		if _, err = ask(scope, s.gate, func() raft.Future { return s.raft.Barrier(0) }); err == nil {
			err = fn(scope)
		}
		lost := scope.Err() != nil
		end()
		if lost {
			continue // or ctx ended, which await finds
		}
		s.cfg.Logger.Error("leader's work ended early", "err", err)
		if err := s.TransferLeadership(ctx); err != nil {
			s.cfg.Logger.Warn("cannot hand leadership over", "err", err)
		}
		select {
		case <-time.After(leadPause):
		case <-ctx.Done():
		}
	}
	return nil
}

// Leader returns id and address of the leader as this node knows it, empty if
// it knows none.
func (s *Store) Leader() (id, addr string) {
	a, i := s.raft.LeaderWithID()
	return string(i), string(a)
}

// Trouble is why this node cannot lead or follow at the moment: the error of a
// disk that is full or broken. Nil if nothing is known against it.
func (s *Store) Trouble() error {
	if err := s.disk.trouble(); err != nil {
		return fmt.Errorf("its disk refuses to write: %w", err)
	}
	return nil
}

// IsLeader says whether this node believes to lead. VerifyLeader makes sure.
func (s *Store) IsLeader() bool { return s.raft.State() == raft.Leader }

// VerifyLeader asks a majority whether this node still leads: what it reads
// after that is not stale. It fails with fault.Unavailable or ctx's cause.
func (s *Store) VerifyLeader(ctx context.Context) error {
	_, err := ask(ctx, s.gate, s.raft.VerifyLeader)
	if err != nil && ctx.Err() == nil {
		return fault.New(fault.Unavailable, "verify leadership: %w", err)
	}
	return err
}

// TransferLeadership makes another manager the leader and returns when it is,
// or with fault.Unavailable.
func (s *Store) TransferLeadership(ctx context.Context) error {
	_, err := ask(ctx, s.gate, s.raft.LeadershipTransfer)
	if err != nil && ctx.Err() == nil {
		return fault.New(fault.Unavailable, "transfer leadership: %w", err)
	}
	return err
}
