package reaper

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "github.com/minid/minid/proto/minid/v1"
)

// runsOf makes one slot's tasks from words like those of slotOf with the run
// in front: "3=complete/running@up".
func runsOf(t *testing.T, words string) (tasks []*pb.Task) {
	var runs []uint64
	var states []string
	for _, word := range strings.Fields(words) {
		run, state, _ := strings.Cut(word, "=")
		runs = append(runs, 0)
		fmt.Sscan(run, &runs[len(runs)-1])
		states = append(states, state)
	}
	tasks = slotOf(t, strings.Join(states, " "))
	for i, task := range tasks {
		task.JobRun = runs[i]
	}
	return tasks
}

// Runs 1 and 2 have ended, 3 and 4 go on; 9 is not listed any more.
func TestReapJobs(t *testing.T) {
	job := func(attempts uint64) *pb.Service {
		s := serviceWith(attempts, 0, 1)
		s.Spec.Mode = &pb.ServiceSpec_ReplicatedJob{ReplicatedJob: &pb.ReplicatedJob{}}
		s.Job = &pb.JobStatus{LastRun: 4, Runs: []*pb.JobRun{
			{Number: 1, State: pb.JobState_JOB_STATE_COMPLETE}, {Number: 2, State: pb.JobState_JOB_STATE_FAILED},
			{Number: 3, State: pb.JobState_JOB_STATE_RUNNING}, {Number: 4, State: pb.JobState_JOB_STATE_RUNNING},
		}}
		return s
	}
	for _, c := range []struct {
		name     string
		attempts uint64
		tasks    string
		want     string
	}{
		{"what completed as wanted", 0, "1=complete/running@up 2=complete/running@up 3=complete/running@up 4=running/running@up", ""},
		{"what completed when it was told to stop", 0, "1=complete/shutdown@up 3=complete/shutdown@up 4=running/running@up", ""},
		{"failures are history", 0, "2=failed/shutdown@up 2=failed/shutdown@up 3=running/running@up", "t1 t2"},
		{"the last failure of a run that goes on counts", 0, "3=failed/shutdown@up 3=failed/shutdown@up 4=failed/shutdown@up 4=running/running@up", "t1 t3"},
		{"so many as may be tried", 2, "3=failed/shutdown@up 3=failed/shutdown@up 3=failed/shutdown@up 3=failed/shutdown@up 4=complete/running@up", "t1"},
		{"runs that are forgotten", 0, "9=complete/remove@up 9=failed/remove@up 9=running/remove@up 4=running/running@up", "t1 t2"},
		{"lost with its node", 0, "3=running/shutdown@down 3=running/running@up", "t1"},
	} {
		got := Reap(Slot{Service: job(c.attempts), Tasks: runsOf(t, c.tasks), Limit: 0, Node: nodeOf})
		if slices.Sort(got); strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v are deleted, not %s", c.name, got, c.want)
		}
	}
}
