package controlapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// agents plays the nodes: it keeps the attachments that are asked for, by task.
type agents struct {
	mu    sync.Mutex
	pipes map[string]*pipe
	asked map[string][]*pb.LogsAttach
	fail  error
}

func (r *rig) agents() *agents {
	a := &agents{pipes: map[string]*pipe{}, asked: map[string][]*pb.LogsAttach{}}
	r.attach = func(_ context.Context, _ string, req *pb.Attach) (AttachStream, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.fail != nil {
			return nil, a.fail
		}
		id := req.GetLogs().GetTaskId() + req.GetExec().GetTaskId()
		a.pipes[id] = newPipe()
		a.asked[id] = append(a.asked[id], req.GetLogs())
		return a.pipes[id], nil
	}
	return a
}

// of returns a task's present attachment once there is one.
func (a *agents) of(task string) *pipe {
	for {
		a.mu.Lock()
		p := a.pipes[task]
		a.mu.Unlock()
		if p != nil {
			return p
		}
		time.Sleep(time.Millisecond)
	}
}

func (p *pipe) logs(batch *pb.LogBatch) { p.up <- &pb.AttachUp{Kind: &pb.AttachUp_Logs{Logs: batch}} }

// logs runs a Logs call and returns its lines as they come; the channel is
// closed at its end.
func (r *rig) logs(ctx context.Context, req *pb.LogsRequest) (<-chan string, *error) {
	stream, out, failure := collect[pb.LogLine](ctx), make(chan string, 100), new(error)
	go func() {
		defer close(stream.sent)
		*failure = r.server.Logs(req, stream)
	}()
	go func() {
		defer close(out)
		for l := range stream.sent {
			text := fmt.Sprintf("%s@%s %s", l.TaskName, l.NodeName, l.Text)
			if l.Warning {
				text = "warning: " + string(l.Text)
			}
			out <- text
		}
	}()
	return out, failure
}

func all(lines <-chan string) []string {
	var out []string
	for l := range lines {
		out = append(out, l)
	}
	return out
}

// twoTasks has web.1 (t1) on w1 and web.2 (t2) on w2, both running.
func twoTasks(t *testing.T) (*rig, *agents) {
	r := newRig(t)
	r.create(web())
	r.task("t1", "web", 1, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
	r.task("t2", "web", 2, "node-w2", pb.TaskState_TASK_STATE_RUNNING)
	return r, r.agents()
}

func TestLogsMergeTasksInTimeOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := twoTasks(t)
		lines, failure := r.logs(t.Context(), &pb.LogsRequest{Ref: "web", Tail: 7})
		a.of("t2").logs(batchOf(9, line(2, "two"), line(4, "four")))
		a.of("t1").logs(batchOf(9, line(1, "one"), line(3, "three")))
		close(a.of("t1").up)
		close(a.of("t2").up)
		want := []string{"web.1@w1 one", "web.2@w2 two", "web.1@w1 three", "web.2@w2 four"}
		if got := all(lines); !slices.Equal(got, want) || *failure != nil {
			t.Errorf("lines %q, %v; want %q", got, *failure, want)
		}
		if got := a.asked["t1"][0]; got.Tail != 7 || got.Follow {
			t.Errorf("asked for %v", got)
		}
	})
}

func TestUnreachableNodeIsAWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := twoTasks(t)
		inner := r.attach
		r.attach = func(ctx context.Context, node string, req *pb.Attach) (AttachStream, error) {
			if node == "node-w1" {
				return nil, fault.New(fault.Unavailable, "the node is not connected")
			}
			return inner(ctx, node, req)
		}
		lines, failure := r.logs(t.Context(), &pb.LogsRequest{Ref: "web"})
		a.of("t2").logs(batchOf(1, line(1, "one")))
		close(a.of("t2").up)
		got := all(lines)
		slices.Sort(got)
		if len(got) != 2 || got[0] != "warning: log of web.1 on node w1: the node is not connected" || *failure != nil {
			t.Errorf("lines %q, %v", got, *failure)
		}
	})
}

func TestSilentLogIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := twoTasks(t)
		ctx, cancel := context.WithCancel(t.Context())
		lines, _ := r.logs(ctx, &pb.LogsRequest{Ref: "web", Follow: true})
		a.of("t1").logs(batchOf(1, line(1, "one")))
		start := time.Now()
		var got []string
		for len(got) < 3 {
			got = append(got, <-lines)
		}
		if waited := time.Since(start); waited < maxHold || waited > maxHold+time.Second {
			t.Errorf("waited %v", waited)
		}
		if slices.Sort(got); !strings.Contains(got[0], "nothing heard for 10s") || got[2] != "web.1@w1 one" {
			t.Errorf("lines %q", got)
		}
		cancel()
		all(lines)
	})
}

func TestFollowFindsNewTasksAndEndsWithTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := twoTasks(t)
		lines, failure := r.logs(t.Context(), &pb.LogsRequest{Ref: "web", Follow: true, Tail: 1})
		a.of("t1").logs(batchOf(10))
		a.of("t2").logs(batchOf(10))
		r.task("t3", "web", 3, "node-w1", pb.TaskState_TASK_STATE_RUNNING)
		a.of("t3").logs(batchOf(10, line(5, "new")))
		if got := <-lines; got != "web.3@w1 new" {
			t.Errorf("line %q", got)
		}
		if got := a.asked["t3"][0]; got.Tail != -1 {
			t.Errorf("of a new task only %d lines are asked for", got.Tail)
		}
		id := r.state.View().ServiceByName("web").Id
		r.apply(
			&pb.Command{Kind: &pb.Command_RemoveService{RemoveService: &pb.RemoveService{Id: id}}},
			&pb.Command{Kind: &pb.Command_SetDesired{SetDesired: &pb.SetDesired{Tasks: []*pb.TaskDesired{
				{Id: "t1", State: 800}, {Id: "t2", State: 800}, {Id: "t3", State: 800},
			}}}},
			&pb.Command{Kind: &pb.Command_DeleteTasks{DeleteTasks: &pb.DeleteTasks{Ids: []string{"t1", "t2", "t3"}}}},
			&pb.Command{Kind: &pb.Command_DeleteService{DeleteService: &pb.DeleteService{Id: id}}},
		)
		for _, task := range []string{"t1", "t2", "t3"} {
			close(a.of(task).up)
		}
		if rest := all(lines); len(rest) != 0 || *failure != nil {
			t.Errorf("rest %q, %v", rest, *failure)
		}
	})
}

func TestFollowGoesOnBehindTheLastLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := twoTasks(t)
		ctx, cancel := context.WithCancel(t.Context())
		lines, _ := r.logs(ctx, &pb.LogsRequest{Ref: "t1", Follow: true})
		first := a.of("t1")
		first.logs(batchOf(5, line(5, "before")))
		if got := <-lines; got != "web.1@w1 before" {
			t.Errorf("line %q", got)
		}
		first.broken = errors.New("agent restarts")
		close(first.up)
		if got := <-lines; !strings.Contains(got, "connection lost: agent restarts") {
			t.Errorf("line %q", got)
		}
		time.Sleep(2 * reattachAfter)
		a.of("t1").logs(batchOf(6, line(6, "after")))
		if got := <-lines; got != "web.1@w1 after" {
			t.Errorf("line %q", got)
		}
		if again := a.asked["t1"][1]; !again.Since.AsTime().After(at(5)) || again.Tail != -1 {
			t.Errorf("asked again for %v", again)
		}
		cancel()
		all(lines)
	})
}

func TestFastLogIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := twoTasks(t)
		ctx, cancel := context.WithCancel(t.Context())
		lines, _ := r.logs(ctx, &pb.LogsRequest{Ref: "web"})
		fast := a.of("t1")
		big := &pb.LogBatch{}
		for range maxQueued {
			big.Entries = append(big.Entries, line(5, "x"))
		}
		go func() {
			for range 1000 {
				select {
				case fast.up <- &pb.AttachUp{Kind: &pb.AttachUp_Logs{Logs: big}}:
				case <-ctx.Done():
					return
				}
			}
		}()
		time.Sleep(time.Second) // t2 says nothing, so nothing can go out
		if taken := cap(fast.up); len(fast.up) != taken {
			t.Errorf("%d batches wait at the agent, want %d: the rest was taken in", len(fast.up), taken)
		}
		cancel()
		all(lines)
	})
}

