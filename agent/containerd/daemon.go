package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/fault"
)

// Daemon is a private containerd: started detached, so that it and the
// containers outlive minid, and found again by the next minid.
type Daemon struct {
	// Binary of containerd; empty looks beside minid's, then in PATH. The shim
	// is looked for beside it, then in PATH.
	Binary string
	// DataDir holds images and snapshots, RunDir the socket and what does not
	// outlive the host.
	DataDir, RunDir string
	Logger          *slog.Logger
}

const (
	// socketLimit is the longest path of a unix socket (sun_path, less its NUL).
	socketLimit = 107
	// probeEvery is how soon a dead containerd is noticed.
	probeEvery = time.Second
	// bootTimeout is how long containerd may take to answer.
	bootTimeout = 30 * time.Second
	// logLimit is when containerd's own log is set aside at a start, in bytes.
	logLimit = 10 << 20
)

// Address is the daemon's socket.
func (d *Daemon) Address() string { return filepath.Join(d.dir(), "containerd.sock") }

func (d *Daemon) dir() string     { return filepath.Join(d.RunDir, "containerd") }
func (d *Daemon) pidFile() string { return filepath.Join(d.dir(), "pid") }
func (d *Daemon) root() string    { return filepath.Join(d.DataDir, "containerd") }

// Run keeps containerd running until ctx ends, and then leaves it running.
func (d *Daemon) Run(ctx context.Context) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for failing := false; ; {
		err := d.Ensure(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			d.log().Error("containerd does not start", "error", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (d *Daemon) log() *slog.Logger {
	if d.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return d.Logger
}

// Ensure makes containerd run and answer: one that is alive is used.
func (d *Daemon) Ensure(ctx context.Context) error {
	if len(d.Address()+".ttrpc") > socketLimit {
		return fault.New(fault.Invalid, "run directory %s is too long: unix sockets allow paths of %d bytes, containerd's would have %d",
			d.RunDir, socketLimit, len(d.Address()+".ttrpc")).WithTry("give minid a shorter --run-dir")
	}
	for _, dir := range []string{d.dir(), d.root()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make containerd's directory: %w", err)
		}
	}
	unlock, err := lockFile(filepath.Join(d.dir(), "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	pid := d.alive()
	if pid != 0 && answers(d.Address()) {
		return nil
	}
	if pid == 0 {
		if pid, err = d.start(); err != nil {
			return err
		}
		d.log().Info("containerd started", "pid", pid)
	}
	return d.awaitAnswer(ctx, pid)
}

// awaitAnswer waits for a containerd that runs to accept connections.
func (d *Daemon) awaitAnswer(ctx context.Context, pid int) error {
	deadline := time.Now().Add(bootTimeout)
	for {
		if answers(d.Address()) {
			return nil
		}
		if d.alive() != pid {
			return fault.New(fault.Unavailable, "containerd ended at its start: %s", d.lastWords()).WithTry("minid check")
		}
		if time.Now().After(deadline) {
			return fault.New(fault.Timeout, "containerd does not answer on %s within %v: %s", d.Address(), bootTimeout, d.lastWords())
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func answers(socket string) bool {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// alive returns the pid of our containerd, 0 if it does not run: the pid must
// be that of a process with our configuration as its argument.
func (d *Daemon) alive() int {
	data, err := os.ReadFile(d.pidFile())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 0 {
		return 0
	}
	proc := fmt.Sprintf("/proc/%d/", pid)
	args, err := os.ReadFile(proc + "cmdline")
	switch {
	case err != nil:
		return 0
	case bytes.Contains(args, []byte(d.configFile())):
		return pid
	case len(args) > 0:
		return 0
	}
	// No arguments: a zombie, or one whose exec is not quite through.
	stat, err := os.ReadFile(proc + "stat")
	if err != nil || bytes.Contains(stat, []byte(") Z ")) || bytes.Contains(stat, []byte(") X ")) {
		return 0
	}
	return pid
}

func (d *Daemon) configFile() string { return filepath.Join(d.dir(), "config.toml") }
func (d *Daemon) logFile() string    { return filepath.Join(d.DataDir, "containerd.log") }

func (d *Daemon) start() (int, error) {
	binary, err := d.FindBinary()
	if err != nil {
		return 0, err
	}
	path := searchPath(filepath.Dir(binary))
	for _, need := range []string{"containerd-shim-runc-v2", "runc"} {
		if lookIn(path, need) == "" {
			return 0, fault.New(fault.State, "start containerd: %s is neither beside %s nor in PATH", need, binary).
				WithTry("apt-get install runc; make build")
		}
	}
	if err := d.writeConfig(); err != nil {
		return 0, err
	}
	if info, err := os.Stat(d.logFile()); err == nil && info.Size() > logLimit {
		_ = os.Rename(d.logFile(), d.logFile()+".1")
	}
	out, err := os.OpenFile(d.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return 0, fmt.Errorf("open containerd's log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(binary, "--config", d.configFile())
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", out, out
	cmd.Env = append(withoutKey(os.Environ(), "PATH", "NOTIFY_SOCKET"), "PATH="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start containerd: %w", err)
	}
	go func() { _ = cmd.Wait() }() // else it would stay a zombie when it dies
	if err := os.WriteFile(d.pidFile(), fmt.Appendln(nil, cmd.Process.Pid), 0o644); err != nil {
		return 0, errors.Join(fmt.Errorf("write containerd's pid: %w", err), cmd.Process.Kill())
	}
	return cmd.Process.Pid, nil
}

func withoutKey(env []string, keys ...string) []string {
	var out []string
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		keep := true
		for _, k := range keys {
			keep = keep && name != k
		}
		if keep {
			out = append(out, kv)
		}
	}
	return out
}

// FindBinary returns the containerd that would be started.
func (d *Daemon) FindBinary() (string, error) {
	if d.Binary != "" {
		return d.Binary, nil
	}
	own := ""
	if exe, err := os.Executable(); err == nil {
		own = filepath.Dir(exe)
	}
	if found := lookIn(searchPath(own), "containerd"); found != "" {
		return found, nil
	}
	return "", fault.New(fault.State, "containerd is neither beside minid nor in PATH").WithTry("make build, or apt-get install containerd")
}

// searchPath is PATH with dir first and the system's directories last, which
// are not in every user's PATH.
func searchPath(dir string) string {
	list := []string{}
	if dir != "" {
		list = append(list, dir)
	}
	if p := os.Getenv("PATH"); p != "" {
		list = append(list, p)
	}
	return strings.Join(append(list, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"), ":")
}

func lookIn(path, name string) string {
	for _, dir := range filepath.SplitList(path) {
		full := filepath.Join(dir, name)
		if info, err := os.Stat(full); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return full
		}
	}
	return ""
}

// The configuration is written in version 2, which containerd from 1.5 to 2.x
// reads. What minid does not use is switched off: it costs start time and
// memory (CRI alone a third of both).
var daemonConfig = template.Must(template.New("config").Parse(`version = 2
root = {{printf "%q" .Root}}
state = {{printf "%q" .State}}
oom_score = -500
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.cri.v1.images",
  "io.containerd.cri.v1.runtime",
  "io.containerd.podsandbox.controller.v1.podsandbox",
  "io.containerd.sandbox.controller.v1.shim",
  "io.containerd.nri.v1.nri",
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.restart",
  "io.containerd.internal.v1.tracing",
  "io.containerd.monitor.container.v1.restart",
  "io.containerd.monitor.v1.cgroups",
  "io.containerd.monitor.task.v1.cgroups",
  "io.containerd.image-verifier.v1.bindir",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.differ.v1.erofs",
  "io.containerd.mount-handler.v1.erofs",
]

[grpc]
  address = {{printf "%q" .Address}}

[ttrpc]
  address = {{printf "%q" .TTRPC}}

[debug]
  level = "warn"

[metrics]
  address = ""
`))

func (d *Daemon) writeConfig() error {
	var text bytes.Buffer
	err := daemonConfig.Execute(&text, struct{ Root, State, Address, TTRPC string }{
		d.root(), filepath.Join(d.dir(), "state"), d.Address(), d.Address() + ".ttrpc",
	})
	if err == nil {
		err = os.WriteFile(d.configFile(), text.Bytes(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write containerd's configuration: %w", err)
	}
	return nil
}

// lastWords is the end of containerd's log.
func (d *Daemon) lastWords() string {
	data, err := os.ReadFile(d.logFile())
	if err != nil {
		return "it left no log"
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return lines[len(lines)-1]
}

// Stop ends containerd, for those who leave for good: containers that still run
// stay without it.
func (d *Daemon) Stop(ctx context.Context) error {
	pid := d.alive()
	if pid == 0 {
		return nil
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop containerd: %w", err)
		}
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			if d.alive() != pid {
				_ = os.Remove(d.pidFile())
				return nil
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return fault.New(fault.Timeout, "stop containerd: process %d does not end", pid)
}

// lockFile serialises starts by several processes.
func lockFile(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for range 300 {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}
