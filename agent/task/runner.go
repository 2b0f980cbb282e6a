package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

// progressEvery bounds how often "pulling image: 40 %" is reported; each report
// travels through the managers' log.
const progressEvery = time.Second

// What calls of the runtime may take, far above what a healthy one needs. Stop
// has the grace period on top; Wait alone has no end.
const (
	prepareTimeout = time.Hour // an image may be large and the line thin
	startTimeout   = time.Minute
	stopTimeout    = 30 * time.Second
	removeTimeout  = time.Minute
	inspectTimeout = 30 * time.Second
	leadTimeout    = 10 * time.Second
)

// errReplan breaks off a step because the managers want something else.
var errReplan = errors.New("the managers want the task to end")

// Config is what a Runner is made with. All fields are needed.
type Config struct {
	ID      string
	Runtime Runtime
	// Gate bounds preparing and starting, over all runners of a node.
	Gate *Gate
	// Status as last known on this node, or else by the managers.
	Status *pb.TaskStatus
	// Spec of the task, nil while the managers have not sent it.
	Spec func() *pb.TaskSpec
	// Wanted tells what to prepare, templates expanded, when the time has come.
	Wanted func() (*Wanted, error)
	// Report takes each new status, in order. When it returns from the report
	// of an end, the end is on disk: only then is the container removed.
	Report func(*pb.TaskStatus)
	Logger *slog.Logger
}

// Runner brings one task through its life.
type Runner struct {
	cfg     Config
	stopped chan struct{}
	changed chan struct{}

	mu    sync.Mutex
	input Input
	// interrupt breaks off the step that is under way, nil between steps.
	interrupt context.CancelCauseFunc

	// Of Run alone.
	state State
	obs   Observation
	// probed is a test that is not judged yet.
	probed *pb.HealthProbe
}

// NewRunner makes a runner; Run sets it going.
func NewRunner(cfg Config, in Input) *Runner {
	return &Runner{
		cfg:     cfg,
		stopped: make(chan struct{}),
		changed: make(chan struct{}, 1),
		input:   in,
		state:   State{ID: cfg.ID, Status: cfg.Status},
	}
}

// Set replaces what is wanted. It never blocks.
func (r *Runner) Set(in Input) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if in == r.input {
		return
	}
	r.input = in
	if in.ends() && r.interrupt != nil {
		r.interrupt(errReplan)
	}
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Stopped is closed once the task has ended and nothing of it runs.
func (r *Runner) Stopped() <-chan struct{} { return r.stopped }

// Run works until the task is forgotten and nothing is left of it (nil), or ctx
// ends. It then leaves the container alone: the next Run, maybe in another
// process, goes on from what it finds.
func (r *Runner) Run(ctx context.Context) error {
	if err := r.inspect(ctx); err != nil {
		return err
	}
	for {
		r.state.Input = r.wanted()
		r.state.MemoryLimit = r.cfg.Spec().GetResources().GetLimitMemoryBytes()
		if r.obs.Phase == Running && r.state.Health.Since.IsZero() {
			r.state.Health = resumeHealth(r.state.Status, time.Now())
		}
		step := Next(r.state, r.obs, time.Now())
		r.report(step.Status)
		if step.Action == Done {
			return nil
		}
		if err := r.act(ctx, step); err != nil {
			return err
		}
	}
}

func (r *Runner) wanted() Input {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.input
}

func (r *Runner) report(st *pb.TaskStatus) {
	if st != nil {
		r.state.Status = st
		r.cfg.Report(st)
	}
	if r.state.Status.GetState() > pb.TaskState_TASK_STATE_RUNNING && r.obs.Phase != Running {
		select {
		case <-r.stopped:
		default:
			close(r.stopped)
		}
	}
}

// act carries out one step. Its failures are kept in the state for Next; an
// error is returned only when ctx ended.
func (r *Runner) act(ctx context.Context, step Step) error {
	var err error
	switch step.Action {
	case Advance:
		return ctx.Err()
	case Rest:
		return r.rest(ctx, step.Until)
	case Prepare:
		err = r.prepare(ctx)
	case Start:
		err = r.start(ctx)
	case Wait:
		err = r.wait(ctx, step.Until)
	case Stop:
		err = r.stop(ctx)
	case Probe:
		err = r.probe(ctx)
	case Serve, Withhold:
		err = r.lead(ctx, step.Action)
	case Clean, Wipe:
		err = r.remove(ctx, step.Action == Clean)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, errReplan) {
		err = nil
	}
	if e := r.inspect(ctx); e != nil {
		return e
	}
	r.settle(step.Action, err)
	r.judge()
	return nil
}

// settle notes how an action went. One that succeeded and left no trace has
// failed all the same, or it would be repeated without end.
func (r *Runner) settle(a Action, err error) {
	if err == nil && !r.wanted().ends() {
		switch {
		case a == Prepare && r.obs.Phase == Absent:
			err = errors.New("the container vanished after it was created")
		case a == Start && r.obs.Phase == Created:
			err = errors.New("the process did not start")
		}
	}
	if err == nil {
		r.state.Failures = Failures{}
		return
	}
	r.state.Failures = r.state.Failures.after(a, err, time.Now())
	r.cfg.Logger.Warn("task step failed", "task", r.cfg.ID, "step", a.String(), "try", r.state.Failures.Count, "error", err)
}

