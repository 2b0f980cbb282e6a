// Package containerd runs tasks as containers of containerd: the real
// task.Runtime, and what else a node asks of containerd (images, logs, exec).
//
// What is true of a container is asked from containerd and from the kernel;
// what minid must know beyond that (address, image digest, exit) is a record in
// an extension of the container itself. So nothing here has to be kept in step,
// and any minid takes over what an earlier one left.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/minid/minid/agent/containerd/tasklog"
	"github.com/minid/minid/agent/meter"
	"github.com/minid/minid/fault"
	pb "github.com/minid/minid/proto/minid/v1"
)

// Namespace of everything that minid has in containerd.
const Namespace = "minid"

// Network gives tasks their network. Every method may be repeated.
type Network interface {
	// Attach makes a task's network namespace with its interfaces, and returns
	// its path and the task's address on the node-local bridge.
	Attach(ctx context.Context, t *pb.TaskNetwork) (netns string, addr netip.Addr, err error)
	// Publish makes host ports lead to the task and returns them with the host
	// ports that were chosen.
	Publish(ctx context.Context, id string, ports []*pb.PortConfig) ([]*pb.PortConfig, error)
	// Serve lets new connections to a task whose process runs.
	Serve(ctx context.Context, id string) error
	// Drain takes a running task out of every balancer and returns when no new
	// connections are to be expected.
	Drain(ctx context.Context, id string) error
	// Shut keeps new connections from a drained task, and returns when its stop
	// signal may be sent.
	Shut(ctx context.Context, id string) error
	// Unpublish takes a task whose process has ended out of all that leads to
	// it, its host ports too.
	Unpublish(ctx context.Context, id string) error
	// Detach removes all that Attach and Publish made.
	Detach(ctx context.Context, id string) error
}

// Config of a Runtime.
type Config struct {
	// Address is containerd's socket.
	Address string
	// NodeID marks this node's containers: several nodes may share a containerd.
	NodeID string
	// DataDir holds volumes and logs, RunDir what does not outlive the host.
	DataDir, RunDir string
	// RegistryDir has a hosts.toml per registry, as containerd's certs.d.
	RegistryDir string
	// Init is minid-init's path; empty looks beside minid, then in PATH.
	Init string
	// Generic are the resources of which tasks are given their share.
	Generic []*pb.GenericResource
	Network Network
	Logger  *slog.Logger
	// Images, when set, is used instead of one of the Runtime's own, so that
	// pulls by nodes without a cluster and by tasks are shared.
	Images *Images
}

// Runtime is task.Runtime over containerd.
type Runtime struct {
	cfg    Config
	client *client.Client
	tasks  tasks.TasksClient
	images *Images
	logs   *tasklog.Store
	users  *userCache
	host   host
	meter  meter.Meter

	// stop ends what runs in the background: log copying, of which Close waits.
	ctx  context.Context
	stop context.CancelFunc

	mu    sync.Mutex
	locks map[string]*idLock
	// pipes are the open ends of log FIFOs, to be closed by Close.
	pipes map[*os.File]struct{}
	// records of this node's containers, as stored in them.
	records map[string]*record
	// grants are the generic resources of tasks, from before they have a record.
	grants  map[string]*grant
	volumes map[string]*idLock
	exits   map[string]*idLock
}

