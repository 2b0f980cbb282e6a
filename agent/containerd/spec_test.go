package containerd

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// roomy is a host that can do everything.
func roomy(v2 bool) host {
	return host{CgroupV2: v2, Seccomp: true, MaxFiles: 1 << 20, Able: able{
		Caps: allCaps, Limits: map[string]uint64{"nofile": 1 << 20, "core": 1 << 62}, OOMScore: -1000,
		Swap: true, Swappiness: !v2, AppArmor: true, RecursiveReadOnly: true,
	}}
}

func inputOf(h host, spec *pb.TaskSpec) specInput {
	return specInput{
		Wanted: &task.Wanted{ID: "t1", Spec: spec}, NetNS: "/run/netns/x", Host: h,
		Image: &image{Name: "web:1", Config: ocispec.ImageConfig{Entrypoint: []string{"/web"}, Cmd: []string{"serve"}}},
	}
}

func made(t *testing.T, in specInput) *specs.Spec {
	t.Helper()
	s, err := ociSpec(in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSettingsInTheOCISpec(t *testing.T) {
	swappiness := int64(0)
	for _, v2 := range []bool{false, true} {
		spec := &pb.TaskSpec{
			Container: &pb.ContainerSpec{
				Init: true, Args: []string{"now"}, OomScoreAdj: 500, ReadOnly: true, ShmSizeBytes: 1 << 20,
				Sysctls:      map[string]string{"net.core.somaxconn": "99"},
				Ulimits:      []*pb.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}, {Name: "core", Soft: -1, Hard: -1}},
				SecurityOpts: []string{"no-new-privileges", "seccomp=unconfined", "apparmor=mine"},
			},
			Resources: &pb.ResourceRequirements{LimitMemoryBytes: 64 << 20, MemorySwapBytes: -1, LimitPids: 9},
		}
		if !v2 {
			spec.Resources.MemorySwappiness = &swappiness
		}
		in := inputOf(roomy(v2), spec)
		in.Devices = devices{
			Nodes: []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 1, Minor: 3}},
			Rules: []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Access: "rw"}},
		}
		s := made(t, in)
		want := map[string]any{
			"args": []string{initTarget, "/web", "now"}, "oom": 500, "read-only": true,
			"sysctl":  map[string]string{"net.core.somaxconn": "99"},
			"rlimits": []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}, {Type: "RLIMIT_CORE", Soft: 1<<64 - 1, Hard: 1<<64 - 1}},
			"nnp":     true, "apparmor": "mine", "seccomp": false,
			"devices": in.Devices.Nodes, "rules": append([]specs.LinuxDeviceCgroup{{Access: "rwm"}}, in.Devices.Rules...),
			"memory": int64(64 << 20), "swap": int64(-1), "pids": int64(9), "shm": "size=1048576",
		}
		shm := s.Mounts[3]
		got := map[string]any{
			"args": s.Process.Args, "oom": *s.Process.OOMScoreAdj, "read-only": s.Root.Readonly,
			"sysctl": s.Linux.Sysctl, "rlimits": s.Process.Rlimits,
			"nnp": s.Process.NoNewPrivileges, "apparmor": s.Process.ApparmorProfile, "seccomp": s.Linux.Seccomp != nil,
			"devices": s.Linux.Devices, "rules": s.Linux.Resources.Devices,
			"memory": *s.Linux.Resources.Memory.Limit, "swap": *s.Linux.Resources.Memory.Swap, "pids": *s.Linux.Resources.Pids.Limit,
			"shm": shm.Options[len(shm.Options)-1],
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("cgroup v2 %t (-want +got):\n%s", v2, diff)
		}
		if given := s.Linux.Resources.Memory.Swappiness; (given != nil) == v2 || given != nil && *given != 0 {
			t.Errorf("cgroup v2 %t: swappiness %v", v2, given)
		}
	}
}

