package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/cmd/minictl/print"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	// eventPause is the time between attempts to go on with a stream that broke off.
	eventPause = 300 * time.Millisecond
	// eventSettle is how long events are gathered into one table.
	eventSettle = 50 * time.Millisecond
	// eventTime has a fixed width.
	eventTime = "2006-01-02T15:04:05.000Z07:00"
)

// eventsCommand shows what happened in the whole cluster.
func (c *cli) eventsCommand() *cobra.Command {
	return c.eventVerb("events [FLAGS]", "Show what happened and why", "", nil, nil)
}

// serviceEvents also shows those of the service's tasks.
func (c *cli) serviceEvents() *cobra.Command {
	return c.eventVerb("events [FLAGS] SERVICE...", "Show what happened to services and their tasks, and why", "service", serviceNames,
		func(ctx context.Context, a *api, ref string) error {
			_, err := a.control.GetService(ctx, &pb.GetRequest{Ref: ref})
			return err
		})
}

// nodeEvents also shows those of the tasks on the node.
func (c *cli) nodeEvents() *cobra.Command {
	return c.eventVerb("events [FLAGS] NODE...", "Show what happened to nodes and the tasks on them, and why", "node", hostnames,
		func(ctx context.Context, a *api, ref string) error {
			_, err := a.getNode(ctx, ref)
			return err
		})
}

func (c *cli) taskEvents() *cobra.Command {
	return c.eventVerb("events [FLAGS] TASK...", "Show what happened to tasks (SERVICE.SLOT: to all of a slot), and why", "task", taskIDs,
		func(ctx context.Context, a *api, ref string) error {
			_, err := a.control.GetTask(ctx, &pb.GetRequest{Ref: ref})
			return err
		})
}

// eventVerb shows the events that a filter's key and the arguments choose, all
// without a key. Find fails for what is not there: that may have events still.
func (c *cli) eventVerb(use, short, key string, names namer, find func(context.Context, *api, string) error) *cobra.Command {
	var o output
	var since, until string
	count := exactly(0)
	if key != "" {
		count = atLeast(1)
	}
	cmd := c.streaming(use, short, count, func(ctx context.Context, args []string) error {
		f, err := o.parse()
		if err != nil {
			return err
		}
		req := &pb.EventsRequest{Follow: o.watch}
		if req.Filters, err = parseFilters(o.filters); err != nil {
			return err
		}
		if key != "" {
			req.Filters = append(req.Filters, &pb.Filter{Key: key, Values: args})
		}
		if req.Since, err = parseTime("since", since, c.now()); err != nil {
			return err
		}
		if req.Until, err = parseTime("until", until, c.now()); err != nil {
			return err
		}
		a, err := c.connect()
		if err != nil {
			return err
		}
		reader := &eventReader{cli: c, api: a, req: req, table: eventTable{format: f, watch: o.watch}}
		return reader.run(ctx, args, find)
	})
	flags := cmd.Flags()
	flags.StringVar(&since, "since", "", "only events after a time or within a duration, such as 10m")
	flags.StringVar(&until, "until", "", "only events before a time or a duration ago; with --watch, end then")
	o.listFlags(cmd)
	flags.StringArrayVarP(&o.filters, "filter", "f", nil, "show only what matches KEY=VALUE: kind, service, node, task, action or warning=true")
	o.watchFlag(cmd)
	flags.Lookup("watch").Usage = "go on with new events, through changes of leader"
	if names != nil {
		cmd.ValidArgsFunction = c.completing(names)
	}
	return cmd
}

// eventReader reads a stream of events and goes on with it when it breaks off.
type eventReader struct {
	cli   *cli
	api   *api
	req   *pb.EventsRequest
	table eventTable
	// last is the index up to which everything was shown, or not asked for.
	last  uint64
	shown int
	// broken: the user knows that the stream broke off.
	broken bool
}

func (r *eventReader) run(ctx context.Context, refs []string, find func(context.Context, *api, string) error) error {
	var err error
	if r.table.nodes, err = r.api.nodeNames(ctx); err != nil {
		return err
	}
	missing := each(refs, func(ref string) error {
		ctx, cancel := bounded(ctx)
		defer cancel()
		return find(ctx, r.api, ref)
	})
	if missing != nil && !fault.Is(missing, fault.NotFound) {
		return missing
	}
	if err := r.follow(ctx); err != nil {
		return err
	}
	if r.shown == 0 && missing != nil {
		return missing
	}
	return r.table.end(r.cli.stdout, r.shown)
}

// follow reads streams until one ends well, each from where the last broke off.
func (r *eventReader) follow(ctx context.Context) error {
	for {
		err := r.stream(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case fault.Is(err, fault.Lagged):
			fmt.Fprintln(r.cli.stderr, "Warning: some events were missed: managers keep them no longer")
			r.req.FromIndex = 0
		case !fault.Is(err, fault.Unavailable):
			return err
		case !r.broken:
			r.broken = true
			fmt.Fprintf(r.cli.stderr, "Warning: the stream of events broke off (%s); it goes on as soon as it can\n", print.Clean(err.Error()))
		}
		if err := pause(ctx, eventPause); err != nil {
			return err
		}
	}
}

