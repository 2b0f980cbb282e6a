package controlapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
	"github.com/minid/minid/store"
)

// Exec runs a command in a task's container, whichever node that is on. The
// answers end with the exit, or with an error.
func (s *Server) Exec(stream grpc.BidiStreamingServer[pb.ExecInput, pb.ExecOutput]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil || len(start.GetCommand()) == 0 {
		return invalid("exec: the first message must name a task and a command").WithTry("minictl exec TASK -- COMMAND")
	}
	task, err := execTarget(s.cfg.State.View(), start.GetRef())
	if err != nil {
		return err
	}
	attached, err := s.cfg.Attacher.Attach(stream.Context(), task.NodeId, &pb.Attach{Kind: &pb.Attach_Exec{Exec: &pb.ExecAttach{
		TaskId: task.Id, Start: start,
	}}})
	if err != nil {
		return err
	}
	defer attached.Close()
	defer context.AfterFunc(stream.Context(), attached.Close)()
	go forwardInput(stream, attached) // ends with the stream, when this function returns
	return forwardOutput(attached, stream)
}

// execTarget finds a running task: by the task's reference, or any of a service.
func execTarget(view store.View, ref string) (*pb.Task, error) {
	if service := view.ServiceByName(ref); service != nil {
		return runningTask(view, service)
	}
	t, err := findTask(view, ref)
	if fault.Is(err, fault.NotFound) {
		service, serviceErr := findService(view, ref)
		switch {
		case serviceErr == nil:
			return runningTask(view, service)
		case fault.Is(serviceErr, fault.NotFound):
			return nil, fault.New(fault.NotFound, "exec in %s: there is no task or service with this id or name", ref).
				WithTry("minictl task ls")
		}
		return nil, serviceErr
	}
	if err != nil {
		return nil, err
	}
	if state := t.GetStatus().GetState(); state != pb.TaskState_TASK_STATE_RUNNING {
		return nil, fault.New(fault.State, "exec in %s: the task is not running but %s", ref, stateName(state)).
			WithTry("minictl service ps %s", t.ServiceName)
	}
	return t, nil
}

func runningTask(view store.View, service *pb.Service) (*pb.Task, error) {
	for t := range view.TasksByService(service.Id) {
		if relevance(t) == 3 {
			return t, nil
		}
	}
	name := service.GetSpec().GetName()
	return nil, fault.New(fault.State, "exec in %s: none of its tasks is running", name).WithTry("minictl service ps %s", name)
}

// stateName is a state as users see it.
func stateName(state pb.TaskState) string {
	return strings.ToLower(strings.TrimPrefix(state.String(), "TASK_STATE_"))
}

// forwardInput passes on what the client sends until it sends no more.
func forwardInput(stream grpc.BidiStreamingServer[pb.ExecInput, pb.ExecOutput], attached AttachStream) {
	for {
		input, err := stream.Recv()
		if err != nil {
			return
		}
		if input.GetStart() != nil {
			continue
		}
		if attached.Send(&pb.AttachDown{Kind: &pb.AttachDown_Exec{Exec: input}}) != nil {
			return
		}
	}
}

// forwardOutput passes on what the command writes, up to its exit.
func forwardOutput(attached AttachStream, stream grpc.BidiStreamingServer[pb.ExecInput, pb.ExecOutput]) error {
	for {
		up, err := attached.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return fault.New(fault.Unavailable, "exec: the node ended the connection before the command did")
		case err != nil:
			return fmt.Errorf("exec: connection to the node lost: %w", err)
		case up.GetError() != "":
			return fault.New(fault.State, "exec: %s", up.GetError())
		case up.GetExec() == nil:
			continue
		}
		if err := stream.Send(up.GetExec()); err != nil {
			return err
		}
		if up.GetExec().GetExit() != nil {
			return nil
		}
	}
}
