package containerd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Every task has a shim of its own. Grouping them (runc.v2's annotation "group")
// was measured: 100 tasks made, started and removed cost 17.4 s of CPU under one
// shim, 18.0 under eight and 17.7 under a hundred, that is nothing, since the
// shim binary is executed for each task anyway. It would make one shim's death
// that of many tasks.
const runtimeName = "io.containerd.runc.v2"

var _ task.Runtime = (*Runtime)(nil)

// Prepare is task.Runtime's.
func (r *Runtime) Prepare(ctx context.Context, w *task.Wanted, progress func(string)) error {
	if !validID(w.ID) {
		return fault.New(fault.Invalid, "%q is no task id", w.ID)
	}
	ctx = withNamespace(ctx)
	defer r.lock(r.locks, w.ID)()
	if rec := r.recall(w.ID); rec != nil {
		o, err := r.inspect(ctx, w.ID)
		if err != nil || o.Phase != task.Absent {
			return err
		}
		// Half made by a killed minid.
		if err := errors.Join(r.remove(ctx, w.ID, true), killShims(w.ID)); err != nil {
			return err
		}
	}
	if err := r.host.Able.refusal(w.Spec); err != nil {
		return err
	}
	if progress == nil {
		progress = func(string) {}
	}
	img, err := r.images.ensure(ctx, w.Spec.GetContainer(), progress)
	if err != nil {
		return err
	}
	if err := r.build(ctx, w, img); err != nil {
		if undo := r.remove(context.WithoutCancel(ctx), w.ID, true); undo != nil {
			r.cfg.Logger.Warn("task is not cleaned up after a failure", "task", w.ID, "error", undo)
		}
		return err
	}
	return nil
}

// build makes everything up to the created container.
func (r *Runtime) build(ctx context.Context, w *task.Wanted, img *image) error {
	if err := os.MkdirAll(r.taskDir(w.ID), 0o711); err != nil {
		return fmt.Errorf("make task directory: %w", err)
	}
	c := w.Spec.GetContainer()
	user, err := r.userOf(ctx, img, c.GetUser(), c.GetGroups())
	if err != nil {
		return err
	}
	netns, addr, err := r.cfg.Network.Attach(ctx, &pb.TaskNetwork{
		TaskId: w.ID, ServiceId: w.ServiceID, Addresses: w.Addresses, Dns: c.GetDns(),
	})
	if err != nil {
		return fmt.Errorf("connect task to the network: %w", err)
	}
	mounts, err := r.allMounts(ctx, w, img, addr)
	if err != nil {
		return err
	}
	dev, err := devicesOf(c.GetDevices())
	if err != nil {
		return err
	}
	granted, err := r.grant(w)
	if err != nil {
		return err
	}
	spec, err := ociSpec(specInput{
		Wanted: w, Image: img, User: user, NetNS: netns, Mounts: mounts, Devices: dev, Host: r.host, Granted: granted.environment(w.Spec),
	})
	if err != nil {
		return err
	}
	rec := &record{
		BootID: r.host.BootID, Address: addr.String(), ImageDigest: img.Digest, Image: img.Name, Grant: granted,
		Ports: w.Spec.GetPorts(), StopSignal: firstOf(c.GetStopSignal(), img.Config.StopSignal),
		Health: task.HealthOf(img.Health, c.GetHealth()),
		TTY:    c.GetTty(), LogSize: w.Spec.GetLog().GetMaxSizeBytes(), LogFiles: w.Spec.GetLog().GetMaxFiles(),
	}
	return r.create(ctx, w, img, spec, rec)
}

// allMounts makes ready all that a task has mounted beyond what every container
// has.
func (r *Runtime) allMounts(ctx context.Context, w *task.Wanted, img *image, addr netip.Addr) ([]specs.Mount, error) {
	own, err := r.mountsOf(ctx, w.ID, img, w.Spec.GetContainer())
	if err != nil {
		return nil, err
	}
	mounts, err := r.taskFiles(w, addr)
	if err != nil {
		return nil, err
	}
	mounts = append(mounts, own...)
	if w.Spec.GetContainer().GetInit() {
		source, err := r.findInit()
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, initMount(source))
	}
	return mounts, nil
}

