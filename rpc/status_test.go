package rpc

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

func TestFaultsCrossTheWire(t *testing.T) {
	for class := fault.Internal; class <= fault.Lagged; class++ {
		sent := fault.New(class, "create service web: the name is taken").WithTry("minictl service ls")
		wire := ToStatus(fmt.Errorf("carry out: %w", sent))
		if code := status.Code(wire); code == codes.OK || code == codes.Unknown {
			t.Errorf("%v has code %v", class, code)
		}
		got := FromStatus(wire)
		if fault.ClassOf(got) != class || fault.TryOf(got) != sent.Try || got.Error() != "carry out: "+sent.Message {
			t.Errorf("%v came back as %v %q, try %q", class, fault.ClassOf(got), got, fault.TryOf(got))
		}
		// A manager that passes the answer on changes nothing.
		if again := FromStatus(ToStatus(got)); fault.ClassOf(again) != class || again.Error() != got.Error() {
			t.Errorf("%v came back as %v by way of another manager", class, again)
		}
	}
}

func TestErrorsWithoutAClass(t *testing.T) {
	for _, c := range []struct {
		err   error
		code  codes.Code
		class fault.Class
		is    error
	}{
		{errors.New("disk on fire"), codes.Internal, fault.Internal, nil},
		{fmt.Errorf("wait: %w", context.Canceled), codes.Canceled, fault.Unavailable, context.Canceled},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), codes.DeadlineExceeded, fault.Timeout, context.DeadlineExceeded},
		{status.Error(codes.Unimplemented, "no"), codes.Unimplemented, fault.State, nil},
		{status.Error(codes.Unauthenticated, "who"), codes.Unauthenticated, fault.Denied, nil},
		{errors.New("bad \xff bytes"), codes.Internal, fault.Internal, nil},
	} {
		wire := ToStatus(c.err)
		if status.Code(wire) != c.code {
			t.Errorf("%v has code %v, want %v", c.err, status.Code(wire), c.code)
		}
		got := FromStatus(wire)
		if fault.ClassOf(got) != c.class || c.is != nil && !errors.Is(got, c.is) {
			t.Errorf("%v came back as %v %v", c.err, fault.ClassOf(got), got)
		}
	}
	if ToStatus(nil) != nil || FromStatus(nil) != nil {
		t.Error("no error became one")
	}
}

func TestReasonOfANodeThatIsNoManager(t *testing.T) {
	s, _ := status.FromError(ToStatus(fault.New(fault.NotManager, "this node is not a manager")))
	if info := infoOf(s); s.Code() != codes.FailedPrecondition || info == nil || info.Reason != "NOT_A_MANAGER" {
		t.Errorf("status %v, info %v", s, infoOf(s))
	}
}

func TestNotLeaderFrom(t *testing.T) {
	sent := statusOf(fault.Unavailable, "not the leader", "", &pb.NotLeader{LeaderId: "m2", LeaderAddr: "10.0.0.2:2377"}).Err()
	for _, err := range []error{sent, FromStatus(sent), fmt.Errorf("open session: %w", FromStatus(sent))} {
		got, ok := NotLeaderFrom(err)
		if !ok || got.LeaderAddr != "10.0.0.2:2377" || status.Code(sent) != codes.FailedPrecondition {
			t.Errorf("%v: %v %v", err, got, ok)
		}
	}
	for _, err := range []error{nil, errors.New("x"), fault.New(fault.State, "x"), ToStatus(fault.New(fault.State, "x"))} {
		if _, ok := NotLeaderFrom(err); ok {
			t.Errorf("%v names a leader", err)
		}
	}
}
