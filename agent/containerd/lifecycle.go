package containerd

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/fault"
)

// Start is task.Runtime's. Host ports lead to the task from here on, also when
// it fails: it is tried again, or Remove follows. New connections in a network
// wait for the first success of a health check, if there is one.
func (r *Runtime) Start(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(withNamespace(ctx), startTimeout)
	defer cancel()
	defer r.lock(r.locks, id)()
	o, err := r.inspect(ctx, id)
	if err != nil {
		return err
	}
	switch o.Phase {
	case task.Running:
		return nil
	case task.Created:
	default:
		return fault.New(fault.State, "start task %s: its container is not there", id)
	}
	if err := r.publish(ctx, id); err != nil {
		return err
	}
	started, err := r.tasks.Start(ctx, &tasks.StartRequest{ContainerID: id})
	if notThere(err) {
		return fault.New(fault.State, "start task %s: its process is gone: %w", id, err)
	}
	if err != nil {
		_, err = startError(r.imageOf(id), err)
		return err
	}
	if r.recall(id).Health != nil {
		return nil // led to once it is found healthy
	}
	awaitListening(ctx, started.GetPid(), r.recall(id).Ports)
	if err := r.cfg.Network.Serve(ctx, id); err != nil {
		r.cfg.Logger.Warn("task runs, but nothing leads to it yet", "task", id, "error", err)
	}
	return nil
}

// publish makes the task's ports known, and the chosen ones part of its record.
func (r *Runtime) publish(ctx context.Context, id string) error {
	rec := r.recall(id)
	if len(rec.Ports) == 0 {
		return nil
	}
	ports, err := r.cfg.Network.Publish(ctx, id, rec.Ports)
	if err != nil {
		return fmt.Errorf("publish ports: %w", err)
	}
	changed := *rec
	changed.Ports = ports
	return r.saveRecord(ctx, id, &changed)
}

// Inspect is task.Runtime's.
func (r *Runtime) Inspect(ctx context.Context, id string) (task.Observation, error) {
	ctx, cancel := context.WithTimeout(withNamespace(ctx), rpcTimeout)
	defer cancel()
	return r.inspect(ctx, id)
}

func (r *Runtime) inspect(ctx context.Context, id string) (task.Observation, error) {
	rec, err := r.load(ctx, id)
	if err != nil || rec == nil {
		return task.Observation{}, err
	}
	if rec.Exit != nil {
		return rec.observe(task.Exited, 0), nil
	}
	got, err := r.tasks.Get(ctx, &tasks.GetRequest{ContainerID: id})
	switch {
	case err == nil:
		return r.observed(ctx, id, rec, got.GetProcess())
	case !notThere(err):
		return task.Observation{}, fmt.Errorf("look at task %s: %w", id, inWords(err))
	case rec.BootID != r.host.BootID:
		return r.ended(ctx, id, rec, exit{Code: -1, At: time.Now(), Error: "the host restarted"})
	case !r.wasCreated(id):
		return task.Observation{}, nil // its making was cut short: Prepare begins anew
	}
	return r.ended(ctx, id, rec, exit{Code: 137, At: time.Now(), Error: "how it ended is not known: its supervisor (shim) was killed"})
}

// load returns a task's record, nil when there is no container.
func (r *Runtime) load(ctx context.Context, id string) (*record, error) {
	if rec := r.recall(id); rec != nil {
		return rec, nil
	}
	if !validID(id) {
		return nil, fault.New(fault.Invalid, "%q is no task id", id)
	}
	c, err := r.client.ContainerService().Get(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at container %s: %w", id, inWords(err))
	}
	rec, err := recordOf(c)
	if err == nil {
		r.remember(id, rec)
	}
	return rec, err
}

func (r *Runtime) observed(ctx context.Context, id string, rec *record, p *tasktypes.Process) (task.Observation, error) {
	switch p.GetStatus() {
	case tasktypes.Status_CREATED:
		return rec.observe(task.Created, p.GetPid()), nil
	case tasktypes.Status_STOPPED:
		return r.settle(ctx, id, rec, p.GetExitStatus(), p.GetExitedAt())
	}
	return rec.observe(task.Running, p.GetPid()), nil
}

