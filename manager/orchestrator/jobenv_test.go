package orchestrator

import (
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
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
	if store.IsJob(s.Spec) {
		e.checkNew(s, p)
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
	case "outage":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			e.t.Fatal(err)
		}
		e.now = e.now.Add(d)
	case "late":
		e.report(e.state.View().Task(args[0]), &pb.TaskStatus{State: pb.TaskState(pb.TaskState_value["TASK_STATE_"+strings.ToUpper(args[1])])})
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

// checkSeats holds what jobs promise: a seat has one live task at most, none
// once one has completed; a place is not shared with what a run replaced; and
// no more are busy than may be at a time.
func (e *env) checkSeats(s *pb.Service) {
	e.t.Helper()
	view := e.state.View()
	type spot struct {
		place
		run uint64
	}
	lives, started, busy := map[spot]int{}, map[spot]int{}, map[uint64]map[place]bool{}
	for t := range view.TasksByService(s.Id) {
		n := view.Node(t.NodeId)
		if n != nil && n.Status.State == pb.NodeState_NODE_STATE_DOWN {
			e.lost[t.Id] = true
		}
		if t.StartAfter.AsTime().After(e.now) && (t.Status.State == pb.TaskState_TASK_STATE_STARTING || t.DesiredState == pb.TaskState_TASK_STATE_RUNNING) {
			e.t.Fatalf("%s starts before its time\n%s", describe(t), e.trace.String())
		}
		at := spot{placeOf(t), t.JobRun}
		if live(t) && t.Replaces != "race" {
			lives[at]++
			if busy[t.JobRun] == nil {
				busy[t.JobRun] = map[place]bool{}
			}
			busy[t.JobRun][at.place] = true
		}
		if n == nil || e.lost[t.Id] || t.Status.State > pb.TaskState_TASK_STATE_RUNNING {
			continue
		}
		if t.Status.State >= pb.TaskState_TASK_STATE_STARTING || t.DesiredState == pb.TaskState_TASK_STATE_RUNNING {
			started[at]++
			if s.GetSpec().GetJob().GetSchedule().GetConcurrency() > pb.JobSchedule_CONCURRENCY_ALLOW {
				at.run = 0
				started[at]++
			}
		}
	}
	for at, n := range lives {
		if n > 1 {
			e.t.Fatalf("%d live tasks in %v\n%s", n, at, e.trace.String())
		}
	}
	for at, n := range started {
		if n > 1 && !s.Removing {
			e.t.Fatalf("%d tasks may run in %v\n%s", n, at, e.trace.String())
		}
	}
	limit := int(s.Spec.GetReplicatedJob().GetMaxConcurrent())
	if limit == 0 {
		limit = math.MaxInt
	}
	e.crowd[s.Id] = max(e.crowd[s.Id], limit)
	for run, places := range busy {
		if len(places) > e.crowd[s.Id] {
			e.t.Fatalf("%d seats of run %d are busy, %d may be\n%s", len(places), run, e.crowd[s.Id], e.trace.String())
		}
	}
}

// checkNew: what has completed does not run again, and only runs that go on
// get tasks.
func (e *env) checkNew(s *pb.Service, p Plan) {
	e.t.Helper()
	for _, n := range p.Create {
		if run := store.Run(s, n.JobRun); run.GetState() != pb.JobState_JOB_STATE_RUNNING {
			e.t.Fatalf("%s is made for %v\n%s", describe(n), run, e.trace.String())
		}
		for t := range e.state.View().TasksByService(s.Id) {
			if t.JobRun == n.JobRun && placeOf(t) == placeOf(n) && t.Status.State == pb.TaskState_TASK_STATE_COMPLETE {
				e.t.Fatalf("%s is done again by %s\n%s", describe(t), describe(n), e.trace.String())
			}
		}
	}
}
