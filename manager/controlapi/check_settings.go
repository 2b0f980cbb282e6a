package controlapi

import (
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// The kernel's range, proc(5).
	minOOMScore, maxOOMScore = -1000, 1000
	maxSwappiness            = 100
	// An init's own threads count as processes of the task.
	minPidsWithInit = 16
	unlimited       = -1
)

// checkSettings looks at what a container asks of the kernel.
func checkSettings(c *pb.ContainerSpec) error {
	return firstOf(
		checkHosts(c.Hosts),
		checkSysctls(c.Sysctls),
		checkUlimits(c.Ulimits),
		checkOOMScore(c.OomScoreAdj),
		checkDevices(c.Devices),
		checkShmSize(c.ShmSizeBytes),
		checkSecurity(c.SecurityOpts),
	)
}

// checkLimits looks at limits that depend on one another.
func checkLimits(c *pb.ContainerSpec, r *pb.ResourceRequirements) error {
	if pids := r.GetLimitPids(); c.Init && pids > 0 && pids < minPidsWithInit {
		return invalid("limit-pids: %d are too few with an init, which needs some for itself", pids).
			WithTry("--limit-pids %d, or --init=false", minPidsWithInit)
	}
	return firstOf(checkSwap(r), checkSwappiness(r))
}

func checkSwap(r *pb.ResourceRequirements) error {
	swap, memory := r.GetMemorySwapBytes(), r.GetLimitMemoryBytes()
	switch {
	case swap == 0:
		return nil
	case memory == 0:
		return invalid("memory-swap: it is for memory and swap together, and memory has no limit").WithTry("--limit-memory 512M")
	case swap != unlimited && swap < memory:
		return invalid("memory-swap: %d bytes of memory and swap together are fewer than those of memory alone", swap).
			WithTry("--memory-swap %d for no swap, or -1 for no limit of it", memory)
	}
	return nil
}

func checkSwappiness(r *pb.ResourceRequirements) error {
	if n := r.GetMemorySwappiness(); n < 0 || n > maxSwappiness {
		return invalid("memory-swappiness: %d is not between 0 and %d", n, maxSwappiness).WithTry("--memory-swappiness 60, or -1 for the host's")
	}
	return nil
}

// checkHosts takes lines "ADDRESS NAME [NAME...]".
func checkHosts(lines []string) error {
	for _, line := range lines {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.Join(fields, " ") != line {
			return invalid("host %q: it must be an address and names, divided by one space", line).WithTry("--host NAME:ADDRESS")
		}
		if addr, err := netip.ParseAddr(fields[0]); err != nil || addr.Zone() != "" {
			return invalid("host %s: %q is no IP address", strings.Join(fields[1:], " "), fields[0]).WithTry("--host %s:10.0.0.5", fields[1])
		}
		for _, name := range fields[1:] {
			// As libc, which knows names with underscores.
			if len(name) > maxHostName || !hostnamePattern.MatchString(strings.ReplaceAll(name, "_", "-")) {
				return invalid("host %q: it is no name of a host", name).WithTry("--host db.example:%s", fields[0])
			}
		}
	}
	return nil
}

// maxHostName is RFC 1035's.
const maxHostName = 253

// sysctls that are each container's own, besides whole directories of them:
// those of its IPC namespace, sysctl(7) and ipc_namespaces(7).
var sysctls = [...]string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
	"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
}

// No slash: the name becomes a path below /proc/sys.
var sysctlPattern = regexp.MustCompile(`^[a-z0-9_-]+(\.[A-Za-z0-9_-]+)+$`)

func checkSysctls(list map[string]string) error {
	for name, value := range list {
		switch {
		case !sysctlPattern.MatchString(name):
			return invalid("sysctl %q: it is no name of a setting", name).WithTry("--sysctl net.core.somaxconn=1024")
		case !strings.HasPrefix(name, "net.") && !strings.HasPrefix(name, "fs.mqueue.") && !slices.Contains(sysctls[:], name):
			return invalid("sysctl %s: it is the whole node's, a container has only net.*, fs.mqueue.*, kernel.sem, kernel.msg* and kernel.shm* of its own", name).
				WithTry("set it on the nodes, with sysctl -w %s=%s", name, value)
		case value == "" || strings.ContainsAny(value, "\n\x00"):
			return invalid("sysctl %s: its value is empty or has a line break", name).WithTry("--sysctl %s=1", name)
		}
	}
	return nil
}

// ulimits are those of setrlimit(2).
var ulimits = strings.Fields("as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack")

func checkUlimits(list []*pb.Ulimit) error {
	seen := map[string]bool{}
	for _, u := range list {
		switch {
		case !slices.Contains(ulimits, u.Name):
			return invalid("ulimit %q: there is no such limit", u.Name).WithTry("--ulimit %s=…", strings.Join(ulimits, "|"))
		case seen[u.Name]:
			return invalid("ulimit %s: it is given twice", u.Name).WithTry("--ulimit %s=SOFT:HARD", u.Name)
		case u.Soft < unlimited || u.Hard < unlimited:
			return invalid("ulimit %s: %d is negative", u.Name, min(u.Soft, u.Hard)).WithTry("--ulimit %s=-1 for no limit", u.Name)
		case uint64(u.Soft) > uint64(u.Hard): // -1 is the largest
			return invalid("ulimit %s: the soft limit %d is above the hard limit %d", u.Name, u.Soft, u.Hard).
				WithTry("--ulimit %s=%d:%[2]d", u.Name, u.Hard)
		}
		seen[u.Name] = true
	}
	return nil
}

