package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
)

// settingFlags are what a container asks of the kernel, by one value each.
func settingFlags() []flag {
	return []flag{
		scalar("init", "", "bool", "run a small init that reaps processes and passes signals on", boolean(func(s *pb.ServiceSpec) *bool { return &container(s).Init })),
		scalar("oom-score-adj", "", "int", "how soon the kernel kills it when memory is short, -1000 to 1000", setOOMScore),
		scalar("memory-swap", "", "bytes", "limit of memory and swap together (-1 is no limit of swap; default no swap)", setSwap),
		scalar("memory-swappiness", "", "int", "how soon its memory is swapped, 0 to 100 (-1 is the host's)", setSwappiness),
		scalar("shm-size", "", "bytes", "size of /dev/shm (default 64m)", bytes(func(s *pb.ServiceSpec) *int64 { return &container(s).ShmSizeBytes })),
	}
}

// settingLists are those of which there may be many.
func settingLists() []listFlag {
	return []listFlag{
		{"sysctl", "", "kernel setting KEY=VALUE", addSysctl, "key",
			func(s *pb.ServiceSpec, key string) error { delete(container(s).Sysctls, key); return nil }},
		{"ulimit", "", "resource limit such as nofile=SOFT[:HARD]", addUlimit, "name", removeUlimit},
		{"host", "", "line of /etc/hosts: NAME:ADDRESS", addHost, "name, or NAME:ADDRESS", removeHost},
		{"device", "", "device of the node such as /dev/fuse[:/dev/in-task[:rwm]]", addDevice, "path on the node", removeDevice},
		{"security-opt", "", "security option such as no-new-privileges, seccomp=unconfined or apparmor=PROFILE", addSecurity, "key", removeSecurity},
	}
}

func setOOMScore(s *pb.ServiceSpec, v string) error {
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < -1000 || n > 1000 {
		return fmt.Errorf("expected a number between -1000 and 1000")
	}
	container(s).OomScoreAdj = int32(n)
	return nil
}

func setSwap(s *pb.ServiceSpec, v string) error {
	if v == "-1" {
		resources(s).MemorySwapBytes = -1
		return nil
	}
	return bytes(func(s *pb.ServiceSpec) *int64 { return &resources(s).MemorySwapBytes })(s, v)
}

func setSwappiness(s *pb.ServiceSpec, v string) error {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < -1 || n > 100 {
		return fmt.Errorf("expected a number between 0 and 100, or -1 for the host's")
	}
	resources(s).MemorySwappiness = nil
	if n >= 0 {
		resources(s).MemorySwappiness = &n
	}
	return nil
}

func addSysctl(s *pb.ServiceSpec, v string, _ Environment) error {
	key, value, ok := strings.Cut(v, "=")
	if !ok || key == "" || value == "" {
		return fmt.Errorf("expected KEY=VALUE")
	}
	return AddLabel(&container(s).Sysctls, v)
}

// addUlimit reads NAME=SOFT[:HARD]; without a hard limit it is the soft one.
func addUlimit(s *pb.ServiceSpec, v string, _ Environment) error {
	name, limits, _ := strings.Cut(v, "=")
	softText, hardText, hasHard := strings.Cut(limits, ":")
	if !hasHard {
		hardText = softText
	}
	soft, softErr := ulimitNumber(softText)
	hard, hardErr := ulimitNumber(hardText)
	if name == "" || softErr != nil || hardErr != nil {
		return fmt.Errorf("expected NAME=SOFT[:HARD], where -1 is no limit")
	}
	c := container(s)
	limit := &pb.Ulimit{Name: name, Soft: soft, Hard: hard}
	if i := slices.IndexFunc(c.Ulimits, func(u *pb.Ulimit) bool { return u.Name == name }); i >= 0 {
		c.Ulimits[i] = limit
		return nil
	}
	c.Ulimits = append(c.Ulimits, limit)
	return nil
}

