package containerd

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// specInput is all that a container's OCI spec is made from.
type specInput struct {
	Wanted *task.Wanted
	Image  *image
	User   identity
	NetNS  string
	// Mounts of the task: volumes, files, secrets, in the order to be made.
	Mounts  []specs.Mount
	Devices devices
	Host    host
	// Granted are the variables that tell of the task's generic resources.
	Granted []string
}

// ociSpec writes a container as docker would: its capabilities, seccomp profile,
// hidden and read-only paths, devices and mounts.
func ociSpec(in specInput) (*specs.Spec, error) {
	c := in.Wanted.Spec.GetContainer()
	args := commandOf(in)
	if len(args) == 0 {
		return nil, fault.New(fault.Invalid, "image %s names no command and the service gives none", in.Image.Name).
			WithTry("give the command after the image's name")
	}
	caps, err := capabilities(c.GetCapAdd(), c.GetCapDrop(), in.Host.Able.Caps)
	if err != nil {
		return nil, err
	}
	secure, err := securityOf(c.GetSecurityOpts())
	if err != nil {
		return nil, err
	}
	oomScore := int(c.GetOomScoreAdj())
	s := &specs.Spec{
		Version:  "1.0.2", // what the oldest runc in use (1.1) implements
		Hostname: hostnameOf(in.Wanted),
		Root:     &specs.Root{Path: "rootfs", Readonly: c.GetReadOnly()},
		Mounts:   append(systemMounts(c.GetShmSizeBytes()), in.Mounts...),
		Process: &specs.Process{
			Terminal: c.GetTty(), Args: args, Env: environment(in),
			Cwd:          cmp.Or(c.GetWorkdir(), in.Image.Config.WorkingDir, "/"),
			User:         in.User.oci(),
			Capabilities: caps.forUser(in.User.UID), Rlimits: rlimits(in.Host, c.GetUlimits()),
			OOMScoreAdj: &oomScore, NoNewPrivileges: secure.NoNewPrivileges, ApparmorProfile: secure.AppArmor,
		},
		Linux: &specs.Linux{
			CgroupsPath:       cgroupPath(in.Wanted.ID),
			Namespaces:        namespacesOf(in),
			Resources:         resources(in.Wanted.Spec.GetResources(), in.Host.Able.Swap),
			Sysctl:            c.GetSysctls(),
			Devices:           in.Devices.Nodes,
			RootfsPropagation: rootPropagation(in.Mounts),
			MaskedPaths:       maskedPaths,
			ReadonlyPaths:     readonlyPaths,
		},
	}
	s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, in.Devices.Rules...)
	if !path.IsAbs(s.Process.Cwd) {
		return nil, fault.New(fault.Invalid, "working directory %q is not an absolute path", s.Process.Cwd)
	}
	if in.Host.Seccomp && !secure.SeccompUnconfined {
		if s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s); err != nil {
			return nil, fault.New(fault.Internal, "make seccomp profile: %w", err)
		}
	}
	return s, nil
}

// cgroupPath of a task, below the root of every hierarchy.
func cgroupPath(id string) string { return "/minid/" + id }

// commandOf combines entrypoint and arguments as docker does: an entrypoint of
// the service's drops the image's arguments. An init goes before all of it.
func commandOf(in specInput) []string {
	c := in.Wanted.Spec.GetContainer()
	entry, args := c.GetEntrypoint(), c.GetArgs()
	if len(entry) == 0 {
		entry = in.Image.Config.Entrypoint
		if len(args) == 0 {
			args = in.Image.Config.Cmd
		}
	}
	command := slices.Concat(entry, args)
	if c.GetInit() && len(command) > 0 {
		command = slices.Insert(command, 0, initTarget)
	}
	return command
}