func checkOOMScore(score int32) error {
	if score < minOOMScore || score > maxOOMScore {
		return invalid("oom-score-adj: %d is not between %d and %d", score, minOOMScore, maxOOMScore).WithTry("--oom-score-adj 500")
	}
	return nil
}

// normalDevice spells out where a device is in the task and what it may do there;
// docker also takes PATH:rwm.
func normalDevice(text string) string {
	parts := strings.Split(text, ":")
	if len(parts) == 2 && isAccess(parts[1]) {
		parts = []string{parts[0], parts[0], parts[1]}
	}
	if len(parts) == 1 {
		parts = append(parts, parts[0])
	}
	if len(parts) == 2 {
		parts = append(parts, "rwm")
	}
	return strings.Join(parts, ":")
}

func isAccess(text string) bool {
	return text != "" && strings.Trim(text, "rwm") == "" && len(text) <= len("rwm")
}

func checkDevices(list []string) error {
	targets := map[string]bool{}
	for _, text := range list {
		parts := strings.Split(normalDevice(text), ":")
		switch {
		case len(parts) != 3 || !path.IsAbs(parts[0]) || !path.IsAbs(parts[1]) || path.Clean(parts[1]) == "/":
			return invalid("device %q: it must be a path of the node, and may have one of the task", text).WithTry("--device /dev/fuse:/dev/fuse:rwm")
		case !isAccess(parts[2]):
			return invalid("device %q: its access %q must be of r, w and m", text, parts[2]).WithTry("--device %s:%s:rw", parts[0], parts[1])
		case targets[path.Clean(parts[1])]:
			return invalid("device %q: another device has the same path in the task", text).WithTry("--device %s:/dev/OTHER", parts[0])
		}
		targets[path.Clean(parts[1])] = true
	}
	return nil
}

func checkShmSize(size int64) error {
	if size < 0 {
		return invalid("shm-size: %d is negative", size).WithTry("--shm-size 64m")
	}
	return nil
}

// refusedSecurity are options of docker's that minid refuses, and why.
var refusedSecurity = map[string]string{
	"seccomp":           "minid has no profiles but its own, which is docker's",
	"label":             "minid does not label containers for SELinux",
	"systempaths":       "minid hides kernel paths from every container",
	"credentialspec":    "it is for Windows",
	"writable-cgroups":  "minid keeps cgroups read-only in every container",
	"no-new-privileges": "it is true or false",
	"apparmor":          "the profile's name is missing or has odd characters",
}

var profilePattern = regexp.MustCompile(`^[A-Za-z0-9_./:-]+$`)

func checkSecurity(options []string) error {
	seen := map[string]bool{}
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		if seen[key] {
			return invalid("security-opt %s: %s is given twice", o, key).WithTry("--security-opt-rm %s", key)
		}
		seen[key] = true
		switch {
		case slices.Contains([]string{"no-new-privileges", "no-new-privileges=true", "no-new-privileges=false", "seccomp=unconfined", "seccomp=builtin"}, o):
		case key == "apparmor" && profilePattern.MatchString(value): // the node knows whether it has it
		case refusedSecurity[key] != "":
			return invalid("security-opt %s: %s", o, refusedSecurity[key]).WithTry(securityTry)
		default:
			return invalid("security-opt %s: there is no such option", o).WithTry(securityTry)
		}
	}
	return nil
}

const securityTry = "--security-opt no-new-privileges, seccomp=unconfined or apparmor=PROFILE"

// checkBindOptions looks at how mounts below a bind's source are treated.
func checkBindOptions(m *pb.Mount) error {
	const readonly = pb.Mount_BIND_RECURSION_READONLY
	switch {
	case pb.Mount_BindRecursion_name[int32(m.BindRecursion)] == "":
		return invalid("mount %s: there is no bind-recursive %d", m.Target, m.BindRecursion).WithTry("bind-recursive=enabled|disabled|writable|readonly")
	case !m.ReadOnly && (m.BindRecursion == pb.Mount_BIND_RECURSION_WRITABLE || m.BindRecursion == readonly):
		return invalid("mount %s: bind-recursive=writable and readonly are for mounts that are read-only", m.Target).WithTry("add readonly, or leave bind-recursive out")
	case m.BindRecursion == readonly && m.BindPropagation != "" && m.BindPropagation != "rprivate":
		return invalid("mount %s: bind-recursive=readonly cannot hold for mounts that come later, by bind-propagation=%s", m.Target, m.BindPropagation).
			WithTry("bind-propagation=rprivate")
	}
	return nil
}

// checkSubpath looks at the part of a volume that is mounted.
func checkSubpath(m *pb.Mount) error {
	switch {
	case m.VolumeSubpath == "":
		return nil
	case m.Source == "":
		return invalid("mount %s: volume-subpath is part of a volume with a name", m.Target).WithTry("source=VOLUME")
	case path.IsAbs(m.VolumeSubpath) || path.Clean(m.VolumeSubpath) != m.VolumeSubpath || strings.HasPrefix(m.VolumeSubpath, ".."):
		return invalid("mount %s: volume-subpath %q must be a path within the volume, without ..", m.Target, m.VolumeSubpath).
			WithTry("volume-subpath=%s", strings.TrimLeft(path.Clean("/"+m.VolumeSubpath), "/"))
	}
	return nil
}
