package spec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/minid/minid/fault"
)

func TestSettingsOfNewServices(t *testing.T) {
	for args, want := range map[string]string{
		"--init --oom-score-adj -500 --shm-size 1m": `task { container { init: true oom_score_adj: -500 shm_size_bytes: 1048576 } }`,
		"--init=false":                                        ``,
		"--limit-memory 1m --memory-swap 2m":                  `task { resources { limit_memory_bytes: 1048576 memory_swap_bytes: 2097152 } }`,
		"--memory-swap -1 --memory-swappiness 0":              `task { resources { memory_swap_bytes: -1 memory_swappiness: 0 } }`,
		"--memory-swappiness -1 --memory-swap 0":              ``,
		"--sysctl net.core.somaxconn=9 --sysctl kernel.sem=1": `task { container { sysctls { key: "net.core.somaxconn" value: "9" } sysctls { key: "kernel.sem" value: "1" } } }`,
		"--ulimit nofile=1:2 --ulimit core=-1 --ulimit nofile=5 --ulimit stack=1:unlimited": `task { container {
			ulimits { name: "nofile" soft: 5 hard: 5 } ulimits { name: "core" soft: -1 hard: -1 } ulimits { name: "stack" soft: 1 hard: -1 } } }`,
		"--host db:10.0.0.1 --host db=10.0.0.2 --host six:[fd00::1] --host seven:fd00::2 --host db:10.0.0.1": `task { container {
			hosts: "10.0.0.1 db" hosts: "10.0.0.2 db" hosts: "fd00::1 six" hosts: "fd00::2 seven" } }`,
		"--device /dev/fuse --device /dev/a:/dev/b:rw --device /dev/fuse:r":                                     `task { container { devices: "/dev/fuse:r" devices: "/dev/a:/dev/b:rw" } }`,
		"--security-opt no-new-privileges:true --security-opt seccomp=unconfined --security-opt apparmor=a://b": `task { container { security_opts: "no-new-privileges=true" security_opts: "seccomp=unconfined" security_opts: "apparmor=a://b" } }`,
		"--log-driver minid": ``,
		"--cap-add chown --cap-add RESET --cap-add net_admin":                                           `task { container { cap_add: "CAP_NET_ADMIN" } }`,
		"--mount type=bind,src=/a,dst=/b,ro,bind-recursive=readonly,bind-create-src,consistency=cached": `task { container { mounts { type: TYPE_BIND source: "/a" target: "/b" read_only: true bind_recursion: BIND_RECURSION_READONLY bind_create_source: true } } }`,
		"--mount type=bind,src=/a,dst=/b,bind-nonrecursive --mount type=bind,src=/a,dst=/c,bind-recursive=enabled": `task { container {
			mounts { type: TYPE_BIND source: "/a" target: "/b" bind_recursion: BIND_RECURSION_DISABLED } mounts { type: TYPE_BIND source: "/a" target: "/c" } } }`,
		"--mount src=v,dst=/b,volume-driver=local,volume-subpath=x/y": `task { container { mounts { type: TYPE_VOLUME source: "v" target: "/b" volume_subpath: "x/y" } } }`,
	} {
		got, err := createFrom(t, strings.Fields(args)...)
		if err != nil {
			t.Errorf("create %s: %v", args, err)
			continue
		}
		if diff := cmp.Diff(created(t, want), got, protocmp.Transform()); diff != "" {
			t.Errorf("create %s (-want +got):\n%s", args, diff)
		}
	}
}

