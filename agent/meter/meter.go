// Package meter reads what the kernel counts: of a task's cgroup and network
// namespace, and of the host. What the counters come to per second is for whoever
// has two samples.
package meter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	pb "github.com/minid/minid/proto/minid/v1"
)

// Meter reads the files of one host.
type Meter struct {
	// Proc and Sys are where procfs and sysfs are: /proc and /sys.
	Proc, Sys string
	// CgroupV2 is true when the unified hierarchy is the only one.
	CgroupV2 bool
}

// Task is what a cgroup, such as /minid/ID, and the network namespace of its
// processes count. It fails with fs.ErrNotExist when the cgroup is gone. What the
// kernel does not count, for want of a controller, is 0.
func (m Meter) Task(cgroup string) (*pb.Usage, error) {
	read := m.cgroupV1
	if m.CgroupV2 {
		read = m.cgroupV2
	}
	u, err := read(cgroup)
	if err != nil {
		return nil, fmt.Errorf("read cgroup %s: %w", cgroup, err)
	}
	processes := m.processes(cgroup)
	if len(processes) > 0 { // any will do, for a task has one network namespace
		u.ReceivedBytes, u.SentBytes = parseNetDev(optional(filepath.Join(m.Proc, processes[0], "net/dev")), notLoopback)
	}
	if !m.CgroupV2 {
		u.ReadBytes, u.WrittenBytes = m.diskUse(processes)
	}
	return u, nil
}

// cgroupV1 reads a cgroup that every controller has a hierarchy of its own for,
// also where the unified one is mounted beside them.
func (m Meter) cgroupV1(cgroup string) (*pb.Usage, error) {
	file := func(controller, name string) string {
		return filepath.Join(m.Sys, "fs/cgroup", controller, cgroup, name)
	}
	cpu, err := os.ReadFile(file("cpuacct", "cpuacct.usage"))
	if err != nil {
		return nil, err
	}
	return &pb.Usage{
		CpuNs:            parseNumber(string(cpu)),
		MemoryBytes:      inUse(optional(file("memory", "memory.usage_in_bytes")), optional(file("memory", "memory.stat")), "total_inactive_file"),
		MemoryLimitBytes: parseLimit(optional(file("memory", "memory.limit_in_bytes"))),
		Pids:             parseNumber(optional(file("pids", "pids.current"))),
		NanoCpus:         parseQuota(optional(file("cpu", "cpu.cfs_quota_us")) + " " + optional(file("cpu", "cpu.cfs_period_us"))),
	}, nil
}

// cgroupV2 reads a cgroup of the unified hierarchy.
func (m Meter) cgroupV2(cgroup string) (*pb.Usage, error) {
	file := func(name string) string { return filepath.Join(m.Sys, "fs/cgroup", cgroup, name) }
	cpu, err := os.ReadFile(file("cpu.stat"))
	if err != nil {
		return nil, err
	}
	u := &pb.Usage{
		CpuNs:            parseKey(string(cpu), "usage_usec") * 1000,
		MemoryBytes:      inUse(optional(file("memory.current")), optional(file("memory.stat")), "inactive_file"),
		MemoryLimitBytes: parseLimit(optional(file("memory.max"))),
		Pids:             parseNumber(optional(file("pids.current"))),
		NanoCpus:         parseQuota(optional(file("cpu.max"))),
	}
	u.ReadBytes, u.WrittenBytes = parseIOStat(optional(file("io.stat")))
	return u, nil
}

// inUse is a cgroup's memory without the page cache that the kernel can drop at
// once, as `docker stats` has it.
func inUse(usage, stat, cache string) uint64 {
	return less(parseNumber(usage), parseKey(stat, cache))
}

// less subtracts numbers that were read one after the other.
func less(a, b uint64) uint64 { return a - min(a, b) }

// processes lists a cgroup's processes; there may be none.
func (m Meter) processes(cgroup string) []string {
	dir := filepath.Join(m.Sys, "fs/cgroup", cgroup)
	if !m.CgroupV2 {
		dir = filepath.Join(m.Sys, "fs/cgroup/pids", cgroup)
	}
	return strings.Fields(optional(filepath.Join(dir, "cgroup.procs")))
}

// diskUse sums up what processes and the children that they waited for read from
// and wrote to disks. Cgroups of v1 do not know: their block controller misses
// writes that are buffered, and newer kernels count only where there are limits.
func (m Meter) diskUse(processes []string) (read, written uint64) {
	for _, pid := range processes {
		r, w := parseIO(optional(filepath.Join(m.Proc, pid, "io")))
		read, written = read+r, written+w
	}
	return read, written
}

// Host is what the host has and uses. Disks and interfaces are those of
// hardware: what lies above them is in their counts already. A host of which no
// interface is hardware, such as a container, has those that minid did not make.
func (m Meter) Host() (*pb.Usage, error) {
	stat, err := os.ReadFile(filepath.Join(m.Proc, "stat"))
	if err != nil {
		return nil, fmt.Errorf("read the host's counters: %w", err)
	}
	u := &pb.Usage{}
	u.CpuNs, u.NanoCpus = parseStat(string(stat))
	u.MemoryBytes, u.MemoryLimitBytes = parseMeminfo(optional(filepath.Join(m.Proc, "meminfo")))
	u.Pids = parseThreads(optional(filepath.Join(m.Proc, "loadavg")))
	u.ReadBytes, u.WrittenBytes = parseDiskstats(optional(filepath.Join(m.Proc, "diskstats")), m.hardware("block"))
	// Of the thread: another one may be within the namespace of a task.
	links := optional(filepath.Join(m.Proc, "thread-self/net/dev"))
	real := m.hardware("class/net")
	if !anyLink(links, real) {
		real = func(link string) bool { return notLoopback(link) && !strings.HasPrefix(link, ownLinks) }
	}
	u.ReceivedBytes, u.SentBytes = parseNetDev(links, real)
	return u, nil
}

// ownLinks begins the names of all links that minid makes.
const ownLinks = "mn"

func notLoopback(link string) bool { return link != "lo" }

// hardware tells which devices of a folder of sysfs are more than software.
func (m Meter) hardware(folder string) func(name string) bool {
	return func(name string) bool {
		_, err := os.Stat(filepath.Join(m.Sys, folder, name, "device"))
		return err == nil
	}
}

// optional reads a file that kernels, or cgroups that just ended, may lack.
func optional(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(text)
}

// Gone tells whether an error of Task means that the task has ended: its cgroup
// is not there, or it went while it was read.
func Gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}
