package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/progress"
	"github.com/minid/minid/cmd/minictl/spec"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// lookAgain is the time between looks at what no watch follows.
const lookAgain = 250 * time.Millisecond

// What an object can be waited for; the first is what is meant without --for.
var (
	serviceGoals = [...]string{"converged", "healthy", "gone"}
	jobGoals     = [...]string{"complete", "failed", "gone"}
	nodeGoals    = [...]string{"ready", "down", "drained", "gone"}
)

// awaited is an object and what is waited for.
type awaited struct{ kind, name, goal string }

func (w awaited) String() string { return w.kind + "/" + w.name }

// parseAwaited reads KIND/NAME. An empty goal is the usual one.
func parseAwaited(ref, goal string) (awaited, error) {
	kind, name, ok := strings.Cut(ref, "/")
	var goals []string
	switch {
	case !ok || name == "":
		return awaited{}, fault.New(fault.Invalid, "invalid object %q: expected service/NAME, job/NAME or node/NAME", ref)
	case kind == "service":
		goals = serviceGoals[:]
	case kind == "node":
		goals = nodeGoals[:]
	case kind == "job":
		goals = jobGoals[:]
	default:
		return awaited{}, fault.New(fault.Invalid, "invalid object %q: only services, jobs and nodes can be waited for", ref).WithTry("minictl wait service/NAME")
	}
	if goal == "" {
		goal = goals[0]
	}
	if goal == "complete" && kind == "service" {
		return awaited{}, fault.New(fault.Invalid, "cannot wait until %s is complete: only jobs end, services run on", ref).
			WithTry("minictl wait %s --for=converged, or minictl wait job/%s", ref, name)
	}
	if !slices.Contains(goals, goal) {
		return awaited{}, fault.New(fault.Invalid, "invalid --for %q for %s: a %s can be waited for to be %s", goal, ref, kind, strings.Join(goals, ", ")).
			WithTry("minictl wait %s --for=%s", ref, goals[0])
	}
	return awaited{kind, name, goal}, nil
}

