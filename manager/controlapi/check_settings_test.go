package controlapi

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Each row asks for something that no node can give; the error says what is
// wrong, why, and what to do.
func TestSettingsThatAreRefused(t *testing.T) {
	swappiness := int64(101)
	container := func(c *pb.ContainerSpec) *pb.TaskSpec { return &pb.TaskSpec{Container: c} }
	resources := func(r *pb.ResourceRequirements) *pb.TaskSpec {
		return &pb.TaskSpec{Container: &pb.ContainerSpec{Init: true}, Resources: r}
	}
	host := func(line string) *pb.TaskSpec { return container(&pb.ContainerSpec{Hosts: []string{line}}) }
	sysctl := func(name, value string) *pb.TaskSpec {
		return container(&pb.ContainerSpec{Sysctls: map[string]string{name: value}})
	}
	ulimit := func(list ...*pb.Ulimit) *pb.TaskSpec { return container(&pb.ContainerSpec{Ulimits: list}) }
	device := func(list ...string) *pb.TaskSpec { return container(&pb.ContainerSpec{Devices: list}) }
	security := func(list ...string) *pb.TaskSpec { return container(&pb.ContainerSpec{SecurityOpts: list}) }
	mount := func(m *pb.Mount) *pb.TaskSpec {
		m.Target = "/d"
		return container(&pb.ContainerSpec{Mounts: []*pb.Mount{m}})
	}
	const bind, volume, tmpfs = pb.Mount_TYPE_BIND, pb.Mount_TYPE_VOLUME, pb.Mount_TYPE_TMPFS
	for _, row := range []struct {
		want string
		spec *pb.TaskSpec
	}{
		{"limit-pids: 15 are too few with an init", resources(&pb.ResourceRequirements{LimitPids: 15})},
		{"memory-swap: it is for memory and swap", resources(&pb.ResourceRequirements{MemorySwapBytes: -1})},
		{"memory-swap: 8388608 bytes of memory and", resources(&pb.ResourceRequirements{LimitMemoryBytes: 16 << 20, MemorySwapBytes: 8 << 20})},
		{"memory-swap: -2 bytes", resources(&pb.ResourceRequirements{LimitMemoryBytes: 16 << 20, MemorySwapBytes: -2})},
		{"memory-swappiness: 101 is not between", resources(&pb.ResourceRequirements{MemorySwappiness: &swappiness})},
		{`host "10.0.0.1": it must be an address`, host("10.0.0.1")},
		{`host "10.0.0.1  db"`, host("10.0.0.1  db")},
		{`host "10.0.0.1 db\n::1 x": it must be`, host("10.0.0.1 db\n::1 x")},
		{`host db: "10.0.0" is no IP address`, host("10.0.0 db")},
		{`host "d/b": it is no name of a host`, host("10.0.0.1 d/b")},
		{`sysctl "net/../kernel/core_pattern": it is no name`, sysctl("net/../kernel/core_pattern", "x")},
		{`sysctl "net..x": it is no name`, sysctl("net..x", "1")},
		{"sysctl vm.swappiness: it is the whole node's", sysctl("vm.swappiness", "1")},
		{"sysctl kernel.core_pattern: it is the whole", sysctl("kernel.core_pattern", "1")},
		{"sysctl net.a: its value is empty", sysctl("net.a", "")},
		{`ulimit "files": there is no such limit`, ulimit(&pb.Ulimit{Name: "files"})},
		{"ulimit core: it is given twice", ulimit(&pb.Ulimit{Name: "core"}, &pb.Ulimit{Name: "core"})},
		{"ulimit core: -2 is negative", ulimit(&pb.Ulimit{Name: "core", Soft: -2})},
		{"ulimit core: the soft limit 2 is above", ulimit(&pb.Ulimit{Name: "core", Soft: 2, Hard: 1})},
		{"ulimit core: the soft limit -1 is above", ulimit(&pb.Ulimit{Name: "core", Soft: -1, Hard: 1})},
		{"oom-score-adj: 1001 is not between", container(&pb.ContainerSpec{OomScoreAdj: 1001})},
		{"oom-score-adj: -1001 is not between", container(&pb.ContainerSpec{OomScoreAdj: -1001})},
		{`device "dev/fuse": it must be a path`, device("dev/fuse")},
		{`device "/dev/fuse:/": it must be a path`, device("/dev/fuse:/")},
		{`device "/dev/a:/dev/b:rw:x"`, device("/dev/a:/dev/b:rw:x")},
		{`device "/dev/a:/dev/b:x": its access "x"`, device("/dev/a:/dev/b:x")},
		{`device "/dev/b:/dev//a": another device has`, device("/dev/a", "/dev/b:/dev//a")},
		{"shm-size: -1 is negative", container(&pb.ContainerSpec{ShmSizeBytes: -1})},
		{"seccomp=/p.json: minid has no profiles", security("seccomp=/p.json")},
		{"label=disable: minid does not label", security("label=disable")},
		{"no-new-privileges=x: it is true or false", security("no-new-privileges=x")},
		{"apparmor=: the profile's name is missing", security("apparmor=")},
		{"security-opt fly: there is no such option", security("fly")},
		{"seccomp is given twice", security("seccomp=builtin", "seccomp=unconfined")},
		{"bind-recursive and bind-create-src are only", mount(&pb.Mount{Type: volume, BindCreateSource: true})},
		{"bind-recursive and bind-create-src are only", mount(&pb.Mount{Type: tmpfs, BindRecursion: 1})},
		{"there is no bind-recursive 9", mount(&pb.Mount{Type: bind, Source: "/s", BindRecursion: 9})},
		{"bind-recursive=writable and readonly are for", mount(&pb.Mount{Type: bind, Source: "/s", BindRecursion: pb.Mount_BIND_RECURSION_WRITABLE})},
		{"bind-recursive=readonly cannot hold", mount(&pb.Mount{Type: bind, Source: "/s", ReadOnly: true, BindPropagation: "rslave", BindRecursion: pb.Mount_BIND_RECURSION_READONLY})},
		{"volume-nocopy and volume-subpath are only", mount(&pb.Mount{Type: bind, Source: "/s", VolumeSubpath: "x"})},
		{"volume-subpath is part of a volume with a name", mount(&pb.Mount{Type: volume, VolumeSubpath: "x"})},
		{`volume-subpath "../x" must be a path within`, mount(&pb.Mount{Type: volume, Source: "v", VolumeSubpath: "../x"})},
		{`volume-subpath "/x" must be a path within`, mount(&pb.Mount{Type: volume, Source: "v", VolumeSubpath: "/x"})},
		{`volume-subpath "a/../x" must be`, mount(&pb.Mount{Type: volume, Source: "v", VolumeSubpath: "a/../x"})},
	} {
		err := firstOf(checkContainer(row.spec.Container), checkLimits(row.spec.Container, row.spec.Resources))
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("error %v, want %q", err, row.want)
			continue
		}
		// Options of the wrong type of mount say in themselves what to leave out.
		if fault.TryOf(err) == "" && !strings.Contains(err.Error(), "only for type=") {
			t.Errorf("%v: nothing to try", err)
		}
	}
}

