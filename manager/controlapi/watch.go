package controlapi

import (
	"iter"
	"slices"

	"google.golang.org/grpc"

	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// Watch sends a snapshot of what is asked for and then every change to it, or
// with from_index only the changes after that. A client that takes too long is
// cut with fault.Lagged: the store keeps so many changes and waits for nobody.
func (s *Server) Watch(req *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.WatchEvent]) error {
	w, err := s.openWatch(req, stream.Send)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		changes, err := w.Next(stream.Context())
		if err != nil {
			return err
		}
		for _, e := range changeEvents(changes, req.GetServiceId()) {
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

// openWatch sends what comes before the first change.
func (s *Server) openWatch(req *pb.WatchRequest, send func(*pb.WatchEvent) error) (*store.Watch, error) {
	if from := req.GetFromIndex(); from > 0 {
		return s.cfg.State.Watch(from, req.GetKinds()...), nil
	}
	view, w := s.cfg.State.ViewAndWatch(req.GetKinds()...)
	for o := range snapshot(view, req.GetKinds(), req.GetServiceId()) {
		if err := send(&pb.WatchEvent{Action: pb.WatchEvent_ACTION_PUT, Object: publicObject(o), Index: view.Index()}); err != nil {
			w.Close()
			return nil, err
		}
	}
	if err := send(&pb.WatchEvent{Action: pb.WatchEvent_ACTION_SYNCED, Index: view.Index()}); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// snapshot iterates over what a watch is for: users before what they use last.
func snapshot(view store.View, kinds []pb.Kind, service string) iter.Seq[store.Object] {
	all := []pb.Kind{
		pb.Kind_KIND_CLUSTER, pb.Kind_KIND_NODE, pb.Kind_KIND_NETWORK, pb.Kind_KIND_SECRET,
		pb.Kind_KIND_CONFIG, pb.Kind_KIND_SERVICE, pb.Kind_KIND_TASK,
	}
	return func(yield func(store.Object) bool) {
		for _, kind := range all {
			if len(kinds) > 0 && !slices.Contains(kinds, kind) {
				continue
			}
			for o := range objectsOf(view, kind, service) {
				if concerns(o, service) && !yield(o) {
					return
				}
			}
		}
	}
}

// objectsOf iterates over a kind, of tasks over one service's if that is enough.
func objectsOf(view store.View, kind pb.Kind, service string) iter.Seq[store.Object] {
	if kind != pb.Kind_KIND_TASK || service == "" {
		return view.ByPrefix(kind, "")
	}
	return func(yield func(store.Object) bool) {
		for t := range view.TasksByService(service) {
			if !yield(t) {
				return
			}
		}
	}
}

// concerns tells whether an object is the service, or a task of it; of any
// service when it is empty.
func concerns(o store.Object, service string) bool {
	if service == "" {
		return true
	}
	switch o := o.(type) {
	case *pb.Service:
		return o.Id == service
	case *pb.Task:
		return o.ServiceId == service
	}
	return false
}

// changeEvents is what a watch tells of changes, whole raft entries. Only the
// last event of an entry carries the entry's index, the others the one before:
// so a client may resume from the index of any event that it saw, without a gap.
func changeEvents(changes []store.Change, service string) []*pb.WatchEvent {
	var events []*pb.WatchEvent
	for _, c := range changes {
		action, o := pb.WatchEvent_ACTION_PUT, c.New
		if o == nil {
			action, o = pb.WatchEvent_ACTION_DELETE, c.Old
		}
		if !concerns(o, service) {
			continue
		}
		if last := len(events) - 1; last >= 0 && events[last].Index == c.Index {
			events[last].Index--
		}
		events = append(events, &pb.WatchEvent{Action: action, Object: publicObject(o), Index: c.Index})
	}
	return events
}
