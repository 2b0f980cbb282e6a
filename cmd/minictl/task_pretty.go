package main

import (
	"cmp"
	"fmt"
	"io"
	"time"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/progress"
	"github.com/minid/minid/internal/why"
	pb "github.com/minid/minid/proto/minid/v1"
)

// prettyTask prints a task for people, with its life line.
func prettyTask(w io.Writer, t *pb.Task, nodes map[string]string) {
	p := prettyPrinter{w}
	node := cmp.Or(nodes[t.NodeId], t.NodeId)
	p.line(0, "ID", t.Id)
	p.line(0, "Name", progress.Ref(t))
	p.line(0, "Service", fmt.Sprintf("%s, spec version %d", cmp.Or(t.ServiceName, t.ServiceId), t.SpecVersion))
	p.field(0, "Node", node)
	p.line(0, "Desired State", progress.StateName(t.DesiredState))
	p.line(0, "State", progress.StateName(t.GetStatus().GetState()))
	p.field(0, "Reason", print.Clean(why.Task(t)))
	if t.RestartCount > 0 {
		p.line(0, "Restarts", fmt.Sprint(t.RestartCount))
	}
	if c := t.GetStatus().GetContainer(); c.GetContainerId() != "" {
		p.line(0, "Container", c.ContainerId)
		p.field(1, "Image", c.ImageDigest)
		p.field(1, "Address", c.Address)
		if t.Status.State > pb.TaskState_TASK_STATE_RUNNING {
			p.line(1, "Exit Code", fmt.Sprint(c.ExitCode))
		}
	}
	p.field(0, "Addresses", joinComma(taskAddresses(t)))
	p.field(0, "Ports", portsText(modePorts(t.GetStatus().GetPorts(), pb.PortConfig_MODE_HOST)))
	prettyHealth(p, t.GetStatus().GetHealth())
	if steps := why.Steps(t.Life); len(steps) > 0 {
		p.line(0, "Life", "")
		lifeTable(steps, node).Write(w, print.Format{}, indexes(steps), true)
	}
}

func prettyHealth(p prettyPrinter, h *pb.HealthStatus) {
	if h == nil {
		return
	}
	state := enumName(h.State.String(), "HEALTH_STATE_")
	if h.Unready {
		state += ", out of rotation"
	}
	if h.FailingStreak > 0 {
		state += fmt.Sprintf(", %d failed in a row", h.FailingStreak)
	}
	p.line(0, "Health", state)
	for _, probe := range h.Probes {
		p.line(1, timeText(probe.At), fmt.Sprintf("exit code %d after %s: %s", probe.ExitCode,
			probe.GetTook().AsDuration().Round(time.Millisecond), print.Clean(probe.Output)))
	}
}

func indexes(steps []why.Step) []int {
	all := make([]int, len(steps))
	for i := range all {
		all[i] = i
	}
	return all
}

// lifeTable shows the steps by their places.
func lifeTable(steps []why.Step, node string) print.List[int] {
	type column = print.Column[int]
	at := func(i int) time.Time { return time.UnixMilli(steps[i].AtMS).UTC() }
	return print.List[int]{Columns: []column{
		{Header: " TIME", Value: func(i int, _ bool) string { return " " + at(i).Format(eventTime) }},
		{Header: "AFTER", Value: func(i int, _ bool) string {
			if i == 0 {
				return ""
			}
			return "+" + shortDuration(at(i).Sub(at(i-1)))
		}},
		{Header: "STATE", Value: func(i int, _ bool) string {
			state := progress.StateName(steps[i].State)
			if steps[i].Desired {
				state = "wanted: " + state
			}
			return state
		}},
		{Header: "NODE", Value: func(i int, _ bool) string {
			if steps[i].State < pb.TaskState_TASK_STATE_ASSIGNED || steps[i].Desired {
				return ""
			}
			return node
		}},
		{Header: "REASON", Value: func(i int, _ bool) string { return steps[i].Reason }},
	}}
}

// shortDuration is a duration to three digits or so.
func shortDuration(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
