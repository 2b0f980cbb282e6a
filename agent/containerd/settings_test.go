package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// withInit gives the shared rig an init for one test.
func withInit(t *testing.T) *rig {
	t.Helper()
	r := open(t)
	binary := filepath.Join(r.dir, initName)
	if !exists(binary) {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", binary, "github.com/minid/minid/cmd/minid-init")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build init: %v: %s", err, text)
		}
	}
	old := r.runtime.cfg.Init
	r.runtime.cfg.Init = binary
	t.Cleanup(func() { r.runtime.cfg.Init = old })
	return r
}

// set makes a task of the sample with settings.
func set(change func(*pb.TaskSpec, *pb.ContainerSpec), args ...string) *task.Wanted {
	w := wanted(args...)
	change(w.Spec, w.Spec.Container)
	return w
}

// cgroupFile is where a task sees a setting of its cgroup.
func cgroupFile(h host, v1, v2 string) string {
	if h.CgroupV2 {
		return filepath.Join(cgroupRoot, v2)
	}
	return filepath.Join(cgroupRoot, v1)
}

func TestSettingsFromInside(t *testing.T) {
	r := open(t)
	h := r.runtime.host
	inner := func(change func(*pb.ContainerSpec)) func(*pb.TaskSpec, *pb.ContainerSpec) {
		return func(_ *pb.TaskSpec, c *pb.ContainerSpec) { change(c) }
	}
	limits := func(res *pb.ResourceRequirements) func(*pb.TaskSpec, *pb.ContainerSpec) {
		return func(s *pb.TaskSpec, _ *pb.ContainerSpec) { s.Resources = res }
	}
	swap := "100663296\n" // v1 counts memory and swap, v2 swap alone
	if h.CgroupV2 {
		swap = "33554432\n"
	}
	for _, test := range []struct {
		name, file, want string
		set              func(*pb.TaskSpec, *pb.ContainerSpec)
	}{
		{"sysctl net", "/proc/sys/net/core/somaxconn", "123\n", inner(func(c *pb.ContainerSpec) { c.Sysctls = map[string]string{"net.core.somaxconn": "123"} })},
		{"sysctl ipc", "/proc/sys/kernel/shmmni", "77\n", inner(func(c *pb.ContainerSpec) { c.Sysctls = map[string]string{"kernel.shmmni": "77"} })},
		{"sysctl sem", "/proc/sys/kernel/sem", "250\t32000\t100\t99\n", inner(func(c *pb.ContainerSpec) { c.Sysctls = map[string]string{"kernel.sem": "250 32000 100 99"} })},
		{"sysctl mqueue", "/proc/sys/fs/mqueue/msg_max", "33\n", inner(func(c *pb.ContainerSpec) { c.Sysctls = map[string]string{"fs.mqueue.msg_max": "33"} })},
		{"ulimit", "/proc/self/limits", "Max core file size        5                    6 ", inner(func(c *pb.ContainerSpec) { c.Ulimits = []*pb.Ulimit{{Name: "core", Soft: 5, Hard: 6}} })},
		{"oom", "/proc/self/oom_score_adj", "321\n", inner(func(c *pb.ContainerSpec) { c.OomScoreAdj = 321 })},
		{"hosts", "/etc/hosts", "10.9.9.9\tdb db.test\n", inner(func(c *pb.ContainerSpec) { c.Hosts = []string{"10.9.9.9 db db.test"} })},
		{"shm", "/proc/mounts", "shm /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k", inner(func(c *pb.ContainerSpec) { c.ShmSizeBytes = 1 << 20 })},
		{"no new privileges", "/proc/self/status", "NoNewPrivs:\t1\n", inner(func(c *pb.ContainerSpec) { c.SecurityOpts = []string{"no-new-privileges"} })},
		{"seccomp", "/proc/self/status", "Seccomp:\t2\n", inner(func(*pb.ContainerSpec) {})},
		{"seccomp unconfined", "/proc/self/status", "Seccomp:\t0\n", inner(func(c *pb.ContainerSpec) { c.SecurityOpts = []string{"seccomp=unconfined"} })},
		{"capabilities", "/proc/self/status", "CapEff:\t0000000000001000\n", inner(func(c *pb.ContainerSpec) { c.CapAdd, c.CapDrop = []string{"NET_ADMIN"}, []string{"ALL"} })},
		{"all capabilities", "/proc/self/status", "CapEff:\t" + ownEffective(t), inner(func(c *pb.ContainerSpec) { c.CapAdd = []string{"ALL"} })},
		{"read-only", "/proc/mounts", " / overlay ro,", inner(func(c *pb.ContainerSpec) { c.ReadOnly = true })},
		{"tmpfs", "/proc/mounts", "tmpfs /t tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k,mode=700", inner(func(c *pb.ContainerSpec) {
			c.Mounts = []*pb.Mount{{Type: pb.Mount_TYPE_TMPFS, Target: "/t", TmpfsSizeBytes: 1 << 20, TmpfsMode: 0o700}}
		})},
		{"pids", cgroupFile(h, "pids/pids.max", "pids.max"), "55\n", limits(&pb.ResourceRequirements{LimitPids: 55})},
		{"memory", cgroupFile(h, "memory/memory.limit_in_bytes", "memory.max"), "67108864\n", limits(&pb.ResourceRequirements{LimitMemoryBytes: 64 << 20})},
		{"swap", cgroupFile(h, "memory/memory.memsw.limit_in_bytes", "memory.swap.max"), swap, limits(&pb.ResourceRequirements{LimitMemoryBytes: 64 << 20, MemorySwapBytes: 96 << 20})},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := r.output(t, set(test.set, "cat", test.file)); !strings.Contains(got, test.want) {
				t.Errorf("%s has no %q:\n%s", test.file, test.want, got)
			}
		})
	}
}

