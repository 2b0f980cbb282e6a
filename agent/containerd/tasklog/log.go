package tasklog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Limits of one log on disk, as Docker's local driver has them by default in
// spirit: bounded without being asked.
const (
	DefaultMaxSize  = 10 << 20
	DefaultMaxFiles = 3
)

func newEntry(p piece) *pb.LogEntry {
	return &pb.LogEntry{At: timestamppb.New(p.at), Stream: p.stream, Text: bytes.Clone(p.text)}
}

// Log is one task's log being written. Files are named by a growing number;
// the highest is the one being written.
type Log struct {
	dir     string
	maxSize int64
	keep    int

	mu     sync.Mutex
	file   *os.File
	number uint64
	size   int64
	last   time.Time
	// changed is closed and replaced at every write and at the end.
	changed chan struct{}
	writers int
	ended   bool
	// failed counts bytes that could not be written (disk full).
	failed int64
	buf    []byte
}

// openLog continues the log in dir, or begins it.
func openLog(dir string, cfg *pb.LogConfig, writers int) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	l := &Log{
		dir: dir, maxSize: cfg.GetMaxSizeBytes(), keep: int(cfg.GetMaxFiles()),
		changed: make(chan struct{}), writers: writers, ended: writers == 0,
	}
	if l.maxSize <= 0 {
		l.maxSize = DefaultMaxSize
	}
	if l.keep <= 0 {
		l.keep = DefaultMaxFiles
	}
	numbers, err := numbers(dir)
	if err != nil {
		return nil, err
	}
	l.number = 1
	if len(numbers) > 0 {
		l.number = numbers[len(numbers)-1]
	}
	return l, l.open()
}

func (l *Log) open() error {
	f, err := os.OpenFile(fileName(l.dir, l.number), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	size, err := dropTorn(f)
	if err != nil {
		return errors.Join(fmt.Errorf("open log: %w", err), f.Close())
	}
	l.file, l.size = f, size
	return nil
}

// dropTorn cuts off a last line that a crash left without its newline, and
// returns the file's size.
func dropTorn(f *os.File) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return end, err
	}
	buf := make([]byte, min(end, PieceSize+int64(headerSize)+1))
	if _, err := f.ReadAt(buf, end-int64(len(buf))); err != nil {
		return 0, err
	}
	size := end - int64(len(buf)) + int64(bytes.LastIndexByte(buf, '\n')) + 1
	if size == end {
		return end, nil
	}
	return size, f.Truncate(size)
}

// write appends pieces and wakes the followers. It never fails: a full disk
// costs the lines, not the task.
func (l *Log) write(stream pb.Stream, pieces []piece) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Before(l.last) {
		now = l.last
	}
	l.last = now
	l.buf = l.buf[:0]
	if l.failed > 0 {
		note := fmt.Appendf(nil, "[minid: %d bytes of this log were lost: the disk was full]", l.failed)
		l.buf = appendPiece(l.buf, piece{at: now, stream: pb.Stream_STREAM_STDERR, full: true, text: note})
	}
	for _, p := range pieces {
		p.at, p.stream = now, stream
		l.buf = appendPiece(l.buf, p)
	}
	if l.size > 0 && l.size+int64(len(l.buf)) > l.maxSize {
		l.rotate()
	}
	l.append()
	l.wake()
}

func (l *Log) append() {
	if l.file == nil {
		l.failed += int64(len(l.buf))
		return
	}
	n, err := l.file.Write(l.buf)
	if err == nil {
		l.size += int64(n)
		l.failed = 0
		return
	}
	l.failed += int64(len(l.buf))
	if n > 0 && l.file.Truncate(l.size) != nil {
		l.size += int64(n)
	}
}

// rotate begins the next file and deletes those beyond the limit. When that
// cannot be done the present file grows on.
func (l *Log) rotate() {
	old := l.file
	l.number++
	if err := l.open(); err != nil {
		l.number--
		l.file = old
		return
	}
	if old != nil {
		_ = old.Close()
	}
	numbers, err := numbers(l.dir)
	if err != nil {
		return
	}
	for len(numbers) > l.keep {
		_ = os.Remove(fileName(l.dir, numbers[0]))
		numbers = numbers[1:]
	}
}

func (l *Log) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// done tells that one of the streams ended; the log ends with the last one.
func (l *Log) done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writers--
	if l.writers > 0 || l.ended {
		return
	}
	l.end()
}

func (l *Log) end() {
	l.ended = true
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
	l.wake()
}

// position is how far the log is written, and how to hear of more.
type position struct {
	number  uint64
	size    int64
	at      time.Time
	changed <-chan struct{}
	ended   bool
}

func (l *Log) position() position {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Later lines get a later time, so that a watermark of now holds.
	if now := time.Now(); now.After(l.last) {
		l.last = now
	}
	return position{number: l.number, size: l.size, at: l.last, changed: l.changed, ended: l.ended}
}

// copyFrom reads a stream to its end and writes it line by line.
func (l *Log) copyFrom(r io.Reader, stream pb.Stream) error {
	defer l.done()
	buf := make([]byte, PieceSize)
	held := 0
	var pieces []piece
	for {
		n, err := r.Read(buf[held:])
		held += n
		pieces, held = cut(buf, held, pieces[:0], func(p []piece) {
			if len(p) > 0 {
				l.write(stream, p)
			}
		})
		switch {
		case errors.Is(err, io.EOF):
			if held > 0 {
				l.write(stream, []piece{{full: true, text: buf[:held]}})
			}
			return nil
		case err != nil:
			return fmt.Errorf("read log pipe: %w", err)
		}
	}
}

// cut hands the complete lines of buf[:held] to write, a full buffer without a
// newline as a piece, and moves the rest to the front.
func cut(buf []byte, held int, pieces []piece, write func([]piece)) ([]piece, int) {
	start := 0
	for {
		i := bytes.IndexByte(buf[start:held], '\n')
		if i < 0 {
			break
		}
		pieces = append(pieces, piece{full: true, text: buf[start : start+i]})
		start += i + 1
	}
	if start == 0 && held == len(buf) {
		pieces = append(pieces, piece{text: buf[:held]})
		start = held
	}
	write(pieces)
	return pieces, copy(buf, buf[start:held])
}

const suffix = ".log"

func fileName(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%08d%s", number, suffix))
}

// numbers lists a log's files, oldest first.
func numbers(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("list log files: %w", err)
	}
	var out []uint64
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(name, 10, 64); err == nil {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}