func TestSettingsThatAreTaken(t *testing.T) {
	swappiness := int64(0)
	spec := &pb.TaskSpec{
		Container: &pb.ContainerSpec{
			Init: true, OomScoreAdj: -1000, ShmSizeBytes: 1,
			Hosts:        []string{"10.0.0.1 db db_2.example", "fd00::1 six"},
			Sysctls:      map[string]string{"net.ipv4.conf.eth0.rp_filter": "0", "kernel.sem": "250 32000 100 128", "fs.mqueue.msg_max": "10", "kernel.shm_rmid_forced": "1"},
			Ulimits:      []*pb.Ulimit{{Name: "nofile", Soft: 1, Hard: -1}, {Name: "core", Soft: -1, Hard: -1}, {Name: "rtprio"}},
			Devices:      []string{"/dev/fuse", "/dev/null:r", "/dev/zero:/dev/nought:rw"},
			SecurityOpts: []string{"no-new-privileges", "seccomp=unconfined", "apparmor=docker-default"},
			Mounts: []*pb.Mount{
				{Type: pb.Mount_TYPE_BIND, Source: "/s", Target: "/a", ReadOnly: true, BindCreateSource: true, BindRecursion: pb.Mount_BIND_RECURSION_READONLY, BindPropagation: "rprivate"},
				{Type: pb.Mount_TYPE_VOLUME, Source: "v", Target: "/b", VolumeSubpath: "x/..y"},
			},
		},
		Resources: &pb.ResourceRequirements{LimitPids: 16, LimitMemoryBytes: 16 << 20, MemorySwapBytes: 16 << 20, MemorySwappiness: &swappiness},
	}
	if err := firstOf(checkContainer(spec.Container), checkLimits(spec.Container, spec.Resources)); err != nil {
		t.Error(err)
	}
}

func TestDevicesAreSpeltOut(t *testing.T) {
	for given, want := range map[string]string{
		"/dev/fuse":            "/dev/fuse:/dev/fuse:rwm",
		"/dev/fuse:r":          "/dev/fuse:/dev/fuse:r",
		"/dev/fuse:/dev/x":     "/dev/fuse:/dev/x:rwm",
		"/dev/fuse:/dev/x:rw":  "/dev/fuse:/dev/x:rw",
		"/dev/a:/dev/b:rwm:r":  "/dev/a:/dev/b:rwm:r",
		"/dev/fuse:/dev/x:foo": "/dev/fuse:/dev/x:foo",
	} {
		if diff := cmp.Diff(want, normalDevice(given)); diff != "" || normalDevice(want) != want {
			t.Errorf("%s: %s", given, diff)
		}
	}
}