func ulimitNumber(v string) (int64, error) {
	if v == "unlimited" {
		return -1, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err == nil && n < -1 {
		err = strconv.ErrRange
	}
	return n, err
}

func removeUlimit(s *pb.ServiceSpec, name string) error {
	c := container(s)
	c.Ulimits = slices.DeleteFunc(c.Ulimits, func(u *pb.Ulimit) bool { return u.Name == name })
	return nil
}

// hostLine reads NAME:ADDRESS or NAME=ADDRESS, as docker does, into a line of
// /etc/hosts. What an address is, the managers say.
func hostLine(v string) (string, error) {
	i := strings.IndexAny(v, ":=")
	if i <= 0 || i == len(v)-1 {
		return "", fmt.Errorf("expected NAME:ADDRESS")
	}
	addr := v[i+1:]
	if inner, ok := strings.CutPrefix(addr, "["); ok {
		addr = strings.TrimSuffix(inner, "]")
	}
	return addr + " " + v[:i], nil
}

func addHost(s *pb.ServiceSpec, v string, _ Environment) error {
	line, err := hostLine(v)
	if err != nil {
		return err
	}
	if c := container(s); !slices.Contains(c.Hosts, line) {
		c.Hosts = append(c.Hosts, line)
	}
	return nil
}

// removeHost takes all lines of a name, or that of a name and address.
func removeHost(s *pb.ServiceSpec, v string) error {
	exact, err := hostLine(v)
	c := container(s)
	c.Hosts = slices.DeleteFunc(c.Hosts, func(line string) bool {
		if err == nil {
			return line == exact
		}
		return slices.Contains(strings.Fields(line)[1:], v)
	})
	return nil
}

func addDevice(s *pb.ServiceSpec, v string, _ Environment) error {
	source, _, _ := strings.Cut(v, ":")
	if source == "" {
		return fmt.Errorf("expected PATH[:PATH_IN_TASK[:rwm]]")
	}
	replaceKey(&container(s).Devices, v, ":")
	return nil
}

func removeDevice(s *pb.ServiceSpec, path string) error {
	removeKey(&container(s).Devices, path, ":")
	return nil
}

// addSecurity also reads no-new-privileges:true, docker's older spelling.
func addSecurity(s *pb.ServiceSpec, v string, _ Environment) error {
	if key, value, ok := strings.Cut(v, ":"); ok && !strings.Contains(key, "=") {
		v = key + "=" + value
	}
	if envKey(v) == "" {
		return fmt.Errorf("expected KEY or KEY=VALUE")
	}
	replaceKey(&container(s).SecurityOpts, v, "=")
	return nil
}

func removeSecurity(s *pb.ServiceSpec, v string) error {
	removeKey(&container(s).SecurityOpts, envKey(v), "=")
	return nil
}

// replaceKey adds a text in place of the one with the same beginning.
func replaceKey(list *[]string, text, separator string) {
	key, _, _ := strings.Cut(text, separator)
	for i, have := range *list {
		if has, _, _ := strings.Cut(have, separator); has == key {
			(*list)[i] = text
			return
		}
	}
	*list = append(*list, text)
}

// removeKey takes out a text, by all of it or by its beginning.
func removeKey(list *[]string, text, separator string) {
	*list = slices.DeleteFunc(*list, func(have string) bool {
		key, _, _ := strings.Cut(have, separator)
		return have == text || key == text
	})
}

// moveOrReset is moveCapability, which also knows that ALL includes the others,
// and docker's RESET: it empties the list, so that what follows begins from the
// defaults.
func moveOrReset(on, off *[]string, name string) {
	reset, all := strings.EqualFold(name, "RESET"), strings.EqualFold(name, "ALL")
	if reset || all {
		*on = nil
	}
	if !reset {
		moveCapability(on, off, name)
	}
}

// logDriver takes the names of what minid has instead of drivers: all logs are
// files on their node, from where `service logs` reads them.
func logDriver(_ *pb.ServiceSpec, v string) error {
	switch v {
	case "minid", "json-file", "local":
		return nil
	case "none":
		return fmt.Errorf("minid keeps every task's log, in little space: say --log-opt max-size=4k --log-opt max-file=1")
	}
	return fmt.Errorf("minid keeps logs itself, as rotated files on the node: json-file, local and minid mean these")
}