// TestSwappiness: it is set, or refused where the kernel has no such setting.
func TestSwappiness(t *testing.T) {
	r := open(t)
	seven := int64(7)
	w := set(func(s *pb.TaskSpec, _ *pb.ContainerSpec) {
		s.Resources = &pb.ResourceRequirements{MemorySwappiness: &seven}
	}, "cat", filepath.Join(cgroupRoot, "memory/memory.swappiness"))
	if !r.runtime.host.Able.Swappiness {
		if err := r.runtime.Prepare(t.Context(), w, nil); !fault.Is(err, fault.Invalid) {
			t.Errorf("prepare: %v", err)
		}
		return
	}
	if got := r.output(t, w); !strings.Contains(got, "7\n") {
		t.Error("swappiness is", got)
	}
}

// ownEffective is what ALL amounts to: this process's own capabilities.
func ownEffective(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "CapBnd:\t")
	line, _, _ := strings.Cut(rest, "\n")
	return line
}

func TestRefusedBeforeThePull(t *testing.T) {
	r := open(t)
	w := set(func(_ *pb.TaskSpec, c *pb.ContainerSpec) {
		c.Image = "registry.invalid/none:1"
		c.SecurityOpts = []string{"label=x"}
	}, "sleep")
	if err := r.runtime.Prepare(t.Context(), w, nil); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "label=x") {
		t.Errorf("prepare: %v", err)
	}
}

func TestUnlimitedSwap(t *testing.T) {
	r := open(t)
	w := set(func(s *pb.TaskSpec, _ *pb.ContainerSpec) {
		s.Resources = &pb.ResourceRequirements{LimitMemoryBytes: 64 << 20, MemorySwapBytes: -1}
	}, "cat", cgroupFile(r.runtime.host, "memory/memory.memsw.limit_in_bytes", "memory.swap.max"))
	if got := strings.TrimSpace(r.output(t, w)); got != "max" && len(got) < len("9223372036854771712") {
		t.Errorf("limit of swap: %s", got)
	}
}

