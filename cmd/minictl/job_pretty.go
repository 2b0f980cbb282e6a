package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/progress"
	pb "github.com/minid/minid/proto/minid/v1"
)

// jobReplicas is a job's cell under REPLICAS, as in Swarm: what runs of what
// should, and how far its newest run is. One that failed is said to have.
func jobReplicas(s *pb.Service) string {
	text := fmt.Sprintf("%d/%d", s.GetStatus().GetRunning(), s.GetStatus().GetDesired())
	run := runNumbered(s, progress.NewestRun(s))
	if run == nil {
		return text + " (no runs yet)"
	}
	word := "completed"
	if state := run.State; state == pb.JobState_JOB_STATE_FAILED || state == pb.JobState_JOB_STATE_REPLACED {
		word += ", " + progress.RunState(run)
	}
	return fmt.Sprintf("%s (%d/%d %s)", text, run.Completed, run.Total, word)
}

// runNumber is a task's cell under RUN, empty if its service is no job.
func runNumber(t *pb.Task) string {
	if t.JobRun == 0 {
		return ""
	}
	return fmt.Sprint(t.JobRun)
}

// prettyJob prints a job's settings and its runs, the newest first.
func prettyJob(p prettyPrinter, s *pb.Service, now time.Time) {
	sp := s.GetSpec()
	if r := sp.GetReplicatedJob(); r != nil {
		p.line(1, "Completions", fmt.Sprint(r.Completions))
		if r.MaxConcurrent > 0 {
			p.line(1, "Max Concurrent", fmt.Sprint(r.MaxConcurrent))
		}
	}
	if j := sp.GetJob(); j != nil {
		p.line(0, "Job", "")
		p.field(1, "Deadline", durationText(j.Deadline))
		p.field(1, "Time to live", durationText(j.Ttl))
		if j.Schedule != nil {
			p.line(1, "Schedule", fmt.Sprintf("%s (%s)", j.Schedule.Cron, j.Schedule.Timezone))
			p.line(1, "Concurrency", enumName(j.Schedule.Concurrency.String(), "CONCURRENCY_"))
			p.line(1, "Missed", enumName(j.Schedule.Missed.String(), "MISSED_"))
			p.field(1, "Next run", nextTime(s, now))
			if j.Schedule.Paused {
				p.line(1, "Paused", "true")
			}
		}
	}
	p.field(1, "Message", print.Clean(s.GetJob().GetMessage()))
	if runs := s.GetJob().GetRuns(); len(runs) > 0 {
		p.line(0, "Runs", "")
		prettyRuns(p.w, runs, now)
	}
}

func prettyRuns(w io.Writer, runs []*pb.JobRun, now time.Time) {
	tab := tabwriter.NewWriter(w, 4, 1, 3, ' ', 0)
	fmt.Fprintln(tab, " RUN\tSTATE\tCOMPLETED\tFAILED\tSTARTED\tTOOK\tWHY")
	for _, r := range slices.Backward(runs) {
		fmt.Fprintf(tab, " %d\t%s\t%d/%d\t%d\t%s\t%s\t%s\n", r.Number, progress.RunState(r), r.Completed, r.Total, r.Failed,
			timeText(r.StartedAt), runTime(r, now), print.Clean(r.Message))
	}
	tab.Flush()
}