// settle records how a process ended, then lets its shim and cgroup go: ended
// tasks are kept for their history and must not cost a process each.
func (r *Runtime) settle(ctx context.Context, id string, rec *record, code uint32, at *timestamppb.Timestamp) (task.Observation, error) {
	defer r.lock(r.exits, id)() // Wait, Stop and Inspect may see the end at the same time
	if current := r.recall(id); current != nil && current.Exit != nil {
		return current.observe(task.Exited, 0), nil
	}
	oom := code != 0 && r.host.oomKills(id) > 0
	e := exit{Code: int32(code), OOM: oom, At: at.AsTime()}
	if oom {
		e.Error = "out of memory: the memory limit was hit"
	}
	o, err := r.ended(ctx, id, rec, e)
	if err != nil {
		return o, err
	}
	if _, err := r.tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id}); err != nil && !gone(err) {
		r.cfg.Logger.Warn("ended process is not cleaned up", "task", id, "error", err)
	}
	return o, nil
}

// ended takes away what leads to the task and stores the exit.
func (r *Runtime) ended(ctx context.Context, id string, rec *record, e exit) (task.Observation, error) {
	changed := *rec
	changed.Exit = &e
	if err := r.cfg.Network.Unpublish(ctx, id); err != nil {
		return task.Observation{}, fmt.Errorf("disconnect ended task: %w", err)
	}
	if err := r.saveRecord(ctx, id, &changed); err != nil {
		return task.Observation{}, err
	}
	return changed.observe(task.Exited, 0), nil
}

// retryEvery is how often a containerd that is away is asked again.
const retryEvery = 200 * time.Millisecond

// Wait is task.Runtime's. A containerd that dies and comes back is waited for.
func (r *Runtime) Wait(ctx context.Context, id string) (task.Observation, error) {
	ctx = withNamespace(ctx)
	for {
		o, err := r.Inspect(ctx, id)
		if err == nil && (o.Phase == task.Exited || o.Phase == task.Absent) {
			return o, nil
		}
		if err != nil && !fault.Is(err, fault.Unavailable) && ctx.Err() == nil {
			return o, err
		}
		if err == nil {
			// How it ended is asked from Inspect: that is the same after a restart.
			_, err = r.tasks.Wait(ctx, &tasks.WaitRequest{ContainerID: id})
		}
		if err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return task.Observation{}, context.Cause(ctx)
		case <-r.ctx.Done():
			return task.Observation{}, fault.New(fault.Unavailable, "wait for task %s: minid stops", id)
		case <-time.After(retryEvery):
		}
	}
}

// Stop is task.Runtime's.
func (r *Runtime) Stop(ctx context.Context, id, signal string, grace time.Duration) error {
	ctx = withNamespace(ctx)
	rec, err := r.load(ctx, id)
	if err != nil || rec == nil || rec.Exit != nil {
		return err
	}
	sig, err := parseSignal(cmp.Or(signal, rec.StopSignal, "SIGTERM"))
	if err != nil {
		return err
	}
	o, err := r.Inspect(ctx, id)
	if err != nil || o.Phase == task.Absent || o.Phase == task.Exited {
		return err
	}
	if o.Phase == task.Running {
		r.drain(ctx, id)
	}
	if o.Phase == task.Running && grace > 0 {
		if err := r.signal(ctx, id, o.Pid, sig); err != nil {
			return err
		}
		done, err := r.endsWithin(ctx, id, grace)
		if err != nil || done {
			return err
		}
	}
	if err := r.signal(ctx, id, o.Pid, unix.SIGKILL); err != nil {
		return err
	}
	done, err := r.endsWithin(ctx, id, killTimeout)
	if err == nil && !done {
		err = fault.New(fault.Timeout, "stop task %s: still there %v after SIGKILL", id, killTimeout)
	}
	return err
}

