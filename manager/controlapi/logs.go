package controlapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

const (
	// mergeEvery is how often lines are released that only wait for time.
	mergeEvery = 100 * time.Millisecond
	// openAtOnce bounds the attachments that are being opened for one call.
	openAtOnce = 32
	// reattachAfter is the pause before a followed log that broke off is
	// opened again.
	reattachAfter = time.Second
)

// Logs sends the log lines of a service's tasks, or of one task, in time order.
// What cannot be reached becomes a warning line among them.
func (s *Server) Logs(req *pb.LogsRequest, stream grpc.ServerStreamingServer[pb.LogLine]) error {
	view, watch := s.cfg.State.ViewAndWatch(pb.Kind_KIND_TASK, pb.Kind_KIND_SERVICE)
	defer watch.Close()
	service, tasks, err := logTargets(view, req.GetRef())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	c := &logCall{
		server:  s,
		req:     req,
		send:    stream.Send,
		merge:   newLogMerge(),
		tasks:   map[string]*logTask{},
		events:  make(chan logEvent),
		opening: make(chan struct{}, openAtOnce),
	}
	defer c.readers.Wait()
	defer cancel()
	for _, t := range tasks {
		c.open(ctx, view, t, req.GetTail())
	}
	var changes chan []store.Change
	if req.GetFollow() && service != "" {
		changes = make(chan []store.Change)
		c.readers.Go(func() { c.pump(ctx, watch, changes) })
	}
	return c.run(ctx, service, changes)
}

// logTargets finds what a reference means: a service, whose id is returned, or
// a task.
func logTargets(view store.View, ref string) (service string, tasks []*pb.Task, err error) {
	found, err := findService(view, ref)
	switch {
	case err == nil:
		for t := range view.TasksByService(found.Id) {
			if hasLog(t) {
				tasks = append(tasks, t)
			}
		}
		return found.Id, tasks, nil
	case !fault.Is(err, fault.NotFound):
		return "", nil, err
	}
	t, err := findTask(view, ref)
	if fault.Is(err, fault.NotFound) {
		return "", nil, fault.New(fault.NotFound, "find logs of %s: there is no service or task with this id or name", ref).
			WithTry("minictl service ls")
	}
	if err != nil {
		return "", nil, err
	}
	if !hasLog(t) {
		return "", nil, fault.New(fault.State, "find logs of %s: the task never started", ref).WithTry("minictl task why %s", t.Id)
	}
	return "", []*pb.Task{t}, nil
}

// hasLog tells whether a task's container may have written anything that is
// still to be had.
func hasLog(t *pb.Task) bool {
	state := t.GetStatus().GetState()
	if state == pb.TaskState_TASK_STATE_ORPHANED {
		return false // its node left the cluster
	}
	if state > pb.TaskState_TASK_STATE_RUNNING {
		return t.GetStatus().GetContainer().GetContainerId() != ""
	}
	return t.NodeId != "" && state >= pb.TaskState_TASK_STATE_STARTING
}

// logCall is one Logs call: a goroutine reads each task's log, one merges.
type logCall struct {
	server  *Server
	req     *pb.LogsRequest
	send    func(*pb.LogLine) error
	merge   *logMerge
	tasks   map[string]*logTask
	reading int
	events  chan logEvent
	opening chan struct{}
	readers sync.WaitGroup
}

// logTask is one task whose log is read.
type logTask struct {
	task     *pb.Task
	name     string
	nodeName string
	// Has room for one: the reader may deliver another batch.
	credit chan struct{}
}

// logEvent is what a reader tells.
type logEvent struct {
	task  string
	batch *pb.LogBatch
	// Why the log broke off, if it did; shown as a warning.
	broke error
	// No more will come.
	ended bool
}

// open starts to read a task's log, once.
func (c *logCall) open(ctx context.Context, view store.View, t *pb.Task, tail int64) {
	if c.tasks[t.Id] != nil {
		return
	}
	lt := &logTask{
		task:     t,
		name:     fmt.Sprintf("%s.%s", t.ServiceName, slotName(t)),
		nodeName: view.Node(t.NodeId).GetDescription().GetHostname(),
		credit:   make(chan struct{}, 1),
	}
	lt.credit <- struct{}{}
	c.tasks[t.Id] = lt
	c.reading++
	c.merge.open(t.Id, time.Now())
	c.readers.Go(func() { c.read(ctx, lt, tail) })
}

// run merges until all logs have ended; those of a service that is followed
// end with the service.
func (c *logCall) run(ctx context.Context, service string, changes <-chan []store.Change) error {
	tick := time.NewTicker(mergeEvery)
	defer tick.Stop()
	for c.reading > 0 || changes != nil {
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case e := <-c.events:
			err = c.take(e)
		case batch, ok := <-changes:
			if !ok || c.follow(ctx, service, batch) {
				changes = nil
			}
		case <-tick.C:
			err = c.warnSilent()
		}
		if err == nil {
			err = c.flush()
		}
		if err != nil {
			return err
		}
	}
	return c.flush()
}

// take works on what a reader told.
func (c *logCall) take(e logEvent) error {
	if e.batch != nil {
		c.merge.push(e.task, e.batch, time.Now())
		c.grant(c.tasks[e.task])
	}
	if e.ended {
		c.reading--
		c.merge.close(e.task)
	}
	if e.broke == nil {
		return nil
	}
	c.merge.pause(e.task)
	t := c.tasks[e.task]
	return c.warn(t, fmt.Sprintf("log of %s on node %s: %v", t.name, t.nodeName, e.broke))
}

