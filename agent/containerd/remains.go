package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"golang.org/x/sys/unix"
)

// runtimeBundles is the directory where containerd keeps a bundle per task.
const runtimeBundles = "io.containerd.runtime.v2.task"

// remainsOf finds the bundle that is in a task's way in what containerd says.
// A minid that is killed while containerd creates can leave one, and containerd
// removes it at its own next start and not before.
func remainsOf(id string, err error) (bundle string, ok bool) {
	_, after, found := strings.Cut(err.Error(), "mkdir ")
	bundle, _, exists := strings.Cut(after, ": file exists")
	ok = found && exists && filepath.IsAbs(bundle) && filepath.Base(bundle) == id &&
		filepath.Base(filepath.Dir(filepath.Dir(bundle))) == runtimeBundles
	return bundle, ok
}

// clearRemains takes away what an interrupted creation left: a shim, a process
// that was never started, the bundle and runc's state.
func (r *Runtime) clearRemains(ctx context.Context, id, bundle string) error {
	_, err := r.tasks.Get(ctx, &tasks.GetRequest{ContainerID: id})
	if !notThere(err) {
		return fmt.Errorf("clear remains: containerd knows task %s: %w", id, err)
	}
	for _, name := range []string{"shim.pid", "init.pid"} {
		text, err := os.ReadFile(filepath.Join(bundle, name))
		if err != nil {
			continue
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && belongs(pid, id) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	err = unix.Unmount(filepath.Join(bundle, "rootfs"), unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount remains: %w", err)
	}
	return errors.Join(os.RemoveAll(bundle), os.RemoveAll(filepath.Join(r.cfg.RunDir, "runc", filepath.Base(filepath.Dir(bundle)), id)))
}

// killShims kills the shims of a task that containerd does not know: one whose
// start was cut short stays, takes the call that makes the task anew, and never
// answers it.
func killShims(id string) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("look for shims: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		args := strings.Split(string(text), "\x00")
		if err != nil || !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") || !slices.Contains(args, id) {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill a shim that was left over: %w", err)
		}
	}
	return nil
}

// belongs reports whether a process is a task's: its number may have gone to
// another process since it was written down.
func belongs(pid int, id string) bool {
	for _, file := range []string{"cmdline", "cgroup"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err == nil && strings.Contains(string(text), id) {
			return true
		}
	}
	return false
}
