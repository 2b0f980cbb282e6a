package controlapi

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	pb "github.com/minid/minid/proto/minid/v1"
)

// hostnamePattern is RFC 1123's: labels of letters, digits and inner hyphens.
var hostnamePattern = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$`)

func checkContainer(c *pb.ContainerSpec) error {
	return firstOf(
		checkEnv(c.Env),
		checkHostname(c.Hostname),
		checkUser(c.User, c.Groups),
		checkWorkdir(c.Workdir),
		checkSignal(c.StopSignal),
		checkDuration("stop-grace-period", c.StopGracePeriod),
		checkLabels(c.Labels),
		checkCapabilities(c.CapAdd, c.CapDrop),
		checkMounts(c.Mounts),
		checkFiles(c),
		checkDNS(c.Dns),
		checkSettings(c),
		checkHealth(c.Health),
	)
}

func checkEnv(env []string) error {
	for _, e := range env {
		key, _, ok := strings.Cut(e, "=")
		if !ok || key == "" || strings.ContainsRune(e, 0) {
			return invalid("env %q: it must be KEY=VALUE", e).WithTry("--env %s=VALUE", strings.TrimLeft(key, "="))
		}
		if err := checkTemplate("env", e); err != nil {
			return err
		}
	}
	return nil
}

func checkHostname(name string) error {
	if name == "" {
		return nil
	}
	if isTemplate(name) {
		return checkTemplate("hostname", name)
	}
	if len(name) > maxName || !hostnamePattern.MatchString(name) {
		return invalid("hostname %q: it must be letters, digits and hyphens in parts divided by dots, %d characters at most", name, maxName)
	}
	return nil
}

func checkUser(user string, groups []string) error {
	if strings.Count(user, ":") > 1 || strings.HasPrefix(user, ":") || strings.ContainsAny(user, " \t\n\x00") {
		return invalid("user %q: it must be USER or USER:GROUP, by name or number", user).WithTry("--user 1000:1000")
	}
	for _, g := range groups {
		if g == "" || strings.ContainsAny(g, " :\t\n\x00") {
			return invalid("group %q: it must be one name or number", g)
		}
	}
	return nil
}

func checkWorkdir(dir string) error {
	if dir != "" && !path.IsAbs(dir) {
		return invalid("workdir %q: it must be an absolute path", dir).WithTry("--workdir /%s", dir)
	}
	return nil
}

// checkSignal takes SIGTERM, TERM, numbers and SIGRTMIN+1.
func checkSignal(name string) error {
	if name == "" {
		return nil
	}
	upper := strings.ToUpper(name)
	if n, err := strconv.Atoi(upper); err == nil && n >= 1 && n <= 64 {
		return nil
	}
	if !strings.HasPrefix(upper, "SIG") {
		upper = "SIG" + upper
	}
	if unix.SignalNum(upper) != 0 || isRealTimeSignal(upper) {
		return nil
	}
	return invalid("stop-signal %q: there is no such signal", name).WithTry("--stop-signal SIGTERM")
}

// isRealTimeSignal takes SIGRTMIN, SIGRTMAX, SIGRTMIN+N and SIGRTMAX-N.
func isRealTimeSignal(name string) bool {
	if name == "SIGRTMIN" || name == "SIGRTMAX" {
		return true
	}
	offset, ok := strings.CutPrefix(name, "SIGRTMIN+")
	if !ok {
		offset, ok = strings.CutPrefix(name, "SIGRTMAX-")
	}
	n, err := strconv.Atoi(offset)
	return ok && err == nil && n >= 0 && n <= 30
}

// capabilities are those of Linux 6, see capabilities(7).
var capabilities = strings.Fields(`AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF
	CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL
	LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST
	NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE
	SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG SYSLOG WAKE_ALARM`)

func checkCapabilities(add, drop []string) error {
	for _, name := range slices.Concat(add, drop) {
		if name != "ALL" && !slices.Contains(capabilities, strings.TrimPrefix(name, "CAP_")) {
			return invalid("capability %s: the kernel has none of this name", name).WithTry("--cap-add CAP_NET_ADMIN")
		}
	}
	for _, name := range add {
		if slices.Contains(drop, name) {
			return invalid("capability %s: it is added and dropped", name)
		}
	}
	return nil
}

func checkMounts(mounts []*pb.Mount) error {
	targets := map[string]bool{}
	for _, m := range mounts {
		if err := checkMount(m); err != nil {
			return err
		}
		target := path.Clean(m.Target)
		if targets[target] {
			return invalid("mount %s: another mount has the same target", m.Target)
		}
		targets[target] = true
	}
	return nil
}

func checkMount(m *pb.Mount) error {
	switch {
	case !path.IsAbs(m.Target):
		return invalid("mount %q: the target must be an absolute path", m.Target).WithTry("--mount type=volume,source=data,target=/data")
	case path.Clean(m.Target) == "/":
		return invalid("mount %s: the target cannot be the container's root", m.Target)
	}
	if err := checkTemplate("mount", m.Source, m.Target); err != nil {
		return err
	}
	if err := checkMountOptions(m); err != nil {
		return err
	}
	switch m.Type {
	case pb.Mount_TYPE_BIND:
		return checkBind(m)
	case pb.Mount_TYPE_VOLUME:
		return checkVolume(m)
	case pb.Mount_TYPE_TMPFS:
		return checkTmpfs(m)
	}
	return invalid("mount %s: there is no type %d", m.Target, m.Type).WithTry("type=bind|volume|tmpfs")
}

// checkMountOptions refuses options of another type than the mount's.
func checkMountOptions(m *pb.Mount) error {
	switch {
	case m.BindPropagation != "" && m.Type != pb.Mount_TYPE_BIND:
		return invalid("mount %s: bind-propagation is only for type=bind", m.Target)
	case (m.BindRecursion != 0 || m.BindCreateSource) && m.Type != pb.Mount_TYPE_BIND:
		return invalid("mount %s: bind-recursive and bind-create-src are only for type=bind", m.Target)
	case (m.VolumeNoCopy || m.VolumeSubpath != "") && m.Type != pb.Mount_TYPE_VOLUME:
		return invalid("mount %s: volume-nocopy and volume-subpath are only for type=volume", m.Target)
	case (m.TmpfsSizeBytes != 0 || m.TmpfsMode != 0) && m.Type != pb.Mount_TYPE_TMPFS:
		return invalid("mount %s: tmpfs-size and tmpfs-mode are only for type=tmpfs", m.Target)
	}
	return nil
}

var propagations = [...]string{"", "private", "rprivate", "shared", "rshared", "slave", "rslave"}

func checkBind(m *pb.Mount) error {
	switch {
	case m.Source == "":
		return invalid("mount %s: a bind mount needs a source", m.Target).WithTry("--mount type=bind,source=/HOST/PATH,target=%s", m.Target)
	case !path.IsAbs(m.Source) && !isTemplate(m.Source):
		return invalid("mount %s: the source %q must be an absolute path", m.Target, m.Source).
			WithTry("type=volume for a volume of this name")
	case !slices.Contains(propagations[:], m.BindPropagation):
		return invalid("mount %s: there is no bind-propagation %q", m.Target, m.BindPropagation).
			WithTry("bind-propagation=rprivate|private|rshared|shared|rslave|slave")
	}
	return checkBindOptions(m)
}

func checkVolume(m *pb.Mount) error {
	if m.Source != "" && !isTemplate(m.Source) && !namePattern.MatchString(m.Source) {
		return invalid("mount %s: %q is no name of a volume", m.Target, m.Source).WithTry("type=bind for a path of the host")
	}
	return checkSubpath(m)
}

func checkTmpfs(m *pb.Mount) error {
	switch {
	case m.Source != "":
		return invalid("mount %s: a tmpfs has no source", m.Target).WithTry("--mount type=tmpfs,target=%s", m.Target)
	case m.TmpfsSizeBytes < 0:
		return invalid("mount %s: tmpfs-size %d is negative", m.Target, m.TmpfsSizeBytes)
	case m.TmpfsMode > 0o7777:
		return invalid("mount %s: tmpfs-mode %o is more than permission bits", m.Target, m.TmpfsMode)
	}
	return nil
}

// checkFiles looks at where secrets and configs appear.
func checkFiles(c *pb.ContainerSpec) error {
	users := map[string]string{}
	for _, m := range c.Mounts {
		users[path.Clean(m.Target)] = "a mount"
	}
	for _, ref := range c.Secrets {
		if err := checkFile("secret "+ref.Name, filePath(secretsDir, ref), ref, users); err != nil {
			return err
		}
	}
	for _, ref := range c.Configs {
		if err := checkFile("config "+ref.Name, filePath("/", ref), ref, users); err != nil {
			return err
		}
	}
	return nil
}

func checkFile(name, target string, ref *pb.FileReference, users map[string]string) error {
	if slices.Contains(strings.Split(ref.Target, "/"), "..") || strings.HasSuffix(ref.Target, "/") {
		return invalid("%s: the target %q must be a file name or an absolute path without ..", name, ref.Target)
	}
	if user := users[target]; user != "" {
		return invalid("%s: its target %s is that of %s too", name, target, user).WithTry("another target= for one of them")
	}
	users[target] = name
	for _, owner := range [...]string{ref.Uid, ref.Gid} {
		if _, err := strconv.ParseUint(owner, 10, 32); err != nil {
			return invalid("%s: uid and gid must be numbers, not %q", name, owner)
		}
	}
	if ref.Mode > 0o777 {
		return invalid("%s: mode %o is more than 0777", name, ref.Mode)
	}
	return nil
}