func TestSettingsOfServicesThatAreThere(t *testing.T) {
	for _, test := range []struct{ old, args, want string }{
		{`init: true oom_score_adj: 5 shm_size_bytes: 9`, "--init=false --oom-score-adj 0 --shm-size 0", ``},
		{`sysctls { key: "a.b" value: "1" } sysctls { key: "c.d" value: "2" }`, "--sysctl-rm a.b --sysctl-add c.d=3", `sysctls { key: "c.d" value: "3" }`},
		{`ulimits { name: "core" } ulimits { name: "cpu" }`, "--ulimit-rm core --ulimit-add cpu=7", `ulimits { name: "cpu" soft: 7 hard: 7 }`},
		{`hosts: "10.0.0.1 db" hosts: "10.0.0.2 db" hosts: "10.0.0.3 web"`, "--host-rm db --host-add web:10.0.0.4", `hosts: "10.0.0.3 web" hosts: "10.0.0.4 web"`},
		{`hosts: "10.0.0.1 db" hosts: "10.0.0.2 db"`, "--host-rm db:10.0.0.1", `hosts: "10.0.0.2 db"`},
		{`devices: "/dev/a:/dev/a:rwm" devices: "/dev/b:/dev/b:rwm"`, "--device-rm /dev/a --device-add /dev/b:r", `devices: "/dev/b:r"`},
		{`devices: "/dev/a:/dev/a:rwm"`, "--device-rm /dev/a:/dev/a:rwm", ``},
		{`security_opts: "no-new-privileges" security_opts: "seccomp=unconfined"`, "--security-opt-rm no-new-privileges --security-opt-add seccomp=builtin", `security_opts: "seccomp=builtin"`},
		{`security_opts: "seccomp=unconfined"`, "--security-opt-rm seccomp=unconfined", ``},
		{`cap_add: "CAP_KILL" cap_drop: "ALL"`, "--cap-drop RESET --cap-add ALL", `cap_add: "ALL"`},
	} {
		got, err := updateFrom(t, parse(t, `task { container { `+test.old+` } }`), strings.Fields(test.args)...)
		if err != nil {
			t.Errorf("update %s: %v", test.args, err)
			continue
		}
		if diff := cmp.Diff(parse(t, `task { container { `+test.want+` } }`), got, protocmp.Transform()); diff != "" {
			t.Errorf("update %s (-want +got):\n%s", test.args, diff)
		}
	}
	// What is taken back leaves no empty part that would replace the tasks.
	got, err := updateFrom(t, parse(t, `task { resources { memory_swap_bytes: -1 memory_swappiness: 9 } }`), "--memory-swap", "0", "--memory-swappiness", "-1")
	if err != nil || got.Task.Resources != nil {
		t.Errorf("resources %v, %v", got.GetTask().GetResources(), err)
	}
}

func TestBadSettings(t *testing.T) {
	for _, args := range [][]string{
		{"--init=perhaps"}, {"--oom-score-adj", "1001"}, {"--oom-score-adj", "x"}, {"--memory-swap", "-2"}, {"--memory-swappiness", "101"}, {"--memory-swappiness", "-2"}, {"--shm-size", "-1"},
		{"--sysctl", "a"}, {"--sysctl", "a="}, {"--sysctl", "=1"}, {"--ulimit", "core"}, {"--ulimit", "core=x"}, {"--ulimit", "core=1:"}, {"--ulimit", "=1"}, {"--ulimit", "core=-2"},
		{"--host", "db"}, {"--host", ":10.0.0.1"}, {"--host", "db:"}, {"--device", ""}, {"--device", ":/dev/a"}, {"--security-opt", ""}, {"--security-opt", "=x"},
		{"--log-driver", "none"}, {"--log-driver", "syslog"}, {"--log-opt", "max-file=x"},
		{"--mount", "src=v,dst=/b,volume-driver=nfs"}, {"--mount", "src=v,dst=/b,volume-opt=a=b"}, {"--mount", "src=v,dst=/b,volume-label=a=b"}, {"--mount", "src=v,dst=/b,consistency=x"},
		{"--mount", "src=v,dst=/b,bind-recursive=disabled"}, {"--mount", "type=bind,src=/v,dst=/b,bind-recursive=x"}, {"--mount", "type=bind,src=/v,dst=/b,volume-subpath=x"}, {"--mount", "src=v,dst=/b,bind-create-src"},
	} {
		if s, err := createFrom(t, args...); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "invalid --") {
			t.Errorf("create %q made %v, %v", args, s, err)
		}
	}
}
