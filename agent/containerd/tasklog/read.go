package tasklog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// watermarkEvery is how long a follower is left without word, so that
	// merging the logs of many tasks can go on.
	watermarkEvery = 200 * time.Millisecond
	// batchBytes bounds one emitted batch.
	batchBytes = 256 << 10
)

// Read emits a task's log: from the last tail lines (negative: all) not older
// than since. With follow it goes on until the task's streams have ended or ctx
// has. Every batch's entries come in the order they were written.
func (s *Store) Read(ctx context.Context, id string, req *pb.LogsAttach, emit func(*pb.LogBatch) error) error {
	l, dir, err := s.lookup(id)
	if err != nil {
		return err
	}
	if dir == "" {
		return fault.New(fault.NotFound, "no log of task %s on this node", id)
	}
	r := &reader{dir: dir, emit: emit}
	if req.GetSince() != nil {
		r.since = req.GetSince().AsTime()
	}
	defer r.close()
	end, err := r.endOf(l)
	if err != nil {
		return err
	}
	if err := r.seekTail(end, req.GetTail()); err != nil {
		return err
	}
	if err := r.readTo(ctx, end); err != nil {
		return err
	}
	if !req.GetFollow() || l == nil {
		return r.finish()
	}
	return r.follow(ctx, l, end)
}

type reader struct {
	dir   string
	since time.Time
	emit  func(*pb.LogBatch) error

	file   *os.File
	number uint64
	offset int64
	rest   []byte
	join   joiner
	batch  []*pb.LogEntry
	size   int
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

// endOf is how far to read now.
func (r *reader) endOf(l *Log) (position, error) {
	if l != nil {
		return l.position(), nil
	}
	list, err := numbers(r.dir)
	if err != nil || len(list) == 0 {
		return position{ended: true}, err
	}
	last := list[len(list)-1]
	info, err := os.Stat(fileName(r.dir, last))
	if err != nil {
		return position{}, fmt.Errorf("find end of log: %w", err)
	}
	return position{number: last, size: info.Size(), ended: true}, nil
}

// seekTail opens the file and offset that the last tail lines before end begin at.
func (r *reader) seekTail(end position, tail int64) error {
	list, err := numbers(r.dir)
	if err != nil || len(list) == 0 {
		return err
	}
	switch {
	case tail < 0:
		return r.openFile(list[0], 0)
	case tail == 0:
		return r.openFile(end.number, end.size)
	}
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] > end.number {
			continue
		}
		if err := r.openFile(list[i], 0); err != nil {
			return err
		}
		if r.file == nil {
			continue
		}
		size := end.size
		if list[i] < end.number {
			info, err := r.file.Stat()
			if err != nil {
				return fmt.Errorf("read log: %w", err)
			}
			size = info.Size()
		}
		offset, left, done, err := backward(r.file, size, tail)
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		r.offset = offset
		if done {
			return nil
		}
		tail = left
	}
	return nil
}

// backward finds where the last n lines before end begin: after the piece that
// ends the line before them. Without such a piece the file before this one has
// the rest, of which left lines are whole (0: only the begin of a line).
func backward(f io.ReaderAt, end, n int64) (offset, left int64, done bool, err error) {
	const block = 64 << 10
	// A piece's flag may lie in the block read before: blocks overlap by that much.
	const overlap = flagAt + 2
	buf := make([]byte, block+overlap)
	found, next := int64(0), end
	for at := end; at > 0; at = max(0, at-block) {
		from := max(0, at-block)
		chunk := buf[:min(end, at+int64(overlap))-from]
		if _, err := f.ReadAt(chunk, from); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, false, err
		}
		for i := int(at - from); i >= 0; i-- {
			begins := from == 0 && i == 0 || i > 0 && chunk[i-1] == '\n'
			if !begins || i+flagAt >= len(chunk) || from+int64(i) == next {
				continue
			}
			if chunk[i+flagAt] == 'F' {
				if found == n {
					return next, 0, true, nil
				}
				found++
			}
			next = from + int64(i)
		}
	}
	return 0, n - found, false, nil
}

func (r *reader) openFile(number uint64, offset int64) error {
	r.close()
	r.file, r.number, r.offset, r.rest = nil, number, offset, r.rest[:0]
	f, err := os.Open(fileName(r.dir, number))
	switch {
	case errors.Is(err, os.ErrNotExist): // rotated away meanwhile
		return nil
	case err != nil:
		return fmt.Errorf("open log: %w", err)
	}
	r.file = f
	return nil
}

// readTo emits everything up to end.
func (r *reader) readTo(ctx context.Context, end position) error {
	for ctx.Err() == nil {
		limit := int64(-1)
		if r.number >= end.number {
			limit = end.size
		}
		if err := r.readFile(ctx, limit); err != nil {
			return err
		}
		if r.number >= end.number {
			return r.send(end.at)
		}
		if err := r.next(); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// next moves on to the following file that still exists.
func (r *reader) next() error {
	list, err := numbers(r.dir)
	if err != nil {
		return err
	}
	for _, n := range list {
		if n > r.number {
			return r.openFile(n, 0)
		}
	}
	return fault.New(fault.NotFound, "log of the task was removed")
}

// readFile reads the open file up to limit, or to its end when that is negative.
func (r *reader) readFile(ctx context.Context, limit int64) error {
	if r.file == nil {
		return nil
	}
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		chunk := buf
		if limit >= 0 {
			chunk = buf[:min(int64(len(buf)), max(0, limit-r.offset))]
		}
		if len(chunk) == 0 {
			return nil
		}
		n, err := r.file.ReadAt(chunk, r.offset)
		r.offset += int64(n)
		if err := r.take(chunk[:n]); err != nil {
			return err
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read log: %w", err)
		}
	}
	return context.Cause(ctx)
}

func (r *reader) take(data []byte) error {
	for {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			r.rest = append(r.rest, data...)
			return nil
		}
		line := data[:i]
		if len(r.rest) > 0 {
			r.rest = append(r.rest, line...)
			line = r.rest
		}
		if err := r.line(line); err != nil {
			return err
		}
		r.rest, data = r.rest[:0], data[i+1:]
	}
}

func (r *reader) line(line []byte) error {
	p, ok := parsePiece(line)
	if !ok || p.at.Before(r.since) {
		return nil
	}
	e := r.join.add(p)
	if e == nil {
		return nil
	}
	r.batch = append(r.batch, e)
	r.size += len(e.Text) + headerSize
	if r.size < batchBytes {
		return nil
	}
	return r.send(time.Time{})
}

// send emits what is gathered; at is the time before which nothing more comes.
func (r *reader) send(at time.Time) error {
	b := &pb.LogBatch{Entries: r.batch}
	if !at.IsZero() {
		b.Watermark = timestamppb.New(r.join.oldest(at))
	}
	if len(b.Entries) == 0 && b.Watermark == nil {
		return nil
	}
	r.batch, r.size = nil, 0
	return r.emit(b)
}

func (r *reader) finish() error {
	r.batch = append(r.batch, r.join.flush()...)
	return r.send(time.Time{})
}

func (r *reader) follow(ctx context.Context, l *Log, pos position) error {
	tick := time.NewTicker(watermarkEvery)
	defer tick.Stop()
	for !pos.ended {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-pos.changed:
		case <-tick.C:
		}
		pos = l.position()
		if err := r.readTo(ctx, pos); err != nil {
			return err
		}
	}
	return r.finish()
}
