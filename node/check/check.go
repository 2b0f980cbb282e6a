// Package check examines a host and says what minid misses there and how to get
// it.
package check

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/agent/containerd"
	"github.com/minid/minid/network/probe"
	"github.com/minid/minid/node"
)

// Finding is what the examination of a host says about one thing.
type Finding struct {
	// What was looked at, and what was found.
	What, Found string
	// OK: minid can work with it. Needed: without it minid cannot run.
	OK, Needed bool
	// Try says how to get what is missing.
	Try string
}

// Host examines this machine for a minid with a configuration.
func Host(cfg node.Config) []Finding {
	findings := []Finding{checkRoot(), checkKernel(), checkCgroups(), checkFilesystem("overlay"), checkSeccomp()}
	findings = append(findings, checkContainerd(cfg), checkTool("runc", "apt-get install runc"))
	if cfg.ContainerdAddress == "" { // another containerd has its own shim
		findings = append(findings, checkTool("containerd-shim-runc-v2", "make build, or apt-get install containerd"))
	}
	findings = append(findings, checkInit())
	findings = append(findings, checkNetwork()...)
	return append(findings, checkForwarding(), checkMTU(), checkPort(cfg), checkClock(), checkSpace(cfg))
}

func checkRoot() Finding {
	f := Finding{What: "user", Found: "root", OK: os.Geteuid() == 0, Needed: true}
	if !f.OK {
		f.Found, f.Try = "not root", "sudo minid check"
	}
	return f
}

func checkKernel() Finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Finding{What: "kernel", Found: err.Error(), Needed: true}
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	fmt.Sscanf(release, "%d.%d", &major, &minor)
	// nftables with concatenated maps and openat2 came before 5.13.
	f := Finding{What: "kernel", Found: release, OK: major > 5 || major == 5 && minor >= 13}
	if !f.OK {
		f.Try = "5.13 or newer is what minid is tested with"
	}
	return f
}

func checkCgroups() Finding {
	f := Finding{What: "cgroups", OK: true, Needed: true}
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		return Finding{What: "cgroups", Found: err.Error(), Needed: true, Try: "mount -t cgroup2 none /sys/fs/cgroup"}
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		data, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		f.Found = "v2 with " + strings.TrimSpace(string(data))
		return f
	}
	f.Found = "v1"
	for _, controller := range []string{"cpu", "memory", "pids", "devices"} {
		if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", controller)); err != nil {
			f.OK, f.Found, f.Try = false, f.Found+", without "+controller, "enable it on the kernel's command line, or boot with systemd.unified_cgroup_hierarchy=1"
		}
	}
	return f
}

func checkFilesystem(name string) Finding {
	data, err := os.ReadFile("/proc/filesystems")
	f := Finding{What: name + " filesystem", Found: "there", OK: err == nil && strings.Contains(string(data), "\t"+name+"\n")}
	if !f.OK {
		f.Found, f.Try = "not there: images are copied for each task", "modprobe "+name
	}
	return f
}

func checkSeccomp() Finding {
	f := Finding{What: "seccomp", Found: "there", OK: unix.Prctl(unix.PR_GET_SECCOMP, 0, 0, 0, 0) == nil}
	if !f.OK {
		f.Found = "not there: tasks run without a system call filter"
	}
	return f
}

func checkContainerd(cfg node.Config) Finding {
	if cfg.ContainerdAddress != "" {
		conn, err := net.Dial("unix", cfg.ContainerdAddress)
		if err != nil {
			return Finding{What: "containerd", Found: err.Error(), Needed: true, Try: "systemctl start containerd, or leave --containerd-address out"}
		}
		conn.Close()
		return Finding{What: "containerd", Found: "answers at " + cfg.ContainerdAddress, OK: true, Needed: true}
	}
	path, err := (&containerd.Daemon{DataDir: cfg.DataDir, RunDir: cfg.RunDir}).FindBinary()
	if err != nil {
		return Finding{What: "containerd", Found: err.Error(), Needed: true, Try: "make build, or apt-get install containerd"}
	}
	return Finding{What: "containerd", Found: path, OK: true, Needed: true}
}

