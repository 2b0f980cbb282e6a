// Package agent is a node's part in the cluster: it holds a session with the
// leader, makes the tasks that it is assigned real, and reports what becomes
// of them.
//
// Assignments come down and are kept on disk, statuses go up and are kept until
// they are acknowledged; in between every task has a runner (package task) of
// its own. Neither a lost session nor a restart of minid touches a container.
package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"

	"github.com/minid/minid/agent/task"
	pb "github.com/minid/minid/proto/minid/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// Config is what an Agent is made with. Fields are needed unless they say
// otherwise.
type Config struct {
	NodeID   string
	NodeName string
	// DB is the path of the local state's file; it is made when missing.
	DB      string
	Runtime task.Runtime
	Logs    Logs
	Exec    Exec
	Usage   Usage
	// Network hears what the managers say of tasks and networks. Without one,
	// nothing does.
	Network Network
	// Describe finds out what the node is; asked at the start of each session
	// and once a minute after. It has 5 s.
	Describe func(context.Context) *pb.NodeDescription
	// Dial connects to a manager's control address. It need not wait for the
	// connection.
	Dial func(ctx context.Context, addr string) (Conn, error)
	// Managers are the addresses to begin with; later ones are learned.
	Managers []string
	// OnWelcome hears of each Welcome: role, root, managers. It must not
	// block. Optional.
	OnWelcome func(*pb.Welcome)
	// OnEnd hears why each session ended, or could not begin. A fault.NotFound
	// is the leader's word that the cluster does not know this node. It must
	// not block. Optional.
	OnEnd func(error)
	// Parallel is how many tasks are prepared or started at the same time; 0
	// means twice the number of CPUs, and 4 at least.
	Parallel int
	Logger   *slog.Logger
}

// Conn is a connection to a manager; *grpc.ClientConn is one.
type Conn interface {
	grpc.ClientConnInterface
	io.Closer
}

// Network makes tasks reach each other, by what the managers say. Its calls do
// not wait for the kernel and never fail: a network repairs itself.
type Network interface {
	// Replace hears all assignments at once: those of a full set, and at the
	// start those that were on disk.
	Replace(items []*pb.Assignment)
	// Change hears a diff; what is removed goes before anything is put.
	Change(put []*pb.Assignment, remove []*pb.AssignmentKey)
	// Probe tries the ways to other nodes and emits what it finds. An error of
	// emit ends it with that error.
	Probe(ctx context.Context, req *pb.ProbeAttach, emit func(*pb.ProbeResult) error) error
}

// Logs reads the logs of this node's tasks.
type Logs interface {
	// Logs emits a task's log lines in time order until all are emitted or,
	// when following, until the task is removed or ctx ends. An error of emit
	// ends it with that error.
	Logs(ctx context.Context, taskID string, req *pb.LogsAttach, emit func(*pb.LogBatch) error) error
}

// Exec runs commands in this node's tasks.
type Exec interface {
	// Exec returns the command's exit code. A command that cannot be run is an
	// error with code 126 (not executable) or 127 (not found); any other error
	// has code 0.
	Exec(ctx context.Context, taskID string, start *pb.ExecStart, io ExecIO) (exitCode int32, err error)
}

// Usage measures what this node and its tasks use.
type Usage interface {
	// Usage takes a sample of the host and of each task that has processes.
	Usage(ctx context.Context) (*pb.NodeUsage, error)
}

// ExecIO connects an exec with whoever asked for it. Nothing needs closing.
type ExecIO struct {
	// Stdin ends with io.EOF when the caller closed it.
	Stdin io.Reader
	// Stdout and Stderr may be written to at the same time.
	Stdout, Stderr io.Writer
	Resize         <-chan *pb.WindowSize
	// Signals are signal numbers for the process.
	Signals <-chan uint32
}

// Agent runs a node's tasks.
type Agent struct {
	cfg      Config
	disk     *disk
	book     *book
	statuses *statuses
	worker   *worker
}

// New makes an agent; Run sets it going.
func New(cfg Config) *Agent {
	if cfg.Parallel == 0 {
		cfg.Parallel = max(4, 2*runtime.NumCPU())
	}
	a := &Agent{
		cfg:      cfg,
		book:     newBook(cfg.Managers),
		statuses: newStatuses(),
	}
	a.worker = newWorker(a)
	return a
}

// Run works until ctx ends. It needs no manager to take care of the tasks that
// the node already has. Containers outlive it.
func (a *Agent) Run(ctx context.Context) error {
	disk, err := openDisk(a.cfg.DB)
	if err != nil {
		return err
	}
	defer disk.close()
	saved, err := disk.load()
	if err != nil {
		return fmt.Errorf("read local state %s: %w", a.cfg.DB, err)
	}
	a.disk = disk
	a.book.learn(saved.managers, saved.leader)

	g, ctx := errgroup.WithContext(ctx)
	defer a.worker.wait()
	a.worker.restore(ctx, saved)
	g.Go(func() error { return a.saveStatuses(ctx) })
	g.Go(func() error { return a.keepSession(ctx) })
	return g.Wait()
}

func (a *Agent) describe(ctx context.Context) *pb.NodeDescription {
	ctx, cancel := context.WithTimeout(ctx, describeWithin)
	defer cancel()
	return a.cfg.Describe(ctx)
}

// Running counts the tasks that run on this node.
func (a *Agent) Running() int { return a.statuses.running() }
