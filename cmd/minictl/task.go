package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/print"
	pb "github.com/minid/minid/proto/minid/v1"
)

func (c *cli) taskCommand() *cobra.Command {
	return c.group("task", "Look at tasks", c.taskList(), c.taskInspect(), c.taskWhy(), c.taskEvents())
}

func (c *cli) taskList() *cobra.Command {
	var o output
	var noResolve bool
	cmd := c.streaming("ls [FLAGS] [SERVICE...]", "List tasks", atLeast(0), func(ctx context.Context, args []string) error {
		return c.showTasks(ctx, &o, &pb.ListTasksRequest{Services: args}, noResolve)
	})
	cmd.Aliases = []string{"list"}
	o.listFlags(cmd)
	o.filterFlag(cmd)
	o.watchFlag(cmd)
	cmd.Flags().BoolVar(&noResolve, "no-resolve", false, "ids instead of names")
	cmd.ValidArgsFunction = c.completing(serviceNames)
	return cmd
}

// showTasks lists the tasks that a request finds. The request's own filters
// are replaced by those of the flags.
func (c *cli) showTasks(ctx context.Context, o *output, req *pb.ListTasksRequest, noResolve bool) error {
	a, err := c.connect()
	if err != nil {
		return err
	}
	if req.Filters, err = parseFilters(o.filters); err != nil {
		return err
	}
	f, err := o.parse()
	if err != nil {
		return err
	}
	table := &taskTable{now: c.now, ids: noResolve, rows: map[string]taskRow{}}
	return show(ctx, c, o, listing[*pb.Task]{table.list(), []pb.Kind{pb.Kind_KIND_TASK}, func(ctx context.Context) ([]*pb.Task, error) {
		resp, err := a.control.ListTasks(ctx, req)
		if err != nil {
			return nil, err
		}
		if err := table.resolve(ctx, a); err != nil {
			return nil, err
		}
		plain := f.Quiet || f.NoTrunc || f.Kind != print.Table && f.Kind != print.Wide
		return table.arrange(resp.Tasks, !plain && !o.watch), nil
	}})
}

func (c *cli) taskInspect() *cobra.Command {
	var nodes map[string]string
	return inspectCommand(c, inspected[*pb.Task]{
		what: "TASK", short: "Show tasks whole", names: taskIDs,
		get: func(ctx context.Context, a *api, ref string) (*pb.Task, error) {
			nodes, _ = a.nodeNames(ctx) // without them there are the ids
			return a.control.GetTask(ctx, &pb.GetRequest{Ref: ref})
		},
		pretty: func(w io.Writer, t *pb.Task) { prettyTask(w, t, nodes) },
		fields: func(t *pb.Task) any {
			return struct {
				*pb.Task
				ID string
			}{t, t.Id}
		},
		more: c.tellLoopOf, beside: true,
	})
}

func (c *cli) taskWhy() *cobra.Command {
	var o output
	cmd := c.command("why [FLAGS] TASK", "Tell why a task is where it is, or nowhere", exactly(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		f, err := o.parse()
		if err != nil {
			return err
		}
		why, err := a.control.ExplainTask(ctx, &pb.GetRequest{Ref: args[0]})
		if err != nil {
			return err
		}
		if f.Kind == print.JSON || f.Kind == print.YAML {
			whole := print.List[*pb.Explanation]{Object: func(e *pb.Explanation) proto.Message { return e }}
			return whole.Write(c.stdout, f, []*pb.Explanation{why}, true)
		}
		if err := verdictColumns().Write(c.stdout, f, why.Nodes, true); err != nil {
			return err
		}
		if f.Kind == print.Template || f.Quiet {
			return nil
		}
		if len(why.Nodes) > 0 {
			fmt.Fprintln(c.stdout)
		}
		fmt.Fprintln(c.stdout, print.Clean(why.Summary))
		if why.Hint != "" {
			fmt.Fprintf(c.stdout, "Try: %s\n", print.Clean(why.Hint))
		}
		c.tellLoopOf(ctx, a, c.stdout, why.Task)
		return nil
	})
	o.listFlags(cmd)
	cmd.ValidArgsFunction = c.completing(taskIDs)
	return cmd
}

func verdictColumns() print.List[*pb.NodeVerdict] {
	type column = print.Column[*pb.NodeVerdict]
	return print.List[*pb.NodeVerdict]{
		ID:     (*pb.NodeVerdict).GetNodeId,
		Object: func(v *pb.NodeVerdict) proto.Message { return v },
		Columns: []column{
			{Field: "Node", Header: "NODE", Value: func(v *pb.NodeVerdict, whole bool) string {
				if v.NodeName == "" {
					return print.ID(v.NodeId, whole)
				}
				return v.NodeName
			}},
			{Field: "ID", Header: "ID", Wide: true, Value: func(v *pb.NodeVerdict, _ bool) string { return v.NodeId }},
			{Field: "Result", Header: "RESULT", Value: func(v *pb.NodeVerdict, _ bool) string {
				switch {
				case v.Chosen:
					return "chosen"
				case v.Fits:
					return "fits"
				}
				return "refused"
			}},
			{Field: "Filter", Header: "FILTER", Value: func(v *pb.NodeVerdict, _ bool) string { return v.Filter }},
			{Field: "Reason", Header: "REASON", Value: func(v *pb.NodeVerdict, _ bool) string { return v.Reason }},
			{Field: "Rank", Header: "RANK", Value: func(v *pb.NodeVerdict, _ bool) string {
				if v.Rank == 0 {
					return ""
				}
				return fmt.Sprint(v.Rank)
			}},
			{Field: "Tasks", Header: "TASKS (SERVICE/ALL)", Value: func(v *pb.NodeVerdict, _ bool) string {
				return fmt.Sprintf("%d/%d", v.ServiceTasks, v.TotalTasks)
			}},
		},
	}
}