// Open connects to containerd and takes over the containers that are there:
// their logs are read on from here. The caller closes the Runtime, which leaves
// the containers alone.
func Open(ctx context.Context, cfg Config) (*Runtime, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	images := cfg.Images
	if images == nil {
		var err error
		if images, err = OpenImages(ctx, cfg.Address, cfg.RegistryDir); err != nil {
			return nil, err
		}
	}
	host, err := examineHost()
	if err != nil {
		return nil, err
	}
	bg, stop := context.WithCancel(context.Background())
	r := &Runtime{
		cfg: cfg, client: images.client, tasks: images.client.TaskService(), images: images,
		meter: meter.Meter{Proc: "/proc", Sys: "/sys", CgroupV2: host.CgroupV2},
		logs:  tasklog.NewStore(filepath.Join(cfg.DataDir, "logs")), host: host,
		ctx: namespaces.WithNamespace(bg, Namespace), stop: stop,
		locks: make(map[string]*idLock), pipes: make(map[*os.File]struct{}),
		records: make(map[string]*record), grants: make(map[string]*grant), volumes: make(map[string]*idLock),
		exits: make(map[string]*idLock),
	}
	r.users = &userCache{known: make(map[string]identity)}
	if err := errors.Join(r.makeDirs(), r.takeOver(ctx)); err != nil {
		stop()
		return nil, err
	}
	return r, nil
}

func (r *Runtime) makeDirs() error {
	for _, dir := range []string{r.tasksDir(), r.tmpDir(), filepath.Join(r.cfg.DataDir, "volumes"), filepath.Join(r.cfg.DataDir, "logs")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	return unmountBelow(r.tmpDir())
}

func (r *Runtime) tasksDir() string         { return filepath.Join(r.cfg.RunDir, "tasks") }
func (r *Runtime) taskDir(id string) string { return filepath.Join(r.tasksDir(), id) }
func (r *Runtime) tmpDir() string           { return filepath.Join(r.cfg.RunDir, "tmp") }

// takeOver reads the records of this node's containers and goes on copying
// their logs.
func (r *Runtime) takeOver(ctx context.Context) error {
	list, err := r.client.ContainerService().List(withNamespace(ctx), r.ownFilter())
	if err != nil {
		return fmt.Errorf("list containers: %w", inWords(err))
	}
	for _, c := range list {
		rec, err := recordOf(c)
		if err != nil {
			r.cfg.Logger.Warn("container is not readable as a task", "id", c.ID, "error", err)
			continue
		}
		r.remember(c.ID, rec)
		if rec.Exit != nil {
			continue
		}
		if err := r.reopenLog(c.ID, rec); err != nil {
			r.cfg.Logger.Warn("log is not read on", "task", c.ID, "error", err)
		}
	}
	return nil
}

// Close ends the copying of logs and the connection. Containers run on.
func (r *Runtime) Close() error {
	r.stop()
	r.mu.Lock()
	for f := range r.pipes {
		_ = f.Close()
	}
	r.mu.Unlock()
	r.logs.Close()
	if r.cfg.Images != nil {
		return nil
	}
	return r.images.Close()
}

// Images of the node.
func (r *Runtime) Images() *Images { return r.images }

// Logs emits a task's log; see tasklog.Store.Read.
func (r *Runtime) Logs(ctx context.Context, taskID string, req *pb.LogsAttach, emit func(*pb.LogBatch) error) error {
	if !validID(taskID) {
		return fault.New(fault.Invalid, "%q is no task id", taskID)
	}
	return r.logs.Read(ctx, taskID, req, emit)
}

// idLock is a mutex that ends with its last user.
type idLock struct {
	sync.Mutex
	users int
}

// lock serialises what is done to one task or volume.
func (r *Runtime) lock(locks map[string]*idLock, id string) (unlock func()) {
	r.mu.Lock()
	l := locks[id]
	if l == nil {
		l = &idLock{}
		locks[id] = l
	}
	l.users++
	r.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		r.mu.Lock()
		defer r.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(locks, id)
		}
	}
}

func withNamespace(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, Namespace)
}

// validID keeps ids from being paths.
func validID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for _, c := range id {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// How long single steps may take before they count as failed.
const (
	rpcTimeout    = 30 * time.Second
	createTimeout = 30 * time.Second
	startTimeout  = 2 * time.Minute
	killTimeout   = 30 * time.Second
	// drainTimeout is far above the second that all nodes have to hear of it.
	drainTimeout = 5 * time.Second
)
