package integration_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// TestLogsAreMerged reads what replicas on several nodes wrote at the same time.
func TestLogsAreMerged(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	const replicas, lines = 4, 60
	w.submit(t, via, service{name: "choir", replicas: replicas, flags: []string{"--restart-condition", "none"},
		command: []string{"lines", strconv.Itoa(lines), "20ms"}})
	var out string
	await(t, "all lines", patience, func() error {
		if out = ctl(t, via, "service", "logs", "--timestamps", "choir"); strings.Count(out, "\n") != replicas*lines-1 {
			return fmt.Errorf("%d of %d lines", strings.Count(out, "\n")+1, replicas*lines)
		}
		return nil
	})
	next, last, nodes := map[string]int{}, time.Time{}, map[string]bool{}
	var middle string
	for i, line := range strings.Split(out, "\n") {
		stamp, origin, text := splitLog(t, line)
		if stamp.Before(last) {
			t.Fatalf("line %d is older than the one before it: %s", i, line)
		}
		last = stamp
		if want := fmt.Sprintf("line %d", next[origin]); text != want {
			t.Fatalf("%s says %q, not %q", origin, text, want)
		}
		next[origin]++
		_, node, _ := strings.Cut(origin, "@")
		nodes[node] = true
		if i == replicas*lines/2 {
			middle = strings.Fields(line)[0]
		}
	}
	if len(next) != replicas || len(nodes) < 3 {
		t.Errorf("lines of %d tasks on %d nodes, not of %d on several", len(next), len(nodes), replicas)
	}
	if got := strings.Split(ctl(t, via, "logs", "--tail", "2", "choir"), "\n"); len(got) != 2*replicas {
		t.Errorf("--tail 2 of %d tasks has %d lines", replicas, len(got))
	}
	since := strings.Split(ctl(t, via, "logs", "-t", "--since", middle, "choir"), "\n")
	if want := strings.Split(out, "\n")[replicas*lines/2:]; len(since) != len(want) || since[0] != want[0] {
		t.Errorf("--since %s has %d lines from %s, not %d from %s", middle, len(since), since[0], len(want), want[0])
	}
	if one := strings.Split(ctl(t, via, "logs", "--raw", "choir.1"), "\n"); len(one) != lines || one[0] != "line 0" {
		t.Errorf("one task's log has %d lines from %q", len(one), one[0])
	}
}

// splitLog takes a line of `logs --timestamps` apart.
func splitLog(t *testing.T, line string) (at time.Time, origin, text string) {
	t.Helper()
	stamp, rest, _ := strings.Cut(line, " ")
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
	origin, text, ok := strings.Cut(rest, "|")
	if !ok {
		t.Fatalf("line %q has no origin", line)
	}
	return at, strings.TrimSpace(origin), strings.TrimSpace(text)
}

// TestLogsFollow picks up replicas that come later, and survives that the
// nodes' minid ends and starts again.
func TestLogsFollow(t *testing.T) {
	w := sharedSwarm(t)
	_, via, worker := w.names(t)
	w.create(t, via, service{name: "talker", flags: []string{"--constraint", "node.role==worker"}, command: []string{"lines", "100000", "50ms"}})
	follow := background(t, via, "logs", "--follow", "--no-task-ids", "talker")
	follow.awaitOutput(t, "talker.1@", "line 5\n")
	ctl(t, via, "service", "scale", "--quiet", "talker=3")
	follow.awaitOutput(t, "talker.2@", "talker.3@")
	if code := follow.interrupt(t); code != 130 {
		t.Errorf("interrupted logs -f ends with %d", code)
	}

	var here *pb.Task
	tasks, err := via.Tasks(t.Context(), "talker")
	if err != nil {
		t.Fatal(err)
	}
	id := idOf(t, via, worker.Name)
	for _, task := range tasks {
		if task.NodeId == id {
			here = task
		}
	}
	if here == nil {
		t.Fatalf("no task of talker is on %s", worker.Name)
	}
	before := w.allContainers("talker")
	for _, end := range []func() error{worker.Kill, worker.Stop} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := worker.Start(); err != nil {
			t.Fatal(err)
		}
		w.awaitReady(t, 5)
	}
	sameContainers(t, "minid started again", before, w.allContainers("talker"))
	seen := strings.Count(ctl(t, via, "logs", "--raw", here.Id), "\n")
	await(t, "lines after the restart", patience, func() error {
		lines := strings.Split(ctl(t, via, "logs", "--raw", here.Id), "\n")
		if len(lines) < seen+10 {
			return fmt.Errorf("%d lines", len(lines))
		}
		for i, line := range lines {
			if line != fmt.Sprintf("line %d", i) {
				t.Fatalf("line %d is %q", i, line)
			}
		}
		return nil
	})
}

