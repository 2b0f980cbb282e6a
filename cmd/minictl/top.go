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
	"github.com/minid/minid/cmd/minictl/usage"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// reconnectAfter is the pause before a top whose manager went away goes on with
// another one.
const reconnectAfter = time.Second

// topFlags are those of top and of its kinds.
type topFlags struct {
	output
	order    string
	interval time.Duration
	once     bool
}

func (c *cli) topCommand() *cobra.Command {
	flags := &topFlags{}
	show := func(use, short string, args cobra.PositionalArgs, nodes bool) *cobra.Command {
		return c.streaming(use, short, args, func(ctx context.Context, args []string) error {
			return c.top(ctx, flags, nodes, args)
		})
	}
	cmd := show("top [FLAGS]", "Show live what tasks or nodes use", exactly(0), false)
	tasks := show("tasks [FLAGS] [SERVICE...]", "Show live what tasks use, as top does", atLeast(0), false)
	tasks.ValidArgsFunction = c.completing(serviceNames)
	nodes := show("nodes [FLAGS] [NODE...]", "Show live what nodes use", atLeast(0), true)
	nodes.ValidArgsFunction = c.completing(hostnames)
	cmd.AddCommand(tasks, nodes)
	cmd.Long = cmd.Short + `.

On a terminal the table is redrawn with every round of samples until q or Ctrl-C.
Elsewhere it is printed once, after two samples; with --format json it goes on,
one object per line. CPU % is of one CPU, as docker stats has it; OF LIMIT is of
the task's limit, or of all CPUs of the node. MEM % is of the task's limit, or of
the node where there is none, and leaves out what the kernel only caches.`
	f := cmd.PersistentFlags()
	f.StringVarP(&flags.format, "format", "o", "", "table, wide, json, yaml or a Go template")
	f.BoolVar(&flags.noTrunc, "no-trunc", false, "do not shorten")
	f.StringArrayVarP(&flags.filters, "filter", "f", nil, "show only what matches node=NODE or service=SERVICE")
	f.StringVar(&flags.order, "sort", "cpu", "what comes first: the most of cpu, memory, net or io, or by name")
	f.DurationVar(&flags.interval, "interval", 2*time.Second, "between two samples, at least 1s")
	f.BoolVar(&flags.once, "once", false, "print once, after two samples")
	cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(usage.Orders(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// top is one run of the command.
type top struct {
	cli    *cli
	flags  *topFlags
	format print.Format
	nodes  bool
	board  usage.Board
}

func (c *cli) top(ctx context.Context, flags *topFlags, nodes bool, args []string) error {
	t := &top{cli: c, flags: flags, nodes: nodes}
	req, err := t.request(args)
	if err != nil {
		return err
	}
	if t.format, err = flags.parse(); err != nil {
		return err
	}
	a, err := c.connect()
	if err != nil {
		return err
	}
	_, onTerminal := terminal(c.stdout)
	switch plain := t.isTable() && t.format.Text == ""; {
	case !flags.once && plain && onTerminal && c.env("TERM") != "dumb":
		return t.onScreen(ctx, a, req)
	case flags.once || t.format.Kind != print.JSON:
		return t.once(ctx, a, req)
	}
	return t.follow(ctx, a, req, func() error {
		if t.board.Rounds == 1 {
			return nil // nothing is rated yet
		}
		return t.print()
	}, func(error) {})
}

func (t *top) isTable() bool { return t.format.Kind == print.Table || t.format.Kind == print.Wide }

// request asks for what flags and arguments choose.
func (t *top) request(args []string) (*pb.UsageRequest, error) {
	if !usage.Sort(nil, t.flags.order) {
		return nil, fault.New(fault.Invalid, "invalid --sort %q: expected %s", t.flags.order, strings.Join(usage.Orders(), ", "))
	}
	if t.flags.interval < time.Second {
		return nil, fault.New(fault.Invalid, "invalid --interval %v: expected 1s or more", t.flags.interval)
	}
	req := &pb.UsageRequest{Interval: durationpb.New(t.flags.interval)}
	if t.nodes {
		req.Nodes = args
	} else {
		req.Services = args
	}
	filters, err := parseFilters(t.flags.filters)
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		switch {
		case f.Key == "node":
			req.Nodes = append(req.Nodes, f.Values...)
		case f.Key == "service" && !t.nodes:
			req.Services = append(req.Services, f.Values...)
		case t.nodes:
			return nil, fault.New(fault.Invalid, "invalid --filter %q: nodes are filtered by node", f.Key)
		default:
			return nil, fault.New(fault.Invalid, "invalid --filter %q: tasks are filtered by node and service", f.Key)
		}
	}
	return req, nil
}

// once prints what two rounds bring. It fails when no node answers.
func (t *top) once(ctx context.Context, a *api, req *pb.UsageRequest) error {
	req.Rounds = 2
	if err := t.receive(ctx, a, req, func() error { return nil }); err != nil {
		return err
	}
	if err := t.print(); err != nil {
		return err
	}
	if t.board.Total().Nodes == 0 {
		return fault.New(fault.Unavailable, "measure usage: no node gives samples").WithTry("minictl node ls")
	}
	return nil
}

// follow draws every round until ctx ends. A manager that goes away, or loses the
// lead, is told of and another one found.
func (t *top) follow(ctx context.Context, a *api, req *pb.UsageRequest, draw func() error, lost func(error)) error {
	for {
		err := t.receive(ctx, a, req, draw)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !fault.Is(err, fault.Unavailable) || t.board.Rounds == 0 {
			return err
		}
		lost(err)
		select {
		case <-ctx.Done():
		case <-time.After(reconnectAfter):
		}
	}
}

// receive hears rounds until the stream ends.
func (t *top) receive(ctx context.Context, a *api, req *pb.UsageRequest, draw func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.control.Usage(ctx, req)
	if err != nil {
		return err
	}
	for {
		sample, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case !t.board.Take(sample):
			continue
		}
		if err := draw(); err != nil {
			return err
		}
	}
}

// rows are what is shown, in order.
func (t *top) rows() []usage.Row {
	rows := t.board.Tasks()
	if t.nodes {
		rows = t.board.Nodes()
	}
	usage.Sort(rows, t.flags.order)
	return rows
}

// print writes what the board has. Nodes in trouble are among the objects, or
// warned of where there is no place for them.
func (t *top) print() error {
	rows, troubles := t.rows(), t.board.Troubles()
	switch {
	case t.format.Kind == print.JSON, t.format.Kind == print.YAML:
		return topColumns(t.nodes).Write(t.cli.stdout, t.format, append(rows, troubles...), true)
	case t.isTable() && t.format.Text == "":
		fmt.Fprintf(t.cli.stdout, "%s\n\n", t.summary())
	}
	for _, row := range troubles {
		fmt.Fprintf(t.cli.stderr, "Warning: %s\n", troubleText(row))
	}
	return topColumns(t.nodes).Write(t.cli.stdout, t.format, rows, true)
}

func troubleText(row usage.Row) string {
	return print.Clean(fmt.Sprintf("node %s gives no samples: %s", row.Name(), row.Trouble))
}