func hostnameOf(w *task.Wanted) string {
	return cmp.Or(w.Spec.GetContainer().GetHostname(), w.ID[:min(12, len(w.ID))])
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is the image's, overridden by the service's.
func environment(in specInput) []string {
	env := []string{defaultPath, "HOSTNAME=" + hostnameOf(in.Wanted)}
	if in.User.Home != "" {
		env = append(env, "HOME="+in.User.Home)
	}
	if in.Wanted.Spec.GetContainer().GetTty() {
		env = append(env, "TERM=xterm")
	}
	return mergeEnv(env, in.Image.Config.Env, in.Wanted.Spec.GetContainer().GetEnv(), in.Granted)
}

// mergeEnv keeps the last value of each name, in the order of first mention. A
// name without a value takes the variable away.
func mergeEnv(lists ...[]string) []string {
	var out []string
	for _, kv := range slices.Concat(lists...) {
		name, _, has := strings.Cut(kv, "=")
		i := slices.IndexFunc(out, func(o string) bool { return strings.HasPrefix(o, name+"=") })
		switch {
		case !has && i >= 0:
			out = slices.Delete(out, i, i+1)
		case !has:
		case i >= 0:
			out[i] = kv
		default:
			out = append(out, kv)
		}
	}
	return out
}

func namespacesOf(in specInput) []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
		{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: in.NetNS},
	}
	if in.Host.CgroupV2 {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return list
}

// The paths that docker hides from containers or keeps read-only.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func systemMounts(shmSize int64) []specs.Mount {
	cgroupOptions := []string{"ro", "nosuid", "noexec", "nodev"}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: shmOptions(shmSize)},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: cgroupOptions},
	}
}

// cpuPeriod of the CFS quota, in microseconds; docker's.
const cpuPeriod = 100_000

// resources are the limits of a task's cgroup; those of swap only where it can
// be limited.
func resources(r *pb.ResourceRequirements, limitsSwap bool) *specs.LinuxResources {
	out := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if n := r.GetLimitNanoCpus(); n > 0 {
		period := uint64(cpuPeriod)
		quota := max(1000, n*cpuPeriod/1e9) // the kernel's least
		out.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	out.Memory = memoryOf(r, limitsSwap)
	if n := r.GetLimitPids(); n > 0 {
		out.Pids = &specs.LinuxPids{Limit: &n}
	}
	return out
}

func memoryOf(r *pb.ResourceRequirements, limitsSwap bool) *specs.LinuxMemory {
	var out specs.LinuxMemory
	if n := r.GetLimitMemoryBytes(); n > 0 {
		out.Limit = &n
		if limitsSwap {
			// Unless it is asked for, swap would turn the limit into slowness;
			// docker allows as much again. It counts both together.
			swap := cmp.Or(r.GetMemorySwapBytes(), n)
			out.Swap = &swap
		}
	}
	if n := r.GetReserveMemoryBytes(); n > 0 {
		out.Reservation = &n
	}
	if r != nil && r.MemorySwappiness != nil {
		swappiness := uint64(*r.MemorySwappiness)
		out.Swappiness = &swappiness
	}
	if out == (specs.LinuxMemory{}) {
		return nil
	}
	return &out
}

type capSet []string

// defaultCaps are docker's.
var defaultCaps = capSet{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// allCaps are those of Linux, by number.
var allCaps = capSet{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// capabilities applies --cap-add and --cap-drop to docker's defaults, of which a
// container gets those that minid can grant; ALL is every one of these, and what
// is added explicitly survives a drop of ALL.
func capabilities(add, drop []string, grantable capSet) (capSet, error) {
	adds, err := capNames(add)
	if err != nil {
		return nil, err
	}
	drops, err := capNames(drop)
	if err != nil {
		return nil, err
	}
	base := defaultCaps
	if slices.Contains(adds, "ALL") {
		base = allCaps
	}
	var out capSet
	for _, c := range grantable {
		dropped := slices.Contains(drops, c) || slices.Contains(drops, "ALL")
		if slices.Contains(adds, c) || slices.Contains(base, c) && !dropped {
			out = append(out, c)
		}
	}
	return out, nil
}

func capNames(in []string) ([]string, error) {
	var out []string
	for _, name := range in {
		c := strings.ToUpper(name)
		if c != "ALL" {
			c = "CAP_" + strings.TrimPrefix(c, "CAP_")
			if !slices.Contains(allCaps, c) {
				return nil, fault.New(fault.Invalid, "capability %q is not known", name)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// forUser gives root all of the set; other users can get it only by executing
// files that carry capabilities.
func (s capSet) forUser(uid uint32) *specs.LinuxCapabilities {
	caps := &specs.LinuxCapabilities{Bounding: s}
	if uid == 0 {
		caps.Permitted, caps.Effective = s, s
	}
	return caps
}
