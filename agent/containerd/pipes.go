package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/agent/containerd/tasklog"
	pb "github.com/minid/minid/proto/minid/v1"
)

// A container's output goes through its shim into FIFOs. The shim holds both
// ends, so the container neither gets SIGPIPE nor blocks before a pipe is full
// while minid is away. What a container printed that ended meanwhile is lost as
// far as it was still in the pipe: the kernel drops it with the last open end.
type pipes struct {
	stdin, stdout, stderr string
	sources               []tasklog.Source
}

func (p *pipes) close() {
	for _, s := range p.sources {
		_ = s.Close()
	}
}

// makePipes makes a task's FIFOs and opens the output ones for reading. Nobody
// ever opens that of stdin for writing: a reader then waits for ever, which is
// what an open stdin without input is.
func (r *Runtime) makePipes(id string, tty, stdin bool) (*pipes, error) {
	dir := r.taskDir(id)
	names := []string{"stdout"}
	if !tty {
		names = append(names, "stderr")
	}
	if stdin {
		names = append(names, "stdin")
	}
	p := &pipes{}
	for _, name := range names {
		if err := unix.Mkfifo(filepath.Join(dir, name), 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make log pipe: %w", err)
		}
	}
	p.stdout = filepath.Join(dir, "stdout")
	if !tty {
		p.stderr = filepath.Join(dir, "stderr")
	}
	if stdin {
		p.stdin = filepath.Join(dir, "stdin")
	}
	return p, r.openPipes(p)
}

func (r *Runtime) openPipes(p *pipes) error {
	for stream, name := range map[pb.Stream]string{pb.Stream_STREAM_STDOUT: p.stdout, pb.Stream_STREAM_STDERR: p.stderr} {
		if name == "" {
			continue
		}
		// Non-blocking: a reader must not wait for the shim, and may be closed.
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			p.close()
			return fmt.Errorf("open log pipe: %w", err)
		}
		r.mu.Lock()
		r.pipes[f] = struct{}{}
		r.mu.Unlock()
		p.sources = append(p.sources, tasklog.Source{Stream: stream, ReadCloser: &trackedPipe{File: f, runtime: r}})
	}
	return nil
}

// trackedPipe is a pipe that Close of the Runtime can close.
type trackedPipe struct {
	*os.File
	runtime *Runtime
}

func (p *trackedPipe) Close() error {
	p.runtime.mu.Lock()
	delete(p.runtime.pipes, p.File)
	p.runtime.mu.Unlock()
	return p.File.Close()
}

// attachLog begins copying. The shim must have opened its ends: an end without
// a writer reads as ended.
func (r *Runtime) attachLog(id string, rec *record, p *pipes) error {
	if err := r.logs.Attach(id, rec.logConfig(), p.sources...); err != nil {
		p.close()
		return err
	}
	return nil
}

// reopenLog goes on with the log of a container that an earlier minid made.
func (r *Runtime) reopenLog(id string, rec *record) error {
	p := &pipes{stdout: filepath.Join(r.taskDir(id), "stdout")}
	if !rec.TTY {
		p.stderr = filepath.Join(r.taskDir(id), "stderr")
	}
	if _, err := os.Stat(p.stdout); errors.Is(err, fs.ErrNotExist) {
		return nil // half made, or from before the host restarted
	}
	if err := r.openPipes(p); err != nil {
		return err
	}
	return r.attachLog(id, rec, p)
}
