package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/print"
	pb "github.com/minid/minid/proto/minid/v1"
)

// listed is how the objects of one kind are listed.
type listed[T proto.Message] struct {
	short string
	// kinds of objects whose changes change the list; without them, it can be
	// neither watched nor filtered.
	kinds   []pb.Kind
	columns func(ctx context.Context, a *api) print.List[T]
	rows    func(ctx context.Context, a *api, filters []*pb.Filter) ([]T, error)
	// name is what the rows are sorted by.
	name func(T) string
}

// listCommand makes the verb ls.
func listCommand[T proto.Message](c *cli, l listed[T]) *cobra.Command {
	var o output
	cmd := c.streaming("ls [FLAGS]", l.short, exactly(0), func(ctx context.Context, _ []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		filters, err := parseFilters(o.filters)
		if err != nil {
			return err
		}
		return show(ctx, c, &o, listing[T]{l.columns(ctx, a), l.kinds, func(ctx context.Context) ([]T, error) {
			rows, err := l.rows(ctx, a, filters)
			slices.SortStableFunc(rows, func(a, b T) int { return strings.Compare(l.name(a), l.name(b)) })
			return rows, err
		}})
	})
	cmd.Aliases = []string{"list"}
	o.listFlags(cmd)
	if len(l.kinds) > 0 {
		o.filterFlag(cmd)
		o.watchFlag(cmd)
	}
	return cmd
}

// inspected is how the objects of one kind are shown whole.
type inspected[T proto.Message] struct {
	// what the arguments are, for the usage line.
	what, short string
	names       namer
	get         func(ctx context.Context, a *api, ref string) (T, error)
	// fields is what Go templates see.
	fields func(T) any
	// pretty prints for people; nil where that is not offered.
	pretty func(w io.Writer, item T)
	// more is what people should know beyond the object, if there is more:
	// below what is pretty and, if beside, on stderr beside the object's JSON.
	more   func(ctx context.Context, a *api, w io.Writer, item T)
	beside bool
}

// inspectCommand makes the verb inspect.
func inspectCommand[T proto.Message](c *cli, how inspected[T]) *cobra.Command {
	var o output
	cmd := c.command("inspect [FLAGS] "+how.what+"...", how.short, atLeast(1), func(ctx context.Context, args []string) error {
		return inspect(ctx, c, &o, args, how)
	})
	o.inspectFlags(cmd, how.pretty != nil)
	cmd.ValidArgsFunction = c.completing(how.names)
	return cmd
}

// removed is how the objects of one kind are removed.
type removed struct {
	// what the arguments are, for the usage line.
	what, short string
	names       namer
	remove      func(ctx context.Context, a *api, ref string) error
}

// removeCommand makes the verb rm.
func (c *cli) removeCommand(r removed) *cobra.Command {
	cmd := c.command("rm "+r.what+"...", r.short, atLeast(1), func(ctx context.Context, args []string) error {
		a, err := c.connect()
		if err != nil {
			return err
		}
		return each(args, func(ref string) error {
			if err := r.remove(ctx, a, ref); err != nil {
				return err
			}
			fmt.Fprintln(c.stdout, ref)
			return nil
		})
	})
	cmd.Aliases = []string{"remove"}
	cmd.ValidArgsFunction = c.completing(r.names)
	return cmd
}
