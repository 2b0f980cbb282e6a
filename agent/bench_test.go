package agent_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	"github.com/minid/minid/agent"
	"github.com/minid/minid/agent/faketask"
	pb "github.com/minid/minid/proto/minid/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"
)

// counter is a dispatcher that assigns tasks and waits until all of them run.
type counter struct {
	pb.UnimplementedDispatcherServer
	set  *pb.AssignmentSet
	want int
	done chan struct{}
}

// Session implements the dispatcher.
func (c *counter) Session(stream grpc.BidiStreamingServer[pb.AgentMessage, pb.ManagerMessage]) error {
	welcome := &pb.Welcome{HeartbeatPeriod: durationpb.New(period)}
	if err := stream.Send(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	if err := stream.Send(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Assignments{Assignments: c.set}}); err != nil {
		return err
	}
	up := map[string]bool{}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, r := range m.GetStatuses().GetReports() {
			if r.GetStatus().GetState() == running {
				up[r.GetId()] = true
			}
		}
		if b := m.GetStatuses(); b != nil {
			if err := stream.Send(&pb.ManagerMessage{Kind: &pb.ManagerMessage_Ack{Ack: &pb.StatusAck{Number: b.GetNumber()}}}); err != nil {
				return err
			}
		}
		if len(up) == c.want {
			close(c.done)
			<-stream.Context().Done()
			return nil
		}
	}
}

// BenchmarkThousandTasks is the agent's own share of starting 1,000 tasks: from
// the assignment set to the last RUNNING at the manager, with bbolt and gRPC,
// on a runtime that takes no time.
func BenchmarkThousandTasks(b *testing.B) {
	const n = 1000
	set := &pb.AssignmentSet{Sequence: 1}
	for i := range n {
		set.Items = append(set.Items, assign(fmt.Sprintf("t%04d", i), running)...)
	}
	for b.Loop() {
		listener, server := bufconn.Listen(1<<20), grpc.NewServer()
		c := &counter{set: set, want: n, done: make(chan struct{})}
		pb.RegisterDispatcherServer(server, c)
		go server.Serve(listener)
		runtime := faketask.New(nil)
		a := agent.New(agent.Config{
			NodeID: "n1", NodeName: "alpha", DB: filepath.Join(b.TempDir(), "agent.db"),
			Runtime: runtime, Logs: runtime, Exec: runtime,
			Describe: func(context.Context) *pb.NodeDescription { return &pb.NodeDescription{} },
			Dial: func(context.Context, string) (agent.Conn, error) {
				return grpc.NewClient("passthrough:///m", grpc.WithTransportCredentials(insecure.NewCredentials()),
					grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
			},
			Managers: []string{"m"},
			Logger:   slog.New(slog.DiscardHandler),
		})
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		<-c.done
		cancel()
		<-ended
		server.Stop()
	}
}
