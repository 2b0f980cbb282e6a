package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/progress"
	"github.com/minid/minid/cmd/minictl/spec"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// lastLines of a failed task explain its failure better than any message.
	lastLines = 10
	// lastLinesTimeout bounds the fetching of them.
	lastLinesTimeout = 5 * time.Second
)

// errWaited is why a wait ends at --timeout.
var errWaited = errors.New("waited long enough")

// waitFlags are the flags of commands that wait until a service converged.
type waitFlags struct {
	detach, quiet bool
	progress      string
	timeout       time.Duration
}

func (f *waitFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&f.detach, "detach", "d", false, "do not wait until the service converged, or the job ended")
	f.registerShown(cmd)
}

// registerShown adds the flags of a wait that cannot be left out.
func (f *waitFlags) registerShown(cmd *cobra.Command) {
	set := cmd.Flags()
	set.BoolVarP(&f.quiet, "quiet", "q", false, "no progress")
	set.StringVar(&f.progress, "progress", "auto", "auto, tty, plain, json or quiet")
	set.DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait; the work goes on after it")
	cmd.RegisterFlagCompletionFunc("progress", cobra.FixedCompletions([]string{"auto", "tty", "plain", "json", "quiet"}, cobra.ShellCompDirectiveNoFileComp))
}

// check refuses bad values before anything is done.
func (f *waitFlags) check() error {
	if f.timeout <= 0 {
		return fault.New(fault.Invalid, "invalid --timeout %v: expected a positive duration", f.timeout)
	}
	switch f.progress {
	case "auto", "tty", "plain", "json", "quiet":
		return nil
	}
	return fault.New(fault.Invalid, "invalid --progress %q: expected auto, tty, plain, json or quiet", f.progress)
}

// tells whether people read along.
func (f *waitFlags) tells() bool { return !f.quiet && f.progress != "quiet" && f.progress != "json" }

// display chooses how progress is shown; it always goes to stderr.
func (c *cli) display(f waitFlags) progress.Display {
	fd, isTerminal := terminal(c.stderr)
	size := func() (int, int) {
		if w, h, err := term.GetSize(fd); isTerminal && err == nil {
			return w, h
		}
		return 80, 24
	}
	switch {
	case f.quiet, f.progress == "quiet":
		return progress.NewQuiet()
	case f.progress == "json":
		return progress.NewJSON(c.stderr)
	case f.progress == "tty", f.progress == "auto" && isTerminal && c.env("TERM") != "dumb":
		return progress.NewTTY(c.stderr, size)
	}
	return progress.NewPlain(c.stderr)
}

// wait shows a service's progress until it converged; what went wrong instead
// decides the exit code.
func (c *cli) wait(ctx context.Context, a *api, s *pb.Service, f waitFlags) error {
	if f.detach {
		return nil
	}
	if spec.IsJob(s.GetSpec()) {
		return c.waitJob(ctx, a, s, f)
	}
	nodes, err := a.nodeNames(ctx)
	if err != nil {
		return err
	}
	started := time.Now()
	limited, cancel := context.WithTimeoutCause(ctx, f.timeout, errWaited)
	defer cancel()
	tracker := progress.NewTracker(s, nodes)
	display := newQuoting(c.display(f), func(task string) ([]string, error) { return a.lastLog(limited, task, loopLines) })
	outcome, err := progress.Follow(limited, a.watchService(s.Id), tracker, display)
	name := s.GetSpec().GetName()
	switch {
	case outcome == progress.Converged:
		if f.tells() {
			fmt.Fprintf(c.stderr, "Service %s converged in %.1fs\n", name, time.Since(started).Seconds())
		}
		if problem := tracker.Service().GetEndpoint().GetProblem(); problem != "" {
			c.warn([]string{problem})
		}
		return nil
	case outcome == progress.Gone:
		return fault.New(fault.NotFound, "service %q was removed while it was waited for", name)
	case outcome == progress.Paused, outcome == progress.RolledBack:
		return c.rolloutFailed(ctx, a, tracker, name)
	case errors.Is(err, errInterrupted):
		fmt.Fprintf(c.stderr, "Operation continuing in background.\nTry: minictl service ps %s\n", name)
		return &exitError{code: exitInterrupted}
	case errors.Is(err, errWaited):
		return c.timedOut(ctx, a, tracker, f.timeout)
	}
	return err
}