func TestDefaultsOfTheOCISpec(t *testing.T) {
	s := made(t, inputOf(roomy(true), &pb.TaskSpec{Container: &pb.ContainerSpec{}, Resources: &pb.ResourceRequirements{LimitMemoryBytes: 64 << 20}}))
	if got := s.Process.Rlimits; len(got) != 1 || got[0] != (specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 65536, Hard: 1 << 20}) {
		t.Errorf("rlimits %v", got)
	}
	if s.Process.NoNewPrivileges || s.Linux.Seccomp == nil || *s.Process.OOMScoreAdj != 0 || s.Linux.RootfsPropagation != "" {
		t.Errorf("process %+v", s.Process)
	}
	if m := s.Linux.Resources.Memory; *m.Swap != 64<<20 || m.Swappiness != nil {
		t.Errorf("memory %+v", m)
	}
	if !cmp.Equal(s.Process.Args, []string{"/web", "serve"}) {
		t.Errorf("args %q", s.Process.Args)
	}
	if got := s.Mounts[3].Options; got[len(got)-1] != "size=67108864" {
		t.Errorf("/dev/shm %v", got)
	}
	without := roomy(false)
	without.Able.Swap = false
	if m := memoryOf(&pb.ResourceRequirements{LimitMemoryBytes: 64 << 20}, without.Able.Swap); m.Swap != nil {
		t.Errorf("swap is limited where it is not counted: %d", *m.Swap)
	}
}

func TestCapabilities(t *testing.T) {
	some := capSet{"CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN"}
	for _, test := range []struct {
		add, drop []string
		grantable capSet
		want      capSet
	}{
		{nil, nil, some, capSet{"CAP_CHOWN", "CAP_KILL"}},
		{[]string{"ALL"}, nil, some, some},
		{[]string{"all"}, []string{"kill"}, some, capSet{"CAP_CHOWN", "CAP_NET_ADMIN"}},
		{[]string{"net_admin"}, []string{"ALL"}, allCaps, capSet{"CAP_NET_ADMIN"}},
		{nil, []string{"ALL"}, allCaps, nil},
	} {
		got, err := capabilities(test.add, test.drop, test.grantable)
		if err != nil || !cmp.Equal(test.want, got) {
			t.Errorf("+%v -%v: %v, %v; want %v", test.add, test.drop, got, err, test.want)
		}
	}
	if _, err := capabilities([]string{"FLY"}, nil, some); !fault.Is(err, fault.Invalid) {
		t.Errorf("unknown capability: %v", err)
	}
}

