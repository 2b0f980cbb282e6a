package containerd

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/agent"
	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
	"github.com/minid/minid/internal/id"
	pb "github.com/minid/minid/proto/minid/v1"
)

var (
	_ agent.Exec = (*Runtime)(nil)
	_ agent.Logs = (*Runtime)(nil)
)

// Exec is agent.Exec's.
func (r *Runtime) Exec(ctx context.Context, taskID string, start *pb.ExecStart, io agent.ExecIO) (int32, error) {
	if len(start.GetCommand()) == 0 {
		return 0, fault.New(fault.Invalid, "exec in task %s: no command", taskID)
	}
	ctx = withNamespace(ctx)
	o, err := r.Inspect(ctx, taskID)
	if err != nil {
		return 0, err
	}
	if o.Phase != task.Running {
		return 0, fault.New(fault.State, "exec in task %s: it is not running", taskID)
	}
	c, err := r.client.LoadContainer(ctx, taskID)
	if err != nil {
		return 0, fmt.Errorf("exec in task %s: %w", taskID, inWords(err))
	}
	process, err := execProcess(ctx, c, o.Pid, start)
	if err != nil {
		return 0, err
	}
	running, err := c.Task(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("exec in task %s: %w", taskID, inWords(err))
	}
	return r.runExec(ctx, running, process, start, io)
}

// execProcess is the container's own process with another command, and the
// environment, user and directory that were asked for.
func execProcess(ctx context.Context, c client.Container, pid uint32, start *pb.ExecStart) (*specs.Process, error) {
	spec, err := c.Spec(ctx)
	if err != nil {
		return nil, fmt.Errorf("read container: %w", inWords(err))
	}
	p := spec.Process
	p.Args, p.Terminal = start.GetCommand(), start.GetTty()
	p.Env = mergeEnv(p.Env, start.GetEnv())
	if start.GetTty() {
		p.Env = mergeEnv([]string{"TERM=xterm"}, p.Env)
	}
	if size := start.GetSize(); start.GetTty() && size.GetWidth() > 0 {
		p.ConsoleSize = &specs.Box{Width: uint(size.Width), Height: uint(size.Height)}
	}
	if dir := start.GetWorkdir(); dir != "" {
		if !path.IsAbs(dir) {
			return nil, fault.New(fault.Invalid, "working directory %q is not an absolute path", dir)
		}
		p.Cwd = dir
	}
	if start.GetUser() == "" {
		return p, nil
	}
	root, err := os.OpenRoot(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return nil, fmt.Errorf("look into the container: %w", err)
	}
	defer root.Close()
	user, err := findUser(root.FS(), start.GetUser(), nil)
	if err != nil {
		return nil, err
	}
	p.User = user.oci()
	p.Env = mergeEnv(p.Env, []string{"HOME=" + user.Home})
	p.Capabilities = capSet(p.Capabilities.Bounding).forUser(user.UID)
	return p, nil
}

func (r *Runtime) runExec(ctx context.Context, t client.Task, spec *specs.Process, start *pb.ExecStart, streams agent.ExecIO) (int32, error) {
	execID := "exec-" + id.New()
	dir := filepath.Join(r.taskDir(t.ID()), execID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, fmt.Errorf("make exec directory: %w", err)
	}
	defer os.RemoveAll(dir)
	var stdin io.Reader
	input := &endTeller{Reader: streams.Stdin, end: make(chan struct{})}
	if start.GetStdin() && streams.Stdin != nil {
		stdin = input
	}
	opts := []cio.Opt{cio.WithStreams(stdin, streams.Stdout, streams.Stderr), cio.WithFIFODir(dir)}
	if start.GetTty() {
		opts = append(opts, cio.WithTerminal)
	}
	process, err := t.Exec(ctx, execID, spec, cio.NewCreator(opts...))
	if err != nil {
		return 0, fmt.Errorf("exec: %w", inWords(err))
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rpcTimeout)
		defer cancel()
		if _, err := process.Delete(ctx, client.WithProcessKill); err != nil && !notThere(err) {
			r.cfg.Logger.Warn("exec is not cleaned up", "task", t.ID(), "error", err)
		}
	}()
	exited, err := process.Wait(ctx)
	if err != nil {
		return 0, fmt.Errorf("wait for exec: %w", inWords(err))
	}
	if err := process.Start(ctx); err != nil {
		process.IO().Cancel()
		return startError(r.imageOf(t.ID()), err)
	}
	return steer(ctx, steering{Process: process, exited: exited, inputEnd: input.end, ExecIO: streams}, start)
}

// endTeller tells when a reader has ended: the shim holds the process's input
// open until it is told to close it.
type endTeller struct {
	io.Reader
	end  chan struct{}
	once sync.Once
}

func (e *endTeller) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if err != nil {
		e.once.Do(func() { close(e.end) })
	}
	return n, err
}

// steering is a running exec with what may happen to it.
type steering struct {
	client.Process
	agent.ExecIO
	exited   <-chan client.ExitStatus
	inputEnd <-chan struct{}
}

// steer passes sizes and signals on until the process has ended and its output
// is delivered. When the caller goes away the process is killed: nobody could
// find it again.
func steer(ctx context.Context, p steering, start *pb.ExecStart) (int32, error) {
	if size := start.GetSize(); start.GetTty() && size.GetWidth() > 0 {
		_ = p.Process.Resize(ctx, size.Width, size.Height)
	}
	resize, signals, inputEnd := p.ExecIO.Resize, p.Signals, p.inputEnd
	for {
		select {
		case st := <-p.exited:
			code, _, err := st.Result()
			if err != nil {
				return 0, fmt.Errorf("wait for exec: %w", inWords(err))
			}
			p.IO().Wait()
			return int32(code), nil
		case <-inputEnd:
			inputEnd = nil
			_ = p.CloseIO(ctx, client.WithStdinCloser) // it may just have ended
		case size, ok := <-resize:
			if !ok {
				resize = nil
			} else if start.GetTty() {
				_ = p.Process.Resize(ctx, size.GetWidth(), size.GetHeight()) // it may just have ended
			}
		case sig, ok := <-signals:
			if !ok {
				signals = nil
			} else {
				_ = p.Kill(ctx, unix.Signal(sig))
			}
		case <-ctx.Done():
			p.IO().Cancel()
			return 0, context.Cause(ctx)
		}
	}
}
