package containerd

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

var propagations = []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}

// bindMount makes a directory or file of the node visible in a task.
func bindMount(m *pb.Mount, recursiveReadOnly bool) (specs.Mount, error) {
	if !filepath.IsAbs(m.Source) {
		return specs.Mount{}, fault.New(fault.Invalid, "bind mount of %q: the source must be an absolute path", m.Source)
	}
	if m.BindCreateSource {
		if err := os.MkdirAll(m.Source, 0o755); err != nil && !exists(m.Source) {
			return specs.Mount{}, fault.New(fault.Invalid, "bind mount: make source: %w", err)
		}
	}
	if _, err := os.Stat(m.Source); errors.Is(err, fs.ErrNotExist) {
		return specs.Mount{}, fault.New(fault.Invalid, "bind mount: %s does not exist on this node", m.Source).
			WithTry("create it on every node, constrain the service to those that have it, or bind-create-src")
	} else if err != nil {
		return specs.Mount{}, fault.New(fault.Invalid, "bind mount: %w", err)
	}
	if m.BindPropagation != "" && !slices.Contains(propagations, m.BindPropagation) {
		return specs.Mount{}, fault.New(fault.Invalid, "bind propagation %q is not known", m.BindPropagation)
	}
	if err := checkPropagation(m); err != nil {
		return specs.Mount{}, err
	}
	return specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: bindOptions(m, recursiveReadOnly)}, nil
}

// bindOptions are those of a bind or volume. A read-only bind is read-only with
// all that is mounted below it, where the kernel can do so.
func bindOptions(m *pb.Mount, recursiveReadOnly bool) []string {
	bind, mode := "rbind", "rw"
	if m.BindRecursion == pb.Mount_BIND_RECURSION_DISABLED {
		bind = "bind"
	}
	if m.ReadOnly {
		mode = "ro"
		asFarAsPossible := m.BindRecursion == pb.Mount_BIND_RECURSION_UNSPECIFIED && recursiveReadOnly
		if asFarAsPossible || m.BindRecursion == pb.Mount_BIND_RECURSION_READONLY {
			mode = "rro"
		}
	}
	return []string{bind, firstOf(m.BindPropagation, "rprivate"), mode}
}

// checkPropagation refuses what the kernel would only pretend to do: mounts pass
// from and to a source only where the file system that it is on is shared.
func checkPropagation(m *pb.Mount) error {
	outward := strings.HasSuffix(m.BindPropagation, "shared")
	if !outward && !strings.HasSuffix(m.BindPropagation, "slave") {
		return nil
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, m.Source, 0, unix.STATX_MNT_ID, &st); err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return nil // a kernel before 5.8: it cannot be told in advance
	}
	shared, slave, err := propagationOf(st.Mnt_id)
	if err != nil {
		return err
	}
	if shared || slave && !outward {
		return nil
	}
	return fault.New(fault.Invalid, "bind mount: %s is on a private mount of this node, so bind-propagation=%s has no effect", m.Source, m.BindPropagation).
		WithTry("mount --make-rshared on the node, or bind-propagation=rprivate")
}

// propagationOf finds a mount of this process's and whether mounts pass from it
// to others (shared) or to it (slave).
func propagationOf(id uint64) (shared, slave bool, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, false, fmt.Errorf("read mounts: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// proc(5): the optional fields are from the seventh up to a lone "-".
		fields := strings.Fields(lines.Text())
		if len(fields) < 7 || fields[0] != strconv.FormatUint(id, 10) {
			continue
		}
		for _, field := range fields[6:slices.Index(fields, "-")] {
			shared = shared || strings.HasPrefix(field, "shared:")
			slave = slave || strings.HasPrefix(field, "master:")
		}
		return shared, slave, nil
	}
	return false, false, lines.Err()
}

// rootPropagation of a container is more than runc's default only where a mount
// has to pass outwards.
func rootPropagation(mounts []specs.Mount) string {
	for _, m := range mounts {
		if slices.Contains(m.Options, "shared") || slices.Contains(m.Options, "rshared") {
			return "shared"
		}
	}
	return ""
}

// partsDir holds the mounts of parts of volumes, below a task's directory.
const partsDir = "parts"

// mountPart makes a part of a volume something that no task can exchange for a
// link out of the volume before runc looks: what was opened within the volume's
// root is mounted, and that mount is what the container gets.
func mountPart(taskDir string, index int, volume string, m *pb.Mount) (string, error) {
	root, err := os.OpenRoot(volume)
	if err != nil {
		return "", fmt.Errorf("open volume: %w", err)
	}
	defer root.Close()
	// Without waiting, for a task may have put a FIFO there.
	part, err := root.OpenFile(m.VolumeSubpath, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", fault.New(fault.Invalid, "volume-subpath %s of volume %s: %w", m.VolumeSubpath, m.Source, err).
			WithTry("make it in the volume first")
	}
	defer part.Close()
	info, err := part.Stat()
	if err != nil {
		return "", fmt.Errorf("look at volume-subpath: %w", err)
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return "", fault.New(fault.Invalid, "volume-subpath %s of volume %s: it is neither a directory nor a file", m.VolumeSubpath, m.Source)
	}
	at := filepath.Join(taskDir, partsDir, strconv.Itoa(index))
	if err := makePoint(at, info.IsDir()); err != nil {
		return "", fmt.Errorf("make mount point: %w", err)
	}
	from := fmt.Sprintf("/proc/self/fd/%d", part.Fd())
	if err := unix.Mount(from, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("mount volume-subpath: %w", err)
	}
	return at, nil
}

// makePoint makes an empty directory or file to mount on.
func makePoint(name string, dir bool) error {
	if dir {
		return os.MkdirAll(name, 0o700)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return os.WriteFile(name, nil, 0o600)
}

// unmountParts undoes mountPart: nothing of a volume may be left below a
// directory that is about to be removed.
func unmountParts(taskDir string) error {
	dir := filepath.Join(taskDir, partsDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for mounted parts of volumes: %w", err)
	}
	for _, e := range entries {
		if err := mount.UnmountAll(filepath.Join(dir, e.Name()), unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount part of a volume: %w", err)
		}
	}
	return nil
}
