package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minid/minid/integration/cluster"
)

// TestSettingsReachTheProcess asks the kernel what a task's process got.
func TestSettingsReachTheProcess(t *testing.T) {
	w := sharedSwarm(t)
	_, via, worker := w.names(t)
	envFile := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(envFile, []byte("# comment\nFROM_FILE=two words\n\nBOTH=file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tasks := w.create(t, via, service{name: "settings", flags: []string{
		"--constraint", "node.hostname==" + worker.Name, "--env-file", envFile, "--env", "BOTH=flag",
		"--env", "WHERE={{.Node.Hostname}}/{{.Service.Name}}.{{.Task.Slot}}", "--hostname", "{{.Service.Name}}-{{.Task.Slot}}-on-{{.Node.Hostname}}",
		"--entrypoint", "sample serve", "--user", "1000:50", "--group", "1234", "--workdir", "/tmp", "--tty", "--read-only",
		"--cap-add", "NET_ADMIN", "--cap-drop", "CAP_CHOWN", "--limit-cpu", "0.5", "--limit-memory", "64m", "--limit-pids", "50",
		"--container-label", "planted=label-in-the-container", "--mount", "type=tmpfs,target=/scratch,tmpfs-size=1m,tmpfs-mode=1777",
	}, command: []string{":9999"}})
	c := w.pick(t, "settings")

	proc := func(file string) string { return readFile(t, fmt.Sprintf("/proc/%d/%s", c.pid, file)) }
	says(t, "environment", strings.ReplaceAll(proc("environ"), "\x00", "\n")+"\n", "FROM_FILE=two words\n", "BOTH=flag\n",
		"WHERE="+worker.Name+"/settings.1\n", "HOSTNAME=settings-1-on-"+worker.Name+"\n", "TERM=xterm\n")
	if got, want := proc("cmdline"), "sample\x00serve\x00:9999\x00"; got != want {
		t.Errorf("command line %q, not %q", got, want)
	}
	status := proc("status")
	says(t, "process status", status, "Uid:\t1000\t1000", "Gid:\t50\t50", "Groups:\t1234", "Seccomp:\t2")
	bounding, err := strconv.ParseUint(field(status, "CapBnd:"), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bit  uint
		want bool
	}{"CHOWN": {0, false}, "NET_ADMIN": {12, true}, "SYS_ADMIN": {21, false}, "NET_BIND_SERVICE": {10, true}} {
		if got := bounding>>c.bit&1 == 1; got != c.want {
			t.Errorf("capability %s: %t, not %t", name, got, c.want)
		}
	}
	if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", c.pid)); err != nil || dir != "/tmp" {
		t.Errorf("working directory %q, %v", dir, err)
	}
	if out, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/1", c.pid)); err != nil || !strings.HasPrefix(out, "/dev/pts/") {
		t.Errorf("standard output is %q, not a terminal: %v", out, err)
	}
	limits(t, c.pid)
	writesWhereItMay(t, via)
	meta := readFile(t, filepath.Join(worker.DataDir(), "containerd/io.containerd.metadata.v1.bolt/meta.db"))
	says(t, "containerd's metadata", meta, "label-in-the-container", "minid.service")
	if got := inTask(t, via, "settings", "cat", "/etc/hostname"); got != "settings-1-on-"+worker.Name {
		t.Errorf("/etc/hostname is %q", got)
	}
	says(t, "/etc/hosts", inTask(t, via, tasks[0].Id, "cat", "/etc/hosts"), "settings-1-on-"+worker.Name, "127.0.0.1")
}

// limits compares the control groups of a process with what was asked for.
func limits(t *testing.T, pid int) {
	t.Helper()
	if got := cgroupValue(t, pid, "memory", "memory.limit_in_bytes", "memory.max"); got != "67108864" {
		t.Errorf("memory limit %s, not 64 MiB", got)
	}
	if got := cgroupValue(t, pid, "pids", "pids.max", "pids.max"); got != "50" {
		t.Errorf("limit of processes %s, not 50", got)
	}
	quota := cgroupValue(t, pid, "cpu", "cpu.cfs_quota_us", "cpu.max")
	period := "100000"
	if a, b, unified := strings.Cut(quota, " "); unified {
		quota, period = a, b
	} else {
		period = cgroupValue(t, pid, "cpu", "cpu.cfs_period_us", "")
	}
	q, _ := strconv.Atoi(quota)
	p, _ := strconv.Atoi(period)
	if q <= 0 || 2*q != p {
		t.Errorf("processor quota %s of %s, not a half", quota, period)
	}
}

