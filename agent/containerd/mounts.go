package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// mountsOf makes a task's own mounts ready: binds are checked, volumes made and
// filled. The image's VOLUMEs that nothing covers get an anonymous volume.
func (r *Runtime) mountsOf(ctx context.Context, id string, img *image, spec *pb.ContainerSpec) ([]specs.Mount, error) {
	wanted := slices.Clone(spec.GetMounts())
	for target := range img.Config.Volumes {
		if !slices.ContainsFunc(wanted, func(m *pb.Mount) bool { return path.Clean(m.Target) == path.Clean(target) }) {
			wanted = append(wanted, &pb.Mount{Type: pb.Mount_TYPE_VOLUME, Target: target})
		}
	}
	// Outer mounts come first, or they would hide the inner ones.
	slices.SortStableFunc(wanted, func(a, b *pb.Mount) int { return strings.Compare(path.Clean(a.Target), path.Clean(b.Target)) })
	var out []specs.Mount
	for i, m := range wanted {
		if !path.IsAbs(m.Target) || path.Clean(m.Target) == "/" {
			return nil, fault.New(fault.Invalid, "mount target %q: it must be an absolute path other than /", m.Target)
		}
		if i > 0 && path.Clean(wanted[i-1].Target) == path.Clean(m.Target) {
			return nil, fault.New(fault.Invalid, "mount target %q is used twice", m.Target)
		}
		made, err := r.mountOf(ctx, id, i, img, m)
		if err != nil {
			return nil, err
		}
		out = append(out, made)
	}
	return out, nil
}

func (r *Runtime) mountOf(ctx context.Context, id string, index int, img *image, m *pb.Mount) (specs.Mount, error) {
	switch m.Type {
	case pb.Mount_TYPE_BIND:
		return bindMount(m, r.host.Able.RecursiveReadOnly)
	case pb.Mount_TYPE_TMPFS:
		return tmpfsMount(m), nil
	case pb.Mount_TYPE_VOLUME:
		return r.volumeMount(ctx, id, index, img, m)
	}
	return specs.Mount{}, fault.New(fault.Invalid, "mount of %s: type %v is not known", m.Target, m.Type)
}

func (r *Runtime) volumeMount(ctx context.Context, id string, index int, img *image, m *pb.Mount) (specs.Mount, error) {
	dir := filepath.Join(r.anonymousDir(id), strconv.Itoa(index))
	if m.Source != "" {
		if !volumeName.MatchString(m.Source) {
			return specs.Mount{}, fault.New(fault.Invalid, "volume name %q: letters, digits, _ . - only", m.Source)
		}
		dir = filepath.Join(r.cfg.DataDir, "volumes", m.Source)
	}
	if err := r.makeVolume(ctx, dir, img, m); err != nil {
		return specs.Mount{}, err
	}
	if m.VolumeSubpath != "" {
		var err error
		if dir, err = mountPart(r.taskDir(id), index, dir, m); err != nil {
			return specs.Mount{}, err
		}
	}
	return specs.Mount{Destination: m.Target, Type: "bind", Source: dir, Options: bindOptions(m, false)}, nil
}

func (r *Runtime) anonymousDir(id string) string {
	return filepath.Join(r.cfg.DataDir, "anonymous", id)
}

func tmpfsMount(m *pb.Mount) specs.Mount {
	options := []string{"nosuid", "nodev", "noexec"}
	mode := uint32(0o1777)
	if m.TmpfsMode != 0 {
		mode = m.TmpfsMode
	}
	options = append(options, fmt.Sprintf("mode=%o", mode))
	if m.TmpfsSizeBytes > 0 {
		options = append(options, fmt.Sprintf("size=%d", m.TmpfsSizeBytes))
	}
	if m.ReadOnly {
		options = append(options, "ro")
	}
	return specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: options}
}

// makeVolume makes a volume's directory and fills an empty one with what the
// image has at the target, unless that is unwanted.
func (r *Runtime) makeVolume(ctx context.Context, dir string, img *image, m *pb.Mount) error {
	unlock := r.lock(r.volumes, dir)
	defer unlock()
	if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return fmt.Errorf("make volume: %w", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make volume: %w", err)
	}
	if m.VolumeNoCopy || m.VolumeSubpath != "" {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return err
	}
	root, done, err := r.mountImage(ctx, img)
	if err != nil {
		return err
	}
	defer done()
	// RootPath follows the image's links without leaving it.
	from, err := continuity.RootPath(root, m.Target)
	if err != nil {
		return fmt.Errorf("find %s in the image: %w", m.Target, err)
	}
	info, err := os.Stat(from)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	if err == nil {
		err = continuity.CopyDir(dir, from)
	}
	if err != nil {
		return fmt.Errorf("fill volume from the image's %s: %w", m.Target, err)
	}
	return nil
}

// mountImage mounts an image read-only for a short look.
func (r *Runtime) mountImage(ctx context.Context, img *image) (dir string, done func(), err error) {
	ctx = withNamespace(ctx)
	ctx, release, err := r.client.WithLease(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("mount image: %w", inWords(err))
	}
	defer func() {
		if err != nil {
			_ = release(ctx)
		}
	}()
	dir, err = os.MkdirTemp(r.tmpDir(), "image-")
	if err != nil {
		return "", nil, fmt.Errorf("mount image: %w", err)
	}
	service := r.client.SnapshotService(r.images.snapshotter)
	key := "minid-view-" + filepath.Base(dir)
	mounts, err := service.View(ctx, key, img.ChainID, snapshots.WithLabels(map[string]string{labelNode: r.cfg.NodeID}))
	if err == nil {
		err = mount.All(mounts, dir)
	}
	if err != nil {
		_ = service.Remove(ctx, key)
		_ = os.Remove(dir)
		return "", nil, fmt.Errorf("mount image %s: %w", img.Name, inWords(err))
	}
	return dir, func() {
		ctx := context.WithoutCancel(ctx)
		if err := mount.UnmountAll(dir, unix.MNT_DETACH); err == nil {
			_ = os.Remove(dir)
		}
		_ = service.Remove(ctx, key)
		_ = release(ctx)
	}, nil
}

// unmountBelow clears what a killed minid left mounted below dir.
func unmountBelow(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for leftovers: %w", err)
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if err := mount.UnmountAll(name, unix.MNT_DETACH); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("unmount leftover: %w", err)
		}
		_ = os.Remove(name)
	}
	return nil
}
