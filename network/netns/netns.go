// Package netns makes network namespaces that live as mounted files, and enters
// them.
package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Ensure makes the namespace at path where it is missing.
func Ensure(path string) error {
	if Exists(path) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return fmt.Errorf("make directory of namespaces: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make namespace file: %w", err)
	}
	_ = f.Close()
	done := make(chan error, 1)
	go func() { done <- create(path) }()
	if err := <-done; err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	return nil
}

// create runs in a goroutine of its own: when its thread cannot go back it stays
// locked and ends with the goroutine, so no other code gets it.
func create(path string) error {
	runtime.LockOSThread()
	own, err := netns.Get()
	if err != nil {
		return err
	}
	defer own.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	if back := netns.Set(own); back != nil {
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

// Exists reports whether a namespace is mounted at path.
func Exists(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Remove unmounts the namespace and removes its file; nothing there is no error.
// It ends with the last process and socket in it.
func Remove(path string) error {
	if Exists(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount network namespace: %w", err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}

// Do calls f inside the namespace at path; sockets that f opens stay there. An
// empty path is the caller's own namespace.
func Do(path string, f func() error) error {
	if path == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() { done <- inside(path, f) }()
	return <-done
}

// inside runs in a goroutine of its own, for the reason that create does.
func inside(path string, f func() error) error {
	runtime.LockOSThread()
	own, err := netns.Get()
	if err != nil {
		return err
	}
	defer own.Close()
	target, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer target.Close()
	if err := netns.Set(target); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err = f()
	if back := netns.Set(own); back != nil {
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

// Handle speaks netlink (links, addresses, routes, neighbours; conntrack with
// unix.NETLINK_NETFILTER among the families) inside the namespace at path; an
// empty path is the caller's own. The caller closes it.
func Handle(path string, families ...int) (*netlink.Handle, error) {
	if len(families) == 0 {
		families = []int{unix.NETLINK_ROUTE}
	}
	if path == "" {
		return netlink.NewHandle(families...)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, families...)
	if err != nil {
		return nil, fmt.Errorf("enter network namespace: %w", err)
	}
	return h, nil
}

// wholeTries is how often a listing is begun anew, which is rarely needed twice.
const wholeTries = 10

// Whole lists what the kernel has, from the beginning again if that changed
// meanwhile and the list may lack something.
func Whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range wholeTries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