func writesWhereItMay(t *testing.T, via *cluster.Node) {
	t.Helper()
	if res := try(t, via, "exec", "settings", "--", "sample", "write", "/tmp/x", "y"); res.Code != 1 || !strings.Contains(res.Stderr, "read-only") {
		t.Errorf("write to a read-only root: code %d: %s", res.Code, res.Stderr)
	}
	inTask(t, via, "settings", "write", "/scratch/x", "y")
	if got := inTask(t, via, "settings", "cat", "/scratch/x"); got != "y" {
		t.Errorf("read %q from the tmpfs", got)
	}
	if res := try(t, via, "exec", "settings", "--", "sample", "write", "/scratch/big", strings.Repeat("y", 100<<10)); res.Code != 0 {
		t.Errorf("100 KiB do not fit into a tmpfs of 1 MiB: %s", res.Stderr)
	}
	says(t, "mounts", inTask(t, via, "settings", "cat", "/proc/mounts"), "tmpfs /scratch tmpfs rw", "size=1024k")
}

// cgroupValue reads a control of a process's group, by its name on version 1
// and on version 2.
func cgroupValue(t *testing.T, pid int, controller, v1, v2 string) string {
	t.Helper()
	unified := ""
	for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/cgroup", pid))) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, name := range strings.Split(parts[1], ",") {
			if name == controller {
				return readFile(t, filepath.Join("/sys/fs/cgroup", controller, parts[2], v1))
			}
		}
		if parts[0] == "0" {
			unified = parts[2]
		}
	}
	return readFile(t, filepath.Join("/sys/fs/cgroup", unified, v2))
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(path, "/proc/") && strings.HasSuffix(path, "status") || strings.HasPrefix(path, "/sys/") {
		return strings.TrimSpace(string(data))
	}
	return string(data)
}

// field returns the word after a key.
func field(text, key string) string {
	_, rest, _ := strings.Cut(text, key)
	if words := strings.Fields(rest); len(words) > 0 {
		return words[0]
	}
	return ""
}

// TestStopping shows that the signal and the time that a service chose are used.
func TestStopping(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	// The sample ignores SIGTERM here, not SIGINT: the grace period is not needed.
	w.create(t, via, service{name: "polite", flags: []string{"--stop-signal", "SIGINT", "--stop-grace-period", "10m"}, command: []string{"stubborn"}})
	w.create(t, via, service{name: "stubborn", flags: []string{"--stop-grace-period", "2s"}, command: []string{"stubborn"}})
	says(t, "log", awaitLogs(t, via, "stubborn", "ignoring SIGTERM"), "ignoring SIGTERM")
	awaitLogs(t, via, "polite", "ignoring SIGTERM")
	polite, stubborn := w.pick(t, "polite"), w.pick(t, "stubborn")
	began := time.Now()
	ctl(t, via, "service", "scale", "--detach", "polite=0", "stubborn=0")
	awaitGone(t, polite)
	awaitGone(t, stubborn)
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("a task that ignores the signal was killed after %v, before its grace period of 2 s", took)
	}
}

// awaitLogs waits until a service's log has a word.
func awaitLogs(t *testing.T, via *cluster.Node, service, word string) string {
	t.Helper()
	var text string
	await(t, "log of "+service, patience, func() error {
		if text = try(t, via, "service", "logs", service).Stdout; !strings.Contains(text, word) {
			return fmt.Errorf("%q is not in:\n%s", word, text)
		}
		return nil
	})
	return text
}

// TestOutOfMemory shows that a task killed for its memory says so.
func TestOutOfMemory(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	w.submit(t, via, service{name: "hungry", replicas: 1, flags: []string{"--limit-memory", "16m", "--restart-condition", "none"},
		command: []string{"eat", strconv.Itoa(256 << 20)}})
	await(t, "out of memory", patience, func() error {
		if out := ctl(t, via, "service", "ps", "--no-trunc", "hungry"); !strings.Contains(out, "out of memory") {
			return errors.New(out)
		}
		return nil
	})
}

// TestMounts shows what tasks read and write through binds and volumes.
func TestMounts(t *testing.T) {
	w := sharedSwarm(t)
	_, via, worker := w.names(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("on the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.create(t, via, service{name: "mounts", flags: []string{"--constraint", "node.hostname==" + worker.Name,
		"--mount", "type=bind,source=" + dir + ",target=/ro,readonly", "--mount", "type=bind,source=" + dir + ",target=/rw",
		"--mount", "type=volume,source=kept,target=/data", "--mount", "type=volume,target=/anonymous"}})
	if got := inTask(t, via, "mounts", "cat", "/ro/file"); got != "on the host" {
		t.Errorf("read %q through a bind", got)
	}
	if res := try(t, via, "exec", "mounts", "--", "sample", "write", "/ro/new", "x"); res.Code != 1 {
		t.Errorf("write through a read-only bind: code %d", res.Code)
	}
	inTask(t, via, "mounts", "write", "/rw/new", "from the task")
	if got := readFile(t, filepath.Join(dir, "new")); got != "from the task" {
		t.Errorf("the task's file has %q on the host", got)
	}
	if got := inTask(t, via, "mounts", "cat", "/data/greeting"); got != "hello from the image" {
		t.Errorf("a new volume holds %q, not the image's files", got)
	}
	inTask(t, via, "mounts", "write", "/data/mine", "survives")
	first := w.pick(t, "mounts")
	ctl(t, via, "service", "update", "--quiet", "--force", "--update-monitor", "0s", "--mount-rm", "/ro", "--mount-add", "type=tmpfs,target=/added", "mounts")
	if again := w.pick(t, "mounts"); again.pid == first.pid {
		t.Error("an update with --force replaced nothing")
	}
	if got := inTask(t, via, "mounts", "cat", "/data/mine"); got != "survives" {
		t.Errorf("the volume of the next task holds %q", got)
	}
	if table := inTask(t, via, "mounts", "cat", "/proc/mounts"); strings.Contains(table, " /ro ") || !strings.Contains(table, " /added ") {
		t.Errorf("mounts after the update:\n%s", table)
	}
}