func (r *Runner) prepare(ctx context.Context) error {
	r.state.Dirty, r.state.Prepared = true, false
	return r.interruptible(ctx, func(ctx context.Context) error {
		leave, err := r.cfg.Gate.Enter(ctx)
		if err != nil {
			return err
		}
		defer leave()
		w, err := r.cfg.Wanted()
		if err != nil {
			return err
		}
		tell := &teller{last: r.state.Status, report: r.cfg.Report}
		defer func() { r.state.Status = tell.close() }()
		ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
		defer cancel()
		err = r.cfg.Runtime.Prepare(ctx, w, tell.progress)
		r.state.Prepared = err == nil
		return err
	})
}

func (r *Runner) start(ctx context.Context) error {
	return r.interruptible(ctx, func(ctx context.Context) error {
		leave, err := r.cfg.Gate.Enter(ctx)
		if err != nil {
			return err
		}
		defer leave()
		// A start that has begun is not broken off: nobody could tell whether
		// the process runs.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
		defer cancel()
		return r.cfg.Runtime.Start(ctx, r.cfg.ID)
	})
}

// wait returns nil at until, unless that is zero.
func (r *Runner) wait(ctx context.Context, until time.Time) error {
	return r.interruptible(ctx, func(ctx context.Context) error {
		if until.IsZero() {
			_, err := r.cfg.Runtime.Wait(ctx, r.cfg.ID)
			return err
		}
		bounded, cancel := context.WithDeadline(ctx, until)
		defer cancel()
		_, err := r.cfg.Runtime.Wait(bounded, r.cfg.ID)
		if bounded.Err() != nil && ctx.Err() == nil {
			return nil
		}
		return err
	})
}

func (r *Runner) stop(ctx context.Context) error {
	return r.guard(func() error {
		spec := r.cfg.Spec()
		ctx, cancel := context.WithTimeout(ctx, Grace(spec)+stopTimeout)
		defer cancel()
		return r.cfg.Runtime.Stop(ctx, r.cfg.ID, spec.GetContainer().GetStopSignal(), Grace(spec))
	})
}

func (r *Runner) remove(ctx context.Context, keepLog bool) error {
	err := r.guard(func() error {
		ctx, cancel := context.WithTimeout(ctx, removeTimeout)
		defer cancel()
		return r.cfg.Runtime.Remove(ctx, r.cfg.ID, keepLog)
	})
	if err == nil {
		r.state.Dirty, r.state.Wiped = false, !keepLog
	}
	return err
}

// interruptible runs a step that ends early, with errReplan, when the task has to stop.
func (r *Runner) interruptible(ctx context.Context, step func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.mu.Lock()
	if r.input.ends() {
		r.mu.Unlock()
		return errReplan
	}
	r.interrupt = cancel
	r.mu.Unlock()

	err := r.guard(func() error { return step(ctx) })

	r.mu.Lock()
	r.interrupt = nil
	r.mu.Unlock()
	if err != nil && errors.Is(context.Cause(ctx), errReplan) {
		return errReplan
	}
	return err
}

// inspect insists: without knowing what runs there is no next step.
func (r *Runner) inspect(ctx context.Context) error {
	for failed := (Failures{}); ; {
		err := r.guard(func() (err error) {
			ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
			defer cancel()
			r.obs, err = r.cfg.Runtime.Inspect(ctx, r.cfg.ID)
			return err
		})
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if failed.Count == 0 {
			r.cfg.Logger.Warn("cannot inspect task", "task", r.cfg.ID, "error", err)
		}
		failed = failed.after(Wait, err, time.Now())
		select {
		case <-time.After(time.Until(retryAt(failed))):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *Runner) rest(ctx context.Context, until time.Time) error {
	var timeout <-chan time.Time
	if !until.IsZero() {
		timeout = time.After(time.Until(until))
	}
	select {
	case <-r.changed:
	case <-timeout:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// guard makes an error of a panic: a fault in the runtime costs one task's
// step, not the node.
func (r *Runner) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.cfg.Logger.Error("runtime panicked", "task", r.cfg.ID, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("fault in minid, see its log: %v", p)
		}
	}()
	return f()
}

// teller turns the messages of Prepare into statuses.
type teller struct {
	report func(*pb.TaskStatus)

	mu     sync.Mutex
	last   *pb.TaskStatus
	at     time.Time
	closed bool
}

func (t *teller) progress(message string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.closed || message == t.last.GetMessage() || now.Sub(t.at) < progressEvery {
		return
	}
	s := State{Status: t.last}
	t.last, t.at = status(s, t.last.GetState(), message, now), now
	t.report(t.last)
}

// close ends the reports, also of a runtime that keeps the callback, and
// returns the last one.
func (t *teller) close() *pb.TaskStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	return t.last
}