func firstOf(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// create makes the container, its snapshot and the waiting process. The
// container comes first: its reference keeps the snapshot from being collected,
// which saves a lease's two round trips.
func (r *Runtime) create(ctx context.Context, w *task.Wanted, img *image, spec *specs.Spec, rec *record) error {
	ext, err := rec.any()
	if err != nil {
		return err
	}
	encoded, err := typeurl.MarshalAny(spec)
	if err != nil {
		return fmt.Errorf("encode OCI spec: %w", err)
	}
	_, err = r.client.ContainerService().Create(ctx, containers.Container{
		ID: w.ID, Labels: r.labelsOf(w), Image: img.Name, Spec: encoded,
		Runtime:     containers.RuntimeInfo{Name: runtimeName},
		Snapshotter: r.images.snapshotter, SnapshotKey: w.ID,
		Extensions: map[string]typeurl.Any{extension: ext},
	})
	if err != nil {
		return fmt.Errorf("create container: %w", inWords(err))
	}
	r.remember(w.ID, rec)
	mounts, err := r.client.SnapshotService(r.images.snapshotter).Prepare(ctx, w.ID, img.ChainID)
	if err != nil {
		return fmt.Errorf("make root file system: %w", inWords(err))
	}
	var rootfs []*types.Mount
	for _, m := range mounts {
		rootfs = append(rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return r.createTask(ctx, w, rootfs, rec)
}

func (r *Runtime) createTask(ctx context.Context, w *task.Wanted, rootfs []*types.Mount, rec *record) error {
	// runc's state is kept below this node's run directory: hosts with several
	// nodes share nothing.
	options, err := typeurl.MarshalAnyToProto(&runcoptions.Options{Root: filepath.Join(r.cfg.RunDir, "runc")})
	if err != nil {
		return fmt.Errorf("encode runtime options: %w", err)
	}
	pipes, err := r.makePipes(w.ID, w.Spec.GetContainer().GetTty(), w.Spec.GetContainer().GetOpenStdin())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	_, err = r.tasks.Create(ctx, &tasks.CreateTaskRequest{
		ContainerID: w.ID, Rootfs: rootfs, Terminal: rec.TTY, Options: options,
		Stdin: pipes.stdin, Stdout: pipes.stdout, Stderr: pipes.stderr,
	})
	if err != nil {
		pipes.close()
		if errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded {
			return errors.Join(fault.New(fault.Timeout, "create process: containerd did not answer within %v", createTimeout), killShims(w.ID))
		}
		if bundle, ok := remainsOf(w.ID, err); ok {
			return errors.Join(fmt.Errorf("create process: an earlier try was cut short: %w", inWords(err)), r.clearRemains(ctx, w.ID, bundle))
		}
		code, err := startError(w.Spec.GetContainer().GetImage(), err)
		if code == 0 {
			return err
		}
		// As docker has it: the container is there and ended with that code.
		_, err = r.ended(ctx, w.ID, rec, exit{Code: code, At: time.Now(), Error: err.Error()})
		return err
	}
	if err := os.WriteFile(r.createdMark(w.ID), nil, 0o600); err != nil {
		pipes.close()
		return fmt.Errorf("mark task as created: %w", err)
	}
	return r.attachLog(w.ID, rec, pipes)
}

// createdMark is a file that tells a process that was there and is gone from
// one that was never made, when minid is killed in between.
func (r *Runtime) createdMark(id string) string { return filepath.Join(r.taskDir(id), "created") }

func (r *Runtime) wasCreated(id string) bool {
	_, err := os.Stat(r.createdMark(id))
	return err == nil
}

// startError says in words why runc refused a container, with the exit code
// that shells and docker use when the command is to blame, else 0.
func startError(image string, err error) (code int32, _ error) {
	text := err.Error()
	has := func(s string) bool { return strings.Contains(text, s) }
	switch {
	case has("executable file not found"), has("exec:") && has("no such file or directory"):
		return 127, fault.New(fault.Invalid, "the command is not in image %s: %s", image, between(text, "exec: "))
	case has("exec:") && (has("permission denied") || has("is a directory")):
		return 126, fault.New(fault.Invalid, "the command is not executable in image %s: %s", image, between(text, "exec: "))
	case has("exec format error"):
		return 126, fault.New(fault.Invalid, "the command of image %s is not for this platform", image)
	case has("error mounting"):
		return 0, fault.New(fault.Invalid, "a mount is not possible: %s", between(text, "error mounting"))
	case has("not a directory"):
		return 0, fault.New(fault.Invalid, "the working directory is not possible: %s", strings.TrimPrefix(between(text, "init: "), "init: "))
	case errors.Is(err, context.DeadlineExceeded), status.Code(err) == codes.DeadlineExceeded:
		return 0, fault.New(fault.Timeout, "the container was not started within %v", startTimeout)
	}
	return 0, fmt.Errorf("create process: %w", inWords(err))
}

// between returns text from the last mark on, without runc's trailing word.
func between(text, mark string) string {
	if i := strings.LastIndex(text, mark); i >= 0 {
		text = text[i:]
	}
	return strings.TrimSuffix(text, ": unknown")
}

// remove takes away all of a task; see Remove.
func (r *Runtime) remove(ctx context.Context, id string, keepLog bool) error {
	var errs []error
	if err := r.killTask(ctx, id); err != nil {
		return err // nothing may be taken from under a running process
	}
	if err := r.client.ContainerService().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		errs = append(errs, fmt.Errorf("delete container: %w", inWords(err)))
	}
	if err := r.client.SnapshotService(r.images.snapshotter).Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		errs = append(errs, fmt.Errorf("delete root file system: %w", inWords(err)))
	}
	if err := r.cfg.Network.Detach(ctx, id); err != nil {
		errs = append(errs, fmt.Errorf("disconnect task from the network: %w", err))
	}
	errs = append(errs, r.removeFiles(id))
	if keepLog {
		r.logs.Forget(id)
	} else {
		errs = append(errs, r.logs.Remove(id))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r.forget(id)
	return nil
}

func (r *Runtime) removeFiles(id string) error {
	dir := r.taskDir(id)
	if err := mount.UnmountAll(filepath.Join(dir, "secrets"), unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount secrets: %w", err)
	}
	if err := unmountParts(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove task directory: %w", err)
	}
	if err := os.RemoveAll(r.anonymousDir(id)); err != nil {
		return fmt.Errorf("remove anonymous volumes: %w", err)
	}
	return nil
}