// TestHostPorts reaches tasks on fixed and chosen ports, from the node itself
// and from outside.
func TestHostPorts(t *testing.T) {
	w := sharedSwarm(t)
	_, via, worker := w.names(t)
	here := "node.hostname==" + worker.Name
	tasks := w.create(t, via, service{name: "ports", flags: []string{"--constraint", here,
		"--publish", "mode=host,published=8099,target=8080", "--publish", "mode=host,target=8080"}})
	w.create(t, via, service{name: "datagrams", flags: []string{"--constraint", here, "--hostname", "datagram-task",
		"--publish", "mode=host,published=8099,target=8080,protocol=udp"}, command: []string{"udp"}})
	chosen := uint32(0)
	for _, p := range tasks[0].GetStatus().GetPorts() {
		if p.Published != 8099 {
			chosen = p.Published
		}
	}
	says(t, "service ps", ctl(t, via, "service", "ps", "ports"), "*:8099->8080/tcp", fmt.Sprintf("*:%d->8080/tcp", chosen))
	for _, port := range []uint32{8099, chosen} {
		fetch(t, w.Outside, "10.77.0.254", fmt.Sprintf("%s:%d", worker.Addr, port))
		fetch(t, worker.Do, "", fmt.Sprintf("%s:%d", worker.Addr, port))
		fetch(t, worker.Do, "", fmt.Sprintf("127.0.0.1:%d", port))
	}
	for _, from := range []func(func() error) error{w.Outside, worker.Do} {
		askUDP(t, from, worker.Addr+":8099", "datagram-task")
	}
	// One port of a node is for one task.
	w.submit(t, via, service{name: "clash", replicas: 1, flags: []string{"--constraint", here, "--publish", "mode=host,published=8099,target=8080"}})
	await(t, "second task for a port", patience, func() error {
		if out := try(t, via, "task", "why", "clash.1").Stdout; !strings.Contains(out, "8099") {
			return errors.New(out)
		}
		return nil
	})
}

// fetch reads a task's page from a namespace; the task must have seen the
// caller's address, where one is given.
func fetch(t *testing.T, in func(func() error) error, from, addr string) {
	t.Helper()
	dial := func(_ context.Context, _, to string) (conn net.Conn, err error) {
		err = in(func() error {
			conn, err = net.DialTimeout("tcp4", to, 5*time.Second)
			return err
		})
		return conn, err
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get("http://" + addr)
	if err != nil {
		t.Errorf("get %s: %v", addr, err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	says(t, "answer of "+addr, string(body), "version=v1", "from="+from)
}

// askUDP sends a datagram to a task until its host name comes back.
func askUDP(t *testing.T, in func(func() error) error, addr, want string) {
	t.Helper()
	await(t, "datagrams to "+addr, patience, func() error {
		var conn net.Conn
		if err := in(func() (err error) { conn, err = net.Dial("udp4", addr); return err }); err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write([]byte("who")); err != nil {
			return err
		}
		buf := make([]byte, 100)
		n, err := conn.Read(buf)
		if err == nil && string(buf[:n]) != want {
			return fmt.Errorf("answer %q", buf[:n])
		}
		return err
	})
}

// TestOutbound shows that tasks reach the world, as their node.
func TestOutbound(t *testing.T) {
	w := sharedSwarm(t)
	_, via, worker := w.names(t)
	l, err := w.Listen(7070)
	if err != nil {
		t.Fatal(err)
	}
	outside := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "from "+r.RemoteAddr) })}
	go outside.Serve(l)
	defer outside.Close()
	w.create(t, via, service{name: "outbound", flags: []string{"--constraint", "node.hostname==" + worker.Name}})
	says(t, "the world's answer", inTask(t, via, "outbound", "get", "http://"+w.HubAddr()+":7070"), "from "+worker.Addr+":")
}
