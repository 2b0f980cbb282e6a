package spec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// jobSpec is what every new job has, with more merged into it.
func jobSpec(t *testing.T, more string) *pb.ServiceSpec {
	s := parse(t, `task { container { image: "sample" args: "serve" } restart { max_attempts: 3 } }`)
	proto.Merge(s, parse(t, more))
	return s
}

func TestCreateJob(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"--mode replicated-job", `replicated_job { completions: 1 }`},
		{"--replicas 7 --max-concurrent 2 --mode replicated-job", `replicated_job { completions: 7 max_concurrent: 2 }`},
		{"--mode global-job", `global_job {}`},
		{"--mode global-job --restart-condition none", `global_job {} task { restart { condition: CONDITION_NONE } }`},
		{"--mode global-job --job-deadline 1h --job-ttl 24h", `global_job {} job { deadline { seconds: 3600 } ttl { seconds: 86400 } }`},
		{"--mode global-job --job-deadline 0s --job-ttl 0s", `global_job {}`},
		{"--timezone Asia/Tokyo --schedule @daily --mode global-job --schedule-concurrency replace --schedule-missed skip",
			`global_job {} job { schedule { cron: "@daily" timezone: "Asia/Tokyo" concurrency: CONCURRENCY_REPLACE missed: MISSED_SKIP } }`},
	} {
		got, err := createFrom(t, strings.Fields(test.args)...)
		if err != nil {
			t.Errorf("%s: %v", test.args, err)
			continue
		}
		if diff := cmp.Diff(jobSpec(t, test.want), got, protocmp.Transform()); diff != "" {
			t.Errorf("%s:\n%s", test.args, diff)
		}
	}
}

func TestAttemptsOfJobsAreAsGiven(t *testing.T) {
	for _, attempts := range []string{"0", "9"} {
		got, err := createFrom(t, "--mode", "global-job", "--restart-max-attempts", attempts)
		if want := map[string]uint64{"0": 0, "9": 9}[attempts]; err != nil || got.Task.Restart.GetMaxAttempts() != want {
			t.Errorf("%s attempts: %v, %v", attempts, got.GetTask().GetRestart(), err)
		}
	}
}

func TestUpdateJob(t *testing.T) {
	const scheduled = `replicated_job { completions: 3 } job { ttl { seconds: 60 } schedule { cron: "@daily" timezone: "UTC" paused: true } }`
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--schedule", "0 3 * * *"}, `replicated_job { completions: 3 } job { ttl { seconds: 60 } schedule { cron: "0 3 * * *" timezone: "UTC" paused: true } }`},
		{[]string{"--schedule", "", "--job-ttl", "0"}, `replicated_job { completions: 3 }`},
		{[]string{"--replicas", "4", "--max-concurrent", "2"}, `replicated_job { completions: 4 max_concurrent: 2 } job { ttl { seconds: 60 } schedule { cron: "@daily" timezone: "UTC" paused: true } }`},
	} {
		old := jobSpec(t, scheduled)
		got, err := updateFrom(t, old, test.args...)
		if diff := cmp.Diff(jobSpec(t, test.want), got, protocmp.Transform()); diff != "" || err != nil {
			t.Errorf("%q: %v\n%s", test.args, err, diff)
		}
		if diff := cmp.Diff(jobSpec(t, scheduled), old, protocmp.Transform()); diff != "" {
			t.Errorf("%q changed the old spec:\n%s", test.args, diff)
		}
	}
}

func TestBadJobs(t *testing.T) {
	for _, args := range [][]string{
		{"--max-concurrent", "2"}, {"--job-deadline", "1h"}, {"--job-ttl", "1h"}, {"--schedule", "@daily"}, {"--schedule-missed", "skip"},
		{"--mode", "global-job", "--max-concurrent", "2"}, {"--mode", "global-job", "--replicas", "2"}, {"--mode", "replicated-job", "--replicas", "0"},
		{"--mode", "global-job", "--timezone", "UTC"}, {"--mode", "global-job", "--schedule-concurrency", "allow"},
		{"--mode", "global-job", "--schedule", "@daily", "--schedule-missed", "never"}, {"--mode", "global-job", "--job-ttl", "-1s"}, {"--mode", "job"},
		{"--mode", "global-job", "--update-delay", "1s"}, {"--mode", "replicated-job", "--rollback-order", "start-first"},
	} {
		if s, err := createFrom(t, args...); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), args[len(args)-2]) {
			t.Errorf("create %q made %v, %v", args, s, err)
		}
	}
}

func TestSetPaused(t *testing.T) {
	s := jobSpec(t, `global_job {} job { schedule { cron: "@daily" } }`)
	for _, paused := range []bool{true, true, false} {
		if err := SetPaused(s, paused); err != nil || s.Job.Schedule.Paused != paused {
			t.Errorf("paused is %v, %v, want %v", s.Job.Schedule.Paused, err, paused)
		}
	}
	if err := SetPaused(jobSpec(t, `global_job {}`), true); err == nil {
		t.Error("a job without a schedule can be paused")
	}
}
