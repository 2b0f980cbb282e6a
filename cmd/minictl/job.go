package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/progress"
	"github.com/minid/minid/cmd/minictl/spec"
	"github.com/minid/minid/cron"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// runPicker chooses the run of a job that is waited for, 0 until it has begun.
type runPicker = func(*pb.Service) uint64

func (c *cli) serviceRun() *cobra.Command {
	var wait waitFlags
	cmd := c.streaming("run [FLAGS] JOB", "Start one more run of a job now, and wait for its end", exactly(1), func(ctx context.Context, args []string) error {
		if err := wait.check(); err != nil {
			return err
		}
		a, err := c.connect()
		if err != nil {
			return err
		}
		s, err := a.runJob(ctx, args[0])
		if err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, args[0])
		if wait.detach {
			return nil
		}
		return c.followRun(ctx, a, s, progress.RunAsked(s.RunsAsked), wait)
	})
	wait.registerRun(cmd)
	cmd.ValidArgsFunction = c.completing(jobNames)
	return cmd
}

func (a *api) runJob(ctx context.Context, ref string) (*pb.Service, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	s, err := a.control.RunJob(ctx, &pb.GetRequest{Ref: ref})
	return s, overdue(ctx, err)
}

// registerRun adds the flags of a wait for a run.
func (f *waitFlags) registerRun(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&f.detach, "detach", "d", false, "do not wait until the run has ended")
	f.registerShown(cmd)
}

func (c *cli) servicePause() *cobra.Command {
	return c.pausing("pause JOB...", "Let the schedules of jobs start no runs; those that go on do so", true)
}

func (c *cli) serviceResume() *cobra.Command {
	return c.pausing("resume JOB...", "Let the schedules of jobs start runs again; times that passed are left out", false)
}

// pausing makes the verbs that turn schedules off and on.
func (c *cli) pausing(use, short string, paused bool) *cobra.Command {
	cmd := c.command(use, short, atLeast(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		return each(args, func(ref string) error {
			s, err := c.changeService(ctx, a, ref, 0, func(old *pb.ServiceSpec) (*pb.ServiceSpec, error) {
				if err := spec.SetPaused(old, paused); err != nil {
					verb := map[bool]string{true: "pause", false: "resume"}[paused]
					return nil, fault.New(fault.Invalid, "cannot %s service %q: %w", verb, ref, err).
						WithTry("minictl service ls --format wide, which shows when jobs run next")
				}
				return old, nil
			})
			if err == nil {
				fmt.Fprintln(c.stdout, ref)
				c.tellNext(s)
			}
			return err
		})
	})
	cmd.ValidArgsFunction = c.completing(scheduledNames)
	return cmd
}

// nextRun is when a job's schedule has its next time, and whether it will be
// followed.
func nextRun(s *pb.Service, now time.Time) (at time.Time, ok bool) {
	schedule := s.GetSpec().GetJob().GetSchedule()
	if schedule == nil || schedule.Paused || s.Removing {
		return time.Time{}, false
	}
	parsed, err := cron.Parse(schedule.Cron, schedule.Timezone)
	if err != nil {
		return time.Time{}, false // a newer manager may know more
	}
	at = parsed.Next(now)
	return at, !at.IsZero()
}

// nextText is the time until a job's next run, for tables.
func nextText(s *pb.Service, now time.Time) string {
	if s.GetSpec().GetJob().GetSchedule().GetPaused() {
		return "paused"
	}
	at, ok := nextRun(s, now)
	if !ok {
		return ""
	}
	return "in " + lowerFirst(units.HumanDuration(at.Sub(now)))
}

// nextTime is when a job runs next, in its schedule's zone.
func nextTime(s *pb.Service, now time.Time) string {
	at, ok := nextRun(s, now)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s (%s)", at.Format("2006-01-02 15:04 MST"), nextText(s, now))
}

