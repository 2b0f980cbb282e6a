package task

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// What docker takes for what a health check does not say.
const (
	defaultHealthInterval = 30 * time.Second
	defaultHealthTimeout  = 30 * time.Second
	defaultStartInterval  = 5 * time.Second
	defaultHealthRetries  = 3
)

const (
	// firstTest is the age of a process at its first test. A task gets no traffic
	// before a test succeeds, so the first ones come sooner than the interval.
	firstTest = 200 * time.Millisecond
	// maxProbes is how many of the last tests a status has.
	maxProbes = 5
	// MaxProbeOutput in bytes.
	MaxProbeOutput = 4096
)

// HealthOf is the check that a task has, defaults filled in: the service's over
// the image's. Either may be nil; nil is none.
func HealthOf(image, own *pb.HealthConfig) *pb.HealthConfig {
	test := own.GetTest()
	if len(test) == 0 {
		test = image.GetTest()
	}
	if len(test) < 2 || test[0] == "NONE" {
		return nil
	}
	return &pb.HealthConfig{
		Test:          test,
		Interval:      firstSet(defaultHealthInterval, own.GetInterval(), image.GetInterval()),
		Timeout:       firstSet(defaultHealthTimeout, own.GetTimeout(), image.GetTimeout()),
		Retries:       cmp.Or(own.GetRetries(), image.GetRetries(), defaultHealthRetries),
		StartPeriod:   firstSet(0, own.GetStartPeriod(), image.GetStartPeriod()),
		StartInterval: firstSet(defaultStartInterval, own.GetStartInterval(), image.GetStartInterval()),
		Action:        cmp.Or(own.GetAction(), pb.HealthConfig_ACTION_RESTART),
	}
}

func firstSet(otherwise time.Duration, list ...*durationpb.Duration) *durationpb.Duration {
	for _, d := range list {
		if d.AsDuration() > 0 {
			return d
		}
	}
	return durationpb.New(otherwise)
}

// testCommand is what a check runs in the container.
func testCommand(cfg *pb.HealthConfig) []string {
	if cfg.Test[0] == "CMD-SHELL" {
		return []string{"/bin/sh", "-c", cfg.Test[1]}
	}
	return cfg.Test[1:]
}

// Traffic is what the runtime was last told about new connections to a task.
type Traffic int

// Untouched is before the first word in this process's life.
const (
	Untouched Traffic = iota
	Open
	Closed
)

// Health is what the tests of a running process have shown.
type Health struct {
	State  pb.HealthState
	Streak uint32
	// Probes are the last tests, the newest last; never changed in place.
	Probes []*pb.HealthProbe
	// Passed once a test has succeeded: the process has started.
	Passed bool
	// Since when it runs, as far as is known; zero before that.
	Since time.Time
	// Tested is when the last test ended, or Since.
	Tested time.Time
}

// resumeHealth goes on from what was reported of a process that runs.
func resumeHealth(st *pb.TaskStatus, now time.Time) Health {
	known := st.GetHealth()
	h := Health{
		State: pb.HealthState_HEALTH_STATE_STARTING, Streak: known.GetFailingStreak(), Probes: known.GetProbes(),
		Passed: st.GetState() == pb.TaskState_TASK_STATE_RUNNING, Since: now, Tested: now,
	}
	switch {
	case known != nil:
		h.State = known.State
	case h.Passed:
		h.State = pb.HealthState_HEALTH_STATE_HEALTHY
	}
	if known != nil && !h.Passed {
		h.Since, h.Tested = st.GetAt().AsTime(), st.GetAt().AsTime()
	}
	return h
}

// after judges one more test.
//
//	STARTING ─ success ─► HEALTHY ◄─ success ─┐
//	    │                    │                │
//	    └─ retries failures ─┴─ in a row ─► UNHEALTHY
//
// Until the first success failures do not count in the start period, nor before
// the first interval is over: docker does not even look before that.
func (h Health) after(cfg *pb.HealthConfig, p *pb.HealthProbe, now time.Time) Health {
	h.Probes = append(slices.Clone(h.Probes[max(0, len(h.Probes)-maxProbes+1):]), p)
	h.Tested = now
	if p.ExitCode == 0 {
		h.State, h.Streak, h.Passed = pb.HealthState_HEALTH_STATE_HEALTHY, 0, true
		return h
	}
	lenient := max(cfg.StartPeriod.AsDuration(), cfg.Interval.AsDuration())
	if !h.Passed && p.At.AsTime().Before(h.Since.Add(lenient)) {
		return h
	}
	h.Streak++
	if h.Streak >= cfg.Retries {
		h.State = pb.HealthState_HEALTH_STATE_UNHEALTHY
	}
	return h
}

