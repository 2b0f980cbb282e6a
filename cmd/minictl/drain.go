package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/cmd/minictl/progress"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// drainDeadline is how long a drain lasts if its node says nothing else.
const drainDeadline = 10 * time.Minute

func draining(n *pb.Node) bool {
	return n.GetSpec().GetAvailability() == pb.NodeAvailability_NODE_AVAILABILITY_DRAIN
}

// drainEnd is when a node that drains stops what is left on it.
func drainEnd(n *pb.Node) time.Time {
	deadline := drainDeadline
	if d := n.GetSpec().GetDrainDeadline(); d != nil {
		deadline = d.AsDuration()
	}
	return n.GetDrainStartedAt().AsTime().Add(deadline)
}

// nodeSettings are the flags of node update.
type nodeSettings struct {
	availability, role string
	add, remove        []string
	deadline           time.Duration
	wait               bool
	waiting            waitFlags
}

func (f *nodeSettings) register(cmd *cobra.Command) {
	set := cmd.Flags()
	set.StringVar(&f.availability, "availability", "", "active, pause (keeps its tasks, gets no new ones) or drain (its tasks move elsewhere)")
	set.StringVar(&f.role, "role", "", "worker or manager")
	set.StringArrayVar(&f.add, "label-add", nil, "add or replace a label KEY=VALUE")
	set.StringArrayVar(&f.remove, "label-rm", nil, "remove a label by its key")
	set.DurationVar(&f.deadline, "drain-deadline", drainDeadline, "how long a drain waits for replacements before it stops what is left; 0s stops all at once")
	set.BoolVar(&f.wait, "wait", false, "with a drain, wait until all tasks have moved")
	f.waiting.registerShown(cmd)
	cmd.RegisterFlagCompletionFunc("availability", cobra.FixedCompletions([]string{"active", "pause", "drain"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"worker", "manager"}, cobra.ShellCompDirectiveNoFileComp))
}

// check refuses bad values before anything is done.
func (f *nodeSettings) check(cmd *cobra.Command) error {
	if f.deadline < 0 {
		return fault.New(fault.Invalid, "invalid --drain-deadline %v: expected 0s or more", f.deadline)
	}
	if f.wait {
		return f.waiting.check()
	}
	for _, name := range []string{"timeout", "progress"} {
		if cmd.Flags().Changed(name) {
			return fault.New(fault.Invalid, "--%s is of use with --wait only", name)
		}
	}
	return nil
}

// apply sets what was given.
func (f *nodeSettings) apply(cmd *cobra.Command, s *pb.NodeSpec) (err error) {
	if f.availability != "" {
		if s.Availability, err = parseAvailability(f.availability); err != nil {
			return err
		}
	}
	if f.role != "" {
		if s.Role, err = parseRole(f.role); err != nil {
			return err
		}
	}
	if cmd.Flags().Changed("drain-deadline") {
		s.DrainDeadline = durationpb.New(f.deadline)
	}
	return changeLabels(&s.Labels, f.remove, f.add)
}

func (c *cli) nodeUpdate() *cobra.Command {
	var f nodeSettings
	var cmd *cobra.Command
	cmd = c.streaming("update [FLAGS] NODE", "Change a node's availability, labels or role", exactly(1), func(ctx context.Context, args []string) error {
		if err := f.check(cmd); err != nil {
			return err
		}
		a, err := c.connect()
		if err != nil {
			return err
		}
		n, err := a.updateNode(ctx, args[0], func(s *pb.NodeSpec) error { return f.apply(cmd, s) })
		if err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, args[0])
		switch {
		case f.wait && !draining(n):
			return fault.New(fault.Invalid, "cannot wait for node %q to be drained: it is %s", args[0], availabilityName(n.GetSpec().GetAvailability())).
				WithTry("minictl node update --availability drain --wait %s", args[0])
		case f.wait:
			return c.waitForAll(ctx, a, []awaited{{"node", args[0], "drained"}}, f.waiting)
		case f.availability == "drain" && !f.waiting.quiet:
			return c.sayDrain(ctx, a, n, args[0])
		}
		return nil
	})
	f.register(cmd)
	cmd.ValidArgsFunction = c.completing(hostnames)
	return cmd
}

// updateNode changes a node's spec and returns the node as it is then.
func (a *api) updateNode(ctx context.Context, ref string, change func(*pb.NodeSpec) error) (*pb.Node, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if _, err := a.changeNode(ctx, ref, change); err != nil {
		return nil, overdue(ctx, err)
	}
	n, err := a.getNode(ctx, ref)
	return n, overdue(ctx, err)
}