// tellNext says when a scheduled job runs next.
func (c *cli) tellNext(s *pb.Service) {
	name := s.GetSpec().GetName()
	switch text := nextTime(s, c.now()); {
	case text != "":
		fmt.Fprintf(c.stderr, "Job %s runs next at %s\n", name, text)
	case s.GetSpec().GetJob().GetSchedule().GetPaused():
		fmt.Fprintf(c.stderr, "Job %s is paused: its schedule starts no runs\n", name)
	}
}

// waitJob waits for the run that a job's creation or change began. What has a
// schedule begins none, nor does a change that is not about its tasks.
func (c *cli) waitJob(ctx context.Context, a *api, s *pb.Service, f waitFlags) error {
	if s.GetSpec().GetJob().GetSchedule() != nil {
		if f.tells() {
			c.tellNext(s)
		}
		return nil
	}
	pick := progress.RunOf(s.SpecVersion)
	if run := runNumbered(s, pick(s)); run.GetEndedAt() != nil {
		if f.tells() {
			name := s.GetSpec().GetName()
			fmt.Fprintf(c.stderr, "Job %s: no run began for this change\nTry: minictl service run %s\n", name, name)
		}
		return nil
	}
	return c.followRun(ctx, a, s, pick, f)
}

func runNumbered(s *pb.Service, number uint64) *pb.JobRun {
	for _, run := range s.GetJob().GetRuns() {
		if run.Number == number {
			return run
		}
	}
	return nil
}

// followRun shows a run's progress until it ends; how decides the exit code.
func (c *cli) followRun(ctx context.Context, a *api, s *pb.Service, pick runPicker, f waitFlags) error {
	nodes, err := a.nodeNames(ctx)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeoutCause(ctx, f.timeout, errWaited)
	defer cancel()
	tracker := progress.NewJobTracker(s, nodes, pick)
	display := newQuoting(c.display(f), func(task string) ([]string, error) { return a.lastLog(limited, task, loopLines) })
	outcome, err := progress.Follow(limited, a.watchService(s.Id), tracker, display)
	name := s.GetSpec().GetName()
	switch {
	case outcome == progress.Completed:
		if f.tells() {
			fmt.Fprintf(c.stderr, "Run %d of job %s complete in %s: %d of %d tasks\n", tracker.Run().Number, name,
				runTime(tracker.Run(), c.now()), tracker.Run().Completed, tracker.Run().Total)
		}
		return nil
	case errors.Is(err, errInterrupted):
		fmt.Fprintf(c.stderr, "Operation continuing in background.\nTry: minictl wait job/%s\n", name)
		return &exitError{code: exitInterrupted}
	}
	return c.runFailed(ctx, a, tracker, ended{outcome, err, f.timeout})
}

// ended is how the wait for a run ended that did not complete.
type ended struct {
	outcome progress.Outcome
	err     error
	timeout time.Duration
}

// runFailed says why a run that was to complete did not.
func (c *cli) runFailed(ctx context.Context, a *api, t *progress.Tracker, e ended) error {
	name, run := t.Service().GetSpec().GetName(), t.Run()
	switch {
	case e.outcome == progress.RunFailed && run.State == pb.JobState_JOB_STATE_REPLACED:
		return &exitError{exitRollout, fault.New(fault.State, "run %d of job %q was replaced: %s", run.Number, name, print.Clean(run.Message)).
			WithTry("minictl service inspect --pretty %s", name)}
	case e.outcome == progress.RunFailed:
		c.lastWords(ctx, a, t.Failed())
		return &exitError{exitRollout, fault.New(fault.State, "run %d of job %q failed: %s", run.Number, name, print.Clean(run.Message)).
			WithTry("minictl service ps %s", name)}
	case e.outcome == progress.Gone:
		return fault.New(fault.NotFound, "job %q was removed while it was waited for", name)
	case errors.Is(e.err, errWaited):
		return c.runTimedOut(ctx, a, t, e.timeout)
	}
	return e.err
}

