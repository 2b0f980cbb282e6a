package main

import (
	"bytes"
	"context"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience bounds the wait for what managers do in their own time.
const patience = 30 * time.Second

// TestScripts runs the stories in testdata/script, each against a cluster of
// its own.
//
//	minictl ARGS...        runs it, like exec
//	exits CODE ARGS...     expects an exit code
//	eventually RE ARGS...  runs it until its output matches
//	pipe FILE ARGS...      runs it with a file as its input
//	interrupted ARGS...    runs it as if Ctrl-C came at once
//	asked TEXT             what init or join was told of the network
//	loop SERVICE           its slots 1 and 2 restart again and again
//	leave-cluster, pause-robot, sever-network
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			c := newCluster(env.T().(testing.TB))
			env.Values["cluster"] = c
			env.Setenv("MINICTL_HOST", c.host)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"minictl": func(ts *testscript.TestScript, neg bool, args []string) {
				if code := runScript(ts, context.Background(), "", args); (code != 0) != neg {
					ts.Fatalf("exit code %d", code)
				}
			},
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				if code := runScript(ts, context.Background(), "", args[1:]); code != want {
					ts.Fatalf("exit code %d, expected %d", code, want)
				}
			},
			"eventually": func(ts *testscript.TestScript, _ bool, args []string) {
				wanted, deadline := regexp.MustCompile(args[0]), time.Now().Add(patience)
				for {
					var out bytes.Buffer
					code := run(slices.Clone(args[1:]), strings.NewReader(""), &out, io.Discard, ts.Getenv)
					if wanted.Match(out.Bytes()) {
						return
					}
					if time.Now().After(deadline) {
						ts.Fatalf("exit code %d and never %s in:\n%s", code, args[0], out.String())
					}
					time.Sleep(10 * time.Millisecond)
				}
			},
			"pipe": func(ts *testscript.TestScript, neg bool, args []string) {
				if code := runScript(ts, context.Background(), ts.ReadFile(args[0]), args[1:]); (code != 0) != neg {
					ts.Fatalf("exit code %d", code)
				}
			},
			"interrupted": func(ts *testscript.TestScript, _ bool, args []string) {
				ctx, cancel := context.WithCancel(context.Background())
				// The first output tells that the command is under way.
				code := runScriptTo(ts, ctx, cancel, args)
				if code != exitInterrupted {
					ts.Fatalf("exit code %d, expected %d", code, exitInterrupted)
				}
			},
			"leave-cluster": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Value("cluster").(*cluster).outside.Store(true)
			},
			"asked": func(ts *testscript.TestScript, _ bool, args []string) {
				if got := ts.Value("cluster").(*cluster).asked.Load(); got != args[0] {
					ts.Fatalf("asked for %v", got)
				}
			},
			"loop": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(ts.Value("cluster").(*cluster).loop(args[0]))
			},
			"sever-network": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Value("cluster").(*cluster).severed.Store(true)
			},
			"pause-robot": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Value("cluster").(*cluster).stopped.Store(true)
			},
		},
	})
}

// runScript runs the program in this process, with the test's clock, and looks
// for escape sequences where no terminal is.
func runScript(ts *testscript.TestScript, ctx context.Context, stdin string, args []string) int {
	var stdout, stderr bytes.Buffer
	c := &cli{stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr, env: ts.Getenv, now: testNow}
	for i, arg := range args {
		if strings.HasPrefix(arg, "./") {
			args[i] = ts.MkAbs(arg)
		}
	}
	code := c.run(ctx, args)
	ts.Stdout().Write(stdout.Bytes())
	ts.Stderr().Write(stderr.Bytes())
	for _, out := range [][]byte{stdout.Bytes(), stderr.Bytes()} {
		if bytes.ContainsAny(out, "\x1b\r") {
			ts.Fatalf("escape sequences on a pipe: %q", out)
		}
	}
	return code
}

// runScriptTo interrupts the program once it has written something to stderr.
func runScriptTo(ts *testscript.TestScript, ctx context.Context, cancel func(), args []string) int {
	var stdout, stderr bytes.Buffer
	c := &cli{stdin: strings.NewReader(""), stdout: &stdout, stderr: tripwire{&stderr, cancel}, env: ts.Getenv, now: testNow}
	code := c.run(ctx, args)
	ts.Stdout().Write(stdout.Bytes())
	ts.Stderr().Write(stderr.Bytes())
	return code
}

type tripwire struct {
	w    io.Writer
	trip func()
}

func (t tripwire) Write(b []byte) (int, error) {
	t.trip()
	return t.w.Write(b)
}