// warnSilent tells which logs are not waited for any more.
func (c *logCall) warnSilent() error {
	for _, id := range c.merge.silenced(time.Now()) {
		t := c.tasks[id]
		if err := c.warn(t, fmt.Sprintf("log of %s on node %s: nothing heard for %v; its lines may come late", t.name, t.nodeName, maxHold)); err != nil {
			return err
		}
	}
	return nil
}

func (c *logCall) warn(t *logTask, text string) error {
	return c.send(&pb.LogLine{
		At: timestamppb.Now(), Text: []byte(text), Warning: true,
		TaskId: t.task.Id, TaskName: t.name, NodeId: t.task.NodeId, NodeName: t.nodeName,
	})
}

// flush sends the lines that are ready and lets readers go on.
func (c *logCall) flush() error {
	for _, line := range c.merge.pop(time.Now()) {
		t := c.tasks[line.source]
		err := c.send(&pb.LogLine{
			At: line.entry.At, Stream: line.entry.Stream, Text: line.entry.Text,
			TaskId: t.task.Id, TaskName: t.name, NodeId: t.task.NodeId, NodeName: t.nodeName,
		})
		if err != nil {
			return err
		}
		c.grant(t)
	}
	return nil
}

// grant lets a reader deliver one more batch, unless too many of its lines wait.
func (c *logCall) grant(t *logTask) {
	if c.merge.queued(t.task.Id) >= maxQueued {
		return
	}
	select {
	case t.credit <- struct{}{}:
	default:
	}
}

// follow opens the logs of new tasks and tells whether the service is gone.
// Without changes it looks at all of the service's tasks.
func (c *logCall) follow(ctx context.Context, service string, changes []store.Change) (gone bool) {
	view := c.server.cfg.State.View()
	if changes == nil {
		for t := range view.TasksByService(service) {
			if hasLog(t) {
				c.open(ctx, view, t, -1)
			}
		}
	}
	for _, change := range changes {
		t, ok := change.New.(*pb.Task)
		if ok && t.ServiceId == service && hasLog(t) {
			c.open(ctx, view, t, -1)
		}
	}
	return view.Service(service) == nil
}

// pump hands on what changes; nil when changes were missed.
func (c *logCall) pump(ctx context.Context, watch *store.Watch, changes chan<- []store.Change) {
	defer close(changes)
	for {
		batch, err := watch.Next(ctx)
		if fault.Is(err, fault.Lagged) {
			_, watch = c.server.cfg.State.ViewAndWatch(pb.Kind_KIND_TASK, pb.Kind_KIND_SERVICE)
		} else if err != nil {
			return
		}
		select {
		case changes <- batch:
		case <-ctx.Done():
			return
		}
	}
}

// read delivers a task's log until it ends. A followed log that breaks off is
// opened again behind its last line while the task lives.
func (c *logCall) read(ctx context.Context, lt *logTask, tail int64) {
	since := c.req.GetSince()
	told := false
	for {
		last, err := c.readOnce(ctx, lt, tail, since)
		if last != nil {
			since, tail, told = timestamppb.New(last.AsTime().Add(time.Nanosecond)), -1, false
		}
		e := logEvent{task: lt.task.Id, ended: err == nil || !c.req.GetFollow() || !c.mayGoOn(lt.task.Id)}
		if !told {
			e.broke, told = err, true
		}
		if !c.tell(ctx, e) || e.ended {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(reattachAfter):
		}
	}
}

// mayGoOn tells whether a task may still write.
func (c *logCall) mayGoOn(task string) bool {
	t := c.server.cfg.State.View().Task(task)
	return t != nil && t.GetStatus().GetState() <= pb.TaskState_TASK_STATE_RUNNING
}

// readOnce reads a log over one attachment and returns the time of the last
// line; a nil error means that the log is at its end.
func (c *logCall) readOnce(ctx context.Context, lt *logTask, tail int64, since *timestamppb.Timestamp) (last *timestamppb.Timestamp, err error) {
	stream, err := c.attach(ctx, lt, tail, since)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, stream.Close)()
	for {
		up, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return last, nil
		case err != nil:
			return last, fmt.Errorf("connection lost: %w", err)
		case up.GetError() != "":
			return last, errors.New(up.GetError())
		}
		batch := up.GetLogs()
		if entries := batch.GetEntries(); len(entries) > 0 {
			last = entries[len(entries)-1].GetAt()
		}
		select {
		case <-lt.credit:
		case <-ctx.Done():
			return last, context.Cause(ctx)
		}
		if !c.tell(ctx, logEvent{task: lt.task.Id, batch: batch}) {
			return last, context.Cause(ctx)
		}
	}
}

// attach opens an attachment, few at a time.
func (c *logCall) attach(ctx context.Context, lt *logTask, tail int64, since *timestamppb.Timestamp) (AttachStream, error) {
	select {
	case c.opening <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-c.opening }()
	return c.server.cfg.Attacher.Attach(ctx, lt.task.NodeId, &pb.Attach{Kind: &pb.Attach_Logs{Logs: &pb.LogsAttach{
		TaskId: lt.task.Id, Follow: c.req.GetFollow(), Tail: tail, Since: since,
	}}})
}

// tell hands an event to the merger, unless the call is over.
func (c *logCall) tell(ctx context.Context, e logEvent) bool {
	select {
	case c.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}
