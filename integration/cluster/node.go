package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Node is one machine of the cluster.
type Node struct {
	Name string
	// Addr is its address on the underlay.
	Addr string

	c     *Cluster
	index int
	flags []string
	ns    *namespace

	mu   sync.Mutex
	proc *process
	// off is true after a power off, until the machine boots.
	off bool
}

// process is one run of a node's minid.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// DataDir is the node's data directory.
func (n *Node) DataDir() string { return filepath.Join(n.c.dir, n.Name, "data") }

// RunDir is the node's directory for sockets.
func (n *Node) RunDir() string { return filepath.Join(n.c.dir, n.Name, "run") }

// Socket is the node's control socket as minictl wants it.
func (n *Node) Socket() string { return "unix://" + filepath.Join(n.RunDir(), "minid.sock") }

// LogFile is where minid's own log goes.
func (n *Node) LogFile() string { return filepath.Join(n.c.dir, n.Name, "minid.log") }

func (n *Node) setUp() error {
	for _, dir := range []string{n.DataDir(), n.RunDir(), n.registries()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	ns, err := newNamespace(filepath.Join(n.c.dir, n.Name+".ns"))
	n.ns = ns
	if err != nil {
		return err
	}
	return plug(n.c.hub, ns, n.index)
}

// LimitDisk gives a directory below the data directory, such as raft, a disk of
// its own with so many bytes. It must be called before the node uses it.
func (n *Node) LimitDisk(dir string, size int64) error {
	path := filepath.Join(n.DataDir(), dir)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		return fmt.Errorf("mount a disk of %d bytes at %s: %w", size, path, err)
	}
	return nil
}

func (n *Node) registries() string { return filepath.Join(n.c.dir, n.Name, "registries") }

// AllowRegistry lets the node pull from a registry without TLS.
func (n *Node) AllowRegistry(host string) error {
	dir := filepath.Join(n.registries(), host)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	text := fmt.Sprintf("server = \"http://%s\"\n\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", host, host)
	return os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600)
}

// Start starts minid and waits until its socket answers.
func (n *Node) Start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc != nil {
		return fmt.Errorf("start %s: it runs already", n.Name)
	}
	if n.off {
		if err := n.boot(); err != nil {
			return fmt.Errorf("boot %s: %w", n.Name, err)
		}
	}
	log, err := os.OpenFile(n.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{
		"--data-dir", n.DataDir(), "--run-dir", n.RunDir(), "--name", n.Name,
		"--registry-config", n.registries(), "--log-format", "text",
	}, append(n.c.opts.Flags, n.flags...)...)
	p := &process{cmd: exec.Command(filepath.Join(n.c.opts.Bin, "minid"), args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := n.ns.Do(p.cmd.Start); err != nil {
		return fmt.Errorf("start minid of %s: %w", n.Name, err)
	}
	n.proc = p
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return n.awaitSocket(p)
}

func (n *Node) awaitSocket(p *process) error {
	path := strings.TrimPrefix(n.Socket(), "unix://")
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("minid of %s ended at start: %w; its log ends with:\n%s", n.Name, p.err, n.LogTail(10))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("minid of %s does not answer after 30 s; its log ends with:\n%s", n.Name, n.LogTail(10))
}

// Kill ends minid with SIGKILL; containers go on.
func (n *Node) Kill() error { return n.end(unix.SIGKILL) }

// Stop ends minid with SIGTERM; containers go on.
func (n *Node) Stop() error { return n.end(unix.SIGTERM) }

func (n *Node) end(sig unix.Signal) error {
	n.mu.Lock()
	p := n.proc
	n.proc = nil
	n.mu.Unlock()
	if p == nil {
		return fmt.Errorf("%s is not running", n.Name)
	}
	n.c.logf("%s: %s", n.Name, unix.SignalName(sig))
	unix.Kill(p.cmd.Process.Pid, sig)
	select {
	case <-p.done:
		return nil
	case <-time.After(30 * time.Second):
		return fmt.Errorf("minid of %s is still there 30 s after %s", n.Name, unix.SignalName(sig))
	}
}

// Pause stops minid's clock with SIGSTOP, Resume goes on.
func (n *Node) Pause() error { return n.signal(unix.SIGSTOP) }

// Resume undoes Pause.
func (n *Node) Resume() error { return n.signal(unix.SIGCONT) }

func (n *Node) signal(sig unix.Signal) error {
	pid := n.Pid()
	if pid == 0 {
		return fmt.Errorf("%s is not running", n.Name)
	}
	return unix.Kill(pid, sig)
}

// Pid of minid, 0 when it is not running.
func (n *Node) Pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil {
		return 0
	}
	return n.proc.cmd.Process.Pid
}

// Cut unplugs the node from the network, Heal plugs it in again.
func (n *Node) Cut() error { return n.link(false) }

// Heal undoes Cut.
func (n *Node) Heal() error { return n.link(true) }

func (n *Node) link(up bool) error {
	return n.c.hub.Do(func() error { return setLink(fmt.Sprintf("port%d", n.index), up) })
}

// PowerOff loses the machine: first its link, so that nobody hears of it any
// more, then minid, containerd, shims and containers at once. Start boots it.
func (n *Node) PowerOff() {
	n.c.logf("%s: power off", n.Name)
	n.mu.Lock()
	n.proc, n.off = nil, true
	n.mu.Unlock()
	n.kill()
}

func (n *Node) kill() {
	n.c.hub.Do(func() error { return unplug(n.index) })
	if ino, err := n.ns.inode(); err == nil {
		killAll(func() []int { return processes(ino) })
	}
}

// boot brings the machine up as hardware would: the disk is as it was, while
// mounts, sockets and devices are gone.
func (n *Node) boot() error {
	unmountBelow(n.RunDir())
	if err := os.RemoveAll(n.RunDir()); err != nil {
		return err
	}
	n.ns.close()
	if err := n.setUp(); err != nil {
		return err
	}
	n.off = false
	return nil
}

func (n *Node) destroy() {
	if n.ns == nil {
		return
	}
	n.mu.Lock()
	n.proc = nil
	n.mu.Unlock()
	n.kill()
	unmountBelow(filepath.Join(n.c.dir, n.Name))
	n.ns.close()
}

// Do runs fn in the node's network namespace.
func (n *Node) Do(fn func() error) error { return n.ns.Do(fn) }

// Result of a minictl run.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Ctl runs minictl against this node and returns what it printed.
func (n *Node) Ctl(ctx context.Context, args ...string) (Result, error) {
	return n.CtlInput(ctx, "", args...)
}

// CtlInput is Ctl with something on standard input.
func (n *Node) CtlInput(ctx context.Context, input string, args ...string) (Result, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(n.c.opts.Bin, "minictl"), append([]string{"-H", n.Socket()}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	err := n.ns.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	res := Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	if _, exited := errors.AsType[*exec.ExitError](err); exited || err == nil {
		if res.Code != 0 {
			return res, fmt.Errorf("minictl %s on %s: exit code %d: %s", strings.Join(args, " "), n.Name, res.Code, strings.TrimSpace(res.Stderr))
		}
		return res, nil
	}
	return res, fmt.Errorf("run minictl %s on %s: %w", strings.Join(args, " "), n.Name, err)
}

// LogTail returns the last lines of minid's own log.
func (n *Node) LogTail(lines int) string {
	data, err := os.ReadFile(n.LogFile())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
