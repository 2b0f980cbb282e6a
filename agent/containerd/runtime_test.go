package containerd

import (
	"testing"

	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/agent/task/tasktest"
	pb "github.com/minid/minid/proto/minid/v1"
)

func spec(args ...string) *pb.TaskSpec { return wanted(args...).Spec }

func TestContract(t *testing.T) {
	r := open(t)
	notFound := spec()
	notFound.Container.Entrypoint = []string{"/no/such/command"}
	invalid := spec("sleep")
	invalid.Container.User = "nobody-of-that-name"
	stubborn := spec("stubborn")
	stubborn.Container.StopSignal = "SIGURG" // Go ignores it from its first instruction on
	tasktest.Run(t, tasktest.Specs{
		Sleeps: spec("sleep"), Stubborn: stubborn, Exits3: spec("exit", "3"), NotFound: notFound, Invalid: invalid,
	}, func(*testing.T) task.Runtime { return r.runtime })
}
