package tasklog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Store holds the logs of a node's tasks, one directory per task.
type Store struct {
	dir string

	mu   sync.Mutex
	open map[string]*Log
	wg   sync.WaitGroup
}

// NewStore keeps logs under dir.
func NewStore(dir string) *Store {
	return &Store{dir: dir, open: make(map[string]*Log)}
}

// Source is one stream of a task to be logged. Copying ends at its EOF, or
// when it is closed.
type Source struct {
	Stream pb.Stream
	io.ReadCloser
}

// Attach writes what comes from the sources into the task's log until each has
// ended. A log that is attached already is an error: two writers would mix.
func (s *Store) Attach(id string, cfg *pb.LogConfig, sources ...Source) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.open[id]; old != nil && !old.position().ended {
		return fmt.Errorf("log of task %s is being written already", id)
	}
	l, err := openLog(filepath.Join(s.dir, id), cfg, len(sources))
	if err != nil {
		return err
	}
	s.open[id] = l
	for _, src := range sources {
		s.wg.Go(func() {
			defer src.Close()
			// A pipe that breaks ends the log as its EOF does; there is nobody to tell.
			_ = l.copyFrom(src, src.Stream)
		})
	}
	return nil
}

// Remove deletes a task's log. Its followers end.
func (s *Store) Remove(id string) error {
	s.mu.Lock()
	l := s.open[id]
	delete(s.open, id)
	s.mu.Unlock()
	if l != nil {
		l.mu.Lock()
		if !l.ended {
			l.end()
		}
		l.mu.Unlock()
	}
	if err := os.RemoveAll(filepath.Join(s.dir, id)); err != nil {
		return fmt.Errorf("remove log: %w", err)
	}
	return nil
}

// Forget lets go of a log that has ended; its files stay readable.
func (s *Store) Forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.open[id]; l != nil && l.position().ended {
		delete(s.open, id)
	}
}

// Wait blocks until all streams of a task's log have ended, or ctx has.
func (s *Store) Wait(ctx context.Context, id string) error {
	s.mu.Lock()
	l := s.open[id]
	s.mu.Unlock()
	for l != nil {
		pos := l.position()
		if pos.ended {
			return nil
		}
		select {
		case <-pos.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Close waits for the writers; their sources must have been closed.
func (s *Store) Close() { s.wg.Wait() }

// lookup returns the log being written, nil when it is not, and its directory.
func (s *Store) lookup(id string) (*Log, string, error) {
	dir := filepath.Join(s.dir, id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.open[id]; l != nil {
		return l, dir, nil
	}
	if _, err := os.Stat(dir); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, "", nil
		}
		return nil, "", fmt.Errorf("find log: %w", err)
	}
	return nil, dir, nil
}
