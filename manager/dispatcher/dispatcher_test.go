package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	assignedState = pb.TaskState_TASK_STATE_ASSIGNED
	running       = pb.TaskState_TASK_STATE_RUNNING
	shutdown      = pb.TaskState_TASK_STATE_SHUTDOWN
	down          = pb.NodeState_NODE_STATE_DOWN
)

// names are the items of a set or diff: task/ID=DESIRED, spec/SERVICE@VERSION,
// secret/ID, config/ID; those of the network with all that is in them.
func names(items []*pb.Assignment) []string {
	var out []string
	for _, i := range items {
		switch k := i.Kind.(type) {
		case *pb.Assignment_Task:
			serving := ""
			if k.Task.Serving {
				serving = ",serving"
			}
			out = append(out, fmt.Sprintf("task/%s=%d%s", k.Task.Id, k.Task.DesiredState, serving))
		case *pb.Assignment_Spec:
			out = append(out, fmt.Sprintf("spec/%s@%d", k.Spec.ServiceId, k.Spec.Version))
		case *pb.Assignment_Secret:
			out = append(out, "secret/"+k.Secret.Id)
		case *pb.Assignment_Config:
			out = append(out, "config/"+k.Config.Id)
		default:
			out = append(out, networkName(i))
		}
	}
	return out
}

func keys(removed []*pb.AssignmentKey) []string {
	var out []string
	for _, k := range removed {
		out = append(out, strings.ToLower(strings.TrimPrefix(k.Kind.String(), "ITEM_KIND_"))+"/"+k.Id)
	}
	slices.Sort(out)
	return out
}

func wantNames(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

func TestSessionSendsSetThenNumberedDiffs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		r.secret("s1")
		r.secret("s2")
		r.service("web", "s1")
		r.service("db", "s2")
		r.task("t1", "web", "n1", running)
		r.task("other", "db", "n2", running)

		a := r.open("n1")
		set := a.greeted()
		wantNames(t, "set", names(set.Items), "spec/web@1", "secret/s1", "task/t1=512")
		if set.Sequence != 1 {
			t.Errorf("set has sequence %d, want 1", set.Sequence)
		}

		r.task("t2", "web", "n1", running)
		diff := a.next().GetDiff()
		wantNames(t, "second task of a service", names(diff.Put), "task/t2=512")
		if diff.Sequence != 2 {
			t.Errorf("diff has sequence %d, want 2", diff.Sequence)
		}

		r.desire("t1", shutdown)
		wantNames(t, "shutdown", names(a.next().GetDiff().Put), "task/t1=640")
		a.report(1, status("t1", shutdown))
		if n := a.next().GetAck().GetNumber(); n != 1 {
			t.Errorf("ack of %d, want 1", n)
		}

		r.desire("t2", shutdown)
		diff = a.next().GetDiff()
		wantNames(t, "put", names(diff.Put), "task/t2=640")
		wantNames(t, "the last task lets go of the secret at once", keys(diff.Remove), "secret/s1")
		a.report(2, status("t2", shutdown))
		for diff = nil; diff == nil; diff = a.next().GetDiff() {
		}
		wantNames(t, "the end of the last task lets go of the spec", keys(diff.Remove), "spec/web@1")

		r.apply(&pb.Command{Kind: &pb.Command_DeleteTasks{DeleteTasks: &pb.DeleteTasks{Ids: []string{"t1", "t2"}}}})
		for diff = nil; diff == nil; diff = a.next().GetDiff() {
		}
		wantNames(t, "forgotten", keys(diff.Remove), "task/t1", "task/t2")
		if diff.Sequence != 6 {
			t.Errorf("last diff has sequence %d, want 6", diff.Sequence)
		}
	})
}

func TestWelcomeIsRepeatedWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		a := r.open("n1")
		welcome := a.next().GetWelcome()
		if welcome.HeartbeatPeriod.AsDuration() != 2*time.Second || len(welcome.Managers) != 1 || welcome.Role != pb.NodeRole_NODE_ROLE_WORKER {
			t.Errorf("welcome = %v", welcome)
		}
		a.next() // assignments
		r.apply(&pb.Command{Kind: &pb.Command_UpdateNodeSpec{UpdateNodeSpec: &pb.UpdateNodeSpec{Id: "n1", Spec: &pb.NodeSpec{
			Role: pb.NodeRole_NODE_ROLE_MANAGER, Availability: pb.NodeAvailability_NODE_AVAILABILITY_ACTIVE,
		}}}})
		if welcome = a.next().GetWelcome(); welcome.GetRole() != pb.NodeRole_NODE_ROLE_MANAGER {
			t.Errorf("after the promotion: %v", welcome)
		}
	})
}

func TestSecondSessionEndsTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		first := r.open("n1")
		first.greeted()
		second := r.open("n1")
		second.greeted()
		if err := first.end(); !strings.Contains(err.Error(), "newer session") {
			t.Errorf("first session ended with %v", err)
		}
		r.service("web")
		r.task("t1", "web", "n1", running)
		if second.next().GetDiff() == nil {
			t.Error("the second session does not get diffs")
		}
	})
}

func TestRegistrationIsRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		for range admitMost {
			r.open("n1").greeted()
		}
		if err := r.open("n1").end(); !strings.Contains(err.Error(), "try again in 8s") {
			t.Errorf("fourth session within the window: %v", err)
		}
		time.Sleep(admitWithin)
		r.open("n1").greeted()
	})
}

func TestSilentNodeGoesDownAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		a, b := r.open("n1"), r.open("n2")
		a.greeted()
		b.greeted()
		b.cancel() // a broken stream alone is no verdict
		for range 3 {
			time.Sleep(2 * time.Second)
			a.beat()
			synctest.Wait()
			if r.nodeState("n2") != pb.NodeState_NODE_STATE_READY {
				t.Fatal("n2 is down before it missed three heartbeats")
			}
		}
		time.Sleep(time.Second)
		a.beat()
		synctest.Wait()
		if got := r.nodeState("n2"); got != pb.NodeState_NODE_STATE_DOWN {
			t.Errorf("n2 is %v after 7 s of silence", got)
		}
		if got := r.nodeState("n1"); got != pb.NodeState_NODE_STATE_READY {
			t.Errorf("n1, which beats, is %v", got)
		}
		r.open("n2").greeted()
		time.Sleep(100 * time.Millisecond)
		if got := r.nodeState("n2"); got != pb.NodeState_NODE_STATE_READY {
			t.Errorf("n2 is %v after it came back", got)
		}
		// An agent whose stream is open but which says nothing is cut.
		if err := a.end(); !strings.Contains(err.Error(), "missed 3 heartbeats") {
			t.Errorf("silent session ended with %v", err)
		}
	})
}

func TestElectionGivesGraceAndWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		a, b := r.open("n1"), r.open("n2")
		a.greeted()
		b.greeted()
		time.Sleep(time.Second)
		before := len(r.commands())
		r.stop()
		if err := a.end(); !strings.Contains(err.Error(), "not the leader") {
			t.Errorf("session ended with %v", err)
		}
		if err := r.open("n1").end(); !strings.Contains(err.Error(), "not the leader") {
			t.Errorf("without a term: %v", err)
		}
		r.run()
		synctest.Wait()
		a = r.open("n1")
		a.greeted()
		time.Sleep(time.Second)
		if after := r.commands(); len(after) != before {
			t.Errorf("a change of leaders wrote %v", after[before:])
		}
		for range 4 {
			a.beat()
			time.Sleep(2 * time.Second)
		}
		if r.nodeState("n1") != pb.NodeState_NODE_STATE_READY || r.nodeState("n2") != pb.NodeState_NODE_STATE_DOWN {
			t.Errorf("after the grace period n1 is %v, n2 is %v", r.nodeState("n1"), r.nodeState("n2"))
		}
	})
}

func TestOvertakenReportIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		r.open("n1").greeted()
		// As if a report of its death had been in flight when it came back.
		r.apply(downCommands(r.state.View(), []string{"n1"}, time.Now())...)
		time.Sleep(time.Second)
		if got := r.nodeState("n1"); got != pb.NodeState_NODE_STATE_READY {
			t.Errorf("a node in session stays %v", got)
		}
	})
}

func TestRemovedNodeIsCutAndRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		a := r.open("n1")
		a.greeted()
		r.apply(&pb.Command{Kind: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Id: "n1", Force: true}}})
		for _, err := range []error{a.end(), r.open("n1").end()} {
			if !strings.Contains(err.Error(), "removed from the cluster") {
				t.Errorf("session of a removed node ended with %v", err)
			}
		}
	})
}

func TestStatusesAreMergedAndAcknowledgedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes, tasks = 20, 10
		r := newRig(t, nodes)
		r.commit = 50 * time.Millisecond
		r.service("web")
		var agents []*agent
		for n := range nodes {
			for i := range tasks {
				r.task(fmt.Sprintf("t%d-%d", n, i), "web", fmt.Sprintf("n%d", n+1), running)
			}
			agents = append(agents, r.open(fmt.Sprintf("n%d", n+1)))
			agents[n].greeted()
		}
		time.Sleep(time.Second)
		before := r.proposed()
		for n, a := range agents {
			for i := range tasks {
				a.report(uint64(i+1), status(fmt.Sprintf("t%d-%d", n, i), running))
			}
		}
		for _, a := range agents {
			for want := uint64(1); want <= tasks; want++ {
				if got := a.acked(); got != want {
					t.Fatalf("ack %d on %s, want %d", got, a.node, want)
				}
			}
		}
		for task := range r.state.View().Tasks() {
			if task.Status.State != running {
				t.Errorf("task %s is acknowledged but %v", task.Id, task.Status.State)
			}
		}
		if used := r.proposed() - before; used > 10 {
			t.Errorf("%d batches took %d proposals", nodes*tasks, used)
		}
	})
}

func TestStatusesSurviveRefusedWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		r.service("web")
		r.task("t1", "web", "n1", running)
		a := r.open("n1")
		a.greeted()
		time.Sleep(time.Second)
		r.breakProposals(errors.New("disk full"))
		a.report(1, status("t1", pb.TaskState_TASK_STATE_PREPARING))
		a.report(2, status("t1", running))
		for range 5 {
			time.Sleep(2 * time.Second)
			a.beat()
		}
		r.breakProposals(nil)
		for want := uint64(1); want <= 2; want++ {
			if got := a.acked(); got != want {
				t.Fatalf("ack %d, want %d", got, want)
			}
		}
		if got := r.state.View().Task("t1").Status.State; got != running {
			t.Errorf("task is %v", got)
		}
	})
}

func TestForeignAndRepeatedReportsAreSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		r.service("web")
		r.task("mine", "web", "n1", running)
		r.task("theirs", "web", "n2", running)
		a := r.open("n1")
		a.greeted()
		a.report(1, status("theirs", running), status("mine", running), status("unknown", running))
		for a.next().GetAck() == nil {
		}
		if got := r.state.View().Task("theirs").Status.State; got != assignedState {
			t.Errorf("another node's task became %v", got)
		}
		for _, cmd := range r.commands() {
			for _, report := range cmd.GetReportStatuses().GetReports() {
				if report.Id != "mine" {
					t.Errorf("%s is proposed in the name of n1", report.Id)
				}
			}
		}
		before := len(r.commands())
		a.report(2, status("mine", running))
		for a.next().GetAck() == nil {
		}
		if after := r.commands(); len(after) != before {
			t.Errorf("a repeated report wrote %v", after[before:])
		}
	})
}

func TestSlowAgentIsCutAndDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		r.apply(&pb.Command{Kind: &pb.Command_CreateSecret{CreateSecret: &pb.CreateSecret{
			Id: "big", Spec: &pb.SecretSpec{Name: "big", Data: make([]byte, 400<<10)},
		}}})
		r.service("web", "big")
		r.service("db")
		slow, quick := r.open("n1"), r.open("n2")
		quick.greeted()
		synctest.Wait()
		r.task("t1", "web", "n1", running) // does not fit what an agent takes without reading
		r.task("t2", "db", "n2", running)
		if quick.next().GetDiff() == nil {
			t.Error("the quick agent gets no diff")
		}
		for range 7 {
			time.Sleep(2 * time.Second)
			_ = slow.stream.Send(&pb.AgentMessage{Kind: &pb.AgentMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
			quick.beat()
		}
		if err := slow.end(); !strings.Contains(err.Error(), "took no message") {
			t.Errorf("slow session ended with %v", err)
		}
	})
}

func TestFirstMessageMustBeAHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		ctx, cancel := r.ctxOf("n1")
		defer cancel()
		silent, err := r.client.Session(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := silent.Recv(); !strings.Contains(err.Error(), "no first message within") {
			t.Errorf("silent agent: %v", err)
		}
		rude, err := r.client.Session(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = rude.Send(&pb.AgentMessage{Kind: &pb.AgentMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
		if _, err := rude.Recv(); !strings.Contains(err.Error(), "must be a hello") {
			t.Errorf("agent that does not say hello: %v", err)
		}
	})
}

func TestAttachPipesBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		a := r.open("n1")
		a.greeted()
		go func() { // the agent
			req := a.next().GetAttach()
			ctx, cancel := r.ctxOf("n1")
			defer cancel()
			stream, err := r.client.Attach(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			_ = stream.Send(&pb.AttachUp{Kind: &pb.AttachUp_Open{Open: req.Id}})
			down, err := stream.Recv()
			if err != nil {
				t.Error(err)
				return
			}
			_ = stream.Send(&pb.AttachUp{Kind: &pb.AttachUp_Exec{Exec: &pb.ExecOutput{Kind: &pb.ExecOutput_Stdout{Stdout: down.GetExec().GetStdin()}}}})
			_, _ = stream.Recv() // until the asker closes
		}()
		p, err := r.d.OpenAttach(t.Context(), "n1", &pb.Attach{Kind: &pb.Attach_Exec{Exec: &pb.ExecAttach{TaskId: "t1"}}})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := p.Send(&pb.AttachDown{Kind: &pb.AttachDown_Exec{Exec: &pb.ExecInput{Kind: &pb.ExecInput_Stdin{Stdin: []byte("echo")}}}}); err != nil {
			t.Fatal(err)
		}
		up, err := p.Recv()
		if err != nil || string(up.GetExec().GetStdout()) != "echo" {
			t.Errorf("received %v, %v", up, err)
		}
	})
}

func TestAttachRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2)
		if _, err := r.d.OpenAttach(t.Context(), "n1", &pb.Attach{}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("node without session: %v", err)
		}
		a := r.open("n1")
		a.greeted()
		wrong := make(chan error, 2)
		go func() { // n2 answers what n1 was asked, then somebody an id that nobody asked for
			id := a.next().GetAttach().Id
			for _, try := range [][2]string{{"n2", id}, {"n1", "unknown"}} {
				ctx := metadata.AppendToOutgoingContext(t.Context(), "node", try[0])
				stream, err := r.client.Attach(ctx)
				if err == nil {
					_ = stream.Send(&pb.AttachUp{Kind: &pb.AttachUp_Open{Open: try[1]}})
					_, err = stream.Recv()
				}
				wrong <- err
			}
		}()
		start := time.Now()
		keepAlive(a)
		_, err := r.d.OpenAttach(t.Context(), "n1", &pb.Attach{})
		if !fault.Is(err, fault.Unavailable) || time.Since(start) < openWithin {
			t.Errorf("unanswered attach: %v after %v", err, time.Since(start))
		}
		if err := <-wrong; !strings.Contains(err.Error(), "another node") {
			t.Errorf("foreign node: %v", err)
		}
		if err := <-wrong; !strings.Contains(err.Error(), "nobody waits") {
			t.Errorf("unknown id: %v", err)
		}
	})
}

func TestAttachEndsWithItsAsker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		a := r.open("n1")
		a.greeted()
		ended := make(chan error, 1)
		go func() {
			id := a.next().GetAttach().Id
			ctx, cancel := r.ctxOf("n1")
			defer cancel()
			stream, err := r.client.Attach(ctx)
			if err == nil {
				_ = stream.Send(&pb.AttachUp{Kind: &pb.AttachUp_Open{Open: id}})
				_, err = stream.Recv()
			}
			ended <- err
		}()
		ctx, cancel := context.WithCancel(t.Context())
		p, err := r.d.OpenAttach(ctx, "n1", &pb.Attach{})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := p.Recv(); err == nil {
			t.Error("the pipe outlives its asker")
		}
		<-ended
	})
}

// After missed changes the agent still gets what it does not know.
func TestSessionsResyncAfterMissedChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1)
		r.service("web")
		r.task("t1", "web", "n1", running)
		a := r.open("n1")
		a.greeted()
		time.Sleep(time.Second)
		snapshot := proto.CloneOf(r.state.Snapshot())
		for _, o := range snapshot.Objects {
			if o.GetTask() != nil {
				o.GetTask().DesiredState = shutdown
			}
		}
		if err := r.state.Restore(snapshot); err != nil {
			t.Fatal(err)
		}
		wantNames(t, "diff after the jump", names(a.next().GetDiff().GetPut()), "task/t1=640")
	})
}

func TestFloodOfChangesBecomesOneFullLook(t *testing.T) {
	s := newSession("n1", "", nil)
	for i := range maxDirty + 10 {
		s.dirtyTask(fmt.Sprint(i))
	}
	if n := s.take(); !n.all || len(n.tasks) > maxDirty {
		t.Errorf("%d tasks are noted, all: %v", len(n.tasks), n.all)
	}
}

// keepAlive beats in the background until the session ends.
func keepAlive(a *agent) {
	go func() {
		for a.stream.Context().Err() == nil {
			pauseUnless(a.stream.Context().Done(), 2*time.Second)
			_ = a.stream.Send(&pb.AgentMessage{Kind: &pb.AgentMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}})
		}
	}()
}
