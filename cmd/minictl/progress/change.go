package progress

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/minid/minid/internal/why"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Change is one step of one task, as users hear of it.
type Change struct {
	At      time.Time `json:"time"`
	Service string    `json:"service"`
	// Slot number or, for global services, the node's name. Empty, as the
	// task, when the change is the service's.
	Slot   string `json:"slot,omitempty"`
	Task   string `json:"task,omitempty"`
	Node   string `json:"node,omitempty"`
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	Failed bool   `json:"failed,omitempty"`
	// Loop tells that the slot's tasks end again and again, the last one so.
	Loop string `json:"loop,omitempty"`
	// Log is the end of that one's log, told of later.
	Log []string `json:"log,omitempty"`
	// Waits: the task gets no address, or no node can take it. Repeats: another
	// task waited, or restarted as often, for the same reason before.
	Waits   bool `json:"waits,omitempty"`
	Repeats bool `json:"-"`
	// Try is a command that tells more.
	Try string `json:"try,omitempty"`
}

// String is the line for pipes, without its time.
func (c Change) String() string {
	var b strings.Builder
	b.WriteString(c.Service)
	if c.Slot != "" {
		fmt.Fprintf(&b, ".%s", c.Slot)
	}
	if c.Loop != "" {
		return b.String() + " " + c.Loop
	}
	fmt.Fprintf(&b, " %s", c.State)
	if c.Node != "" && c.Node != c.Slot {
		fmt.Fprintf(&b, " on %s", c.Node)
	}
	if c.Reason != "" {
		fmt.Fprintf(&b, ": %s", c.Reason)
	}
	return b.String()
}

// JSON is the line for machines.
func (c Change) JSON() string {
	text, err := json.Marshal(c)
	if err != nil {
		return "" // a struct of strings, booleans and a time always encodes
	}
	return string(text)
}

// StateName is a task state as users write it: "running".
func StateName(s pb.TaskState) string { return why.State(s) }

// describe is all of a task's state that users hear of.
func describe(t *pb.Task) string {
	return fmt.Sprint(t.GetStatus().GetState(), t.NodeId, Reason(t))
}

// Reason says in words why a task is in its state, empty where the state says
// enough: as the managers do, but that a task which was asked to end owes no
// reason, and that waiting is said.
func Reason(t *pb.Task) string {
	reason := why.Task(t)
	switch {
	case t.GetStatus().GetState() == pb.TaskState_TASK_STATE_SHUTDOWN && reason == why.Stopped(t):
		return ""
	case stuck(t) && !strings.HasPrefix(reason, "waiting"):
		return "waiting: " + reason
	}
	return reason
}

// stuck tells whether something has to change before a task can go on.
func stuck(t *pb.Task) bool { return why.Waits(t) }

// Ref is how commands may name a task: SERVICE.SLOT, or the beginning of its id.
func Ref(t *pb.Task) string {
	if t.Slot > 0 {
		return fmt.Sprintf("%s.%d", t.ServiceName, t.Slot)
	}
	return t.Id[:min(len(t.Id), 12)]
}

func slotLabel(t *pb.Task, nodes map[string]string) string {
	switch {
	case t.Slot > 0:
		return fmt.Sprint(t.Slot)
	case nodes[t.NodeId] != "":
		return nodes[t.NodeId]
	}
	return t.NodeId
}
