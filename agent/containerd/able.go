package containerd

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// able is what the kernel, and the capabilities of this minid, let containers
// have: a minid within a container may grant less than one on the host.
type able struct {
	// Caps of this process, which no container can exceed.
	Caps capSet
	// Limits are this process's hard rlimits, by the names users write.
	Limits map[string]uint64
	// OOMScore is the lowest that a process of this one's may have.
	OOMScore int
	// Swap can be limited, Swappiness be set, per container.
	Swap, Swappiness bool
	AppArmor         bool
	// RecursiveReadOnly: mount_setattr(2) is there, from Linux 5.12 on.
	RecursiveReadOnly bool
}

func examineAble(v2 bool) able {
	a := able{Caps: ownCaps(), Limits: make(map[string]uint64), OOMScore: -1000}
	for name, number := range rlimitNames {
		var l unix.Rlimit
		if unix.Getrlimit(number, &l) == nil {
			a.Limits[name] = l.Max
		}
	}
	if score, err := readNumber("/proc/self/oom_score_adj"); err == nil && !a.may("CAP_SYS_RESOURCE") {
		a.OOMScore = int(score)
	}
	// Version 2 has no swappiness of a group; version 1 limits swap only where
	// the kernel was told to count it.
	a.Swap = v2 || exists(filepath.Join(cgroupRoot, "memory/memory.memsw.limit_in_bytes"))
	a.Swappiness = !v2 && exists(filepath.Join(cgroupRoot, "memory/memory.swappiness"))
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	a.AppArmor = err == nil && strings.HasPrefix(string(enabled), "Y")
	// What is asked does not matter, only whether the call is known.
	a.RecursiveReadOnly = unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}) != unix.ENOSYS
	return a
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// ownCaps are this process's permitted capabilities that it could also pass on.
func ownCaps() capSet {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return allCaps
	}
	mask := uint64(math.MaxUint64)
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		if key != "CapPrm" && key != "CapBnd" {
			continue
		}
		if bits, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err == nil {
			mask &= bits
		}
	}
	var out capSet
	for i, name := range allCaps {
		if mask>>i&1 == 1 {
			out = append(out, name)
		}
	}
	return out
}

func (a able) may(capability string) bool { return slices.Contains(a.Caps, capability) }

// refusal says why this node cannot run a task as it is wanted, nil if it can.
// Asking first costs nothing; the runtime would say it after the pull, in words
// of its own.
func (a able) refusal(spec *pb.TaskSpec) error {
	c, r := spec.GetContainer(), spec.GetResources()
	for _, check := range []error{
		a.refuseMemory(r), a.refuseCaps(c.GetCapAdd()), a.refuseLimits(c.GetUlimits()), a.refuseSecurity(c.GetSecurityOpts()),
	} {
		if check != nil {
			return check
		}
	}
	if int(c.GetOomScoreAdj()) < a.OOMScore {
		return fault.New(fault.Invalid, "oom-score-adj %d: this node's minid may not go below %d, it lacks CAP_SYS_RESOURCE",
			c.GetOomScoreAdj(), a.OOMScore).WithTry("--oom-score-adj %d", a.OOMScore)
	}
	for _, m := range c.GetMounts() {
		if m.GetBindRecursion() == pb.Mount_BIND_RECURSION_READONLY && !a.RecursiveReadOnly {
			return fault.New(fault.Invalid, "mount %s: bind-recursive=readonly needs Linux 5.12, which this node has not", m.GetTarget()).
				WithTry("bind-recursive=enabled, which is read-only as far as the node can")
		}
	}
	return nil
}

func (a able) refuseMemory(r *pb.ResourceRequirements) error {
	switch {
	case r.GetMemorySwapBytes() != 0 && !a.Swap:
		return fault.New(fault.Invalid, "memory-swap: this node's kernel does not count swap per container").
			WithTry("boot it with swapaccount=1 or cgroup v2")
	case r != nil && r.MemorySwappiness != nil && !a.Swappiness:
		return fault.New(fault.Invalid, "memory-swappiness: this node's cgroup v2 has no such setting").
			WithTry("--memory-swappiness -1, with --memory-swap to limit swap")
	}
	return nil
}

func (a able) refuseCaps(add []string) error {
	names, err := capNames(add)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name != "ALL" && !a.may(name) {
			return fault.New(fault.Invalid, "capability %s: this node's minid does not have it itself", name).
				WithTry("constrain the service to nodes that can grant it")
		}
	}
	return nil
}

func (a able) refuseLimits(list []*pb.Ulimit) error {
	for _, u := range list {
		most, known := a.Limits[u.GetName()]
		switch {
		case !known:
			return fault.New(fault.Invalid, "ulimit %s: this node has no such limit", u.GetName())
		case uint64(u.GetHard()) > most && !a.may("CAP_SYS_RESOURCE"):
			return fault.New(fault.Invalid, "ulimit %s: this node's minid may not go above %d, it lacks CAP_SYS_RESOURCE", u.GetName(), most).
				WithTry("--ulimit %s=%d", u.GetName(), most)
		}
	}
	return nil
}

func (a able) refuseSecurity(options []string) error {
	s, err := securityOf(options)
	if err == nil && s.AppArmor != "" && !a.AppArmor {
		err = fault.New(fault.Invalid, "security-opt apparmor=%s: this node's kernel has no AppArmor", s.AppArmor).
			WithTry("constrain the service to nodes that have it")
	}
	return err
}
