package faketask

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/minid/minid/agent"
	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// followEvery is how often a followed log is looked at.
const followEvery = 100 * time.Millisecond

// WriteLog adds a line to a task's log.
func (r *Runtime) WriteLog(id, line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write(id, time.Now(), line)
}

func (r *Runtime) write(id string, at time.Time, line string) {
	r.logs[id] = append(r.logs[id], &pb.LogEntry{At: timestamppb.New(at), Stream: pb.Stream_STREAM_STDOUT, Text: []byte(line)})
}

// Logs implements agent.Logs.
func (r *Runtime) Logs(ctx context.Context, id string, req *pb.LogsAttach, emit func(*pb.LogBatch) error) error {
	lines, known := r.lines(id, 0)
	if !known {
		return fault.New(fault.NotFound, "task %s: has no log", id)
	}
	next := len(lines)
	if since := req.GetSince(); since != nil {
		for len(lines) > 0 && lines[0].GetAt().AsTime().Before(since.AsTime()) {
			lines = lines[1:]
		}
	}
	if tail := req.GetTail(); tail > 0 && int(tail) < len(lines) {
		lines = lines[len(lines)-int(tail):]
	}
	if err := emit(&pb.LogBatch{Entries: lines, Watermark: timestamppb.Now()}); err != nil || !req.GetFollow() {
		return err
	}
	r.follow(1)
	defer r.follow(-1)
	for {
		if err := sleep(ctx, followEvery); err != nil {
			return err
		}
		if lines, known = r.lines(id, next); !known {
			return nil
		}
		if len(lines) == 0 {
			continue
		}
		next += len(lines)
		if err := emit(&pb.LogBatch{Entries: lines, Watermark: timestamppb.Now()}); err != nil {
			return err
		}
	}
}

func (r *Runtime) lines(id string, from int) (lines []*pb.LogEntry, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, known := r.logs[id]
	return all[min(from, len(all)):], known || r.containers[id] != nil
}

// Usage implements agent.Usage: every running task has used a quarter of a CPU
// since the epoch, and holds a mebibyte.
func (r *Runtime) Usage(context.Context) (*pb.NodeUsage, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.measured++
	now := time.Now()
	sample := &pb.NodeUsage{At: timestamppb.New(now), Total: &pb.Usage{NanoCpus: 2e9, MemoryLimitBytes: 1 << 30}}
	for _, id := range slices.Sorted(maps.Keys(r.containers)) {
		if r.containers[id].obs.Phase != task.Running {
			continue
		}
		u := &pb.Usage{CpuNs: uint64(now.UnixNano() / 4), MemoryBytes: 1 << 20, Pids: 1}
		sample.Tasks = append(sample.Tasks, &pb.TaskUsage{TaskId: id, Usage: u})
		sample.Total.CpuNs += u.CpuNs
		sample.Total.MemoryBytes += u.MemoryBytes
	}
	return sample, nil
}

// Measured counts the samples that Usage took.
func (r *Runtime) Measured() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.measured
}

// Exec implements agent.Exec with a few commands: "echo ARGS", "cat" copies
// stdin to stdout, "false" exits with 1, "signal" prints the first signal and
// "size" the first window size; others are not found.
func (r *Runtime) Exec(ctx context.Context, id string, start *pb.ExecStart, xio agent.ExecIO) (int32, error) {
	r.mu.Lock()
	c := r.containers[id]
	running := c != nil && c.obs.Phase == task.Running
	r.mu.Unlock()
	if !running {
		return 0, fault.New(fault.State, "task %s: does not run", id)
	}
	command := start.GetCommand()
	if len(command) == 0 {
		return 0, fault.New(fault.Invalid, "exec: no command given")
	}
	switch command[0] {
	case "echo":
		_, err := fmt.Fprintln(xio.Stdout, strings.Join(command[1:], " "))
		return 0, err
	case "cat":
		_, err := io.Copy(xio.Stdout, xio.Stdin)
		return 0, err
	case "false":
		_, err := fmt.Fprintln(xio.Stderr, "false")
		return 1, err
	case "signal":
		select {
		case s := <-xio.Signals:
			_, err := fmt.Fprintln(xio.Stdout, s)
			return int32(128 + s), err
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	case "size":
		select {
		case s := <-xio.Resize:
			_, err := fmt.Fprintln(xio.Stdout, s.GetWidth(), s.GetHeight())
			return 0, err
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return 127, fault.New(fault.Invalid, "exec: %q not found", command[0])
}
