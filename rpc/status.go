package rpc

import (
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// errorDomain marks our details among those of proxies in between.
const errorDomain = "minid"

// codeOf is how a class looks to clients that know gRPC but not minid.
func codeOf(class fault.Class) codes.Code {
	switch class {
	case fault.Invalid:
		return codes.InvalidArgument
	case fault.NotFound:
		return codes.NotFound
	case fault.Exists:
		return codes.AlreadyExists
	case fault.Stale:
		return codes.Aborted
	case fault.InUse, fault.State, fault.NotManager:
		return codes.FailedPrecondition
	case fault.Denied:
		return codes.PermissionDenied
	case fault.Unavailable:
		return codes.Unavailable
	case fault.Timeout:
		return codes.DeadlineExceeded
	case fault.Lagged:
		return codes.OutOfRange
	}
	return codes.Internal
}

// classOf is the class of a status without our details.
func classOf(code codes.Code) fault.Class {
	switch code {
	case codes.InvalidArgument, codes.ResourceExhausted:
		return fault.Invalid
	case codes.NotFound:
		return fault.NotFound
	case codes.AlreadyExists:
		return fault.Exists
	case codes.Aborted:
		return fault.Stale
	case codes.FailedPrecondition, codes.Unimplemented:
		return fault.State
	case codes.PermissionDenied, codes.Unauthenticated:
		return fault.Denied
	case codes.Unavailable, codes.Canceled:
		return fault.Unavailable
	case codes.DeadlineExceeded:
		return fault.Timeout
	case codes.OutOfRange:
		return fault.Lagged
	}
	return fault.Internal
}

// reasonOf is the machine-readable name of a class in an ErrorInfo.
func reasonOf(class fault.Class) string {
	if class == fault.NotManager {
		return "NOT_A_MANAGER"
	}
	return strings.ToUpper(strings.ReplaceAll(class.String(), "-", "_"))
}

// remoteError is a status that came over the wire, kept under the fault made
// of it: details stay readable, and the call can be passed on unchanged.
type remoteError struct {
	status *status.Status
	cause  error
}

func (e *remoteError) Error() string              { return e.status.Message() }
func (e *remoteError) GRPCStatus() *status.Status { return e.status }
func (e *remoteError) Unwrap() error              { return e.cause }

// ToStatus turns any error into one that gRPC carries with class and advice.
// nil and statuses that a server already made stay as they are.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	if remote, ok := errors.AsType[*remoteError](err); ok && infoOf(remote.status) != nil {
		return remote.status.Err()
	}
	f, isFault := errors.AsType[*fault.Error](err)
	if !isFault {
		switch {
		case errors.Is(err, context.Canceled):
			return status.FromContextError(context.Canceled).Err()
		case errors.Is(err, context.DeadlineExceeded):
			f = fault.New(fault.Timeout, "%w", err)
		default:
			if _, ok := status.FromError(err); ok {
				return err
			}
			f = fault.New(fault.Internal, "%w", err)
		}
	}
	return statusOf(f.Class, err.Error(), f.Try, nil).Err()
}

// statusOf makes a status with our details and an optional one beside them.
func statusOf(class fault.Class, message, try string, notLeader *pb.NotLeader) *status.Status {
	info := &errdetails.ErrorInfo{
		Domain:   errorDomain,
		Reason:   reasonOf(class),
		Metadata: map[string]string{"class": class.String()},
	}
	if try != "" {
		info.Metadata["try"] = try
	}
	plain := status.New(codeOf(class), strings.ToValidUTF8(message, "?"))
	full, err := plain.WithDetails(info)
	if notLeader != nil && err == nil {
		full, err = status.New(codes.FailedPrecondition, message).WithDetails(info, notLeader)
	}
	if err != nil {
		return plain
	}
	return full
}

// FromStatus turns an error of a gRPC call into a *fault.Error with the class
// and advice that the server gave. nil stays nil, faults stay as they are.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err)
	}
	remote := &remoteError{status: s}
	f := &fault.Error{Class: classOf(s.Code()), Message: s.Message(), Err: remote}
	switch s.Code() {
	case codes.Canceled:
		remote.cause = context.Canceled
	case codes.DeadlineExceeded:
		remote.cause = context.DeadlineExceeded
	}
	if info := infoOf(s); info != nil {
		f.Class = fault.ParseClass(info.Metadata["class"])
		f.Try = info.Metadata["try"]
	}
	return f
}

func infoOf(s *status.Status) *errdetails.ErrorInfo {
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == errorDomain {
			return info
		}
	}
	return nil
}

// NotLeaderFrom returns where the leader is, when an error is a manager's
// answer that it is not the leader.
func NotLeaderFrom(err error) (*pb.NotLeader, bool) {
	s, ok := status.FromError(err)
	if err == nil || !ok && s.Code() == codes.Unknown {
		return nil, false
	}
	details := s.Details()
	i := slices.IndexFunc(details, func(d any) bool { _, ok := d.(*pb.NotLeader); return ok })
	if i < 0 {
		return nil, false
	}
	return details[i].(*pb.NotLeader), true
}
