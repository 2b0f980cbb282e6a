package task

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
)

const (
	unsure    = pb.HealthState_HEALTH_STATE_STARTING
	healthy   = pb.HealthState_HEALTH_STATE_HEALTHY
	unhealthy = pb.HealthState_HEALTH_STATE_UNHEALTHY
)

func seconds(n float64) *durationpb.Duration {
	return durationpb.New(time.Duration(n * float64(time.Second)))
}

// checked is a check with all its values: interval 10 s, start period 30 s.
func checked(change ...func(*pb.HealthConfig)) *pb.HealthConfig {
	cfg := HealthOf(nil, &pb.HealthConfig{
		Test: []string{"CMD", "true"}, Interval: seconds(10), Timeout: seconds(3), StartPeriod: seconds(30),
		StartInterval: seconds(2), Retries: 3,
	})
	for _, c := range change {
		c(cfg)
	}
	return cfg
}

func unready(cfg *pb.HealthConfig) { cfg.Action = pb.HealthConfig_ACTION_UNREADY }

func TestHealthOf(t *testing.T) {
	image := &pb.HealthConfig{Test: []string{"CMD-SHELL", "test -f /ok"}, Interval: seconds(7), Retries: 2}
	full := func(test ...string) *pb.HealthConfig {
		return &pb.HealthConfig{Test: test, Interval: seconds(30), Timeout: seconds(30), Retries: 3,
			StartPeriod: seconds(0), StartInterval: seconds(5), Action: pb.HealthConfig_ACTION_RESTART}
	}
	mixed := full(image.Test...)
	mixed.Interval, mixed.Retries, mixed.Timeout = seconds(7), 9, seconds(1)
	for name, c := range map[string]struct{ image, own, want *pb.HealthConfig }{
		"neither":                  {nil, nil, nil},
		"own alone, the defaults":  {nil, &pb.HealthConfig{Test: []string{"CMD", "x", "y"}}, full("CMD", "x", "y")},
		"own values, image's test": {image, &pb.HealthConfig{Retries: 9, Timeout: seconds(1)}, mixed},
		"own turns it off":         {image, &pb.HealthConfig{Test: []string{"NONE"}}, nil},
		"image turns it off":       {&pb.HealthConfig{Test: []string{"NONE"}}, &pb.HealthConfig{Retries: 9}, nil},
		"values without any test":  {nil, &pb.HealthConfig{Retries: 9}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, HealthOf(c.image, c.own), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
	if got := testCommand(image); !cmp.Equal(got, []string{"/bin/sh", "-c", "test -f /ok"}) {
		t.Errorf("command %q", got)
	}
}

// Tests begin a second after one another, at an age.
func TestHealthAfter(t *testing.T) {
	for name, c := range map[string]struct {
		codes  []int32
		from   float64
		want   pb.HealthState
		streak uint32
	}{
		"failures in the start period do not count": {[]int32{1, 1, 1, 1}, 5, unsure, 0},
		"they count behind it":                      {[]int32{1, 1}, 30, unsure, 2},
		"as many as retries":                        {[]int32{1, 1, 1}, 30, unhealthy, 3},
		"a success ends the start period":           {[]int32{0, 1, 1, 1}, 5, unhealthy, 3},
		"a success begins the count anew":           {[]int32{0, 1, 1, 0, 1, 1}, 5, healthy, 2},
		"healthy again":                             {[]int32{1, 1, 1, 1, 0}, 30, healthy, 0},
		"a timeout is a failure":                    {[]int32{0, -1, -1, -1}, 30, unhealthy, 3},
	} {
		t.Run(name, func(t *testing.T) {
			h := resumeHealth(&pb.TaskStatus{State: starting}, t0)
			for i, code := range c.codes {
				at := t0.Add(time.Duration((c.from + float64(i)) * float64(time.Second)))
				h = h.after(checked(), outcome(at, at.Add(time.Second), code, "said"), at.Add(time.Second))
			}
			if h.State != c.want || h.Streak != c.streak {
				t.Errorf("%v after %d failures, want %v after %d", h.State, h.Streak, c.want, c.streak)
			}
		})
	}
}

// TestHealthFirstTests shows when a task is tested that does not start.
func TestHealthFirstTests(t *testing.T) {
	h := resumeHealth(&pb.TaskStatus{State: starting}, t0)
	var ages []float64
	for range 10 {
		at := h.next(checked())
		ages = append(ages, at.Sub(t0).Seconds())
		h = h.after(checked(), outcome(at, at, 1, ""), at)
	}
	// Twice as late each time up to the start interval.
	if want := []float64{0.2, 0.4, 0.8, 1.6, 3.2, 5.2, 7.2, 9.2, 11.2, 13.2}; !cmp.Equal(ages, want) {
		t.Errorf("tested at %v", ages)
	}
	h.Passed = true
	if got := h.next(checked()).Sub(h.Tested); got != 10*time.Second {
		t.Errorf("a started task is tested after %v", got)
	}
}

// in makes a state with a health.
func in(h Health, told *pb.HealthStatus, reported pb.TaskState, change ...func(*State)) State {
	s := mk(running, reported, change...)
	s.Health = h
	s.Status.Health = told
	return s
}

func TestCheck(t *testing.T) {
	told := func(state pb.HealthState) *pb.HealthStatus { return &pb.HealthStatus{State: state} }
	probes := []*pb.HealthProbe{outcome(t0, t0, 7, "no\nluck")}
	fresh := resumeHealth(&pb.TaskStatus{State: starting}, t0)
	well := Health{State: healthy, Passed: true, Since: t0, Tested: t0}
	ill := Health{State: unhealthy, Passed: true, Streak: 3, Since: t0, Tested: t0, Probes: probes}
	neverWell := Health{State: unhealthy, Streak: 3, Since: t0, Tested: t0, Probes: probes}
	open := func(s *State) { s.Traffic = Open }
	closed := func(s *State) { s.Traffic = Closed }
	for _, c := range []struct {
		name  string
		state State
		cfg   *pb.HealthConfig
		later time.Duration
		want  string
	}{
		{"the process started", in(fresh, nil, starting), checked(), 0, "STARTING advance"},
		{"waiting for its first test", in(fresh, told(unsure), starting), checked(), 0, "wait"},
		{"its first test", in(fresh, told(unsure), starting), checked(), firstTest, "probe"},
		{"the first success: traffic first", in(well, told(unsure), starting), checked(), 0, "serve"},
		{"then the news", in(well, told(unsure), starting, open), checked(), 0, "RUNNING advance"},
		{"then waiting", in(well, told(healthy), running, open), checked(), 0, "wait"},
		{"then the next test", in(well, told(healthy), running, open), checked(), 10 * time.Second, "probe"},
		{"a failed wait is no reason for no test", in(well, told(healthy), running, open, tried(Wait, 0, errors.New("x"))), checked(), 0, "rest"},
		{"unhealthy, restart", in(ill, told(healthy), running, open), checked(), 0, "RUNNING stop"},
		{"unhealthy, restart, told", in(ill, told(unhealthy), running, open), checked(), 0, "stop"},
		{"unhealthy, cannot be stopped", in(ill, told(unhealthy), running, open, tried(Stop, 0, errors.New("x"))), checked(), 0, "rest"},
		{"never healthy, restart", in(neverWell, told(unsure), starting), checked(), 0, "STARTING stop"},
		{"unhealthy, unready", in(ill, told(healthy), running, open), checked(unready), 0, "RUNNING withhold"},
		{"unhealthy, unready, told", in(ill, told(unhealthy), running, closed), checked(unready), 0, "wait"},
		{"unhealthy, unready, tested on", in(ill, told(unhealthy), running, closed), checked(unready), 10 * time.Second, "probe"},
		{"never healthy, unready", in(neverWell, told(unsure), starting), checked(unready), 0, "STARTING advance"},
		{"never healthy, unready, tested on", in(neverWell, told(unhealthy), starting), checked(unready), 0, "wait"},
		{"healthy again", in(well, told(unhealthy), running, closed), checked(unready), 0, "serve"},
		{"healthy again, the news", in(well, told(unhealthy), running, open), checked(unready), 0, "RUNNING advance"},
		{"running before a restart of minid", in(well, told(healthy), running), checked(), 0, "serve"},
		{"unready before it", in(ill, told(unhealthy), running), checked(unready), 0, "withhold"},
		{"one failure of a healthy task is no news", in(Health{State: healthy, Passed: true, Streak: 1, Tested: t0, Probes: probes}, told(healthy), running, open), checked(), 0, "wait"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := proto.CloneOf(c.state.Status)
			step := Next(c.state, Observation{Phase: Running, Health: c.cfg}, t0.Add(c.later))
			if got := inBrief(step); got != c.want {
				t.Errorf("got %q, want %q: %v", got, c.want, step.Status)
			}
			if !proto.Equal(before, c.state.Status) {
				t.Error("the status was changed in place")
			}
		})
	}
}

// inBrief is a step as the tables of this package have it.
func inBrief(step Step) string {
	if step.Status == nil {
		return step.Action.String()
	}
	return step.Status.State.String()[len("TASK_STATE_"):] + " " + step.Action.String()
}

func TestHealthWords(t *testing.T) {
	probes := []*pb.HealthProbe{outcome(t0, t0, 7, "no\nluck \xff")}
	s := in(Health{State: unhealthy, Passed: true, Streak: 3, Tested: t0, Probes: probes}, &pb.HealthStatus{State: healthy}, running)
	s.Status.At = timestamppb.New(t0.Add(-time.Hour))
	obs := Observation{Phase: Running, Health: checked(unready)}
	st := Next(s, obs, t0).Status
	want := "unhealthy: 3 health checks failed in a row, the last with exit code 7: no luck"
	if !st.Health.Unready || st.Error != want || st.Message != "unhealthy: gets no new connections" || !st.At.AsTime().Equal(t0.Add(-time.Hour)) {
		t.Errorf("unready: %v", st)
	}
	s.Status = Next(s, Observation{Phase: Running, Health: checked()}, t0).Status
	st = Next(s, Observation{Phase: Exited, ExitCode: 143, Health: checked()}, t0).Status
	if st.State != failed || st.Error != want {
		t.Errorf("stopped because it was unhealthy: %v", st)
	}
	s.Status.Health.State = healthy
	if st = Next(s, Observation{Phase: Exited, ExitCode: 143, Health: checked()}, t0).Status; st.Error != "killed by SIGTERM (exit code 143)" {
		t.Errorf("ended while healthy: %v", st)
	}
	fresh := in(Health{State: unsure, Since: t0, Tested: t0, Probes: probes}, &pb.HealthStatus{State: unsure}, starting)
	st = Next(fresh, obs, t0).Status
	if st.GetError() != "health check: exit code 7: no luck" || st.GetState() != starting {
		t.Errorf("the first failure while starting: %v", st)
	}
	fresh.Status = st
	if step := Next(fresh, obs, t0); step.Status != nil {
		t.Errorf("told twice: %v", step.Status)
	}
}

func TestResumeHealth(t *testing.T) {
	at := timestamppb.New(t0.Add(-time.Minute))
	for name, c := range map[string]struct {
		status *pb.TaskStatus
		state  pb.HealthState
		passed bool
		since  time.Time
	}{
		"just started":              {&pb.TaskStatus{State: starting, At: at}, unsure, false, t0},
		"not yet healthy":           {&pb.TaskStatus{State: starting, At: at, Health: &pb.HealthStatus{State: unsure}}, unsure, false, at.AsTime()},
		"healthy":                   {&pb.TaskStatus{State: running, At: at, Health: &pb.HealthStatus{State: healthy}}, healthy, true, t0},
		"unready":                   {&pb.TaskStatus{State: running, At: at, Health: &pb.HealthStatus{State: unhealthy}}, unhealthy, true, t0},
		"running, health not known": {&pb.TaskStatus{State: running, At: at}, healthy, true, t0},
	} {
		t.Run(name, func(t *testing.T) {
			h := resumeHealth(c.status, t0)
			if h.State != c.state || h.Passed != c.passed || !h.Since.Equal(c.since) {
				t.Errorf("got %+v", h)
			}
		})
	}
}

// TestHealthProperties: whatever the tests say, a task is unhealthy exactly when
// the last of them that counted failed, as many as retries in a row; the next
// test is in the future; few statuses are made of many tests.
func TestHealthProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := checked(func(cfg *pb.HealthConfig) {
			cfg.Retries = rapid.Uint32Range(1, 5).Draw(t, "retries")
			cfg.StartPeriod = seconds(float64(rapid.IntRange(0, 60).Draw(t, "start period")))
			cfg.Interval = seconds(float64(rapid.IntRange(1, 20).Draw(t, "interval")))
		}, unready)
		now := t0
		s := State{ID: "t1", Input: Input{Desired: running}, Status: &pb.TaskStatus{State: starting}, Health: resumeHealth(&pb.TaskStatus{}, now)}
		obs := Observation{Phase: Running, Health: cfg}
		lenient := max(cfg.StartPeriod.AsDuration(), cfg.Interval.AsDuration())
		streak, passed, flips, told := uint32(0), false, 0, 0
		ok := false // as the last counted tests have it
		for range rapid.IntRange(1, 60).Draw(t, "tests") {
			for step := Next(s, obs, now); step.Action != Probe; step = Next(s, obs, now) {
				if step.Status != nil {
					told, s.Status = told+1, step.Status
				}
				switch step.Action {
				case Serve:
					s.Traffic = Open
				case Withhold:
					s.Traffic = Closed
				case Wait:
					if !step.Until.After(now) {
						t.Fatalf("waits until %v at %v", step.Until, now)
					}
					now = step.Until
				}
			}
			code := int32(rapid.IntRange(0, 1).Draw(t, "code"))
			began := now
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "took")) * time.Millisecond)
			s.Health = s.Health.after(cfg, outcome(began, now, code, ""), now)
			was := ok
			switch {
			case code == 0:
				streak, passed, ok = 0, true, true
			case passed || !began.Before(t0.Add(lenient)):
				if streak++; streak >= cfg.Retries {
					ok = false
				}
			}
			if was != ok {
				flips++
			}
			if s.Health.unhealthy() != (streak >= cfg.Retries) || s.Health.Passed != passed || len(s.Health.Probes) > maxProbes {
				t.Fatalf("%+v after %d failures in a row", s.Health, streak)
			}
		}
		// The first status, the first failure and never having been healthy are told too.
		if told > flips+3 {
			t.Fatalf("%d statuses of %d changes", told, flips)
		}
	})
}