// checkTool looks where minid and containerd will: beside minid, in PATH and in
// the system's directories, which are not in every user's PATH.
func checkTool(name, try string) Finding {
	dirs := append(filepath.SplitList(os.Getenv("PATH")), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
	if own, err := os.Executable(); err == nil {
		dirs = append([]string{filepath.Dir(own)}, dirs...)
	}
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return Finding{What: name, Found: path, OK: true, Needed: true}
		}
	}
	return Finding{What: name, Found: "not found", Needed: true, Try: try}
}

// checkInit looks for what only services with --init need.
func checkInit() Finding {
	f := checkTool("minid-init", "make build, and install bin/minid-init beside minid")
	f.Needed = false
	return f
}

func checkNetwork() []Finding {
	features, err := probe.Features()
	if err != nil {
		return []Finding{{What: "network features", Found: err.Error(), Needed: true, Try: "run as root"}}
	}
	var findings []Finding
	for _, feature := range features {
		f := Finding{What: feature.Name, Found: "works", OK: feature.Err == nil, Needed: true}
		if feature.Err != nil {
			f.Found, f.Try = feature.Err.Error(), "modprobe "+strings.ToLower(strings.Fields(feature.Name)[0])
		}
		findings = append(findings, f)
	}
	return findings
}

func checkForwarding() Finding {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil {
		return Finding{What: "IP forwarding", Found: err.Error()}
	}
	if strings.TrimSpace(string(data)) != "1" {
		return Finding{What: "IP forwarding", Found: "off; minid switches it on", OK: true}
	}
	return Finding{What: "IP forwarding", Found: "on", OK: true}
}

func checkMTU() Finding {
	name, mtu, err := probe.MTU()
	if err != nil {
		return Finding{What: "default route", Found: err.Error(), Try: "give --advertise-addr"}
	}
	return Finding{What: "default route", Found: fmt.Sprintf("by %s, MTU %d", name, mtu), OK: mtu >= 1280}
}

func checkPort(cfg node.Config) Finding {
	what := "control port " + cfg.ListenAddr
	l, err := net.Listen("tcp", cfg.ListenAddr)
	if err != nil {
		// A minid that runs already holds it, and should.
		if conn, dialErr := net.Dial("unix", cfg.SocketPath()); dialErr == nil {
			conn.Close()
			return Finding{What: what, Found: "used by the minid that runs", OK: true}
		}
		return Finding{What: what, Found: err.Error(), Needed: true, Try: "stop what uses it, or give another --listen-addr"}
	}
	l.Close()
	return Finding{What: what, Found: "free", OK: true, Needed: true}
}

// checkClock asks the kernel whether something keeps its clock: certificates
// and the order of logs depend on it.
func checkClock() Finding {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	f := Finding{What: "clock", Found: "synchronised", OK: err == nil && state != unix.TIME_ERROR}
	if !f.OK {
		f.Found, f.Try = "not synchronised, as far as the kernel knows", "apt-get install systemd-timesyncd"
	}
	return f
}

func checkSpace(cfg node.Config) Finding {
	const enough = 2 << 30
	dir := cfg.DataDir
	for {
		var fs unix.Statfs_t
		err := unix.Statfs(dir, &fs)
		if errors.Is(err, unix.ENOENT) && dir != "/" {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return Finding{What: "disk space", Found: err.Error()}
		}
		free := fs.Bavail * uint64(fs.Bsize)
		f := Finding{What: "disk space", Found: fmt.Sprintf("%.1f GiB free for %s", float64(free)/(1<<30), cfg.DataDir), OK: free >= enough}
		if !f.OK {
			f.Try = "make room, or give another --data-dir"
		}
		return f
	}
}
