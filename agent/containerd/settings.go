package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// initTarget is where a container finds its init; docker's has the same place.
	initTarget = "/sbin/minid-init"
	initName   = "minid-init"
	// defaultShmSize is docker's size of /dev/shm.
	defaultShmSize = 64 << 20
)

// findInit returns the init of containers: the one that was configured, that
// beside minid, or the one in PATH.
func (r *Runtime) findInit() (string, error) {
	if r.cfg.Init != "" {
		return r.cfg.Init, nil
	}
	own := ""
	if exe, err := os.Executable(); err == nil {
		own = filepath.Dir(exe)
	}
	if found := lookIn(searchPath(own), initName); found != "" {
		return found, nil
	}
	return "", fault.New(fault.Invalid, "init: this node has no %s beside minid or in PATH", initName).
		WithTry("install it, or --init=false")
}

// initMount makes an init of the node visible in a container.
func initMount(source string) specs.Mount { return readOnlyBind(source, initTarget) }

// rlimitNames are those of setrlimit(2), as users write them.
var rlimitNames = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
	"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK,
	"msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
	"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// rlimits of a task: what it asks for, and unless that has one, a limit of open
// files: as many as the host lets a process have, of which a process gets what
// most programs expect and may raise it.
func rlimits(h host, asked []*pb.Ulimit) []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	for _, u := range asked {
		// -1 is the largest unsigned number, which is RLIM_INFINITY.
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	const files = "RLIMIT_NOFILE"
	if !slices.ContainsFunc(out, func(l specs.POSIXRlimit) bool { return l.Type == files }) {
		out = append(out, specs.POSIXRlimit{Type: files, Soft: min(h.MaxFiles, 65536), Hard: h.MaxFiles})
	}
	return out
}

// security is what --security-opt says.
type security struct {
	NoNewPrivileges   bool
	SeccompUnconfined bool
	// AppArmor is a profile's name; empty is none.
	AppArmor string
}

// securityOf reads options that the managers have checked; see
// manager/controlapi.checkSecurity.
func securityOf(options []string) (security, error) {
	var s security
	for _, o := range options {
		key, value, has := strings.Cut(o, "=")
		switch {
		case key == "no-new-privileges":
			s.NoNewPrivileges = !has || value == "true"
		case key == "seccomp" && value == "unconfined":
			s.SeccompUnconfined = true
		case key == "seccomp" && value == "builtin":
			s.SeccompUnconfined = false
		case key == "apparmor" && value == "unconfined":
			s.AppArmor = ""
		case key == "apparmor" && value != "":
			s.AppArmor = value
		default:
			return s, fault.New(fault.Invalid, "security-opt %s: this node's minid does not know it", o)
		}
	}
	return s, nil
}

// devices are what a task sees of the host's, and may do with them.
type devices struct {
	Nodes []specs.LinuxDevice
	Rules []specs.LinuxDeviceCgroup
}

// devicesOf finds devices of this node, written as PATH[:PATH_IN_TASK[:rwm]].
func devicesOf(list []string) (devices, error) {
	var out devices
	for _, text := range list {
		source, rest, _ := strings.Cut(text, ":")
		target, access, _ := strings.Cut(rest, ":")
		d, err := deviceOf(source, firstOf(target, source))
		if err != nil {
			return devices{}, err
		}
		out.Nodes = append(out.Nodes, d)
		out.Rules = append(out.Rules, specs.LinuxDeviceCgroup{
			Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: firstOf(access, "rwm"),
		})
	}
	return out, nil
}

func deviceOf(source, target string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(source, &st); err != nil {
		return specs.LinuxDevice{}, fault.New(fault.Invalid, "device %s: this node has none: %w", source, err).
			WithTry("constrain the service to nodes that have it")
	}
	kind := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFBLK:
		kind = "b"
	default:
		return specs.LinuxDevice{}, fault.New(fault.Invalid, "device %s: on this node it is no device", source).
			WithTry("--mount type=bind for files and directories")
	}
	mode := os.FileMode(st.Mode & 0o777)
	return specs.LinuxDevice{
		Path: target, Type: kind, FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
		Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
	}, nil
}

// shmOptions are the mount options of a task's /dev/shm.
func shmOptions(size int64) []string {
	if size == 0 {
		size = defaultShmSize
	}
	return []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", size)}
}