// runTimedOut tells tasks that fit nowhere from those that are slow or fail.
func (c *cli) runTimedOut(ctx context.Context, a *api, t *progress.Tracker, after time.Duration) error {
	name, run := t.Service().GetSpec().GetName(), t.Run()
	if run == nil {
		return fault.New(fault.Timeout, "no run of job %q began within %v", name, after).WithTry("minictl service inspect --pretty %s", name)
	}
	if task := t.Waiting(); task != nil {
		err := fault.New(fault.Timeout, "cannot place all tasks of job %q within %v: %s", name, after, progress.Reason(task))
		return &exitError{exitUnplaceable, err.WithTry("minictl task why %s", progress.Ref(task))}
	}
	counts := t.Counts()
	text := fmt.Sprintf("%d out of %d tasks are complete", counts.Good, counts.Wanted)
	if task := t.Failed(); task != nil {
		c.lastWords(ctx, a, task)
		text += "; last failure: " + print.Clean(progress.Reason(task))
	}
	return fault.New(fault.Timeout, "run %d of job %q has not ended within %v: %s; it goes on", run.Number, name, after, text).
		WithTry("minictl wait job/%s", name)
}

// runTime is how long a run took, or has been going on.
func runTime(r *pb.JobRun, now time.Time) string {
	if r.StartedAt == nil {
		return ""
	}
	until := now
	if r.EndedAt != nil {
		until = r.EndedAt.AsTime()
	}
	return until.Sub(r.StartedAt.AsTime()).Round(100 * time.Millisecond).String()
}

// waitForRun waits for an end of a job's run: the one that is about to begin,
// else the newest one there is.
func (c *cli) waitForRun(ctx context.Context, a *api, w awaited, timeout time.Duration, tell *teller) error {
	// The lookups are no part of the wait's time once it is over.
	after := context.WithoutCancel(ctx)
	s, nodes, err := a.lookUp(ctx, w, timeout)
	if err != nil {
		return err
	}
	if !spec.IsJob(s.GetSpec()) {
		return fault.New(fault.Invalid, "cannot wait until %s is %s: it is no job, and runs on", w, w.goal).WithTry("minictl wait service/%s", w.name)
	}
	tracker := progress.NewJobTracker(s, nodes, nextEnd(s))
	outcome, err := progress.Follow(ctx, a.watchService(s.Id), tracker, waitDisplay{w, tell})
	run := tracker.Run()
	switch {
	case w.goal == "complete" && outcome == progress.Completed:
		return nil
	case w.goal == "failed" && outcome == progress.Completed:
		return &exitError{exitRollout, fault.New(fault.State, "run %d of job %q is complete, and cannot fail any more", run.Number, w.name).
			WithTry("minictl service inspect --pretty %s", w.name)}
	case w.goal == "failed" && outcome == progress.RunFailed && run.State == pb.JobState_JOB_STATE_FAILED:
		return nil
	}
	return c.runFailed(after, a, tracker, ended{outcome, err, timeout})
}

// nextEnd chooses the run that a job is waited for by: one that users asked for
// or that a change of its tasks begins, else the newest.
func nextEnd(s *pb.Service) runPicker {
	switch newest := progress.NewestRun(s); {
	case s.RunsAsked > s.GetJob().GetRunsAnswered():
		return progress.RunAsked(s.RunsAsked)
	case s.GetSpec().GetJob().GetSchedule() == nil:
		return progress.RunOf(s.SpecVersion)
	case newest > 0:
		return func(*pb.Service) uint64 { return newest }
	}
	return progress.NewestRun
}

// jobNames are the services that run to an end.
func jobNames(ctx context.Context, a *api) []string {
	return serviceNamesThat(ctx, a, spec.IsJob)
}

// scheduledNames are those that do so again and again.
func scheduledNames(ctx context.Context, a *api) []string {
	return serviceNamesThat(ctx, a, func(s *pb.ServiceSpec) bool { return s.GetJob().GetSchedule() != nil })
}

func serviceNamesThat(ctx context.Context, a *api, fits func(*pb.ServiceSpec) bool) []string {
	resp, _ := a.control.ListServices(ctx, &pb.ListRequest{})
	var names []string
	for _, s := range resp.GetServices() {
		if fits(s.GetSpec()) {
			names = append(names, s.GetSpec().GetName())
		}
	}
	return names
}
