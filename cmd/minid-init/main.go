// Command minid-init is process 1 of containers that ask for one (--init). It
// runs the container's command as its child, passes signals on to it, reaps the
// processes that others leave behind, and ends with the command's exit code.
//
// It imports next to nothing: a copy of it stays in memory for each container.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// The exit codes of shells and of docker for a command that cannot be run, and
// what they add to the number of the signal that ended it.
const (
	notExecutable = 126
	notFound      = 127
	signalled     = 128
)

func main() {
	// It waits nearly all of its life: threads and a generous heap are a cost
	// that the container's limits would bear.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(20)
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "minid-init: no command is given")
		os.Exit(2)
	}
	os.Exit(run(os.Args[1:]))
}

// run runs a command until it ends and returns its exit code.
func run(args []string) int {
	// From before the start, so that no signal is lost.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	path, err := exec.LookPath(args[0])
	if err != nil {
		return refused(args[0], err)
	}
	pid, err := start(path, args)
	if err != nil {
		return refused(args[0], err)
	}
	go forward(signals, pid)
	return reap(pid)
}

// start runs the command in a process group of its own, which gets the terminal
// if there is one: Ctrl-C is for the command, not for its init.
func start(path string, args []string) (pid int, err error) {
	return syscall.ForkExec(path, args, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Foreground: isTerminal(), Ctty: 0},
	})
}

// isTerminal reports whether stdin is this process's controlling terminal.
func isTerminal() bool {
	_, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	return err == nil
}

// forward passes on what is meant for the command. That a child ended is for
// this process, and SIGURG is what Go's scheduler sends itself.
func forward(signals <-chan os.Signal, pid int) {
	for s := range signals {
		switch s {
		case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGTTIN, syscall.SIGTTOU:
			continue
		}
		// The only error is that it has just ended.
		_ = syscall.Kill(pid, s.(syscall.Signal))
	}
}

// reap takes every child that ends, also adopted ones, until the command does.
func reap(command int) int {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			fmt.Fprintln(os.Stderr, "minid-init: wait for the command:", err)
			return 1
		case pid == command && status.Signaled():
			return signalled + int(status.Signal())
		case pid == command:
			return status.ExitStatus()
		}
	}
}

// refused says why a command is not run.
func refused(command string, err error) int {
	fmt.Fprintf(os.Stderr, "minid-init: run %s: %v\n", command, err)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return notFound
	}
	return notExecutable
}
