package orchestrator

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/minid/minid/proto/minid/v1"
)

var update = flag.Bool("update", false, "rewrite golden conversations")

// TestConversations plays testdata/*.txt: lines that start with "> " are told
// to a cluster in miniature, and what follows is what happened.
//
//	node n1 n2…                     new nodes
//	node-down|up|unknown n1         what the dispatcher says of one
//	drain|pause|activate n1         what the user says of one
//	drain-deadline n1 5s            the same
//	join n4                         a new node, where services are then rebalanced
//	full|roomy n1                   takes no (takes) more tasks
//	honest                          the real scheduler places from now on
//	rebalance web                   spreads it anew
//	label n1 k=v                    sets a node label
//	remove-node n1
//	service web replicas=3 image=…  creates or updates; see env.option
//	rollback web 1                  to a version, or the one before the present
//	remove web
//	image bad rejects|fails|hangs|unwell|complete|well
//	capacity 1                      tasks that a node holds
//	stubborn|mild n1                tasks there do not (do) stop
//	task web.1 failed|complete|…    the slot's running task ends so
//	twin web 1 v1 ready             another task in a slot, as after a race
//	forget t001                     what the reaper does to a task
//	settle                          everybody acts until nothing changes
//	advance 5s                      the same while time passes
//	tasks web                       prints the tasks, observed/desired
//	status web                      prints the progress of the update
//	history web                     prints the versions that are kept
//	job batch                       prints the runs of a job
//	run batch                       asks for one more
//	late t001 complete              what a node says of a task that was given up
//	outage 30m                      time passes and nobody does anything
//	at 2026-03-29T01:00:00Z         goes on until then, or starts there
//	count web                       prints how many tasks of each version run
func TestConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := converse(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func converse(t *testing.T, script string) string {
	e := newEnv(t)
	var out strings.Builder
	for line := range strings.Lines(script) {
		switch {
		case strings.HasPrefix(line, "> "):
			out.WriteString(line)
			e.trace.Reset()
			e.command(strings.Fields(line[2:]))
			out.WriteString(e.trace.String())
		case strings.HasPrefix(line, "#") || line == "\n":
			out.WriteString(line)
		}
	}
	return out.String()
}

func (e *env) command(words []string) {
	e.t.Helper()
	verb, args := words[0], words[1:]
	switch verb {
	case "node":
		for _, id := range args {
			e.addNode(id)
		}
	case "node-down":
		e.setNode(args[0], pb.NodeState_NODE_STATE_DOWN)
	case "node-up":
		e.setNode(args[0], pb.NodeState_NODE_STATE_READY)
	case "node-unknown":
		e.setNode(args[0], pb.NodeState_NODE_STATE_UNKNOWN)
	case "drain", "pause", "activate":
		availability := map[string]pb.NodeAvailability{"drain": 3, "pause": 2, "activate": 1}[verb]
		e.changeNode(args[0], func(s *pb.NodeSpec) { s.Availability = availability })
	case "drain-deadline":
		d, err := time.ParseDuration(args[1])
		if err != nil {
			e.t.Fatal(err)
		}
		e.changeNode(args[0], func(s *pb.NodeSpec) { s.DrainDeadline = durationpb.New(d) })
	case "label":
		key, value, _ := strings.Cut(args[1], "=")
		e.changeNode(args[0], func(s *pb.NodeSpec) { s.Labels = map[string]string{key: value} })
	case "remove-node":
		e.apply(&pb.Command{Kind: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Id: args[0], Force: true}}})
	case "service":
		e.setService(args[0], args[1:]...)
	case "rollback":
		to := &pb.RollbackService{Id: e.service(args[0]).Id}
		if len(args) > 1 {
			fmt.Sscan(args[1], &to.To)
		}
		e.apply(&pb.Command{Kind: &pb.Command_RollbackService{RollbackService: to}})
	case "remove":
		e.apply(&pb.Command{Kind: &pb.Command_RemoveService{RemoveService: &pb.RemoveService{Id: e.service(args[0]).Id}}})
	default:
		e.commandRest(verb, args)
	}
}

func (e *env) commandRest(verb string, args []string) {
	e.t.Helper()
	switch verb {
	case "image":
		e.behave[args[0]] = mood(args[1])
	case "capacity":
		fmt.Sscan(args[0], &e.capacity)
	case "join":
		e.addNode(args[0])
		e.join = Join{args[0], e.now}
	case "full", "roomy":
		e.full[args[0]] = verb == "full"
	case "honest":
		e.honest = true
	case "rebalance":
		e.rebalance(args[0])
	case "stubborn", "mild":
		e.stubborn[args[0]] = verb == "stubborn"
	case "task":
		e.end(args[0], args[1])
	case "twin":
		e.twin(args)
	case "forget":
		e.apply(&pb.Command{Kind: &pb.Command_DeleteTasks{DeleteTasks: &pb.DeleteTasks{Ids: args}}})
	case "settle":
		e.settle()
	case "advance":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			e.t.Fatal(err)
		}
		e.advance(d)
	case "history":
		for _, v := range e.service(args[0]).History {
			fmt.Fprintf(&e.trace, "%d: %s x%d, rollback to %d\n", v.Number, v.Spec.Task.Container.Image, v.Spec.GetReplicated().GetReplicas(), v.RollbackTo)
		}
	case "count":
		running := map[string]int{}
		for _, t := range e.running() {
			running[fmt.Sprint("v", t.SpecVersion)]++
		}
		fmt.Fprintf(&e.trace, "running: %v\n", running)
	case "tasks":
		e.trace.WriteString(e.tasks(args[0]))
	case "status":
		u := e.service(args[0]).GetUpdateStatus()
		fmt.Fprintf(&e.trace, "%s to v%d: %s; failed %v\n", stateOf(u), u.GetToVersion(), u.GetMessage(), u.GetFailedTasks())
	case "job", "run", "at", "outage", "late":
		e.jobCommand(verb, args)
	default:
		e.t.Fatalf("unknown command %q", verb)
	}
}

// end ends the running task of a slot, named web.1 or web.n1.
func (e *env) end(name, how string) {
	e.t.Helper()
	service, where, _ := strings.Cut(name, ".")
	for t := range e.state.View().TasksByService(e.service(service).Id) {
		p := placeOf(t)
		if (fmt.Sprint(p.slot) == where || p.node == where) && live(t) && t.Status.State == pb.TaskState_TASK_STATE_RUNNING {
			state := pb.TaskState(pb.TaskState_value["TASK_STATE_"+strings.ToUpper(how)])
			status := &pb.TaskStatus{State: state}
			if how == "failed" {
				status.Container = &pb.ContainerStatus{ExitCode: 1}
			}
			e.report(t, status)
			return
		}
	}
	e.t.Fatalf("nothing runs in %s", name)
}

func (e *env) twin(args []string) {
	e.t.Helper()
	s := e.service(args[0])
	t := &pb.Task{Id: e.newID(), ServiceId: s.Id, ServiceName: s.Spec.Name, Replaces: "race"}
	t.JobRun = s.GetJob().GetLastRun()
	fmt.Sscan(args[1], &t.Slot)
	fmt.Sscan(strings.TrimPrefix(args[2], "v"), &t.SpecVersion)
	t.DesiredState = pb.TaskState(pb.TaskState_value["TASK_STATE_"+strings.ToUpper(args[3])])
	e.commit(&pb.Command{Kind: &pb.Command_CreateTasks{CreateTasks: &pb.CreateTasks{Tasks: []*pb.Task{t}}}})
}