func (c *cli) waitCommand() *cobra.Command {
	var goal string
	f := waitFlags{}
	cmd := c.streaming("wait [FLAGS] service/NAME|job/NAME|node/NAME...", "Wait until services, runs of jobs or nodes are as expected", atLeast(1), func(ctx context.Context, args []string) error {
		if err := f.check(); err != nil {
			return err
		}
		var all []awaited
		for _, ref := range args {
			w, err := parseAwaited(ref, goal)
			if err != nil {
				return err
			}
			all = append(all, w)
		}
		a, err := c.connect()
		if err != nil {
			return err
		}
		return c.waitForAll(ctx, a, all, f)
	})
	set := cmd.Flags()
	set.StringVar(&goal, "for", "", "converged, healthy or gone for services; complete, failed or gone for jobs; ready, down, drained or gone for nodes (default converged, complete, ready)")
	f.registerShown(cmd)
	cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions([]string{"converged", "healthy", "complete", "failed", "ready", "down", "drained", "gone"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.ValidArgsFunction = c.completing(func(ctx context.Context, a *api) []string {
		var refs []string
		for _, name := range serviceNamesThat(ctx, a, func(s *pb.ServiceSpec) bool { return !spec.IsJob(s) }) {
			refs = append(refs, "service/"+name)
		}
		for _, name := range jobNames(ctx, a) {
			refs = append(refs, "job/"+name)
		}
		for _, name := range hostnames(ctx, a) {
			refs = append(refs, "node/"+name)
		}
		return refs
	})
	return cmd
}

// waitForAll waits for all objects at once, and tells of each as it is reached.
func (c *cli) waitForAll(ctx context.Context, a *api, all []awaited, f waitFlags) error {
	limited, cancel := context.WithTimeoutCause(ctx, f.timeout, errWaited)
	defer cancel()
	tell := c.teller(f)
	failures := make([]error, len(all))
	var waits sync.WaitGroup
	for i, w := range all {
		waits.Go(func() {
			if failures[i] = c.waitFor(limited, a, w, f.timeout, tell); failures[i] == nil {
				tell.reached(c.stdout, w)
			}
		})
	}
	waits.Wait()
	if errors.Is(context.Cause(ctx), errInterrupted) {
		return &exitError{code: exitInterrupted}
	}
	return errors.Join(failures...)
}

func (c *cli) waitFor(ctx context.Context, a *api, w awaited, timeout time.Duration, tell *teller) error {
	switch {
	case w.goal == "drained":
		return a.waitForDrain(ctx, w, timeout, tell)
	case w.kind == "node":
		return a.waitForNode(ctx, w, timeout, tell)
	case w.goal == "gone":
		return a.waitForEnd(ctx, w, timeout, tell)
	case w.kind == "job":
		return c.waitForRun(ctx, a, w, timeout, tell)
	}
	return c.waitForService(ctx, a, w, timeout, tell)
}

// waitForService waits until a service runs as its spec says and, for the goal
// healthy, no task of it is unhealthy.
func (c *cli) waitForService(ctx context.Context, a *api, w awaited, timeout time.Duration, tell *teller) error {
	// The lookups are no part of the wait's time once it is over.
	after := context.WithoutCancel(ctx)
	s, nodes, err := a.lookUp(ctx, w, timeout)
	if err != nil {
		return err
	}
	if spec.IsJob(s.GetSpec()) {
		return fault.New(fault.Invalid, "cannot wait until %s is %s: it is a job, and ends", w, w.goal).WithTry("minictl wait job/%s", w.name)
	}
	// A rollout that failed before the wait is no less in its way.
	s = proto.CloneOf(s)
	s.UpdateStatus = nil
	tracker := progress.NewTracker(s, nodes)
	for {
		outcome, err := progress.Follow(ctx, a.watchService(s.Id), tracker, waitDisplay{w, tell})
		switch {
		case outcome == progress.Gone:
			return fault.New(fault.NotFound, "service %q was removed while it was waited for", w.name)
		case outcome == progress.Paused:
			return c.rolloutFailed(after, a, tracker, w.name)
		case errors.Is(err, errWaited):
			return c.timedOut(after, a, tracker, timeout)
		case err != nil:
			return err
		}
		sick := tracker.Unhealthy()
		if w.goal == "converged" || sick == nil {
			return nil
		}
		tell.waits(w, progress.Ref(sick)+" is not healthy")
		if pause(ctx, lookAgain) != nil && errors.Is(context.Cause(ctx), errWaited) {
			return fault.New(fault.Timeout, "service %q is not healthy after %v: %s is not", w.name, timeout, progress.Ref(sick)).
				WithTry("minictl task inspect %s", progress.Ref(sick))
		}
	}
}

// lookUp finds what is waited for, and the names of nodes. A leader that is lost
// at that moment only makes the wait longer.
func (a *api) lookUp(ctx context.Context, w awaited, timeout time.Duration) (s *pb.Service, nodes map[string]string, err error) {
	var last error
	err = poll(ctx, func(ctx context.Context) (bool, error) {
		if s, last = a.control.GetService(ctx, &pb.GetRequest{Ref: w.name}); last == nil {
			nodes, last = a.nodeNames(ctx)
		}
		return last == nil, last
	}, func() error {
		return fault.New(fault.Timeout, "%s could not be looked up within %v: %w", w, timeout, last)
	})
	return s, nodes, err
}

// waitForEnd waits until a service and its tasks are gone; one that is not
// there is.
func (a *api) waitForEnd(ctx context.Context, w awaited, timeout time.Duration, tell *teller) error {
	ref := w.name
	return poll(ctx, func(ctx context.Context) (bool, error) {
		s, err := a.control.GetService(ctx, &pb.GetRequest{Ref: ref})
		switch {
		case fault.Is(err, fault.NotFound):
			return true, nil
		case err != nil:
			return false, err
		}
		ref = s.Id // another service may get its name
		text := "it is not being removed"
		if s.Removing {
			text = fmt.Sprintf("its tasks are being stopped, %d still run", s.GetStatus().GetRunning())
		}
		tell.waits(w, text)
		return false, nil
	}, func() error {
		return fault.New(fault.Timeout, "service %q is not gone after %v", w.name, timeout).WithTry("minictl service ps %s", w.name)
	})
}

// waitForNode waits until a node is in a state, or its record is gone.
func (a *api) waitForNode(ctx context.Context, w awaited, timeout time.Duration, tell *teller) error {
	wanted := map[string]pb.NodeState{"ready": pb.NodeState_NODE_STATE_READY, "down": pb.NodeState_NODE_STATE_DOWN}[w.goal]
	ref, last := w.name, "it was not seen"
	return poll(ctx, func(ctx context.Context) (bool, error) {
		n, err := a.getNode(ctx, ref)
		switch {
		case w.goal == "gone" && fault.Is(err, fault.NotFound):
			return true, nil
		case err != nil:
			return false, err
		}
		ref = n.Id
		if w.goal != "gone" && n.GetStatus().GetState() == wanted {
			return true, nil
		}
		last = "it is " + strings.ToLower(nodeState(n))
		if message := n.GetStatus().GetMessage(); message != "" {
			last += ": " + print.Clean(message)
		}
		tell.waits(w, last)
		return false, nil
	}, func() error {
		return fault.New(fault.Timeout, "node %q is not %s after %v: %s", w.name, w.goal, timeout, last).WithTry("minictl node inspect --pretty %s", w.name)
	})
}

// poll looks again and again until look is content or fails for good; leaders
// may change meanwhile. Overdue says what a timeout means.
func poll(ctx context.Context, look func(context.Context) (bool, error), overdue func() error) error {
	for {
		once, cancel := bounded(ctx)
		done, err := look(once)
		cancel()
		switch {
		case done:
			return nil
		case err == nil, ctx.Err() != nil, fault.Is(err, fault.Unavailable), fault.Is(err, fault.Timeout):
		default:
			return err
		}
		if err := pause(ctx, lookAgain); err != nil {
			if errors.Is(err, errWaited) {
				return overdue()
			}
			return err
		}
	}
}

// pause returns after a time, or with the cause of ctx's end.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// teller says what is waited for, one line per change and object.
type teller struct {
	show func(w awaited, state, text string)
	mu   sync.Mutex
	said map[awaited]string
}

func (c *cli) teller(f waitFlags) *teller {
	t := &teller{said: map[awaited]string{}}
	switch {
	case f.quiet, f.progress == "quiet":
		t.show = func(awaited, string, string) {}
	case f.progress == "json":
		t.show = func(w awaited, state, text string) {
			line, _ := json.Marshal(map[string]string{"object": w.String(), "for": w.goal, "state": state, "reason": text})
			fmt.Fprintf(c.stderr, "%s\n", line)
		}
	default:
		t.show = func(w awaited, _, text string) {
			if text != "" {
				fmt.Fprintf(c.stderr, "%s not %s yet: %s\n", w, w.goal, text)
			}
		}
	}
	return t
}

func (t *teller) waits(w awaited, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.said[w] != text {
		t.said[w] = text
		t.show(w, "waiting", text)
	}
}

func (t *teller) reached(out io.Writer, w awaited) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.show(w, w.goal, "")
	fmt.Fprintf(out, "%s %s\n", w, w.goal)
}

// waitDisplay tells a service's progress among that of others.
type waitDisplay struct {
	object awaited
	tell   *teller
}

// Show is progress.Display's: the task that holds things up, else the count.
func (d waitDisplay) Show(t *progress.Tracker, _ []progress.Change, now time.Time) {
	if !t.Synced() {
		return
	}
	counts := t.Counts()
	text := fmt.Sprintf("%d out of %d tasks run", counts.Good, counts.Wanted)
	if counts.Job {
		text = counts.Overall(true)
	}
	if loops := t.Loops(now); len(loops) > 0 {
		text += "; " + print.Clean(loops[0].Told())
	}
	for _, task := range []*pb.Task{t.Waiting(), t.Slow()} {
		if task != nil {
			text += fmt.Sprintf("; %s: %s", progress.Ref(task), print.Clean(progress.Reason(task)))
			break
		}
	}
	d.tell.waits(d.object, text)
}

// Close is progress.Display's.
func (waitDisplay) Close(*progress.Tracker, time.Time) {}
