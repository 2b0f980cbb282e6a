// Package events makes events of the changes that a log entry makes: what
// happened to which object, and why, in the words that the object itself has.
// It depends on nothing but the change, so every manager makes the same ones.
//
// No event carries what a secret or config holds, or the value of a setting
// that could: only images and numbers are told by value.
package events

import (
	"cmp"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/minid/minid/proto/minid/v1"
)

// maxReason bounds a reason in bytes; what a registry or runtime answers can be long.
const maxReason = 1024

// Entry collects the events of one log entry.
type Entry struct {
	at   *timestamppb.Timestamp
	list []*pb.Event
	// waiting is what was told of tasks that wait: with thousands of a service
	// that wait for one reason, the first stands for all.
	waiting map[waiting]bool
}

type waiting struct{ service, reason string }

// NewEntry begins the events of an entry, which all happened at a time.
func NewEntry(at *timestamppb.Timestamp) *Entry { return &Entry{at: at} }

// Events are those told so far, in the order of the changes; without an index.
func (e *Entry) Events() []*pb.Event { return e.list }

// Tell takes in one object's step. old is nil for a creation, new for a removal.
func (e *Entry) Tell(old, new proto.Message) {
	switch subject := cmp.Or(new, old).(type) {
	case *pb.Task:
		if old != nil && new != nil {
			e.task(old.(*pb.Task), subject)
		}
	case *pb.Service:
		e.service(as[*pb.Service](old), as[*pb.Service](new))
	case *pb.Node:
		e.node(as[*pb.Node](old), as[*pb.Node](new))
	case *pb.Network:
		e.network(as[*pb.Network](old), as[*pb.Network](new))
	case *pb.Secret:
		e.file("secret", subject.Id, subject.GetSpec().GetName(), old, new)
	case *pb.Config:
		e.file("config", subject.Id, subject.GetSpec().GetName(), old, new)
	case *pb.Cluster:
		e.cluster(as[*pb.Cluster](old), subject)
	}
}

// as is m's type, nil if there is no m.
func as[M proto.Message](m proto.Message) M {
	typed, _ := m.(M)
	return typed
}

// add tells an event whose kind, id and name are set already.
func (e *Entry) add(event *pb.Event, action, reason string) *pb.Event {
	event.At, event.Action, event.Reason = e.at, action, cut(reason)
	e.list = append(e.list, event)
	return event
}

// warn tells an event that somebody may want to do something about.
func (e *Entry) warn(event *pb.Event, action, reason string) {
	e.add(event, action, reason).Warning = true
}

// cut shortens a reason that is too long.
func cut(s string) string {
	if len(s) <= maxReason {
		return s
	}
	s = s[:maxReason]
	for !utf8.ValidString(s) && len(s) > maxReason-utf8.UTFMax {
		s = s[:len(s)-1]
	}
	return s + "…"
}

// file is a secret or a config: its name, and never more.
func (e *Entry) file(kind, id, name string, old, new proto.Message) {
	event := &pb.Event{Kind: kind, ObjectId: id, Name: name}
	switch {
	case old == nil:
		e.add(event, "created", "")
	case new == nil:
		e.add(event, "removed", "")
	default:
		e.add(event, "updated", "labels changed")
	}
}

func (e *Entry) network(old, new *pb.Network) {
	subject := cmp.Or(new, old)
	event := func() *pb.Event {
		return &pb.Event{Kind: "network", ObjectId: subject.Id, Name: subject.GetSpec().GetName()}
	}
	switch {
	case old == nil:
		e.add(event(), "created", "")
	case new == nil:
		e.add(event(), "removed", "")
		return
	case !proto.Equal(old.Spec, new.Spec):
		e.add(event(), "updated", changed(old.Spec, new.Spec))
	}
	e.waits(event, old.GetAllocation().GetProblem(), new.GetAllocation().GetProblem())
}

// waits tells, once per problem, what keeps an object from what it needs.
func (e *Entry) waits(event func() *pb.Event, was, is string) {
	if is != "" && is != was {
		e.warn(event(), "waiting", is)
	}
}

func (e *Entry) cluster(old, new *pb.Cluster) {
	event := func() *pb.Event {
		return &pb.Event{Kind: "cluster", ObjectId: new.Id, Name: new.GetSpec().GetName()}
	}
	if old == nil {
		e.add(event(), "created", "")
		return
	}
	if !proto.Equal(old.Spec, new.Spec) {
		e.add(event(), "updated", changed(old.Spec, new.Spec))
	}
	var tokens []string
	if old.GetJoinTokens().GetWorker() != new.GetJoinTokens().GetWorker() {
		tokens = append(tokens, "workers")
	}
	if old.GetJoinTokens().GetManager() != new.GetJoinTokens().GetManager() {
		tokens = append(tokens, "managers")
	}
	if len(tokens) > 0 {
		e.add(event(), "join token rotated", "for "+strings.Join(tokens, " and "))
	}
	if newest(old) != newest(new) {
		e.add(event(), "network key rotated", "")
	}
}

// newest is the epoch of a cluster's newest network key.
func newest(c *pb.Cluster) uint64 {
	if n := len(c.GetNetworkKeys()); n > 0 {
		return c.NetworkKeys[n-1].Epoch
	}
	return 0
}