// watchService opens watches on a service and its tasks.
func (a *api) watchService(id string) progress.Open {
	return func(ctx context.Context) (func() (*pb.WatchEvent, error), error) {
		stream, err := a.control.Watch(ctx, &pb.WatchRequest{ServiceId: id, Kinds: []pb.Kind{pb.Kind_KIND_SERVICE, pb.Kind_KIND_TASK}})
		if err != nil {
			return nil, err
		}
		return stream.Recv, nil
	}
}

func (c *cli) rolloutFailed(ctx context.Context, a *api, t *progress.Tracker, name string) error {
	c.lastWords(ctx, a, t.Failed())
	status := t.Service().GetUpdateStatus()
	message := print.Clean(status.GetMessage())
	err := fault.New(fault.State, "update of service %q paused: %s", name, message).WithTry("minictl service ps %s", name)
	switch {
	case status.GetState() == pb.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED:
		err = fault.New(fault.State, "update of service %q was undone: %s", name, message).WithTry("minictl service ps %s", name)
	case status.GetState() == pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED:
		err = fault.New(fault.State, "rollback of service %q paused: %s", name, message).WithTry("minictl service ps %s", name)
	}
	return &exitError{exitRollout, err}
}

// timedOut tells tasks that fit nowhere from those that are slow or fail.
func (c *cli) timedOut(ctx context.Context, a *api, t *progress.Tracker, after time.Duration) error {
	name := t.Service().GetSpec().GetName()
	if task := t.Waiting(); task != nil {
		err := fault.New(fault.Timeout, "cannot place all tasks of service %q within %v: %s", name, after, progress.Reason(task))
		return &exitError{exitUnplaceable, err.WithTry("minictl task why %s", progress.Ref(task))}
	}
	if t.Nowhere() {
		err := fault.New(fault.Timeout, "cannot place service %q within %v: no node fits", name, after)
		return &exitError{exitUnplaceable, err.WithTry("minictl node ls")}
	}
	counts := t.Counts()
	text := fmt.Sprintf("%d out of %d tasks are as wanted", counts.Good, counts.Wanted)
	if loops := t.Loops(time.Now()); len(loops) > 0 {
		c.lastWords(ctx, a, loops[0].Last)
		text += "; " + print.Clean(loops[0].Name+" "+loops[0].Text(time.Now()))
	} else if task := t.Failed(); task != nil {
		c.lastWords(ctx, a, task)
		text += "; last failure: " + print.Clean(progress.Reason(task))
	} else if task := t.Slow(); task != nil {
		text += "; " + progress.Ref(task) + " is at it: " + print.Clean(progress.Reason(task))
	}
	return fault.New(fault.Timeout, "service %q did not converge within %v: %s; the work goes on", name, after, text).
		WithTry("minictl service ps %s", name)
}

// lastWords prints the end of a failed task's log.
func (c *cli) lastWords(ctx context.Context, a *api, task *pb.Task) {
	if task == nil {
		return
	}
	lines, err := a.lastLog(ctx, task.Id, lastLines)
	if len(lines) == 0 && err != nil {
		fmt.Fprintf(c.stderr, "Try: minictl logs %s\n", progress.Ref(task))
	}
	if len(lines) > 0 {
		fmt.Fprintf(c.stderr, "Last lines of %s:\n", progress.Ref(task))
	}
	for _, line := range lines {
		fmt.Fprintf(c.stderr, "    %s\n", line)
	}
}