// next is when the next test is due. Until one succeeds a process is tested at
// twice its age, then at its intervals.
func (h Health) next(cfg *pb.HealthConfig) time.Time {
	every := cfg.Interval.AsDuration()
	if h.Passed {
		return h.Tested.Add(every)
	}
	if h.Tested.Before(h.Since.Add(cfg.StartPeriod.AsDuration())) {
		every = cfg.StartInterval.AsDuration()
	}
	return h.Tested.Add(min(every, max(firstTest, h.Tested.Sub(h.Since))))
}

func (h Health) unhealthy() bool { return h.State == pb.HealthState_HEALTH_STATE_UNHEALTHY }

// traffic is what the task should get.
func (h Health) traffic() Traffic {
	switch {
	case !h.Passed:
		return Untouched
	case h.unhealthy():
		return Closed
	}
	return Open
}

// check is run for a task with a health check.
func check(s State, obs Observation, now time.Time) Step {
	h, news := s.Health, healthNews(s, obs, now)
	next := h.next(obs.Health)
	switch {
	case h.unhealthy() && obs.Health.Action != pb.HealthConfig_ACTION_UNREADY:
		if s.Failures.of(Stop) > 0 && now.Before(retryAt(s.Failures)) {
			return Step{Action: Rest, Until: retryAt(s.Failures)}
		}
		return Step{Action: Stop, Status: news}
	case h.traffic() == Closed && s.Traffic != Closed:
		return Step{Action: Withhold, Status: news}
	case h.traffic() == Open && s.Traffic != Open:
		return Step{Action: Serve} // first, so that others who hear of it find it open
	case news != nil:
		return Step{Status: news}
	case !now.Before(next):
		return Step{Action: Probe}
	case s.Failures.of(Wait) > 0 && now.Before(retryAt(s.Failures)):
		return Step{Action: Rest, Until: earliest(next, retryAt(s.Failures))}
	}
	return Step{Action: Wait, Until: next}
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// healthNews is the status to report when the health's state has changed, or
// the first test while starting has failed; else nil. Each status goes through
// the managers' log, single tests do not.
func healthNews(s State, obs Observation, now time.Time) *pb.TaskStatus {
	h, told := s.Health, s.Status.GetHealth()
	state, message, problem := healthWords(h, obs.Health)
	firstFailure := h.State == pb.HealthState_HEALTH_STATE_STARTING && s.Status.GetError() == "" && problem != ""
	if told.GetState() == h.State && s.Status.GetState() == state && !firstFailure {
		return nil
	}
	st := withContainer(s.ID, status(s, state, message, now), obs)
	if s.Status.GetState() == state && told != nil {
		st.At = s.Status.At // of the state, not of its health
	}
	st.Error = problem
	st.Health = &pb.HealthStatus{
		State: h.State, FailingStreak: h.Streak, Probes: h.Probes,
		Unready: h.Passed && h.unhealthy(),
	}
	return st
}

func healthWords(h Health, cfg *pb.HealthConfig) (state pb.TaskState, message, problem string) {
	state = pb.TaskState_TASK_STATE_STARTING
	if h.Passed {
		state = pb.TaskState_TASK_STATE_RUNNING
	}
	switch {
	case h.unhealthy() && cfg.Action != pb.HealthConfig_ACTION_UNREADY:
		return state, "unhealthy, stopping", unhealthyWords(h.Streak, h.Probes)
	case h.unhealthy() && h.Passed:
		return state, "unhealthy: gets no new connections", unhealthyWords(h.Streak, h.Probes)
	case h.unhealthy():
		return state, "starting: still waiting for the first successful health check", unhealthyWords(h.Streak, h.Probes)
	case h.Passed:
		return state, "started, healthy", ""
	case len(h.Probes) > 0:
		problem = "health check: " + probeWords(h.Probes)
	}
	return state, "starting: waiting for the first successful health check", problem
}

// unhealthyWords is the reason that a task's end or absence from rotation has.
func unhealthyWords(streak uint32, probes []*pb.HealthProbe) string {
	return fmt.Sprintf("unhealthy: %d health checks failed in a row, the last with %s", streak, probeWords(probes))
}

// probeWords tells how the last test failed, in one line.
func probeWords(probes []*pb.HealthProbe) string {
	if len(probes) == 0 {
		return "a result that is not known"
	}
	last := probes[len(probes)-1]
	output := strings.Join(strings.Fields(last.Output), " ")
	switch {
	case last.ExitCode < 0:
		return output
	case output == "":
		return fmt.Sprintf("exit code %d", last.ExitCode)
	}
	return fmt.Sprintf("exit code %d: %s", last.ExitCode, cutOutput(output, 200))
}

// cutOutput makes a text of what a test printed.
func cutOutput(s string, limit int) string {
	return strings.TrimSpace(strings.ToValidUTF8(s[:min(len(s), limit)], ""))
}

// outcome is one test as it is kept.
func outcome(began, now time.Time, code int32, output string) *pb.HealthProbe {
	return &pb.HealthProbe{
		At: timestamppb.New(began), Took: durationpb.New(now.Sub(began)),
		ExitCode: code, Output: cutOutput(output, MaxProbeOutput),
	}
}