func TestInit(t *testing.T) {
	r := withInit(t)
	inited := func(args ...string) *task.Wanted {
		return set(func(_ *pb.TaskSpec, c *pb.ContainerSpec) { c.Init, c.User = true, "user" }, args...)
	}
	if got := r.output(t, inited("litter", "3")); !strings.Contains(got, "zombies=0 alive=0") || strings.Contains(got, "pid=1 ") {
		t.Errorf("with init: %s", got)
	}
	if got := r.output(t, wanted("litter", "3")); !strings.Contains(got, "pid=1 zombies=3") {
		t.Errorf("without init: %s", got)
	}
	if o := r.finish(t, r.start(t, inited("exit", "42"))); o.ExitCode != 42 {
		t.Errorf("exit code %d", o.ExitCode)
	}
	// The command ends by the stop signal itself, long before the grace period.
	id := r.start(t, inited("sleep"))
	eventually(t, "waiting", func() bool { return strings.Contains(logNow(t, r, id), "waiting") })
	if err := r.runtime.Stop(t.Context(), id, "", time.Minute); err != nil {
		t.Fatal(err)
	}
	if o := r.finish(t, id); o.ExitCode != 0 {
		t.Errorf("stopped with exit code %d", o.ExitCode)
	}
	tty := inited("env")
	tty.Spec.Container.Tty = true
	if got := r.output(t, tty); !strings.Contains(got, "terminal=true") {
		t.Errorf("terminal: %s", got)
	}
	missing := inited("sleep")
	missing.Spec.Container.Entrypoint = []string{"/no/such"}
	if o := r.finish(t, r.start(t, missing)); o.ExitCode != 127 {
		t.Errorf("missing command: %+v", o)
	}
}

func TestDevicesFromInside(t *testing.T) {
	r := open(t)
	const device = "/dev/loop0" // not attached: it reads as empty
	if !exists(device) {
		t.Fatal("no loop device on this host: run modprobe loop")
	}
	reads := func(devices ...string) task.Observation {
		w := set(func(_ *pb.TaskSpec, c *pb.ContainerSpec) { c.Devices = devices }, "cat", "/dev/disk0")
		return r.finish(t, r.start(t, w))
	}
	if o := reads(device + ":/dev/disk0:r"); o.ExitCode != 0 {
		t.Errorf("may read: %+v", o)
	}
	if o := reads(device + ":/dev/disk0:w"); o.ExitCode == 0 {
		t.Error("reads what it may only write")
	}
	w := set(func(_ *pb.TaskSpec, c *pb.ContainerSpec) { c.Devices = []string{"/dev/no-such"} }, "sleep")
	if err := r.runtime.Prepare(t.Context(), w, nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("prepare: %v", err)
	}
}

