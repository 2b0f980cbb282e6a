package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// created is a cluster with a service of so many replicas.
func created(t *testing.T, replicas string) (*cluster, func(string) string) {
	t.Helper()
	c := newCluster(t)
	env := func(key string) string { return map[string]string{"MINICTL_HOST": c.host}[key] }
	var out bytes.Buffer
	args := []string{"service", "create", "--name", "web", "--replicas", replicas, "--no-resolve-image", "sample"}
	if code := run(args, strings.NewReader(""), &out, &out, env); code != 0 {
		t.Fatalf("create: exit code %d: %s", code, out.String())
	}
	return c, env
}

// shown is what a terminal of 80 by 24 shows after a text: the last picture.
func shown(text string) []string {
	pictures := strings.Split(text, topLeft)
	picture := pictures[len(pictures)-2] // the last one may not be whole
	picture = regexp.MustCompile(`\x1b\[[?0-9]*[A-Za-z]`).ReplaceAllString(picture, "")
	return strings.Split(strings.TrimRight(picture, "\r\n"), "\r\n")
}

// On a terminal the table is redrawn within it until q, or Ctrl-C, and the
// terminal is as it was then.
func TestTopOnTerminal(t *testing.T) {
	c, env := created(t, "60")
	top := func(key string, code int, redraws int, args ...string) []string {
		t.Helper()
		master, slave := openPTY(t)
		before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan int, 1)
		go func() { done <- run(append([]string{"top"}, args...), slave, slave, slave, env) }()
		var drawn string
		for strings.Count(drawn, topLeft) < redraws+2 {
			drawn += readUntil(t, master, topLeft)
		}
		if _, err := master.WriteString(key); err != nil {
			t.Fatal(err)
		}
		readUntil(t, master, showCursor)
		select {
		case got := <-done:
			if got != code {
				t.Errorf("exit code %d, want %d", got, code)
			}
		case <-time.After(patience):
			t.Fatal("it does not end")
		}
		after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		if err != nil || *after != *before {
			t.Errorf("the terminal is not as it was: %v", err)
		}
		return shown(drawn)
	}
	lines := top("q", 0, 3)
	if len(lines) != 23 || !strings.HasPrefix(lines[0], "3 nodes, 60 tasks: CPU 3.00 of 6, memory") || !strings.HasPrefix(lines[3], "web.60 ") {
		t.Errorf("shown: %q", lines)
	}
	if last := lines[len(lines)-1]; last != "… and 41 more" {
		t.Errorf("the last line is %q", last)
	}
	for _, line := range lines {
		if len([]rune(line)) > 80 {
			t.Errorf("%q is too long", line)
		}
	}
	c.severed.Store(true)
	lines = top("\x03", exitInterrupted, 2, "nodes", "--sort", "name")
	if text := strings.Join(lines, "\n"); !strings.Contains(text, "\nWarning: node node3 gives no samples") || !strings.Contains(text, "\nnode1 ") || strings.Contains(text, "\nnode3 ") {
		t.Errorf("shown: %s", text)
	}
}

// stopAfter ends a command after so many lines.
type stopAfter struct {
	bytes.Buffer
	lines int
	stop  func()
}

func (w *stopAfter) Write(p []byte) (int, error) {
	defer func() {
		if bytes.Count(w.Bytes(), []byte("\n")) >= w.lines {
			w.stop()
		}
	}()
	return w.Buffer.Write(p)
}

// JSON goes on, with an object per task and round, each of them rated.
func TestTopAsJSON(t *testing.T) {
	c, env := created(t, "2")
	ctx, cancel := context.WithCancel(t.Context())
	out := &stopAfter{lines: 7, stop: cancel}
	program := &cli{stdin: strings.NewReader(""), stdout: out, stderr: os.Stderr, env: env, now: testNow}
	if code := program.run(ctx, []string{"top", "-H", c.host, "--format", "json"}); code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
	for line := range strings.Lines(out.String()) {
		var row struct {
			Name string
			CPUs float64
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		if want := map[string]float64{"web.1": 0.25, "web.2": 0.5}[row.Name]; row.CPUs != want {
			t.Errorf("%q, want %v", line, want)
		}
	}
}
