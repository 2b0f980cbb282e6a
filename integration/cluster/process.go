package cluster

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processes finds every process in the network namespace, and all that descend
// from these: minid, containerd, shims and containers of one node.
func processes(netns uint64) []int {
	parents := map[int]int{}
	member := map[int]bool{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		parents[pid] = parentOf(pid)
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) == nil && st.Ino == netns {
			member[pid] = true
		}
	}
	delete(member, os.Getpid())
	var found []int
	for pid := range parents {
		if descends(pid, parents, member) {
			found = append(found, pid)
		}
	}
	return found
}

func descends(pid int, parents map[int]int, member map[int]bool) bool {
	for hops := 0; pid > 1 && hops < 64; hops++ {
		if member[pid] {
			return true
		}
		pid = parents[pid]
	}
	return false
}

func parentOf(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything; the state and parent follow it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

// killAll ends processes for good and removes the cgroups that they leave empty.
func killAll(find func() []int) {
	groups := map[string]bool{}
	for range 50 {
		pids := find()
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			for _, dir := range cgroupsOf(pid) {
				groups[dir] = true
			}
			unix.Kill(pid, unix.SIGCONT)
			unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
	removeGroups(groups)
}

// removeGroups removes cgroups once the kernel has let go of their processes,
// which is some time after these are gone from /proc.
func removeGroups(groups map[string]bool) {
	for range 50 {
		maps.DeleteFunc(groups, func(dir string, _ bool) bool {
			err := unix.Rmdir(dir)
			unix.Rmdir(filepath.Dir(dir)) // the last one out takes the parent with it
			return err == nil || err == unix.ENOENT
		})
		if len(groups) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// cgroupsOf lists the directories of a task's cgroups, on v1 and v2; also those
// of docker's, which `make versus` runs.
func cgroupsOf(pid int) []string {
	lines, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(string(lines)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || !strings.Contains(parts[2], "minid") && !strings.HasPrefix(parts[2], "/docker/") {
			continue
		}
		controller := strings.TrimPrefix(parts[1], "name=")
		if controller == "" && exists("/sys/fs/cgroup/unified") {
			controller = "unified"
		}
		dirs = append(dirs, filepath.Join("/sys/fs/cgroup", controller, parts[2]))
	}
	return dirs
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// unmountBelow detaches every mount below dir, deepest first.
func unmountBelow(dir string) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	var points []string
	for line := range strings.Lines(string(info)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	for i := len(points) - 1; i >= 0; i-- {
		unix.Unmount(points[i], unix.MNT_DETACH)
	}
}
