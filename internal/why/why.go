// Package why says in words why a task is as it is. `task why`, waiting
// commands, events and life lines all ask here, so that they give one reason.
package why

import (
	"fmt"
	"strings"

	pb "github.com/minid/minid/proto/minid/v1"
)

// State is a task state as users write it: "running".
func State(s pb.TaskState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "TASK_STATE_"))
}

// Task says why a task is in its state, empty where the state says enough.
func Task(t *pb.Task) string {
	s := t.GetStatus()
	switch state := s.GetState(); {
	case state == pb.TaskState_TASK_STATE_RUNNING:
		return s.GetError() // of its health
	case Waits(t):
		return waiting(s)
	case s.GetError() != "":
		return withExitCode(s)
	case s.GetContainer().GetOomKilled():
		return fmt.Sprintf("out of memory (exit code %d)", s.Container.ExitCode)
	case state == pb.TaskState_TASK_STATE_SHUTDOWN:
		return Stopped(t) // how it put its end is no matter: it was asked to
	case s.GetContainer().GetExitCode() != 0 && state > pb.TaskState_TASK_STATE_RUNNING:
		return fmt.Sprintf("exit code %d", s.Container.ExitCode)
	case state == pb.TaskState_TASK_STATE_PREPARING, state == pb.TaskState_TASK_STATE_STARTING, state > pb.TaskState_TASK_STATE_SHUTDOWN:
		if s.GetMessage() != State(state) {
			return s.GetMessage()
		}
	}
	return ""
}

// waits begins the messages of tasks that are not just next in line.
const waits = "waiting: "

// Waits tells whether something has to change before a task can go on: managers
// have no address for it, or no node to put it on.
func Waits(t *pb.Task) bool {
	s := t.GetStatus()
	switch s.GetState() {
	case pb.TaskState_TASK_STATE_NEW:
		return strings.HasPrefix(s.GetMessage(), waits)
	case pb.TaskState_TASK_STATE_PENDING:
		return len(s.GetRefused()) > 0
	}
	return false
}

// waiting is "0 of 5 nodes fit: 3 lack label disk=ssd, 2 are down": the
// message tells what, the error why.
func waiting(s *pb.TaskStatus) string {
	text := strings.TrimPrefix(s.GetMessage(), waits)
	switch {
	case text == "":
		return refusals(s)
	case s.GetError() == "":
		return text
	}
	return text + ": " + s.Error
}

// refusals makes words of the counts alone.
func refusals(s *pb.TaskStatus) string {
	parts := make([]string, 0, len(s.Refused))
	for _, f := range s.Refused {
		nodes := "nodes"
		if f.Nodes == 1 {
			nodes = "node"
		}
		parts = append(parts, fmt.Sprintf("%s (%d %s)", f.Reason, f.Nodes, nodes))
	}
	return "no node fits: " + strings.Join(parts, ", ")
}

func withExitCode(s *pb.TaskStatus) string {
	code := fmt.Sprint(s.GetContainer().GetExitCode())
	if code == "0" || strings.Contains(s.Error, code) {
		return s.Error
	}
	return s.Error + " (exit code " + code + ")"
}

// Stopped says why a task was told to stop, as its life line has it; empty if
// nobody told it to, or nobody knows why.
func Stopped(t *pb.Task) string {
	var why string
	for _, step := range Steps(t.GetLife()) {
		if step.Desired && step.State >= pb.TaskState_TASK_STATE_SHUTDOWN && step.Reason != "" {
			why = step.Reason
		}
	}
	return why
}

// Step is one of a life line.
type Step struct {
	State pb.TaskState
	// Desired: managers began to want the state; else the task reached it.
	Desired bool
	// AtMS is Unix time in milliseconds.
	AtMS   int64
	Reason string
}

// Steps are those of a life line, the oldest first.
func Steps(l *pb.LifeLine) []Step {
	n := min(len(l.GetStates()), len(l.GetDesired()), len(l.GetAtMs()))
	steps := make([]Step, n)
	for i := range steps {
		steps[i] = Step{State: l.States[i], Desired: l.Desired[i], AtMS: l.AtMs[i]}
		if i < len(l.Reasons) {
			steps[i].Reason = l.Reasons[i]
		}
	}
	return steps
}
