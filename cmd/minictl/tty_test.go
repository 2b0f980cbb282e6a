package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// openPTY returns both ends of a terminal of 80 by 24.
func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatalf("open terminal: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("open terminal: %v", err)
	}
	t.Cleanup(func() { slave.Close() })
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// readUntil reads from a terminal until a text has come. Redrawn progress is
// never silent, so it is the whole wait that has a limit.
func readUntil(t *testing.T, master *os.File, want string) string {
	t.Helper()
	var got bytes.Buffer
	buf := make([]byte, 4096)
	deadline := time.Now().Add(patience)
	for !strings.Contains(got.String(), want) {
		ready := []unix.PollFd{{Fd: int32(master.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(ready, max(0, int(time.Until(deadline).Milliseconds()))); n == 0 || time.Now().After(deadline) {
			t.Fatalf("%q did not come on the terminal (%v): %q", want, err, got.String())
		}
		n, err := master.Read(buf)
		if err != nil {
			t.Fatalf("read terminal: %v after %q", err, got.String())
		}
		got.Write(buf[:n])
	}
	return got.String()
}

// On a terminal progress is redrawn in place; exec -it has the terminal raw
// and gives it back as it was.
func TestOnTerminal(t *testing.T) {
	c := newCluster(t)
	master, slave := openPTY(t)
	env := func(key string) string { return map[string]string{"MINICTL_HOST": c.host}[key] }
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan int, 1)
	go func() {
		done <- run([]string{"service", "create", "--name", "web", "--no-resolve-image", "sample"}, slave, slave, slave, env)
	}()
	drawn := readUntil(t, master, "converged in")
	if !strings.Contains(drawn, "1/1:     running    [=======>] node1") || !strings.Contains(drawn, "\x1b[") {
		t.Errorf("progress: %q", drawn)
	}
	if code := <-done; code != 0 {
		t.Fatalf("create: exit code %d", code)
	}

	go func() { done <- run([]string{"exec", "-it", "web", "--", "cat"}, slave, slave, slave, env) }()
	for raw := false; !raw; {
		now, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		raw = now.Lflag&unix.ECHO == 0
		time.Sleep(time.Millisecond)
	}
	master.WriteString("hi\x04")
	if echoed := readUntil(t, master, "\x04"); !strings.HasSuffix(echoed, "hi\x04") || strings.Count(echoed, "hi") != 1 {
		t.Errorf("echoed %q", echoed)
	}
	if code := <-done; code != 0 {
		t.Errorf("exec: exit code %d", code)
	}
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the terminal is not as it was (-before +after):\n%s", diff)
	}
}