// sayDrain tells how much a drain has to do and how to follow it.
func (c *cli) sayDrain(ctx context.Context, a *api, n *pb.Node, name string) error {
	left, err := a.tasksLeft(ctx, n)
	if err != nil || len(left) == 0 {
		return err
	}
	noun := "tasks have"
	if len(left) == 1 {
		noun = "task has"
	}
	fmt.Fprintf(c.stderr, "%d %s to move from %s; what is left at %s is stopped.\nTry: minictl wait node/%s --for=drained\n",
		len(left), noun, print.Clean(name), drainEnd(n).UTC().Format(time.RFC3339), print.Clean(name))
	return nil
}

// tasksLeft are the tasks that may still run on a node that drains. On one that
// is down nobody knows, and those that are not wanted any more do not count.
func (a *api) tasksLeft(ctx context.Context, n *pb.Node) ([]*pb.Task, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	resp, err := a.control.ListTasks(ctx, &pb.ListTasksRequest{Nodes: []string{n.Id}})
	if err != nil {
		return nil, overdue(ctx, err)
	}
	var left []*pb.Task
	up := n.GetStatus().GetState() != pb.NodeState_NODE_STATE_DOWN
	for _, t := range resp.Tasks {
		if t.GetStatus().GetState() <= pb.TaskState_TASK_STATE_RUNNING && (up || t.DesiredState <= pb.TaskState_TASK_STATE_RUNNING) {
			left = append(left, t)
		}
	}
	return left, nil
}

// waitForDrain waits until nothing is left on a node that drains.
func (a *api) waitForDrain(ctx context.Context, w awaited, timeout time.Duration, tell *teller) error {
	ref, most, last := w.name, 0, "it was not seen"
	return poll(ctx, func(ctx context.Context) (bool, error) {
		n, err := a.getNode(ctx, ref)
		if err != nil {
			return false, err
		}
		ref = n.Id
		left, err := a.tasksLeft(ctx, n)
		if err != nil {
			return false, err
		}
		switch {
		case !draining(n):
			last = "its availability is " + availabilityName(n.GetSpec().GetAvailability())
		case len(left) == 0:
			return true, nil
		default:
			most = max(most, len(left))
			last = drainText(left, most)
		}
		tell.waits(w, last)
		return false, nil
	}, func() error {
		return fault.New(fault.Timeout, "node %q is not drained after %v: %s; the work goes on", w.name, timeout, last).
			WithTry("minictl node ps -f desired-state=running %s", w.name)
	})
}

// drainText is "5 of 8 tasks moved; web.3 stays: its replacement waits: 0 of 3
// nodes fit", about the first task that has something in its way.
func drainText(left []*pb.Task, most int) string {
	text := fmt.Sprintf("%d of %d tasks moved", most-len(left), most)
	for _, prefix := range []string{"stays: ", "moves: ", ""} {
		for _, t := range left {
			switch why := progress.Reason(t); {
			case prefix != "" && strings.HasPrefix(why, prefix):
				return fmt.Sprintf("%s; %s %s", text, progress.Ref(t), print.Clean(why))
			case prefix == "" && t.DesiredState > pb.TaskState_TASK_STATE_RUNNING:
				return fmt.Sprintf("%s; %s is being stopped", text, progress.Ref(t))
			}
		}
	}
	return text
}

// drainColumn tells how far nodes are that drain, by their ids.
func drainColumn(left map[string]int) print.Column[*pb.Node] {
	return print.Column[*pb.Node]{Field: "Drain", Header: "DRAIN", Wide: true, Value: func(n *pb.Node, _ bool) string {
		switch tasks := left[n.Id]; {
		case !draining(n):
			return ""
		case tasks == 0:
			return "done"
		default:
			return fmt.Sprintf("%d left", tasks)
		}
	}}
}

// countLeft counts what is left on the nodes that drain.
func (a *api) countLeft(ctx context.Context, nodes []*pb.Node, left map[string]int) error {
	clear(left)
	var failures []error
	for _, n := range nodes {
		if draining(n) {
			tasks, err := a.tasksLeft(ctx, n)
			left[n.Id], failures = len(tasks), append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// prettyDrain prints how far a node is that drains.
func prettyDrain(w io.Writer, n *pb.Node, left []*pb.Task) {
	if !draining(n) {
		return
	}
	p := prettyPrinter{w}
	p.line(0, "Drain", "")
	p.line(1, "Started", timeText(n.DrainStartedAt))
	p.line(1, "Stops what is left", drainEnd(n).UTC().Format(time.RFC3339))
	p.line(1, "Tasks left", fmt.Sprint(len(left)))
	for _, t := range left {
		p.field(2, progress.Ref(t), progress.Reason(t))
	}
}
