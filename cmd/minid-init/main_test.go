package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestMain is the init itself when the tests run this binary as one.
func TestMain(m *testing.M) {
	if os.Getenv("MINID_INIT_TEST") != "" {
		main()
	}
	os.Exit(m.Run())
}

func initOf(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), "MINID_INIT_TEST=1")
	return cmd
}

func codeOf(t *testing.T, err error) int {
	t.Helper()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

func TestExitCodes(t *testing.T) {
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"true"}, 0, ""},
		{[]string{"sh", "-c", "exit 42"}, 42, ""},
		{[]string{"sh", "-c", "kill -KILL $$"}, 137, ""},
		{[]string{"/no/such/program"}, notFound, "run /no/such/program"},
		{[]string{"no-such-program"}, notFound, "run no-such-program"},
		{[]string{"/etc/passwd"}, notExecutable, "permission denied"},
		{nil, 2, "no command"},
	} {
		out, err := initOf(t, test.args...).CombinedOutput()
		if code := codeOf(t, err); code != test.code || !strings.Contains(string(out), test.says) {
			t.Errorf("%q: exit code %d, want %d: %s", test.args, code, test.code, out)
		}
	}
}

func TestSignalsReachTheCommand(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGINT, syscall.SIGWINCH} {
		cmd := initOf(t, "sh", "-c", `trap 'exit 7' TERM HUP USR1 INT WINCH; echo ready; while :; do sleep 0.05; done`)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(line, err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if code := codeOf(t, cmd.Wait()); code != 7 {
			t.Errorf("%v: exit code %d", sig, code)
		}
	}
}