// outer is a directory on a shared mount of its own with a mount below it.
func outer(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	mountOn := func(target string) {
		if err := unix.Mount("tmpfs", target, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	mountOn(dir)
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"below", "later"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mountOn(filepath.Join(dir, "below"))
	if err := os.WriteFile(filepath.Join(dir, "below", "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRecursionOfBinds(t *testing.T) {
	r := open(t)
	const enabled, disabled, writable, readonly = 0, pb.Mount_BIND_RECURSION_DISABLED, pb.Mount_BIND_RECURSION_WRITABLE, pb.Mount_BIND_RECURSION_READONLY
	dir := outer(t)
	bound := func(recursion pb.Mount_BindRecursion, args ...string) *task.Wanted {
		return set(func(_ *pb.TaskSpec, c *pb.ContainerSpec) {
			c.Mounts = []*pb.Mount{{Type: pb.Mount_TYPE_BIND, Source: dir, Target: "/b", ReadOnly: true, BindRecursion: recursion}}
		}, args...)
	}
	able := r.runtime.host.Able.RecursiveReadOnly
	if err := r.runtime.host.Able.refusal(bound(readonly, "sleep").Spec); (err == nil) != able {
		t.Errorf("readonly with a kernel that can (%t): %v", able, err)
	}
	for _, test := range []struct {
		recursion pb.Mount_BindRecursion
		args      string
		works     bool
	}{
		{enabled, "cat /b/below/file", true}, {enabled, "write /b/below/new x", !able}, {enabled, "write /b/new x", false},
		{readonly, "write /b/below/new x", false},
		{writable, "write /b/below/new x", true}, {writable, "write /b/new x", false},
		{disabled, "cat /b/below/file", false},
	} {
		if test.recursion == readonly && !able {
			continue
		}
		got := r.finish(t, r.start(t, bound(test.recursion, strings.Fields(test.args)...))).ExitCode
		if (got == 0) != test.works {
			t.Errorf("%v: %s: exit code %d", test.recursion, test.args, got)
		}
	}
}

func TestPropagationOfBinds(t *testing.T) {
	r := open(t)
	dir := outer(t)
	for propagation, sees := range map[string]bool{"rslave": true, "rshared": true, "rprivate": false} {
		w := set(func(_ *pb.TaskSpec, c *pb.ContainerSpec) {
			c.Mounts = []*pb.Mount{{Type: pb.Mount_TYPE_BIND, Source: dir, Target: "/b", BindPropagation: propagation}}
		}, "sleep")
		id := r.start(t, w)
		o, err := r.runtime.Inspect(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		late := filepath.Join(dir, "later")
		if err := unix.Mount("tmpfs", late, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", o.Pid))
		if got := strings.Contains(string(mounts), " /b/later "); err != nil || got != sees {
			t.Errorf("%s: sees a later mount: %t, %v", propagation, got, err)
		}
		if err := unix.Unmount(late, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := bindMount(&pb.Mount{Source: dir, Target: "/b", BindPropagation: "rslave"}, true); !fault.Is(err, fault.Invalid) {
		t.Errorf("a source that is not shared: %v", err)
	}
}

func TestSourceOfABindIsMade(t *testing.T) {
	r := open(t)
	source := filepath.Join(t.TempDir(), "a", "b")
	bind := func(create bool) *task.Wanted {
		return set(func(_ *pb.TaskSpec, c *pb.ContainerSpec) {
			c.Mounts = []*pb.Mount{{Type: pb.Mount_TYPE_BIND, Source: source, Target: "/b", BindCreateSource: create}}
		}, "write", "/b/file", "x")
	}
	if err := r.runtime.Prepare(t.Context(), bind(false), nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("without bind-create-src: %v", err)
	}
	r.output(t, bind(true))
	if text, err := os.ReadFile(filepath.Join(source, "file")); err != nil || string(text) != "x" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestSubpathsOfVolumes(t *testing.T) {
	r := open(t)
	mount := func(subpath, target string, args ...string) *task.Wanted {
		return set(func(_ *pb.TaskSpec, c *pb.ContainerSpec) {
			c.Mounts = []*pb.Mount{{Type: pb.Mount_TYPE_VOLUME, Source: "parts", Target: target, VolumeSubpath: subpath}}
		}, args...)
	}
	refused := func(subpath string) {
		t.Helper()
		w := mount(subpath, "/v", "sleep")
		t.Cleanup(func() { r.remove(t, w.ID) })
		if err := r.runtime.Prepare(t.Context(), w, nil); !fault.Is(err, fault.Invalid) {
			t.Errorf("subpath %s: %v", subpath, err)
		}
	}
	refused("sub")
	volume := filepath.Join(r.data(), "volumes", "parts")
	if err := os.MkdirAll(filepath.Join(volume, "sub", "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := errors.Join(
		os.WriteFile(filepath.Join(volume, "sub", "file"), []byte("in sub"), 0o644),
		os.Symlink("/etc", filepath.Join(volume, "out")), os.Symlink("sub", filepath.Join(volume, "link")),
		unix.Mkfifo(filepath.Join(volume, "fifo"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, leaves := range []string{"out", "../parts2", "fifo"} {
		refused(leaves)
	}
	if got := r.output(t, mount("sub/file", "/etc/app", "cat", "/etc/app")); got != "in sub\n" {
		t.Errorf("file: %q", got)
	}
	w := mount("link", "/v", "write", "/v/new", "x")
	r.output(t, w)
	if err := r.runtime.Remove(context.Background(), w.ID, false); err != nil {
		t.Fatal(err)
	}
	for _, kept := range []string{"new", "file", "dir"} {
		if !exists(filepath.Join(volume, "sub", kept)) {
			t.Errorf("%s is gone with the task", kept)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), w.ID) {
		t.Errorf("mounts of the removed task are left: %v", err)
	}
}
