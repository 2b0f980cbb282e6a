package controlapi

import (
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// markEvery is after how many events that a follower does not want it is told
// how far the stream is: its place must not be so old that it is kept no longer
// when the leader changes.
const markEvery = 1000

// errUntil ends a stream of events whose time is over.
var errUntil = errors.New("the time until which events were asked for has come")

// Events sends the kept events that match and then, with follow, every later
// one until the caller or req.Until ends it.
func (s *Server) Events(req *pb.EventsRequest, stream grpc.ServerStreamingServer[pb.Event]) error {
	view := s.cfg.State.View()
	matches, err := eventFilters(view).compile(req.GetFilters())
	if err != nil {
		return err
	}
	out := eventStream{req: req, matches: matches, send: stream.Send}
	if !req.GetFollow() {
		kept, err := view.Events(req.GetFromIndex())
		if err != nil {
			return err
		}
		return out.write(kept)
	}
	ctx := stream.Context()
	if req.GetUntil() != nil {
		limited, cancel := context.WithDeadlineCause(ctx, req.Until.AsTime(), errUntil)
		defer cancel()
		ctx = limited
	}
	err = out.follow(ctx, s.cfg.State.WatchEvents(req.GetFromIndex()))
	if errors.Is(err, errUntil) {
		return nil
	}
	return err
}

// eventStream is one caller's events.
type eventStream struct {
	req     *pb.EventsRequest
	matches test[*pb.Event]
	send    func(*pb.Event) error
	// silent counts the events since the last one that was sent.
	silent int
}

func (o *eventStream) follow(ctx context.Context, w *store.EventWatch) error {
	for {
		more, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if err := o.write(more); err != nil {
			return err
		}
		if o.silent < markEvery {
			continue
		}
		o.silent = 0
		if err := o.send(&pb.Event{Index: more[len(more)-1].Index}); err != nil {
			return err
		}
	}
}

func (o *eventStream) write(events []*pb.Event) error {
	for _, e := range events {
		if !o.wants(e) {
			o.silent++
			continue
		}
		o.silent = 0
		if err := o.send(e); err != nil {
			return err
		}
	}
	return nil
}

func (o *eventStream) wants(e *pb.Event) bool {
	at := e.GetAt().AsTime()
	switch {
	case o.req.Since != nil && at.Before(o.req.Since.AsTime()):
		return false
	case o.req.Until != nil && at.After(o.req.Until.AsTime()):
		return false
	}
	return o.matches(e)
}

// eventFilters go by what the kept events say, for what they are about may be
// gone. A name is preferred to the beginning of an id.
func eventFilters(view store.View) filters[*pb.Event] {
	kind := func(k string) test[*pb.Event] { return func(e *pb.Event) bool { return e.Kind == k } }
	kinds := map[string]test[*pb.Event]{}
	for _, k := range []string{"service", "task", "node", "network", "secret", "config", "cluster"} {
		kinds[k] = kind(k)
	}
	return filters[*pb.Event]{
		"kind": choice("kind", kinds),
		"warning": choice("warning", map[string]test[*pb.Event]{
			"true":  (*pb.Event).GetWarning,
			"false": func(e *pb.Event) bool { return !e.GetWarning() },
		}),
		"action":  prefixOf((*pb.Event).GetAction),
		"service": given("service", func(ref string) test[*pb.Event] { return ofService(view, ref) }),
		"task":    given("task", ofTask),
		"node":    given("node", func(ref string) test[*pb.Event] { return ofNode(view, ref) }),
	}
}

// given is a filter whose value must not be empty.
func given(key string, make func(string) test[*pb.Event]) func(string) (test[*pb.Event], error) {
	return func(value string) (test[*pb.Event], error) {
		if value == "" {
			return nil, fault.New(fault.Invalid, "filter %s=: no id or name is given", key)
		}
		return make(value), nil
	}
}

// ofService picks what happened to a service and its tasks, by name, id or the
// beginning of one.
func ofService(view store.View, ref string) test[*pb.Event] {
	named := func(e *pb.Event) bool { return e.ServiceId != "" && serviceOf(e) == ref }
	if view.ServiceByName(ref) != nil || happened(view, named) {
		return named
	}
	return func(e *pb.Event) bool { return named(e) || e.ServiceId != "" && strings.HasPrefix(e.ServiceId, ref) }
}

// happened tells whether an event of a kind is kept.
func happened(view store.View, is test[*pb.Event]) bool {
	kept, _ := view.Events(0)
	return slices.ContainsFunc(kept, is)
}

// serviceOf is the name of an event's service.
func serviceOf(e *pb.Event) string {
	if e.Kind != "task" {
		return e.Name
	}
	dot := strings.LastIndexByte(e.Name, '.')
	return e.Name[:max(0, dot)]
}

// ofTask picks what happened to the tasks of a slot, or to one by the beginning
// of its id.
func ofTask(ref string) test[*pb.Event] {
	return func(e *pb.Event) bool {
		return e.Kind == "task" && (e.Name == ref || strings.HasPrefix(e.ObjectId, ref))
	}
}

// ofNode picks what happened to a node and to the tasks on it.
func ofNode(view store.View, ref string) test[*pb.Event] {
	ids := map[string]bool{}
	for _, n := range nodesNamed(view, ref) {
		ids[n.Id] = true
	}
	kept, _ := view.Events(0)
	for _, e := range kept {
		if e.Kind == "node" && e.Name == ref {
			ids[e.NodeId] = true // it may be gone
		}
	}
	named := len(ids) > 0
	return func(e *pb.Event) bool {
		return e.NodeId != "" && (ids[e.NodeId] || e.Kind == "node" && e.Name == ref || !named && strings.HasPrefix(e.NodeId, ref))
	}
}