func TestLogsOfWhatIsNotThere(t *testing.T) {
	r := newRig(t)
	r.create(web())
	r.apply(&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{{
		Id: "waits", ServiceId: r.state.View().ServiceByName("web").Id, ServiceName: "web", SpecVersion: 1, Slot: 1,
		DesiredState: pb.TaskState_TASK_STATE_RUNNING,
	}}}}})
	for ref, class := range map[string]fault.Class{"nope": fault.NotFound, "waits": fault.State} {
		wantClass(t, r.server.Logs(&pb.LogsRequest{Ref: ref}, collect[pb.LogLine](t.Context())), class)
	}
}

// terminal is the server's end of an Exec call.
type terminal struct {
	grpc.ServerStream
	*collector[pb.ExecOutput]
	in chan *pb.ExecInput
}

func (s *terminal) Context() context.Context { return s.ctx }

func (s *terminal) Recv() (*pb.ExecInput, error) {
	select {
	case m := <-s.in:
		return m, nil
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx)
	}
}

// exec starts a call; its result comes out of the channel.
func (r *rig) exec(ctx context.Context, start *pb.ExecStart) (*terminal, <-chan error) {
	s, ended := &terminal{collector: collect[pb.ExecOutput](ctx), in: make(chan *pb.ExecInput, 9)}, make(chan error, 1)
	s.in <- &pb.ExecInput{Kind: &pb.ExecInput_Start{Start: start}}
	go func() { ended <- r.server.Exec(s) }()
	return s, ended
}

func TestExecPipesBothWaysUpToTheExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := twoTasks(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s, ended := r.exec(ctx, &pb.ExecStart{Ref: "web.2", Command: []string{"sh"}})
		p := a.of("t2")
		s.in <- &pb.ExecInput{Kind: &pb.ExecInput_Stdin{Stdin: []byte("in")}}
		if got := (<-p.down).GetExec().GetStdin(); string(got) != "in" {
			t.Errorf("stdin %q", got)
		}
		p.up <- &pb.AttachUp{Kind: &pb.AttachUp_Exec{Exec: &pb.ExecOutput{Kind: &pb.ExecOutput_Stdout{Stdout: []byte("out")}}}}
		if got := (<-s.sent).GetStdout(); string(got) != "out" {
			t.Errorf("stdout %q", got)
		}
		p.up <- &pb.AttachUp{Kind: &pb.AttachUp_Exec{Exec: &pb.ExecOutput{Kind: &pb.ExecOutput_Exit{Exit: &pb.ExecExit{Code: 3}}}}}
		if got := (<-s.sent).GetExit().GetCode(); got != 3 {
			t.Errorf("exit %d", got)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		<-p.closed
	})
}

func TestExecRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := twoTasks(t)
		down := web()
		down.Name = "down"
		r.create(down)
		r.task("t9", "down", 1, "node-w1", pb.TaskState_TASK_STATE_FAILED)
		for ref, class := range map[string]fault.Class{"nope": fault.NotFound, "down": fault.State, "t9": fault.State} {
			_, ended := r.exec(t.Context(), &pb.ExecStart{Ref: ref, Command: []string{"sh"}})
			wantClass(t, <-ended, class)
		}
		_, ended := r.exec(t.Context(), &pb.ExecStart{Ref: "web"})
		wantClass(t, <-ended, fault.Invalid)

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, ended = r.exec(ctx, &pb.ExecStart{Ref: "t1", Command: []string{"sh"}})
		a.of("t1").up <- &pb.AttachUp{Kind: &pb.AttachUp_Error{Error: "container is gone"}}
		wantClass(t, <-ended, fault.State)

		_, ended = r.exec(ctx, &pb.ExecStart{Ref: "t2", Command: []string{"sh"}})
		close(a.of("t2").up)
		wantClass(t, <-ended, fault.Unavailable)
	})
}
