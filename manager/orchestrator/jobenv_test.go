package orchestrator

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/minid/minid/proto/minid/v1"
)

// jobOption is option for what only jobs have; it tells whether it is that.
//
//	job=7/2              replicated, completions/max-concurrent
//	mode=global-job
//	deadline-of-run=10m  ttl=1h
//	cron=0_2_*_*_*       zone=Europe/Berlin concurrency=FORBID missed=SKIP paused=true
func (e *env) jobOption(spec *pb.ServiceSpec, key, value string) bool {
	e.t.Helper()
	duration := func() *durationpb.Duration {
		d, err := time.ParseDuration(value)
		if err != nil {
			e.t.Fatal(err)
		}
		return durationpb.New(d)
	}
	switch key {
	case "job":
		mode := &pb.ReplicatedJob{}
		fmt.Sscanf(value, "%d/%d", &mode.Completions, &mode.MaxConcurrent)
		spec.Mode = &pb.ServiceSpec_ReplicatedJob{ReplicatedJob: mode}
	case "mode":
		if value != "global-job" {
			return false
		}
		spec.Mode = &pb.ServiceSpec_GlobalJob{GlobalJob: &pb.GlobalJob{}}
	case "deadline-of-run":
		configOf(spec).Deadline = duration()
	case "ttl":
		configOf(spec).Ttl = duration()
	case "cron", "zone", "concurrency", "missed", "paused":
		scheduleOption(scheduleOf(spec), key, value)
	default:
		return false
	}
	return true
}

func configOf(spec *pb.ServiceSpec) *pb.JobConfig {
	if spec.Job == nil {
		spec.Job = &pb.JobConfig{}
	}
	return spec.Job
}

func scheduleOf(spec *pb.ServiceSpec) *pb.JobSchedule {
	config := configOf(spec)
	if config.Schedule == nil {
		config.Schedule = &pb.JobSchedule{}
	}
	return config.Schedule
}

func scheduleOption(s *pb.JobSchedule, key, value string) {
	switch key {
	case "cron":
		s.Cron = strings.ReplaceAll(value, "_", " ")
	case "zone":
		s.Timezone = value
	case "concurrency":
		s.Concurrency = pb.JobSchedule_Concurrency(pb.JobSchedule_Concurrency_value["CONCURRENCY_"+value])
	case "missed":
		s.Missed = pb.JobSchedule_Missed(pb.JobSchedule_Missed_value["MISSED_"+value])
	case "paused":
		s.Paused = value == "true"
	}
}

// tellJob writes down what becomes of a job's runs, but for their counts.
func (e *env) tellJob(s *pb.Service, p Plan) {
	if p.Remove != nil {
		e.logf("%s is removed", s.Spec.Name)
	}
	if p.Job == nil {
		return
	}
	known := map[uint64]*pb.JobRun{}
	for _, r := range s.GetJob().GetRuns() {
		known[r.Number] = r
	}
	for _, r := range p.Job.Status.Runs {
		if known[r.Number].GetState() != r.State {
			e.logf("%s run %d %s: %s", s.Spec.Name, r.Number, word(r.State.String()), r.Message)
		}
	}
	if message := p.Job.Status.Message; message != s.GetJob().GetMessage() {
		e.logf("%s: %s", s.Spec.Name, message)
	}
}

func (e *env) jobCommand(verb string, args []string) {
	e.t.Helper()
	switch verb {
	case "run":
		e.apply(&pb.Command{Kind: &pb.Command_RunJob{RunJob: &pb.RunJob{Id: e.service(args[0]).Id}}})
	case "at":
		at, err := time.Parse(time.RFC3339, args[0])
		if err != nil {
			e.t.Fatal(err)
		}
		if e.index == 0 {
			e.start, e.now = at, at
			return
		}
		e.advance(at.Sub(e.now))
	case "job":
		for _, r := range e.service(args[0]).GetJob().GetRuns() {
			fmt.Fprintf(&e.trace, "run %d v%d %s: %s; %d of %d completed, %d failed", r.Number, r.SpecVersion,
				word(r.State.String()), r.Message, r.Completed, r.Total, r.Failed)
			if r.ScheduledFor != nil {
				fmt.Fprintf(&e.trace, "; for %s", r.ScheduledFor.AsTime().Format(time.RFC3339))
			}
			e.trace.WriteString("\n")
		}
	}
}