// stream reads one stream to its end.
func (r *eventReader) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.api.control.Events(ctx, r.req)
	if err != nil {
		return err
	}
	arrived, failure := make(chan *pb.Event), make(chan error, 1)
	go func() {
		for {
			e, err := stream.Recv()
			if err != nil {
				failure <- err
				return
			}
			select {
			case arrived <- e:
			case <-ctx.Done():
			}
		}
	}()
	var batch []*pb.Event
	for {
		select {
		case e := <-arrived:
			batch = r.take(batch, e)
		case err := <-failure:
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(r.show(batch), err)
		case <-r.settled(batch):
			if err := r.show(batch); err != nil {
				return err
			}
			batch = nil
		}
	}
}

// settled fires when a batch of a watch has waited long enough; what ends by
// itself is shown at its end.
func (r *eventReader) settled(batch []*pb.Event) <-chan time.Time {
	if len(batch) == 0 || !r.req.Follow {
		return nil
	}
	return time.After(eventSettle)
}

// take adds an event to a batch, unless it was shown before or only marks a place.
func (r *eventReader) take(batch []*pb.Event, e *pb.Event) []*pb.Event {
	r.broken = false
	if e.Index <= r.last {
		return batch
	}
	r.last, r.req.FromIndex = e.Index, e.Index
	if e.Kind == "" {
		return batch
	}
	return append(batch, e)
}

func (r *eventReader) show(batch []*pb.Event) error {
	if len(batch) == 0 {
		return nil
	}
	first := r.shown == 0
	r.shown += len(batch)
	return r.table.write(r.cli.stdout, batch, first)
}

// eventTable turns events into rows.
type eventTable struct {
	format print.Format
	// watch: there are more tables to come, whose columns should be as wide.
	watch  bool
	nodes  map[string]string
	widths [3]int
}

func (t *eventTable) write(w io.Writer, events []*pb.Event, headers bool) error {
	for _, e := range events {
		if e.Kind == "node" {
			t.nodes[e.NodeId] = e.Name
		}
	}
	return t.list().Write(w, t.format, events, headers)
}

// end writes the head of a table without rows.
func (t *eventTable) end(w io.Writer, shown int) error {
	if shown > 0 {
		return nil
	}
	return t.list().Write(w, t.format, nil, true)
}

func (t *eventTable) list() print.List[*pb.Event] {
	type column = print.Column[*pb.Event]
	return print.List[*pb.Event]{
		ID:     func(e *pb.Event) string { return fmt.Sprint(e.Index) },
		Object: func(e *pb.Event) proto.Message { return e },
		Columns: []column{
			{Field: "Time", Header: "TIME", Value: func(e *pb.Event, _ bool) string { return e.At.AsTime().UTC().Format(eventTime) }},
			{Field: "Index", Header: "INDEX", Wide: true, Value: func(e *pb.Event, _ bool) string { return fmt.Sprint(e.Index) }},
			{Field: "Object", Header: "OBJECT", Value: t.aligned(0, t.object)},
			{Field: "Kind", Value: func(e *pb.Event, _ bool) string { return e.Kind }},
			{Field: "ID", Header: "ID", Wide: true, Value: func(e *pb.Event, _ bool) string { return e.ObjectId }},
			{Field: "Name", Value: func(e *pb.Event, _ bool) string { return e.Name }},
			{Field: "Action", Header: "ACTION", Value: t.aligned(1, func(e *pb.Event, _ bool) string { return e.Action })},
			{Field: "Warning", Header: "WARNING", Wide: true, Value: func(e *pb.Event, _ bool) string {
				if e.Warning {
					return "yes"
				}
				return ""
			}},
			{Field: "Node", Header: "NODE", Value: t.aligned(2, func(e *pb.Event, whole bool) string {
				return cmp.Or(t.nodes[e.NodeId], print.ID(e.NodeId, whole))
			})},
			{Field: "Reason", Header: "REASON", Value: func(e *pb.Event, _ bool) string { return e.Reason }},
		},
	}
}

// object names what an event happened to: service/web, task/web.1.
func (t *eventTable) object(e *pb.Event, whole bool) string {
	name := e.Name
	if service, ok := strings.CutSuffix(name, "."+e.NodeId); ok && e.Kind == "task" {
		name = service + "." + cmp.Or(t.nodes[e.NodeId], print.ID(e.NodeId, whole))
	}
	return e.Kind + "/" + name
}

// aligned makes a column at least as wide as it was in the tables before.
func (t *eventTable) aligned(column int, value func(*pb.Event, bool) string) func(*pb.Event, bool) string {
	least := [...]int{20, 16, 8}[column]
	return func(e *pb.Event, whole bool) string {
		text := value(e, whole)
		if !t.watch || t.format.Kind > print.Wide || t.format.Text != "" {
			return text
		}
		t.widths[column] = max(t.widths[column], least, utf8.RuneCountInString(text))
		return fmt.Sprintf("%-*s", t.widths[column], text)
	}
}
