package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestExitCodes(t *testing.T) {
	class := func(c fault.Class) error { return fmt.Errorf("do: %w", fault.New(c, "what: why")) }
	for _, test := range []struct {
		err  error
		want int
	}{
		{errors.New("x"), 1}, {class(fault.Internal), 1}, {class(fault.State), 1}, {class(fault.Invalid), 2}, {class(fault.NotFound), 3},
		{class(fault.Exists), 4}, {class(fault.Stale), 4}, {class(fault.InUse), 4}, {class(fault.Timeout), 7},
		{class(fault.Unavailable), 8}, {class(fault.NotManager), 8}, {class(fault.Denied), 9},
		{&exitError{code: 42}, 42}, {&exitError{exitRollout, class(fault.State)}, 6}, {interrupted(errors.New("x")), 130},
		{errors.Join(class(fault.NotFound), class(fault.InUse)), 4},
		{errors.Join(errors.Join(class(fault.InUse)), errors.New("x")), 4},
	} {
		if got := exitCode(test.err); got != test.want {
			t.Errorf("exit code of %v is %d, expected %d", test.err, got, test.want)
		}
	}
}

func TestReport(t *testing.T) {
	var out bytes.Buffer
	c := &cli{stderr: &out}
	c.report(errors.Join(fault.New(fault.NotFound, "find x: none").WithTry("minictl y"), &exitError{code: 3}, errors.New("z")))
	if diff := cmp.Diff("Error: find x: none\nTry: minictl y\nError: z\n", out.String()); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

// Every command has a one-line description, and every flag too.
func TestEveryCommandIsDescribed(t *testing.T) {
	root := (&cli{env: func(string) string { return "" }}).root()
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: description %q", cmd.CommandPath(), cmd.Short)
		}
		for _, child := range cmd.Commands() {
			walk(child)
		}
	}
	walk(root)
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Time{
		"10m": now.Add(-10 * time.Minute), "1700000000": time.Unix(1700000000, 0), "2026-11-22T11:00:00.5Z": now.Add(-time.Hour + time.Second/2),
		"2026-11-22T11:00": now.Add(-time.Hour), "2026-11-22": now.Add(-12 * time.Hour),
	} {
		got, err := parseTime("since", in, now)
		if err != nil || !got.AsTime().Equal(want) {
			t.Errorf("parseTime(%q) = %v, %v", in, got.AsTime(), err)
		}
	}
	if _, err := parseTime("since", "yesterday", now); !fault.Is(err, fault.Invalid) {
		t.Errorf("yesterday: %v", err)
	}
}

func TestLogPrefix(t *testing.T) {
	line := &pb.LogLine{At: timestamppb.New(epoch), TaskId: "abcdefghijklmnop", TaskName: "web.1.abcdefghijklmnop", NodeId: "n123456789012345", NodeName: "node1"}
	for _, test := range []struct {
		style   logStyle
		colours bool
		want    string
	}{
		{logStyle{}, false, "web.1.abcdefghijkl@node1    | "},
		{logStyle{width: 26}, false, "web.1.abcdefghijkl@node1      | "},
		{logStyle{whole: true}, false, "web.1.abcdefghijklmnop@node1    | "},
		{logStyle{noTaskIDs: true, timestamps: true}, false, "2026-11-22T12:00:00.000000000Z web.1@node1    | "},
		{logStyle{noResolve: true}, false, "web.1.abcdefghijkl@n12345678901    | "},
		{logStyle{raw: true}, true, ""},
		{logStyle{}, true, "\x1b[32mweb.1.abcdefghijkl@node1    | \x1b[0m"},
	} {
		got := test.style.prefix(line, test.colours)
		if test.colours {
			got = strings.Replace(got, got[:min(5, len(got))], "\x1b[32m"[:min(5, len(got))], 1)
		}
		if got != test.want {
			t.Errorf("prefix %q, expected %q", got, test.want)
		}
	}
	line.TaskName = "web.n123456789012345.abcdefghijklmnop"
	if got, want := (&logStyle{}).prefix(line, false), "web.n12345678901.abcdefghijkl@node1    | "; got != want {
		t.Errorf("prefix of a global service's task %q, expected %q", got, want)
	}
}

// A watched list shows what there is, then the rows that changed, until Ctrl-C.
func TestWatchedList(t *testing.T) {
	c := newCluster(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	done := make(chan int, 1)
	env := func(key string) string { return map[string]string{"MINICTL_HOST": c.host}[key] }
	go func() {
		watching := &cli{stdin: strings.NewReader(""), stdout: w, stderr: io.Discard, env: env, now: testNow}
		done <- watching.run(ctx, []string{"node", "ls", "-w", "--format", "{{.Hostname}} {{.Availability}}"})
		w.Close()
	}()
	var got bytes.Buffer
	buf := make([]byte, 1024)
	await := func(want string) {
		for !strings.Contains(got.String(), want) {
			n, err := r.Read(buf)
			if err != nil {
				t.Fatalf("ended with %v after %q", err, got.String())
			}
			got.Write(buf[:n])
		}
	}
	await("node1 Active\nnode2 Active\nnode3 Active\n")
	// Whatever happens after the first list is seen, even before the watch began.
	if code := run([]string{"node", "update", "--availability", "drain", "node2"}, strings.NewReader(""), io.Discard, io.Discard, env); code != 0 {
		t.Fatalf("update failed with %d", code)
	}
	await("node2 Drain\n")
	if strings.Count(got.String(), "node3") != 1 {
		t.Errorf("unchanged rows are shown again: %q", got.String())
	}
	cancel()
	go io.Copy(io.Discard, r)
	if code := <-done; code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
}
