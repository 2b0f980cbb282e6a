// Package realtest is what tests of the real kernel and runtime have in common:
// root, programs of the host, and a network namespace of their own.
package realtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// inside marks the child that runs in the fresh namespace.
const inside = "MINID_TEST_NETNS"

// Main is a package's TestMain that runs its tests in a fresh network namespace,
// as root; then calls clean up, if there is something to.
func Main(m *testing.M, cleanUp func() error) {
	if os.Getuid() == 0 && os.Getenv(inside) == "" {
		os.Exit(again())
	}
	code := m.Run()
	if cleanUp != nil {
		if err := cleanUp(); err != nil {
			fmt.Fprintln(os.Stderr, "cleaning up:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// again runs this test binary in a new network namespace.
func again() int {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// NeedRoot skips a test that a plain user cannot run. It is the only reason to
// skip one, and none where CI runs.
func NeedRoot(tb testing.TB) {
	tb.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") == "true":
		tb.Fatal("needs root, which CI must have: run it with sudo")
	default:
		tb.Skip("needs root: run it with sudo")
	}
}

// NeedProgram fails a test on a host without a program that make setup installs.
func NeedProgram(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		tb.Fatalf("%s is not installed: run make setup", name)
	}
	return path
}