// What a poor node refuses, and what its user can do.
func TestRefusals(t *testing.T) {
	poor := able{Caps: capSet{"CAP_CHOWN"}, Limits: map[string]uint64{"nofile": 100}, OOMScore: 200}
	swappiness := int64(10)
	container := func(c *pb.ContainerSpec) *pb.TaskSpec { return &pb.TaskSpec{Container: c} }
	resources := func(r *pb.ResourceRequirements) *pb.TaskSpec {
		return &pb.TaskSpec{Container: &pb.ContainerSpec{OomScoreAdj: 200}, Resources: r}
	}
	for want, spec := range map[string]*pb.TaskSpec{
		"memory-swap: this node's kernel":            resources(&pb.ResourceRequirements{MemorySwapBytes: -1}),
		"memory-swappiness: this node's cgroup v2":   resources(&pb.ResourceRequirements{MemorySwappiness: &swappiness}),
		"capability CAP_NET_ADMIN: this node":        container(&pb.ContainerSpec{CapAdd: []string{"NET_ADMIN"}}),
		"ulimit nofile: this node's minid may not":   container(&pb.ContainerSpec{Ulimits: []*pb.Ulimit{{Name: "nofile", Soft: 1, Hard: 101}}}),
		"ulimit core: this node has no such limit":   container(&pb.ContainerSpec{Ulimits: []*pb.Ulimit{{Name: "core"}}}),
		"apparmor=x: this node's kernel has no":      container(&pb.ContainerSpec{SecurityOpts: []string{"apparmor=x"}}),
		"security-opt label=x: this node's minid":    container(&pb.ContainerSpec{SecurityOpts: []string{"label=x"}}),
		"oom-score-adj 199: this node's minid":       container(&pb.ContainerSpec{OomScoreAdj: 199}),
		"bind-recursive=readonly needs Linux 5.12":   container(&pb.ContainerSpec{OomScoreAdj: 200, Mounts: []*pb.Mount{{BindRecursion: pb.Mount_BIND_RECURSION_READONLY}}}),
		"ulimit nofile: this node's minid may not g": container(&pb.ContainerSpec{Ulimits: []*pb.Ulimit{{Name: "nofile", Soft: -1, Hard: -1}}}),
	} {
		if err := poor.refusal(spec); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	fits := container(&pb.ContainerSpec{
		OomScoreAdj: 200, CapAdd: []string{"ALL"}, Ulimits: []*pb.Ulimit{{Name: "nofile", Soft: 1, Hard: 100}},
		SecurityOpts: []string{"apparmor=unconfined", "no-new-privileges=false", "seccomp=builtin"},
	})
	if err := poor.refusal(fits); err != nil {
		t.Error(err)
	}
	for _, spec := range []*pb.TaskSpec{fits, {}, resources(&pb.ResourceRequirements{MemorySwapBytes: 1, MemorySwappiness: &swappiness})} {
		if err := roomy(false).Able.refusal(spec); err != nil {
			t.Error(err)
		}
	}
}

func TestSecurity(t *testing.T) {
	for text, want := range map[string]security{
		"":                        {},
		"no-new-privileges":       {NoNewPrivileges: true},
		"no-new-privileges=true":  {NoNewPrivileges: true},
		"no-new-privileges=false": {},
		"seccomp=unconfined seccomp=builtin apparmor=x apparmor=unconfined": {},
		"seccomp=unconfined apparmor=x":                                     {SeccompUnconfined: true, AppArmor: "x"},
	} {
		if got, err := securityOf(strings.Fields(text)); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestDevicesOf(t *testing.T) {
	got, err := devicesOf([]string{"/dev/null", "/dev/zero:/dev/nought:r"})
	if err != nil {
		t.Fatal(err)
	}
	if n := got.Nodes; n[0].Path != "/dev/null" || n[0].Type != "c" || n[0].Major != 1 || n[0].Minor != 3 || n[1].Path != "/dev/nought" || n[1].Minor != 5 {
		t.Errorf("devices %+v", n)
	}
	if r := got.Rules; r[0].Access != "rwm" || r[1].Access != "r" || !r[1].Allow || *r[1].Minor != 5 {
		t.Errorf("rules %+v", r)
	}
	for _, missing := range []string{"/dev/no-such-thing", "/etc/passwd", "/dev"} {
		if _, err := devicesOf([]string{missing}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", missing, err)
		}
	}
}

func TestBindOptions(t *testing.T) {
	const disabled, writable, readonly = pb.Mount_BIND_RECURSION_DISABLED, pb.Mount_BIND_RECURSION_WRITABLE, pb.Mount_BIND_RECURSION_READONLY
	for _, test := range []struct {
		m    *pb.Mount
		able bool
		want string
	}{
		{&pb.Mount{}, true, "rbind rprivate rw"},
		{&pb.Mount{ReadOnly: true}, true, "rbind rprivate rro"},
		{&pb.Mount{ReadOnly: true}, false, "rbind rprivate ro"},
		{&pb.Mount{ReadOnly: true, BindRecursion: writable}, true, "rbind rprivate ro"},
		{&pb.Mount{ReadOnly: true, BindRecursion: readonly}, true, "rbind rprivate rro"},
		{&pb.Mount{ReadOnly: true, BindRecursion: disabled}, true, "bind rprivate ro"},
		{&pb.Mount{BindRecursion: disabled, BindPropagation: "rslave"}, true, "bind rslave rw"},
	} {
		if got := strings.Join(bindOptions(test.m, test.able), " "); got != test.want {
			t.Errorf("%v: %q, want %q", test.m, got, test.want)
		}
	}
	if got := rootPropagation([]specs.Mount{{Options: []string{"rbind", "rslave"}}, {Options: []string{"rbind", "rshared"}}}); got != "shared" {
		t.Errorf("root propagation %q", got)
	}
}
