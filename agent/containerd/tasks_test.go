package containerd

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/agent"
	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestWhatATaskSees(t *testing.T) {
	r := open(t)
	w := wanted("env")
	c := w.Spec.Container
	c.Env, c.User, c.Hostname, c.Workdir = []string{"A=1", "PATH=/bin:/x"}, "user", "box", "/tmp"
	c.Groups = []string{"7"}
	got := r.output(t, w)
	for _, want := range []string{
		"uid=1000 gid=1000 groups=[7 50", "dir=/tmp", "hostname=box", "terminal=false",
		"A=1", "PATH=/bin:/x", "HOME=/home/user", "HOSTNAME=box",
	} {
		if !strings.Contains(got, want+"\n") && !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func TestNameFilesAndTTY(t *testing.T) {
	r := open(t)
	w := wanted("cat", "/etc/hosts")
	w.Spec.Container.Hostname = "box"
	o := r.output(t, w)
	if !strings.Contains(o, "127.0.0.1\tlocalhost") || !strings.Contains(o, "\tbox\n") {
		t.Errorf("/etc/hosts: %s", o)
	}
	tty := wanted("env")
	tty.Spec.Container.Tty = true
	if got := r.output(t, tty); !strings.Contains(got, "terminal=true") {
		t.Errorf("no terminal: %s", got)
	}
	readOnly := wanted("write", "/etc/x", "y")
	readOnly.Spec.Container.ReadOnly = true
	id := r.start(t, readOnly)
	if o := r.finish(t, id); o.ExitCode == 0 {
		t.Error("wrote to a read-only root")
	}
}

func TestOutOfMemoryIsReported(t *testing.T) {
	r := open(t)
	w := wanted("eat", fmt.Sprint(200<<20))
	w.Spec.Resources = &pb.ResourceRequirements{LimitMemoryBytes: 32 << 20, LimitNanoCpus: 1e9, LimitPids: 100}
	o := r.finish(t, r.start(t, w))
	if !o.OOMKilled || o.ExitCode != 137 || o.Error == "" {
		t.Errorf("observed %+v", o)
	}
}

func TestSecretsAndConfigs(t *testing.T) {
	r := open(t)
	files := func(args ...string) *task.Wanted {
		w := wanted(args...)
		w.Spec.Container.User = "user"
		w.Spec.Container.Secrets = []*pb.FileReference{
			{Id: "s1", Name: "password"},
			{Id: "s2", Name: "key", Target: "/etc/app/key", Uid: "1000", Gid: "50", Mode: 0o400},
		}
		w.Spec.Container.Configs = []*pb.FileReference{{Id: "c1", Name: "app.conf"}}
		w.Secrets = map[string]*pb.Secret{
			"s1": {Spec: &pb.SecretSpec{Data: []byte("hunter2")}}, "s2": {Spec: &pb.SecretSpec{Data: []byte("k")}},
		}
		w.Configs = map[string]*pb.Config{"c1": {Spec: &pb.ConfigSpec{Data: []byte("x=1\n")}}}
		return w
	}
	for _, test := range []struct {
		mode, file, want string
	}{
		{"stat", "/run/secrets/password", "0444 0:0 7\n"},
		{"cat", "/run/secrets/password", "hunter2\n"},
		{"stat", "/etc/app/key", "0400 1000:50 1\n"},
		{"cat", "/app.conf", "x=1\n"},
	} {
		if got := r.output(t, files(test.mode, test.file)); got != test.want {
			t.Errorf("%s %s: %q, want %q", test.mode, test.file, got, test.want)
		}
	}
	w := files("sleep")
	id := r.start(t, w)
	dir := filepath.Join(r.runtime.taskDir(id), "secrets")
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		t.Errorf("secrets are on a file system of type %x, %v", st.Type, err)
	}
	r.remove(t, id)
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || bytes.Contains(mounts, []byte(id)) {
		t.Errorf("mounts of the removed task are left: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("secrets of the removed task are left")
	}
	escape := files("sleep")
	escape.Spec.Container.Secrets[0].Target = "../../x"
	if err := r.runtime.Prepare(t.Context(), escape, nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("a secret outside its directory: %v", err)
	}
}

func TestMounts(t *testing.T) {
	r := open(t)
	volume := &pb.Mount{Type: pb.Mount_TYPE_VOLUME, Source: "greetings", Target: "/data"}
	with := func(m *pb.Mount, args ...string) *task.Wanted {
		w := wanted(args...)
		w.Spec.Container.Mounts = []*pb.Mount{m}
		return w
	}
	if got := r.output(t, with(volume, "stat", "/data")); !strings.HasPrefix(got, "0750 1000:1000") {
		t.Errorf("volume's root: %s", got)
	}
	if got := r.output(t, with(volume, "cat", "/data/greeting")); got != "hello from the image\n" {
		t.Errorf("volume was not filled: %q", got)
	}
	r.output(t, with(volume, "write", "/data/greeting", "kept"))
	if got := r.output(t, with(volume, "cat", "/data/greeting")); got != "kept\n" {
		t.Errorf("volume did not keep its content: %q", got)
	}
	empty := &pb.Mount{Type: pb.Mount_TYPE_VOLUME, Target: "/data", VolumeNoCopy: true}
	w := with(empty, "ls", "/data")
	if got := r.output(t, w); got != "" {
		t.Errorf("no-copy volume has %q", got)
	}
	r.remove(t, w.ID)
	if _, err := os.Stat(r.runtime.anonymousDir(w.ID)); err == nil {
		t.Error("anonymous volume outlives its task")
	}
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "f"), []byte("host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	bind := &pb.Mount{Type: pb.Mount_TYPE_BIND, Source: host, Target: "/mnt/x"}
	if got := r.output(t, with(bind, "cat", "/mnt/x/f")); got != "host\n" {
		t.Errorf("bind: %q", got)
	}
	tmpfs := &pb.Mount{Type: pb.Mount_TYPE_TMPFS, Target: "/cache", TmpfsSizeBytes: 1 << 20, TmpfsMode: 0o700}
	if got := r.output(t, with(tmpfs, "stat", "/cache")); !strings.HasPrefix(got, "0700") {
		t.Errorf("tmpfs: %q", got)
	}
	missing := with(&pb.Mount{Type: pb.Mount_TYPE_BIND, Source: "/no/such", Target: "/x"}, "sleep")
	if err := r.runtime.Prepare(t.Context(), missing, nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("missing bind source: %v", err)
	}
}

func TestExec(t *testing.T) {
	r := open(t)
	id := r.start(t, wanted("sleep"))
	run := func(start *pb.ExecStart, stdin string) (string, int32, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var out, errs bytes.Buffer
		code, err := r.runtime.Exec(ctx, id, start, agent.ExecIO{Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs})
		return out.String() + errs.String(), code, err
	}
	if out, code, err := run(&pb.ExecStart{Command: []string{"/bin/sample", "exit", "4"}}, ""); code != 4 || err != nil {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
	if out, code, err := run(&pb.ExecStart{Command: []string{"/bin/sample", "echo"}, Stdin: true}, "through\n"); out != "through\n" || code != 0 || err != nil {
		t.Errorf("echo: %q %d %v", out, code, err)
	}
	start := &pb.ExecStart{Command: []string{"/bin/sample", "env"}, Tty: true, User: "user", Env: []string{"B=2"}, Size: &pb.WindowSize{Width: 80, Height: 20}}
	if out, _, err := run(start, ""); err != nil || !strings.Contains(out, "terminal=true") || !strings.Contains(out, "uid=1000") || !strings.Contains(out, "B=2") {
		t.Errorf("tty: %q %v", out, err)
	}
	if _, code, err := run(&pb.ExecStart{Command: []string{"/no/such"}}, ""); code != 127 || err == nil {
		t.Errorf("missing command: %d, %v", code, err)
	}
	if _, code, err := run(&pb.ExecStart{Command: []string{"/etc/not-executable"}}, ""); code != 126 || err == nil {
		t.Errorf("not executable: %d, %v", code, err)
	}
	signals := make(chan uint32, 1)
	signals <- uint32(unix.SIGTERM)
	code, err := r.runtime.Exec(t.Context(), id, &pb.ExecStart{Command: []string{"/bin/sample", "sleep"}}, agent.ExecIO{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}, Signals: signals})
	if err != nil {
		t.Errorf("signalled exec: %d %v", code, err)
	}
}

func TestHostPorts(t *testing.T) {
	r := open(t)
	w := wanted("serve")
	w.Spec.Ports = []*pb.PortConfig{
		{Target: 8080, Published: 18080, Mode: pb.PortConfig_MODE_HOST},
		{Target: 8080, Mode: pb.PortConfig_MODE_HOST},
	}
	id := r.start(t, w)
	o, err := r.runtime.Inspect(t.Context(), id)
	if err != nil || len(o.Ports) != 2 || o.Ports[1].Published < 32768 {
		t.Fatalf("observed %+v, %v", o, err)
	}
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(url string) error {
		resp, err := client.Get(url)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	gateway := r.bridge.Wanted().Gateway().Addr().String()
	for _, port := range o.Ports {
		for _, host := range []string{"127.0.0.1", gateway} {
			url := fmt.Sprintf("http://%s:%d/", host, port.Published)
			eventually(t, url, func() bool { return get(url) == nil })
		}
	}
	// A task reaches a task by the host's port.
	if got := r.output(t, wanted("get", fmt.Sprintf("http://%s:18080/", gateway))); !strings.Contains(got, "hostname="+id[:12]) {
		t.Errorf("task to host port: %q", got)
	}
	second := wanted("serve")
	second.Spec.Ports = w.Spec.Ports[:1]
	t.Cleanup(func() { r.remove(t, second.ID) })
	if err := r.runtime.Prepare(t.Context(), second, nil); err != nil {
		t.Fatal("preparing must not bind:", err)
	}
	if err := r.runtime.Start(t.Context(), second.ID); !fault.Is(err, fault.InUse) {
		t.Errorf("second owner of a port: %v", err)
	}
	if err := r.runtime.Stop(t.Context(), id, "", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := r.runtime.Start(t.Context(), second.ID); err != nil {
		t.Errorf("the port is not free after the stop: %v", err)
	}
	if c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", o.Ports[1].Published), time.Second); err == nil {
		c.Close()
		t.Error("a stopped task's port still answers")
	}
}
