package meter

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/minid/minid/proto/minid/v1"
)

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 900 9 0 0 0 0 0 0 900 9 0 0 0 0 0 0
  eth0: 100 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0
  eth1:2000 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0
mnlocal0: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0
`

// host makes files below proc and sys, and a meter that reads them.
func host(t *testing.T, files map[string]string) Meter {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Meter{Proc: filepath.Join(dir, "proc"), Sys: filepath.Join(dir, "sys")}
}

func same(t *testing.T, want, got *pb.Usage) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestTaskOnCgroupV1(t *testing.T) {
	m := host(t, map[string]string{
		"sys/fs/cgroup/cpuacct/minid/a/cpuacct.usage":        "123456789\n",
		"sys/fs/cgroup/memory/minid/a/memory.usage_in_bytes": "5000000\n",
		"sys/fs/cgroup/memory/minid/a/memory.stat":           "cache 9\ninactive_file 1\ntotal_inactive_file 1000000\n",
		"sys/fs/cgroup/memory/minid/a/memory.limit_in_bytes": "67108864\n",
		"sys/fs/cgroup/pids/minid/a/pids.current":            "12\n",
		"sys/fs/cgroup/pids/minid/a/cgroup.procs":            "41\n42\n43\n",
		"sys/fs/cgroup/cpu/minid/a/cpu.cfs_quota_us":         "50000\n",
		"sys/fs/cgroup/cpu/minid/a/cpu.cfs_period_us":        "100000\n",
		"proc/41/net/dev": netDev,
		"proc/41/io":      "rchar: 5\nwchar: 5\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 4096\n",
		"proc/42/io":      "read_bytes: 1\nwrite_bytes: 2\n",
		// 43 has just ended.
	})
	got, err := m.Task("/minid/a")
	if err != nil {
		t.Fatal(err)
	}
	same(t, &pb.Usage{CpuNs: 123456789, MemoryBytes: 4000000, MemoryLimitBytes: 64 << 20, Pids: 12, NanoCpus: 5e8,
		ReadBytes: 4097, WrittenBytes: 8194, ReceivedBytes: 2107, SentBytes: 217}, got)
}

func TestTaskOnCgroupV2(t *testing.T) {
	m := host(t, map[string]string{
		"sys/fs/cgroup/minid/a/cpu.stat":       "usage_usec 2500\nuser_usec 2000\nsystem_usec 500\n",
		"sys/fs/cgroup/minid/a/memory.current": "5000000\n",
		"sys/fs/cgroup/minid/a/memory.stat":    "anon 9\ninactive_file 1000000\n",
		"sys/fs/cgroup/minid/a/memory.max":     "max\n",
		"sys/fs/cgroup/minid/a/pids.current":   "3\n",
		"sys/fs/cgroup/minid/a/cgroup.procs":   "41\n",
		"sys/fs/cgroup/minid/a/cpu.max":        "150000 100000\n",
		"sys/fs/cgroup/minid/a/io.stat":        "8:0 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=7 dios=0\n259:1 rbytes=100 wbytes=200\n",
		"proc/41/net/dev":                      netDev,
		"proc/41/io":                           "read_bytes: 4096\n", // what io.stat has already
	})
	m.CgroupV2 = true
	got, err := m.Task("/minid/a")
	if err != nil {
		t.Fatal(err)
	}
	same(t, &pb.Usage{CpuNs: 2500000, MemoryBytes: 4000000, Pids: 3, NanoCpus: 15e8,
		ReadBytes: 110, WrittenBytes: 220, ReceivedBytes: 2107, SentBytes: 217}, got)
}

// Without a controller, or when the task is just ending, its numbers are 0.
func TestTaskWithoutControllers(t *testing.T) {
	for _, v2 := range []bool{false, true} {
		m := host(t, map[string]string{
			"sys/fs/cgroup/cpuacct/minid/a/cpuacct.usage": "7000\n",
			"sys/fs/cgroup/minid/a/cpu.stat":              "usage_usec 7\n",
		})
		m.CgroupV2 = v2
		got, err := m.Task("/minid/a")
		if err != nil {
			t.Fatal(err)
		}
		same(t, &pb.Usage{CpuNs: 7000}, got)
		if _, err := m.Task("/minid/b"); !Gone(err) {
			t.Errorf("v2 %t: a task that is gone: %v", v2, err)
		}
	}
	if !Gone(&fs.PathError{Op: "read", Err: unix.ENODEV}) || Gone(fs.ErrPermission) {
		t.Error("the wrong errors mean that a task is gone")
	}
}

func TestHost(t *testing.T) {
	files := map[string]string{
		"proc/stat":                "cpu  10 1 5 1000 70 2 3 40 8 0\ncpu0 5 0 0 0 0 0 0 0 0 0\ncpu1 5 1 5 0 0 2 3 0 8 0\nintr 7 8\nctxt 9\n",
		"proc/meminfo":             "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\n",
		"proc/loadavg":             "0.10 0.20 0.30 2/345 6789\n",
		"proc/diskstats":           "   7       0 loop0 1 0 99 0 1 0 99 0\n 254       0 vda 60 8 1000 28 77 14 2000 61 0 22 35 12\n 254       1 vda1 60 8 1000 28 77 14 2000 61\n",
		"proc/thread-self/net/dev": netDev,
		"sys/block/vda/device":     "",
		"sys/block/loop0/size":     "",
	}
	want := &pb.Usage{CpuNs: 210000000, NanoCpus: 2e9, MemoryBytes: 400 << 10, MemoryLimitBytes: 1000 << 10, Pids: 345,
		ReadBytes: 512000, WrittenBytes: 1024000, ReceivedBytes: 2100, SentBytes: 210}
	got, err := host(t, files).Host()
	if err != nil {
		t.Fatal(err)
	}
	same(t, want, got)
	files["sys/class/net/eth1/device"] = "" // now eth0 is seen to be software
	if got, err = host(t, files).Host(); err != nil {
		t.Fatal(err)
	}
	want.ReceivedBytes, want.SentBytes = 2000, 200
	same(t, want, got)
	if _, err := host(t, nil).Host(); err == nil {
		t.Error("a host without /proc has numbers")
	}
}

func TestLimits(t *testing.T) {
	for text, want := range map[string]uint64{"max\n": 0, "": 0, "9223372036854771712\n": 0, "4096\n": 4096} {
		if got := parseLimit(text); got != want {
			t.Errorf("limit %q is %d", text, got)
		}
	}
	for text, want := range map[string]int64{"max 100000\n": 0, "-1\n 100000\n": 0, "": 0, " ": 0, "5 0": 0, "250000 100000": 25e8, "1000 100000": 1e7} {
		if got := parseQuota(text); got != want {
			t.Errorf("quota %q is %d", text, got)
		}
	}
}

// The kernel's own files can be read.
func TestThisHost(t *testing.T) {
	u, err := Meter{Proc: "/proc", Sys: "/sys"}.Host()
	if err != nil {
		t.Fatal(err)
	}
	if u.CpuNs == 0 || u.NanoCpus == 0 || u.MemoryBytes == 0 || u.MemoryBytes > u.MemoryLimitBytes || u.Pids == 0 {
		t.Errorf("implausible: %v", u)
	}
}

// FuzzParse: whatever the files have, nothing panics, and nothing is more than
// what was read from.
func FuzzParse(f *testing.F) {
	for _, text := range []string{netDev, "cpu  1 2 3 4 5 6 7\ncpu0 1", "8:0 rbytes=1 wbytes", "-1 100000", "0.1 0.2 0.3 1/2 3", "MemTotal: 5 kB"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		all := func(string) bool { return true }
		parseNetDev(text, all)
		parseStat(text)
		parseIO(text)
		parseIOStat(text)
		parseDiskstats(text, all)
		parseThreads(text)
		if used, total := parseMeminfo(text); used > total {
			t.Errorf("%d of %d are used", used, total)
		}
		if parseQuota(text) < 0 || inUse(text, text, strings.TrimSpace(text)) > parseNumber(text) {
			t.Errorf("negative: %q", text)
		}
	})
}
