package containerd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	pb "github.com/minid/minid/proto/minid/v1"
)

// host is what the kernel has.
type host struct {
	BootID string
	// CgroupV2 is true when the unified hierarchy is the only one.
	CgroupV2 bool
	Seccomp  bool
	MaxFiles uint64
	Able     able
}

const cgroupRoot = "/sys/fs/cgroup"

func examineHost() (host, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return host{}, fmt.Errorf("read the host's boot id: %w", err)
	}
	h := host{BootID: strings.TrimSpace(string(boot)), MaxFiles: 1 << 20}
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &fs); err != nil {
		return host{}, fmt.Errorf("look at %s: %w", cgroupRoot, err)
	}
	h.CgroupV2 = fs.Type == unix.CGROUP2_SUPER_MAGIC
	h.Seccomp = unix.Prctl(unix.PR_GET_SECCOMP, 0, 0, 0, 0) == nil
	// Not more than minid itself may have: raising it takes a capability that a
	// minid within a container lacks.
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil {
		h.MaxFiles = min(h.MaxFiles, files.Max)
	}
	h.Able = examineAble(h.CgroupV2)
	return h, nil
}

// oomKills counts the processes of a task's cgroup that the kernel killed for
// want of memory. The cgroup lives until the container is deleted, so this also
// tells what happened while no minid was looking.
func (h host) oomKills(id string) int64 {
	name := filepath.Join(cgroupRoot, "memory", cgroupPath(id), "memory.oom_control")
	if h.CgroupV2 {
		name = filepath.Join(cgroupRoot, cgroupPath(id), "memory.events")
	}
	return readKey(name, "oom_kill")
}

func readKey(name, key string) int64 {
	f, err := os.Open(name)
	if err != nil {
		return 0 // no memory controller, or the cgroup is gone
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if k, v, ok := strings.Cut(lines.Text(), " "); ok && k == key {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

func readNumber(name string) (int64, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// Describe says what the node has, as far as the runtime knows: platform, CPUs
// and memory that this process may use, containerd's version. The caller adds
// name, labels and minid's version.
func (r *Runtime) Describe(ctx context.Context) (*pb.NodeDescription, error) {
	version, err := r.images.Version(ctx)
	if err != nil {
		return nil, err
	}
	d := DescribeHost()
	d.RuntimeVersion = "containerd " + strings.TrimPrefix(version, "v")
	return d, nil
}

// DescribeHost is Describe without containerd.
func DescribeHost() *pb.NodeDescription {
	p := platformSpec()
	return &pb.NodeDescription{
		Platform:  &pb.Platform{Os: p.OS, Architecture: p.Architecture},
		Resources: &pb.Resources{NanoCpus: cpus(), MemoryBytes: memory()},
	}
}

// cpus is what affinity and a CPU quota leave, in billionths.
func cpus() int64 {
	n := int64(runtime.NumCPU()) * 1e9
	path := ownCgroup("cpu")
	quota, period := int64(0), int64(0)
	if data, err := os.ReadFile(filepath.Join(path, "cpu.max")); err == nil {
		fmt.Sscanf(string(data), "%d %d", &quota, &period)
	} else {
		quota, _ = readNumber(filepath.Join(path, "cpu.cfs_quota_us"))
		period, _ = readNumber(filepath.Join(path, "cpu.cfs_period_us"))
	}
	if quota > 0 && period > 0 {
		n = min(n, quota*1e9/period)
	}
	return n
}

// memory is what the host has or this process's cgroup allows, in bytes.
func memory() int64 {
	var info unix.Sysinfo_t
	total := int64(0)
	if unix.Sysinfo(&info) == nil {
		total = int64(info.Totalram) * int64(info.Unit)
	}
	path := ownCgroup("memory")
	for _, name := range []string{"memory.max", "memory.limit_in_bytes"} {
		if n, err := readNumber(filepath.Join(path, name)); err == nil && n > 0 {
			total = min(total, n)
		}
	}
	return total
}

// ownCgroup is the directory of this process's cgroup for a controller.
func ownCgroup(controller string) string {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return cgroupRoot
	}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for name := range strings.SplitSeq(parts[1], ",") {
			if name == controller {
				return filepath.Join(cgroupRoot, controller, parts[2])
			}
		}
		if parts[0] == "0" {
			if _, err := os.Stat(filepath.Join(cgroupRoot, parts[2], "cgroup.controllers")); !errors.Is(err, fs.ErrNotExist) {
				return filepath.Join(cgroupRoot, parts[2])
			}
		}
	}
	return filepath.Join(cgroupRoot, controller)
}
