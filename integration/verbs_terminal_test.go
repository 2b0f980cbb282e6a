package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// typist is a program on a terminal.
type typist struct {
	*running
	master *os.File
}

// terminal starts a program on a terminal of its own, within a node. Screen
// returns all that was written there so far.
func terminal(t *testing.T, in func(func() error) error, program string, args ...string) (tty typist, screen func() string) {
	t.Helper()
	master, slave := openTerminal(t)
	r := &running{cmd: exec.Command(program, args...), done: make(chan struct{})}
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = slave, slave, slave
	r.cmd.Env = append(os.Environ(), "TERM=xterm")
	r.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := in(r.cmd.Start); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			stream{r, &r.stdout}.Write(buf[:n])
			if err != nil {
				return // EIO when the last of the other side has gone
			}
		}
	}()
	go func() {
		r.cmd.Wait()
		<-read
		close(r.done)
	}()
	t.Cleanup(func() {
		r.cmd.Process.Kill()
		<-r.done
		master.Close()
	})
	return typist{r, master}, func() string { stdout, _ := r.output(); return stdout }
}

// openTerminal returns both ends of a terminal of 80 by 24.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	return master, slave
}
