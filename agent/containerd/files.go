package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// taskFiles writes what a task finds in its file system but its image has not:
// name files, configs and, on a tmpfs, secrets. All is written through an
// os.Root, so that no name leads out of the task's directory.
func (r *Runtime) taskFiles(w *task.Wanted, addr netip.Addr) ([]specs.Mount, error) {
	dir := r.taskDir(w.ID)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open task directory: %w", err)
	}
	defer root.Close()
	hostname := hostnameOf(w)
	host, err := hostResolvConf()
	if err != nil {
		return nil, err
	}
	own := ownAddresses(w.Addresses, addr)
	names := []struct{ name, text string }{
		{"hosts", hostsFile(hostname, own, w.Spec.GetContainer().GetHosts())},
		{"hostname", hostname + "\n"},
		{"resolv.conf", resolvConf(host, w.Spec.GetContainer().GetDns())},
	}
	var mounts []specs.Mount
	for _, f := range names {
		if err := root.WriteFile(f.name, []byte(f.text), 0o644); err != nil {
			return nil, fmt.Errorf("write /etc/%s: %w", f.name, err)
		}
		mounts = append(mounts, specs.Mount{
			Destination: "/etc/" + f.name, Type: "bind", Source: filepath.Join(dir, f.name), Options: []string{"rbind", "rprivate", "rw"},
		})
	}
	configs, err := r.configFiles(root, w)
	if err != nil {
		return nil, err
	}
	secrets, err := r.secretFiles(w)
	if err != nil {
		return nil, err
	}
	return append(append(mounts, configs...), secrets...), nil
}

func (r *Runtime) configFiles(root *os.Root, w *task.Wanted) ([]specs.Mount, error) {
	var mounts []specs.Mount
	if len(w.Spec.GetContainer().GetConfigs()) > 0 {
		if err := root.Mkdir("configs", 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make configs: %w", err)
		}
	}
	for i, ref := range w.Spec.GetContainer().GetConfigs() {
		c := w.Configs[ref.Id]
		if c == nil {
			return nil, fault.New(fault.Unavailable, "config %s did not reach this node yet", ref.Name)
		}
		target := ref.Target
		if target == "" {
			target = ref.Name
		}
		if !path.IsAbs(target) {
			target = "/" + target
		}
		name := filepath.Join("configs", strconv.Itoa(i))
		if err := writeReference(root, name, ref, c.GetSpec().GetData()); err != nil {
			return nil, fmt.Errorf("write config %s: %w", ref.Name, err)
		}
		mounts = append(mounts, readOnlyBind(filepath.Join(r.taskDir(w.ID), name), path.Clean(target)))
	}
	return mounts, nil
}

// secretsDefault is where secrets with relative targets are.
const secretsDefault = "/run/secrets"

// secretFiles puts a task's secrets on a tmpfs of its own. It is mounted on the
// host, where Remove takes it away, and bound read-only into the container.
func (r *Runtime) secretFiles(w *task.Wanted) ([]specs.Mount, error) {
	refs := w.Spec.GetContainer().GetSecrets()
	if len(refs) == 0 {
		return nil, nil
	}
	dir := filepath.Join(r.taskDir(w.ID), "secrets")
	if err := mountSecrets(dir); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open secrets: %w", err)
	}
	defer root.Close()
	for _, name := range []string{"run", "abs"} {
		if err := root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make secrets: %w", err)
		}
	}
	var mounts []specs.Mount
	for i, ref := range refs {
		s := w.Secrets[ref.Id]
		if s == nil {
			return nil, fault.New(fault.Unavailable, "secret %s did not reach this node yet", ref.Name)
		}
		target := ref.Target
		if target == "" {
			target = ref.Name
		}
		name := filepath.Join("abs", strconv.Itoa(i))
		if path.IsAbs(target) {
			mounts = append(mounts, readOnlyBind(filepath.Join(dir, name), path.Clean(target)))
		} else if name = filepath.Join("run", target); !filepath.IsLocal(target) {
			return nil, fault.New(fault.Invalid, "secret %s: target %q leads out of %s", ref.Name, target, secretsDefault)
		}
		if err := writeReference(root, name, ref, s.GetSpec().GetData()); err != nil {
			return nil, fmt.Errorf("write secret %s: %w", ref.Name, err)
		}
	}
	return append([]specs.Mount{readOnlyBind(filepath.Join(dir, "run"), secretsDefault)}, mounts...), nil
}

func mountSecrets(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make secrets: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.TMPFS_MAGIC && isMountPoint(dir) {
		return nil
	}
	// 500 KiB for each of as many secrets as fit; swap is not for secrets.
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	err := unix.Mount("tmpfs", dir, "tmpfs", flags, "mode=0755,size=64m,noswap")
	if errors.Is(err, unix.EINVAL) { // kernels before 6.4 have no noswap
		err = unix.Mount("tmpfs", dir, "tmpfs", flags, "mode=0755,size=64m")
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs for secrets: %w", err)
	}
	return nil
}

// isMountPoint reports whether dir is on another device than its parent.
func isMountPoint(dir string) bool {
	var own, parent unix.Stat_t
	return unix.Lstat(dir, &own) == nil && unix.Lstat(filepath.Dir(dir), &parent) == nil && own.Dev != parent.Dev
}

func readOnlyBind(source, target string) specs.Mount {
	return specs.Mount{Destination: target, Type: "bind", Source: source, Options: []string{"rbind", "rprivate", "ro"}}
}

// writeReference writes a secret's or config's file with its owner and mode.
func writeReference(root *os.Root, name string, ref *pb.FileReference, data []byte) error {
	mode := os.FileMode(0o444)
	if ref.Mode != 0 {
		mode = fs.FileMode(ref.Mode & 0o777)
	}
	uid, err := ownerID(ref.Uid)
	if err != nil {
		return err
	}
	gid, err := ownerID(ref.Gid)
	if err != nil {
		return err
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	// It may be there from an attempt that a crash ended.
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(root.WriteFile(name, data, 0o600), root.Chown(name, uid, gid), root.Chmod(name, mode))
}

func ownerID(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, fault.New(fault.Invalid, "owner %q is not a number", s)
	}
	return int(n), nil
}