// drain takes a task out of the balancers before its stop signal, and shuts it to
// those who have not heard. A network that cannot do that keeps no task from
// stopping.
func (r *Runtime) drain(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if err := r.cfg.Network.Drain(ctx, id); err != nil {
		r.cfg.Logger.Warn("task is stopped before it is out of the balancers", "task", id, "error", err)
	}
	if err := r.cfg.Network.Shut(ctx, id); err != nil {
		r.cfg.Logger.Warn("task is stopped while connections may still come", "task", id, "error", err)
	}
}

// endsWithin waits for a task's end, for a time.
func (r *Runtime) endsWithin(ctx context.Context, id string, d time.Duration) (bool, error) {
	limited, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	_, err := r.Wait(limited, id)
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case limited.Err() != nil:
		return false, nil
	}
	return false, err
}

// signal sends a signal to a task's process; one that is gone needs none. To ask
// containerd costs a run of runc, which is why it is asked only if need be.
func (r *Runtime) signal(ctx context.Context, id string, pid uint32, sig unix.Signal) error {
	if signalOwn(id, int(pid), sig) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	_, err := r.tasks.Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(sig)})
	if err != nil && !notThere(err) && !strings.Contains(err.Error(), "already finished") {
		return fmt.Errorf("send %v to task %s: %w", sig, id, inWords(err))
	}
	return nil
}

// signalOwn signals a process that is in the task's own cgroup, and tells whether
// it did. Between the look and the signal no other process can get its number.
func signalOwn(id string, pid int, sig unix.Signal) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !strings.Contains(string(groups), "/"+id+"\n") {
		return false
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0) == nil
}

// killTask ends and deletes a task's process, whatever its state. A process that
// was created and not started is killed too: runc's own way to delete one polls
// for ten seconds.
func (r *Runtime) killTask(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	got, err := r.tasks.Get(ctx, &tasks.GetRequest{ContainerID: id})
	if notThere(err) {
		return nil
	}
	if err == nil && got.GetProcess().GetStatus() != tasktypes.Status_STOPPED {
		if err := r.signal(ctx, id, got.GetProcess().GetPid(), unix.SIGKILL); err != nil {
			return err
		}
		_, err = r.tasks.Wait(ctx, &tasks.WaitRequest{ContainerID: id})
	}
	if err == nil {
		_, err = r.tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	}
	if err != nil && !gone(err) {
		return fmt.Errorf("delete process of task %s: %w", id, inWords(err))
	}
	return nil
}

// Remove is task.Runtime's.
func (r *Runtime) Remove(ctx context.Context, id string, keepLog bool) error {
	if !validID(id) {
		return fault.New(fault.Invalid, "%q is no task id", id)
	}
	ctx, cancel := context.WithTimeout(withNamespace(ctx), startTimeout)
	defer cancel()
	defer r.lock(r.locks, id)()
	return r.remove(ctx, id, keepLog)
}

// List is task.Runtime's: this node's containers, also where a containerd is
// shared.
func (r *Runtime) List(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(withNamespace(ctx), rpcTimeout)
	defer cancel()
	list, err := r.client.ContainerService().List(ctx, r.ownFilter())
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", inWords(err))
	}
	ids := make([]string, len(list))
	for i, c := range list {
		ids[i] = c.ID
	}
	return ids, nil
}

// gone also knows what a deletion says that another one overtook: its shim left.
func gone(err error) bool {
	return notThere(err) || strings.Contains(err.Error(), "ttrpc: closed")
}

func notThere(err error) bool {
	return errdefs.IsNotFound(err) || status.Code(err) == codes.NotFound
}

// parseSignal reads SIGTERM, TERM or 15.
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if sig := unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG")); sig != 0 {
		return sig, nil
	}
	// Real-time signals have no names of their own there.
	if rest, ok := strings.CutPrefix(strings.TrimPrefix(name, "SIG"), "RTMIN+"); ok {
		if n, err := strconv.Atoi(rest); err == nil && n >= 0 && n <= 30 {
			return unix.Signal(34 + n), nil
		}
	}
	return 0, fault.New(fault.Invalid, "signal %q is not known", s)
}