// TestLogsRotate bounds what a task's log takes on disk.
func TestLogsRotate(t *testing.T) {
	w := sharedSwarm(t)
	_, via, worker := w.names(t)
	const lines = 40000
	w.submit(t, via, service{name: "chatty", replicas: 1, flags: []string{"--constraint", "node.hostname==" + worker.Name,
		"--restart-condition", "none", "--log-opt", "max-size=200k", "--log-opt", "max-file=3"}, command: []string{"lines", strconv.Itoa(lines)}})
	awaitLogs(t, via, "chatty", fmt.Sprintf("line %d\n", lines-1))
	got := strings.Split(ctl(t, via, "logs", "--raw", "chatty.1"), "\n")
	for i, line := range got {
		if want := fmt.Sprintf("line %d", lines-len(got)+i); line != want {
			t.Fatalf("line %d of %d that are left is %q, not %q", i, len(got), line, want)
		}
	}
	tasks, err := via.AllTasks(t.Context(), "chatty")
	if err != nil || len(tasks) != 1 {
		t.Fatalf("%d tasks, %v", len(tasks), err)
	}
	size, files := int64(0), 0
	filepath.Walk(worker.DataDir(), func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() && strings.Contains(path, "logs/"+tasks[0].Id) {
			size, files = size+info.Size(), files+1
		}
		return nil
	})
	if files == 0 || size > 3*200<<10 {
		t.Errorf("%d log files of %d bytes, for 3 of 200 KiB", files, size)
	}
}

// TestExec runs commands in tasks on other nodes.
func TestExec(t *testing.T) {
	w := sharedSwarm(t)
	leader, via, worker := w.names(t)
	tasks := w.create(t, via, service{name: "shell", flags: []string{"--constraint", "node.hostname==" + worker.Name, "--env", "FROM=service"}})
	for _, n := range w.Nodes()[:3] {
		for command, want := range map[string]int{"exit 0": 0, "exit 7": 7, "exit 130": 130, "stat /nowhere": 1} {
			args := append([]string{"exec", "shell.1", "--", "sample"}, strings.Fields(command)...)
			if res := try(t, n, args...); res.Code != want {
				t.Errorf("exec sample %s on %s: code %d, not %d: %s", command, n.Name, res.Code, want, res.Stderr)
			}
		}
	}
	refused(t, via, 127, []string{"no such file"}, "exec", "shell", "--", "/no/such/command")
	refused(t, via, 126, []string{"permission denied"}, "exec", "shell", "--", "/etc/not-executable")
	refused(t, via, 125, []string{"no task or service", "Try:"}, "exec", "nothing", "--", "sample")
	refused(t, via, 125, []string{"Try:"}, "exec", "shell.9", "--", "sample")
	refused(t, worker, 125, []string{"not a manager"}, "exec", "shell", "--", "sample", "exit", "0")
	refused(t, via, 2, []string{"not a terminal", "Try: minictl exec -i"}, "exec", "-it", "shell", "--", "sample")

	env := ctl(t, leader, "exec", "--user", "1000:50", "--workdir", "/", "--env", "MINE=yes", tasks[0].Id, "sample", "env")
	says(t, "environment of exec", env, "uid=1000 gid=50", "dir=/\n", "terminal=false", "FROM=service", "MINE=yes")
	input := strings.Repeat("0123456789abcdef\n", 1<<15)
	if res := tryInput(t, via, input, "exec", "-i", "shell", "--", "sample", "echo"); res.Code != 0 || res.Stdout != input {
		t.Errorf("echo of %d bytes: code %d, %d bytes: %s", len(input), res.Code, len(res.Stdout), res.Stderr)
	}
	if res := tryInput(t, via, "unread", "exec", "shell", "--", "sample", "echo"); res.Stdout != "" {
		t.Errorf("without -i the command read %q", res.Stdout)
	}
}

// TestExecOnTerminal types Ctrl-C at a process in a task.
func TestExecOnTerminal(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	w.create(t, via, service{name: "typed"})
	bin, err := filepath.Abs("../bin/minictl")
	if err != nil {
		t.Fatal(err)
	}
	tty, screen := terminal(t, via.Do, bin, "-H", via.Socket(), "exec", "-it", "typed", "--", "sample", "env")
	if code, text := tty.wait(t), screen(); code != 0 || !strings.Contains(text, "terminal=true") || !strings.Contains(text, "TERM=") {
		t.Errorf("exec -it: code %d:\n%s", code, text)
	}
	tty, screen = terminal(t, via.Do, bin, "-H", via.Socket(), "exec", "-it", "typed", "--", "sample", "sleep")
	await(t, "the process in the task", patience, func() error {
		if !strings.Contains(screen(), "waiting") {
			return errors.New(screen())
		}
		return nil
	})
	tty.master.Write([]byte{3})
	if code := tty.wait(t); code != 0 {
		t.Errorf("sample ends by Ctrl-C with %d: %s", code, screen())
	}
}
