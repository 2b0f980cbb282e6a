package events

import (
	"cmp"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "github.com/minid/minid/proto/minid/v1"
)

func (e *Entry) service(old, new *pb.Service) {
	subject := cmp.Or(new, old)
	event := func() *pb.Event {
		return &pb.Event{Kind: "service", ObjectId: subject.Id, ServiceId: subject.Id, Name: subject.GetSpec().GetName()}
	}
	switch {
	case old == nil:
		e.add(event(), "created", summary(new.Spec))
	case new == nil:
		e.add(event(), "removed", "")
		return
	case new.Removing && !old.Removing:
		e.add(event(), "removing", "")
	case old.Spec != new.Spec && !proto.Equal(old.Spec, new.Spec):
		e.add(event(), "updated", specWords(old.Spec, new.Spec))
	}
	e.rollout(event, old.GetUpdateStatus(), new.UpdateStatus)
	e.waits(event, old.GetEndpoint().GetProblem(), new.GetEndpoint().GetProblem())
	e.job(event, old.GetJob(), new.Job)
	e.rebalance(event, old.GetRebalance(), new.Rebalance)
}

// rollout tells how updates and rollbacks go. Their messages repeat what the
// state says, and add why.
func (e *Entry) rollout(event func() *pb.Event, old, new *pb.UpdateStatus) {
	if new.GetState() == old.GetState() && new.GetToVersion() == old.GetToVersion() {
		return
	}
	paused := old.GetState() == pb.UpdateState_UPDATE_STATE_PAUSED || old.GetState() == pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED
	step := "started"
	if paused && old.GetToVersion() == new.GetToVersion() {
		step = "resumed"
	}
	reason := new.GetMessage()
	switch new.GetState() {
	case pb.UpdateState_UPDATE_STATE_UPDATING:
		e.add(event(), "update "+step, besides(reason, "update in progress"))
	case pb.UpdateState_UPDATE_STATE_PAUSED:
		e.warn(event(), "update paused", reason)
	case pb.UpdateState_UPDATE_STATE_COMPLETED:
		e.add(event(), "update completed", besides(reason, "update completed"))
	case pb.UpdateState_UPDATE_STATE_ROLLBACK_STARTED:
		e.warn(event(), "rollback "+step, reason)
	case pb.UpdateState_UPDATE_STATE_ROLLBACK_PAUSED:
		e.warn(event(), "rollback paused", reason)
	case pb.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED:
		e.add(event(), "rollback completed", reason)
	}
}

// besides is what a message adds to what everybody knows.
func besides(message, known string) string {
	rest, ok := strings.CutPrefix(message, known)
	if !ok {
		return message
	}
	return strings.TrimLeft(rest, ",:; ")
}

// job tells the begin and end of runs, and why one was left out.
func (e *Entry) job(event func() *pb.Event, old, new *pb.JobStatus) {
	before := map[uint64]pb.JobState{}
	for _, r := range old.GetRuns() {
		before[r.Number] = r.State
	}
	for _, r := range new.GetRuns() {
		was, known := before[r.Number]
		if !known && r.Number > old.GetLastRun() {
			e.add(event(), fmt.Sprintf("run %d started", r.Number), runReason(r))
		}
		if was == r.State {
			continue
		}
		switch r.State {
		case pb.JobState_JOB_STATE_COMPLETE:
			e.add(event(), fmt.Sprintf("run %d complete", r.Number), "")
		case pb.JobState_JOB_STATE_FAILED:
			e.warn(event(), fmt.Sprintf("run %d failed", r.Number), r.Message)
		case pb.JobState_JOB_STATE_REPLACED:
			e.add(event(), fmt.Sprintf("run %d replaced", r.Number), r.Message)
		}
	}
	if new.GetMessage() != "" && new.GetMessage() != old.GetMessage() {
		e.warn(event(), "run left out", new.GetMessage())
	}
}

// runReason is why a run that goes on was started; one that has ended already
// says that instead.
func runReason(r *pb.JobRun) string {
	if r.State == pb.JobState_JOB_STATE_RUNNING {
		return r.Message
	}
	return ""
}

func (e *Entry) rebalance(event func() *pb.Event, old, new *pb.Rebalance) {
	switch {
	case new == nil:
	case !proto.Equal(old.GetAskedAt(), new.AskedAt):
		e.add(event(), "rebalancing", new.Message)
	case new.CompletedAt != nil && old.GetCompletedAt() == nil:
		e.add(event(), "rebalanced", cmp.Or(new.Message, fmt.Sprintf("%d tasks moved", new.Moved)))
	}
}
