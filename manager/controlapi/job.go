package controlapi

import (
	"context"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// RunJob asks for one more run of a job. It is refused where a schedule's time
// would be left out: while a run goes on that may not have another beside it.
func (s *Server) RunJob(ctx context.Context, req *pb.GetRequest) (*pb.Service, error) {
	service, err := findService(s.cfg.State.View(), req.GetRef())
	if err != nil {
		return nil, err
	}
	if err := mayRun(service); err != nil {
		return nil, err
	}
	err = s.propose(ctx, &pb.Command{Kind: &pb.Command_RunJob{RunJob: &pb.RunJob{Id: service.Id}}})
	if err != nil {
		return nil, err
	}
	return answered(s.cfg.State.View(), service.Id), nil
}

// mayRun tells why a job must not get one more run now. A job without a
// schedule has one run at a time.
func mayRun(s *pb.Service) error {
	name := s.GetSpec().GetName()
	schedule := s.GetSpec().GetJob().GetSchedule()
	if !store.IsJob(s.GetSpec()) || schedule != nil && schedule.Concurrency != pb.JobSchedule_CONCURRENCY_FORBID {
		return nil // what is no job, the store refuses
	}
	if s.RunsAsked > s.GetJob().GetRunsAnswered() || schedule == nil && s.GetJob().GetLastRun() == 0 {
		return fault.New(fault.State, "run service %s: a run is about to begin", name).
			WithTry("minictl wait job/%s, then minictl service run %[1]s", name)
	}
	going := goingRuns(s)
	if len(going) == 0 {
		return nil
	}
	why := "a job without a schedule has one run at a time"
	if schedule != nil {
		why = "its schedule forbids two at a time"
	}
	return fault.New(fault.State, "run service %s: run %d goes on, and %s", name, going[0].Number, why).
		WithTry("minictl wait job/%s, then minictl service run %[1]s", name)
}

// goingRuns are a job's runs that have not ended.
func goingRuns(s *pb.Service) []*pb.JobRun {
	var going []*pb.JobRun
	for _, run := range s.GetJob().GetRuns() {
		if run.State == pb.JobState_JOB_STATE_RUNNING {
			going = append(going, run)
		}
	}
	return going
}

// countJob counts a job's tasks: those that run, and as many as its runs that
// go on want at a time.
func countJob(view store.View, s *pb.Service) *pb.ServiceStatus {
	status := &pb.ServiceStatus{}
	for t := range view.TasksByService(s.Id) {
		if t.GetStatus().GetState() == pb.TaskState_TASK_STATE_RUNNING && t.DesiredState <= pb.TaskState_TASK_STATE_COMPLETE {
			status.Running++
		}
	}
	if s.Removing {
		return status
	}
	for _, run := range goingRuns(s) {
		left := run.Total - min(run.Completed, run.Total)
		if most := s.GetSpec().GetReplicatedJob().GetMaxConcurrent(); most > 0 {
			left = min(left, most)
		}
		status.Desired += left
	}
	return status
}
