package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// scripted is a control API that has been through a lot: each call for events
// gets the next of its streams.
type scripted struct {
	pb.ControlClient
	streams []scriptedStream
	// asked are the indexes that the calls began after.
	asked []uint64
}

func (s *scripted) Events(_ context.Context, req *pb.EventsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[pb.Event], error) {
	s.asked = append(s.asked, req.FromIndex)
	next := s.streams[0]
	s.streams = s.streams[1:]
	return &next, nil
}

type scriptedStream struct {
	grpc.ClientStream
	indexes []uint64
	// marks are events without a kind.
	marks []uint64
	end   error
}

func (s *scriptedStream) Recv() (*pb.Event, error) {
	if len(s.indexes) > 0 {
		i := s.indexes[0]
		s.indexes = s.indexes[1:]
		return &pb.Event{Index: i, At: timestamppb.New(epoch), Kind: "service", Name: strings.Repeat("x", int(i)), Action: "updated"}, nil
	}
	if len(s.marks) > 0 {
		i := s.marks[0]
		s.marks = s.marks[1:]
		return &pb.Event{Index: i}, nil
	}
	return nil, s.end
}

// A stream that breaks off goes on where it was, without a repeat; where that
// cannot be, it says so.
func TestEventsResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := fault.New(fault.Unavailable, "the manager went away")
		control := &scripted{streams: []scriptedStream{
			{indexes: []uint64{1, 2}, end: lost},
			{end: lost},
			{indexes: []uint64{3}, marks: []uint64{5}, end: lost},
			{end: fault.New(fault.Lagged, "gone")},
			{indexes: []uint64{2, 3, 7}, end: io.EOF},
		}}
		var stdout, stderr bytes.Buffer
		c := &cli{stdout: &stdout, stderr: &stderr, now: testNow}
		r := &eventReader{cli: c, req: &pb.EventsRequest{Follow: true}, table: eventTable{watch: true, nodes: map[string]string{}}}
		r.api = &api{control: control}
		if err := r.follow(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(stdout.String()) {
			got = append(got, strings.Fields(line)[1])
		}
		if want := "OBJECT service/x service/xx service/xxx service/xxxxxxx"; strings.Join(got, " ") != want {
			t.Errorf("shown: %s", stdout.String())
		}
		if a := control.asked; len(a) != 5 || a[0] != 0 || a[1] != 2 || a[2] != 2 || a[3] != 5 || a[4] != 0 {
			t.Errorf("asked for events after %v", a)
		}
		if n := strings.Count(stderr.String(), "broke off (the manager went away)"); n != 2 || !strings.Contains(stderr.String(), "some events were missed") {
			t.Errorf("told: %s", stderr.String())
		}
	})
}

// Other failures end it.
func TestEventsEnd(t *testing.T) {
	control := &scripted{streams: []scriptedStream{{indexes: []uint64{1}, end: fault.New(fault.Denied, "no")}}}
	var stdout bytes.Buffer
	r := &eventReader{cli: &cli{stdout: &stdout}, req: &pb.EventsRequest{}, table: eventTable{nodes: map[string]string{}}}
	r.api = &api{control: control}
	if err := r.follow(t.Context()); !fault.Is(err, fault.Denied) || !strings.Contains(stdout.String(), "service/x") {
		t.Errorf("%v after %s", err, stdout.String())
	}
}
