package task

import (
	"time"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// How long failing steps are repeated before they count as the task's end.
const (
	// PreparePatience bounds the retries of Prepare: a registry that is away for
	// a minute or two must not cost a task.
	PreparePatience = 2 * time.Minute
	// StartPatience bounds the retries of Start: a host port that its last owner
	// is just giving back.
	StartPatience = 10 * time.Second
)

// Action is what the runner has to do next.
type Action int

// The actions.
const (
	// Advance: nothing but report the status, then ask again.
	Advance Action = iota
	// Prepare, Start, Wait, Stop: the Runtime's methods.
	Prepare
	Start
	Wait
	Stop
	// Probe tests the task's health.
	Probe
	// Serve and Withhold let new connections to the task, or keep them from it.
	Serve
	Withhold
	// Clean removes the container and keeps the log.
	Clean
	// Wipe removes the log too.
	Wipe
	// Rest: nothing until the input changes, or until Step.Until when it is set.
	Rest
	// Done: nothing ever again.
	Done
)

var actionNames = [...]string{"advance", "prepare", "start", "wait", "stop", "probe", "serve", "withhold", "clean", "wipe", "rest", "done"}

// String is the action in messages and logs.
func (a Action) String() string { return actionNames[a] }

// Input is what the managers want of a task, and what keeps it from going on.
// It is comparable, so that a repeated one can be told from a change.
type Input struct {
	// Desired is READY, RUNNING, SHUTDOWN or REMOVE.
	Desired pb.TaskState
	// Forgotten by the managers: nothing of the task may stay on this node.
	Forgotten bool
	// Missing says what Prepare lacks, like a secret that no manager has sent
	// since the restart; empty when it lacks nothing.
	Missing string
	// Hold says why the process must not be started yet; empty when it may.
	Hold string
}

// ends tells whether the task has to stop.
func (in Input) ends() bool { return in.Forgotten || in.Desired > pb.TaskState_TASK_STATE_RUNNING }

// Failures counts how often the same action failed in a row.
type Failures struct {
	Of          Action
	Count       int
	First, Last time.Time
	Err         error
}

// after returns the failures with one more.
func (f Failures) after(a Action, err error, now time.Time) Failures {
	if f.Of != a || f.Count == 0 {
		f = Failures{Of: a, First: now}
	}
	f.Count, f.Last, f.Err = f.Count+1, now, err
	return f
}

// of counts the failures of one action.
func (f Failures) of(a Action) int {
	if f.Of != a {
		return 0
	}
	return f.Count
}

// State is all that a step depends on, besides the observation and the time.
type State struct {
	Input
	// ID of the task, and so of its container.
	ID string
	// Status as last reported; never nil, never changed in place.
	Status *pb.TaskStatus
	// Prepared is set once Prepare returned without error in this process's life.
	Prepared bool
	// Dirty is set while something that Inspect does not show may exist, like
	// the remains of a Prepare that was broken off.
	Dirty bool
	// Wiped is set once nothing of the task is left, its log included.
	Wiped bool
	// Failed steps since the last one that succeeded.
	Failures Failures
	// Health of the running process, and what its network was told; unused
	// without a health check.
	Health  Health
	Traffic Traffic
	// MemoryLimit in bytes, for the message when it was reached.
	MemoryLimit int64
}

// Step is the answer of Next.
type Step struct {
	Action Action
	// Status to report before the action; nil when it stays as it is.
	Status *pb.TaskStatus
	// Until bounds a Rest or a Wait; zero is until the input changes.
	Until time.Time
}

// Next decides a task's next step. The state only ever goes forward:
//
//	         Prepare            Start           process ends
//	ACCEPTED ─► PREPARING ─► READY ─► STARTING ─► RUNNING ─┬─► COMPLETE   exit code 0
//	    │           │  │      │ wants     │  │       │     └─► FAILED     else, or gone
//	    │           │  │      │ RUNNING   │  └───────┼───────► FAILED     cannot start
//	    │           │  └──────┼───────────┼──────────┼───────► REJECTED   cannot prepare
//	    └───────────┴─────────┴───────────┴─ Stop ───┴───────► SHUTDOWN   wants SHUTDOWN, REMOVE
//
//	any end ─► Clean (container) ─► Rest ─► forgotten: Wipe (log) ─► Done
//
// A task with a health check is RUNNING from its first success on; see check.
//
// What is observed wins over what was reported: a process that runs is waited
// for and not touched, so a restarted minid takes over where the last one was.
func Next(s State, obs Observation, now time.Time) Step {
	switch {
	case s.Status.GetState() > pb.TaskState_TASK_STATE_RUNNING:
		return ended(s, obs, now)
	case s.ends():
		return stop(s, obs, now)
	case obs.Phase == Running && obs.Health != nil:
		return check(s, obs, now)
	case obs.Phase == Running:
		return run(s, obs, now)
	case obs.Phase == Exited:
		return Step{Status: ending(s, obs, now)}
	}
	switch s.Status.GetState() {
	case pb.TaskState_TASK_STATE_ACCEPTED:
		return advance(s, pb.TaskState_TASK_STATE_PREPARING, "preparing", now)
	case pb.TaskState_TASK_STATE_PREPARING:
		return prepare(s, obs, now)
	case pb.TaskState_TASK_STATE_READY:
		return ready(s, obs, now)
	case pb.TaskState_TASK_STATE_STARTING:
		return start(s, obs, now)
	case pb.TaskState_TASK_STATE_RUNNING:
		return gone(s, now)
	default:
		return advance(s, pb.TaskState_TASK_STATE_ACCEPTED, "accepted", now)
	}
}

// prepare also serves a READY task whose container was lost before it started.
// A created container alone proves nothing: an earlier minid may have died
// half-way through Prepare.
func prepare(s State, obs Observation, now time.Time) Step {
	if s.Prepared && obs.Phase == Created {
		return Step{Status: withContainer(s.ID, status(s, pb.TaskState_TASK_STATE_READY, "ready to start", now), obs)}
	}
	if s.Missing != "" {
		return rest(s, s.Missing, "", time.Time{}, now)
	}
	if s.Failures.of(Prepare) == 0 {
		return begin(s, now)
	}
	if fault.Is(s.Failures.Err, fault.Invalid) || now.Sub(s.Failures.First) >= PreparePatience {
		st := status(s, pb.TaskState_TASK_STATE_REJECTED, "could not be prepared", now)
		st.Error = s.Failures.Err.Error()
		return Step{Status: st}
	}
	return retry(s, Prepare, now)
}

// begin prepares for the first time, and no longer tells what that waited for.
func begin(s State, now time.Time) Step {
	const message = "preparing"
	if s.Status.GetState() > pb.TaskState_TASK_STATE_PREPARING || s.Status.GetMessage() == message {
		return Step{Action: Prepare}
	}
	return Step{Action: Prepare, Status: status(s, s.Status.GetState(), message, now)}
}

func ready(s State, obs Observation, now time.Time) Step {
	switch {
	case obs.Phase == Absent:
		return prepare(s, obs, now)
	case s.Desired < pb.TaskState_TASK_STATE_RUNNING:
		return Step{Action: Rest}
	case s.Hold != "":
		return rest(s, s.Hold, "", time.Time{}, now)
	}
	return advance(s, pb.TaskState_TASK_STATE_STARTING, "starting", now)
}

// start never prepares again: a container that is gone at this point may have
// run, and a task runs once.
func start(s State, obs Observation, now time.Time) Step {
	if obs.Phase == Absent {
		return gone(s, now)
	}
	if s.Hold != "" {
		return rest(s, s.Hold, "", time.Time{}, now)
	}
	if s.Failures.of(Start) == 0 {
		return Step{Action: Start}
	}
	if fault.Is(s.Failures.Err, fault.Invalid) || now.Sub(s.Failures.First) >= StartPatience {
		st := status(s, pb.TaskState_TASK_STATE_FAILED, "could not be started", now)
		st.Error = s.Failures.Err.Error()
		return Step{Status: st}
	}
	return retry(s, Start, now)
}

func run(s State, obs Observation, now time.Time) Step {
	if s.Status.GetState() < pb.TaskState_TASK_STATE_RUNNING {
		return Step{Status: withContainer(s.ID, status(s, pb.TaskState_TASK_STATE_RUNNING, "started", now), obs)}
	}
	if s.Failures.of(Wait) > 0 && now.Before(retryAt(s.Failures)) {
		return Step{Action: Rest, Until: retryAt(s.Failures)}
	}
	return Step{Action: Wait}
}

// stop repeats Stop for ever: a task that cannot be stopped has not ended.
func stop(s State, obs Observation, now time.Time) Step {
	if obs.Phase == Running {
		if s.Failures.of(Stop) > 0 {
			return retry(s, Stop, now)
		}
		return Step{Action: Stop}
	}
	message := "shut down"
	if s.Status.GetState() < pb.TaskState_TASK_STATE_STARTING {
		message = "shut down before it started"
	}
	st := status(s, pb.TaskState_TASK_STATE_SHUTDOWN, message, now)
	if obs.Phase == Exited {
		st = withExit(withContainer(s.ID, st, obs), obs)
	}
	return Step{Status: st}
}

// ended frees what the task holds. Its log stays until the managers forget it.
func ended(s State, obs Observation, now time.Time) Step {
	next := Rest
	switch {
	case obs.Phase == Running:
		next = Stop
	case s.Forgotten && s.Wiped:
		next = Done
	case s.Forgotten:
		next = Wipe
	case s.Dirty || obs.Phase != Absent:
		next = Clean
	}
	if s.Failures.of(next) > 0 && now.Before(retryAt(s.Failures)) {
		return Step{Action: Rest, Until: retryAt(s.Failures)}
	}
	return Step{Action: next}
}

func gone(s State, now time.Time) Step {
	st := status(s, pb.TaskState_TASK_STATE_FAILED, "failed", now)
	st.Error = "the container is gone: something other than minid removed it, or the host restarted"
	return Step{Status: st}
}

func advance(s State, to pb.TaskState, message string, now time.Time) Step {
	return Step{Status: status(s, to, message, now)}
}

// retry repeats a failed action when its back-off is over; until then the
// status tells the reason.
func retry(s State, a Action, now time.Time) Step {
	at := retryAt(s.Failures)
	if !now.Before(at) {
		return Step{Action: a}
	}
	return rest(s, a.String()+" failed, trying again", s.Failures.Err.Error(), at, now)
}

// rest waits with a message, reported once.
func rest(s State, message, problem string, until, now time.Time) Step {
	if s.Status.GetMessage() == message && s.Status.GetError() == problem {
		return Step{Action: Rest, Until: until}
	}
	st := status(s, s.Status.GetState(), message, now)
	st.Error = problem
	return Step{Action: Rest, Status: st, Until: until}
}

// retryAt is 250 ms after the first failure, twice as long after each next one, 20 s at most.
func retryAt(f Failures) time.Time {
	wait := 20 * time.Second
	if f.Count < 8 {
		wait = min(wait, 250*time.Millisecond<<max(0, f.Count-1))
	}
	return f.Last.Add(wait)
}

// status makes the next status from the last one: what is known of the
// container stays, the last problem does not.
func status(s State, to pb.TaskState, message string, now time.Time) *pb.TaskStatus {
	return &pb.TaskStatus{
		State:     to,
		At:        timestamppb.New(now),
		Message:   message,
		Container: s.Status.GetContainer(),
		Ports:     s.Status.GetPorts(),
		Health:    s.Status.GetHealth(),
	}
}
