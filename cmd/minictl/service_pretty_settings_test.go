package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"

	pb "github.com/minid/minid/proto/minid/v1"
)

func TestPrettySettings(t *testing.T) {
	var s pb.TaskSpec
	err := prototext.Unmarshal([]byte(`
		container {
			init: true read_only: true groups: "wheel" cap_add: "CAP_NET_ADMIN" cap_drop: "ALL" oom_score_adj: -5 shm_size_bytes: 1048576
			security_opts: "no-new-privileges" sysctls { key: "net.b" value: "2" } sysctls { key: "net.a" value: "1" }
			ulimits { name: "nofile" soft: 1 hard: -1 } devices: "/dev/fuse:/dev/fuse:rwm" hosts: "10.0.0.1 db"
		}
		resources { memory_swap_bytes: -1 memory_swappiness: 0 }
		log { max_size_bytes: 1048576 }`), &s)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	p := prettyPrinter{&out}
	prettySettings(p, s.Container)
	prettySwap(p, s.Resources)
	prettyLog(p, s.Log)
	want := []string{
		"Init: true", "Read-only Root: true", "Groups: wheel", "Added Caps: CAP_NET_ADMIN", "Dropped Caps: ALL",
		"Security Options: no-new-privileges", "OOM Score: -5", "Shm Size: 1MiB", "Sysctl: net.a=1", "Sysctl: net.b=2",
		"Ulimit: nofile=1:-1", "Device: /dev/fuse:/dev/fuse:rwm", "Host: 10.0.0.1 db",
		"Limit Memory+Swap: no limit of swap", "Swappiness: 0", "Log: 3 files of 1MiB",
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	out.Reset()
	prettySettings(p, &pb.ContainerSpec{})
	prettySwap(p, nil)
	prettyLog(p, nil)
	if out.Len() > 0 {
		t.Errorf("what is not set is shown:\n%s", &out)
	}
}

func TestMountText(t *testing.T) {
	for text, m := range map[string]*pb.Mount{
		"volume data -> /data":                                           {Type: pb.Mount_TYPE_VOLUME, Source: "data", Target: "/data"},
		"volume data/sub -> /data (read-only, not filled)":               {Type: pb.Mount_TYPE_VOLUME, Source: "data", Target: "/data", VolumeSubpath: "sub", VolumeNoCopy: true, ReadOnly: true},
		"bind /a -> /b (rslave, recursion disabled, made where missing)": {Type: pb.Mount_TYPE_BIND, Source: "/a", Target: "/b", BindPropagation: "rslave", BindRecursion: 1, BindCreateSource: true},
		"tmpfs -> /t (size 1MiB, mode 0700)":                             {Type: pb.Mount_TYPE_TMPFS, Target: "/t", TmpfsSizeBytes: 1 << 20, TmpfsMode: 0o700},
	} {
		if got := mountText(m); got != text {
			t.Errorf("%q, want %q", got, text)
		}
	}
}
