package network

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/minid/minid/proto/minid/v1"
)

func TestAwaitQuiet(t *testing.T) {
	failed := errors.New("someone removed the counter")
	for name, c := range map[string]struct {
		lastArrival time.Duration // one each 10 ms until then
		fails       error
		want        time.Duration
	}{
		"nobody comes":        {want: drainTime},
		"all learn in time":   {lastArrival: drainTime - quietTime, want: drainTime},
		"one learns late":     {lastArrival: drainTime + quietTime/2, want: drainTime + 2*quietTime},
		"somebody never asks": {lastArrival: time.Hour, want: drainLimit},
		"nobody can tell":     {fails: failed, want: drainTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				err := awaitQuiet(t.Context(), func() (uint64, error) {
					return uint64(min(time.Since(began), c.lastArrival) / (10 * time.Millisecond)), c.fails
				})
				if took := time.Since(began); took != c.want || !errors.Is(err, c.fails) {
					t.Errorf("%v, %v; want %v, %v", took, err, c.want, c.fails)
				}
			})
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(failed)
	if err := awaitQuiet(ctx, func() (uint64, error) { return 0, nil }); !errors.Is(err, failed) {
		t.Errorf("of a wait that ended: %v", err)
	}
}

// TestBalanced: a task is shut where others could serve its clients in its place.
func TestBalanced(t *testing.T) {
	on := func(network string) *Local {
		return &Local{TaskNetwork: &pb.TaskNetwork{TaskId: "t", ServiceId: "svc", Addresses: []*pb.TaskAddress{{NetworkId: network}}}}
	}
	service := func(network string, vips ...string) *pb.Assignment {
		return &pb.Assignment{Kind: &pb.Assignment_Service{Service: &pb.NetworkService{ServiceId: "svc", NetworkId: network, Vips: vips}}}
	}
	s := NewState("n1")
	s.Put(service("net", "10.0.0.2"))
	s.Put(service("names"))
	for name, c := range map[string]struct {
		task *Local
		want bool
	}{
		"behind a virtual address": {on("net"), true},
		"found by name":            {on("names"), false},
		"its service is gone":      {on("other"), false},
		"on no network":            {&Local{TaskNetwork: &pb.TaskNetwork{ServiceId: "svc"}}, false},
	} {
		if got := s.balanced(c.task); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	s.Put(&pb.Assignment{Kind: &pb.Assignment_Published{Published: &pb.PublishedService{ServiceId: "svc"}}})
	if !s.balanced(on("names")) {
		t.Error("a published port balances")
	}
}
