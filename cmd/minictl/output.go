package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// settle is how long a watched list waits for more changes before it is asked
// for again.
const settle = 100 * time.Millisecond

// output is the flags of lists and inspections.
type output struct {
	format         string
	quiet, noTrunc bool
	pretty, watch  bool
	filters        []string
}

func (o *output) listFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&o.format, "format", "o", "", "table, wide, json, yaml or a Go template")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "only ids")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "do not shorten")
}

func (o *output) filterFlag(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&o.filters, "filter", "f", nil, "show only what matches KEY=VALUE")
}

func (o *output) watchFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "go on and show changes")
}

func (o *output) inspectFlags(cmd *cobra.Command, pretty bool) {
	f := cmd.Flags()
	f.StringVarP(&o.format, "format", "f", "", "json, yaml or a Go template")
	f.StringVarP(&o.format, "output", "o", "", "as --format")
	if pretty {
		f.BoolVar(&o.pretty, "pretty", false, "print for people")
	}
}

func (o *output) parse() (print.Format, error) {
	f, err := print.ParseFormat(o.format)
	f.Quiet, f.NoTrunc = o.quiet, o.noTrunc
	return f, err
}

// terminal returns the descriptor behind a stream if it is a terminal.
func terminal(stream any) (fd int, ok bool) {
	f, ok := stream.(*os.File)
	if !ok {
		return 0, false
	}
	return int(f.Fd()), term.IsTerminal(int(f.Fd()))
}

// colours tells whether a stream may get colours.
func (c *cli) colours(w io.Writer) bool {
	_, ok := terminal(w)
	return ok && c.env("NO_COLOR") == "" && c.env("TERM") != "dumb"
}

// listing is a list that can be shown once or watched.
type listing[T proto.Message] struct {
	list print.List[T]
	// kinds of objects whose changes change the list.
	kinds []pb.Kind
	// rows sees what to list.
	rows func(ctx context.Context) ([]T, error)
}

// fetch bounds the calls of rows.
func (l listing[T]) fetch(ctx context.Context) ([]T, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	rows, err := l.rows(ctx)
	return rows, overdue(ctx, err)
}

// show prints a listing as the flags say.
func show[T proto.Message](ctx context.Context, c *cli, o *output, l listing[T]) error {
	f, err := o.parse()
	if err != nil {
		return err
	}
	rows, err := l.fetch(ctx)
	if err != nil {
		return err
	}
	if !o.watch {
		return l.list.Write(c.stdout, f, rows, true)
	}
	w := watcher[T]{cli: c, listing: l, format: f, seen: map[string]proto.Message{}}
	_, w.redraw = terminal(c.stdout)
	w.redraw = w.redraw && f.Kind <= print.Wide
	return w.run(ctx, rows)
}

// watcher shows a listing again whenever something changed: on a terminal the
// whole table in place, elsewhere the rows that are new or changed.
type watcher[T proto.Message] struct {
	cli     *cli
	listing listing[T]
	format  print.Format
	redraw  bool
	seen    map[string]proto.Message
	headers bool
}

func (w *watcher[T]) run(ctx context.Context, rows []T) error {
	if err := w.draw(rows); err != nil {
		return err
	}
	for {
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.Lagged) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// follow redraws with every change until the watch breaks.
func (w *watcher[T]) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := w.cli.api.control.Watch(ctx, &pb.WatchRequest{Kinds: w.listing.kinds})
	if err != nil {
		return err
	}
	dirty, failure := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		for synced := false; ; {
			ev, err := stream.Recv()
			if err != nil {
				failure <- err
				return
			}
			synced = synced || ev.Action == pb.WatchEvent_ACTION_SYNCED
			if !synced {
				continue
			}
			select {
			case dirty <- struct{}{}:
			default:
			}
		}
	}()
	for {
		select {
		case err := <-failure:
			return err
		case <-dirty:
		}
		time.Sleep(settle)
		rows, err := w.listing.fetch(ctx)
		if err != nil {
			return err
		}
		if err := w.draw(rows); err != nil {
			return err
		}
	}
}

func (w *watcher[T]) draw(rows []T) error {
	if w.redraw {
		io.WriteString(w.cli.stdout, "\x1b[H\x1b[J")
		return w.listing.list.Write(w.cli.stdout, w.format, rows, true)
	}
	var changed []T
	for _, row := range rows {
		id := w.listing.list.ID(row)
		if have, ok := w.seen[id]; ok && proto.Equal(have, row) {
			continue
		}
		w.seen[id] = row
		changed = append(changed, row)
	}
	headers := !w.headers
	w.headers = true
	return w.listing.list.Write(w.cli.stdout, w.format, changed, headers)
}

// inspect shows the objects named; those that are missing do not keep it from
// showing the rest.
func inspect[T proto.Message](ctx context.Context, c *cli, o *output, refs []string, how inspected[T]) error {
	f, err := o.parse()
	if err != nil {
		return err
	}
	a, err := c.connect()
	if err != nil {
		return err
	}
	var items []T
	missing := each(refs, func(ref string) error {
		item, err := how.get(ctx, a, ref)
		if err == nil {
			items = append(items, item)
		}
		return err
	})
	if o.pretty {
		for i, item := range items {
			if i > 0 {
				io.WriteString(c.stdout, "\n")
			}
			how.pretty(c.stdout, item)
			if how.more != nil {
				how.more(ctx, a, c.stdout, item)
			}
		}
		return missing
	}
	whole := make([]print.Inspected, len(items))
	for i, item := range items {
		whole[i] = print.Inspected{Message: item, Fields: how.fields(item)}
	}
	if len(items) == 0 && f.Kind == print.Template {
		return missing
	}
	err = print.Inspect(c.stdout, f, whole)
	if how.more != nil && how.beside && o.format == "" {
		for _, item := range items {
			how.more(ctx, a, c.stderr, item)
		}
	}
	return errors.Join(err, missing)
}
