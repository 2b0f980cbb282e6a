package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// exitExec is exec's own failure, as docker has it: the command did not start.
const exitExec = 125

// stdinChunk is how much input travels at a time.
const stdinChunk = 32 << 10

func (c *cli) execCommand() *cobra.Command {
	var interactive bool
	start := &pb.ExecStart{}
	cmd := &cobra.Command{Use: "exec [FLAGS] SERVICE[.SLOT]|TASK -- COMMAND [ARG...]", Short: "Run a command in a running task",
		Args: atLeast(2), DisableFlagsInUseLine: true,
		// No interruption as in other commands: the signals are the process's.
		RunE: func(cmd *cobra.Command, args []string) error {
			c.started = true
			start.Ref, start.Command, start.Stdin = args[0], args[1:], interactive
			return c.exec(cmd.Context(), start)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&interactive, "interactive", "i", false, "pass stdin on")
	f.BoolVarP(&start.Tty, "tty", "t", false, "give the command a terminal")
	f.StringArrayVarP(&start.Env, "env", "e", nil, "environment variable KEY=VALUE")
	f.StringVarP(&start.User, "user", "u", "", "user name or uid, with an optional :group")
	f.StringVarP(&start.Workdir, "workdir", "w", "", "working directory")
	cmd.ValidArgsFunction = c.completing(serviceNames)
	return cmd
}

// exec runs the command and ends with the command's exit code.
func (c *cli) exec(ctx context.Context, start *pb.ExecStart) error {
	if len(start.Command) > 1 && start.Command[0] == "--" {
		start.Command = start.Command[1:]
	}
	fd, isTerminal := terminal(c.stdin)
	if start.Tty && start.Stdin && !isTerminal {
		return fault.New(fault.Invalid, "cannot use -t: the input is not a terminal").WithTry("minictl exec -i %s -- %s", start.Ref, strings.Join(start.Command, " "))
	}
	a, err := c.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.control.Exec(ctx)
	if err != nil {
		return &exitError{exitExec, err}
	}
	in := &execInput{stream: stream}
	if start.Tty {
		start.Size = c.windowSize()
	}
	in.send(&pb.ExecInput{Kind: &pb.ExecInput_Start{Start: start}})
	if start.Tty && start.Stdin {
		state, err := term.MakeRaw(fd)
		if err != nil {
			return fmt.Errorf("set terminal to raw mode: %w", err)
		}
		defer term.Restore(fd, state)
	}
	defer c.forwardSignals(ctx, in)()
	if start.Stdin {
		go in.copyFrom(c.stdin)
	}
	return c.execOutput(stream)
}

// windowSize is the size of the terminal, nil if there is none.
func (c *cli) windowSize() *pb.WindowSize {
	fd, ok := terminal(c.stdout)
	if !ok {
		return nil
	}
	w, h, err := term.GetSize(fd)
	if err != nil {
		return nil
	}
	return &pb.WindowSize{Width: uint32(w), Height: uint32(h)}
}

// execInput serialises what several goroutines send.
type execInput struct {
	mu     sync.Mutex
	stream pb.Control_ExecClient
}

// send leaves failures to the receiving side, which learns why.
func (in *execInput) send(m *pb.ExecInput) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.stream.Send(m)
}

func (in *execInput) copyFrom(r io.Reader) {
	buf := make([]byte, stdinChunk)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if in.send(&pb.ExecInput{Kind: &pb.ExecInput_Stdin{Stdin: append([]byte(nil), buf[:n]...)}}) != nil {
				return
			}
		}
		if err != nil {
			in.send(&pb.ExecInput{Kind: &pb.ExecInput_CloseStdin{CloseStdin: true}})
			return
		}
	}
}

// forwardSignals passes signals and changes of the window's size on until the
// function that it returns is called. The end of ctx reaches the process as an
// interrupt.
func (c *cli) forwardSignals(ctx context.Context, in *execInput) (stop func()) {
	signals := make(chan os.Signal, 16)
	done := make(chan struct{})
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case s := <-signals:
				c.forwardSignal(in, s.(syscall.Signal))
			}
		}
	})
	return func() {
		signal.Stop(signals)
		close(done)
		wg.Wait()
	}
}

func (c *cli) forwardSignal(in *execInput, s syscall.Signal) {
	if s != syscall.SIGWINCH {
		in.send(&pb.ExecInput{Kind: &pb.ExecInput_Signal{Signal: uint32(s)}})
		return
	}
	if size := c.windowSize(); size != nil {
		in.send(&pb.ExecInput{Kind: &pb.ExecInput_Resize{Resize: size}})
	}
}

// execOutput copies what the command writes until it exits.
func (c *cli) execOutput(stream pb.Control_ExecClient) error {
	for {
		out, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return &exitError{exitExec, errors.New("exec ended without an exit code: the connection to the task broke")}
		}
		if err != nil {
			return &exitError{exitExec, err}
		}
		switch k := out.Kind.(type) {
		case *pb.ExecOutput_Stdout:
			c.stdout.Write(k.Stdout)
		case *pb.ExecOutput_Stderr:
			c.stderr.Write(k.Stderr)
		case *pb.ExecOutput_Exit:
			return execResult(k.Exit)
		}
	}
}

func execResult(e *pb.ExecExit) error {
	switch {
	case e.Error != "":
		code := int(e.Code)
		if code == 0 {
			code = exitExec
		}
		return &exitError{code, errors.New(e.Error)}
	case e.Code != 0:
		return &exitError{code: int(e.Code)}
	}
	return nil
}
