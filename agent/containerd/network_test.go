package containerd

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/minid/minid/agent/task"
	"github.com/minid/minid/network/bridge"
	pb "github.com/minid/minid/proto/minid/v1"
)

// recorder is the bridge, and remembers what was asked of it.
type recorder struct {
	*bridge.Bridge

	mu       sync.Mutex
	calls    []call
	attached map[string]*pb.TaskNetwork
	// draining, when set, is asked instead of draining at once.
	draining func(ctx context.Context, id string) error
}

// call of a method for a task.
type call struct{ method, id string }

func (n *recorder) use(b *bridge.Bridge) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.Bridge = b
}

func (n *recorder) note(method, id string) *bridge.Bridge {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, call{method, id})
	return n.Bridge
}

// of lists the methods that were called for a task.
func (n *recorder) of(id string) (methods []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.calls {
		if c.id == id {
			methods = append(methods, c.method)
		}
	}
	return methods
}

// onDrain has drains done by f, until the test ends.
func (n *recorder) onDrain(t testing.TB, f func(ctx context.Context, id string) error) {
	set := func(f func(context.Context, string) error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.draining = f
	}
	set(f)
	t.Cleanup(func() { set(nil) })
}

func (n *recorder) Attach(ctx context.Context, t *pb.TaskNetwork) (string, netip.Addr, error) {
	b := n.note("attach", t.GetTaskId())
	n.mu.Lock()
	if n.attached == nil {
		n.attached = map[string]*pb.TaskNetwork{}
	}
	n.attached[t.GetTaskId()] = proto.CloneOf(t)
	n.mu.Unlock()
	return b.Attach(ctx, t.GetTaskId())
}

func (n *recorder) Publish(ctx context.Context, id string, ports []*pb.PortConfig) ([]*pb.PortConfig, error) {
	return n.note("publish", id).Publish(ctx, id, ports)
}

func (n *recorder) Serve(_ context.Context, id string) error {
	n.note("serve", id)
	return nil
}

func (n *recorder) Drain(ctx context.Context, id string) error {
	n.note("drain", id)
	n.mu.Lock()
	f := n.draining
	n.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(ctx, id)
}

func (n *recorder) Shut(_ context.Context, id string) error {
	n.note("shut", id)
	return nil
}

func (n *recorder) Unpublish(ctx context.Context, id string) error {
	return n.note("unpublish", id).Unpublish(ctx, id)
}

func (n *recorder) Detach(ctx context.Context, id string) error {
	return n.note("detach", id).Detach(ctx, id)
}

func wantCalls(t testing.TB, r *rig, id string, want ...string) {
	t.Helper()
	if got := slices.Compact(r.network.of(id)); !slices.Equal(got, want) {
		t.Errorf("the network was asked for %v, want %v", got, want)
	}
}

func TestNetworkHearsWhatATaskIsOn(t *testing.T) {
	r := open(t)
	w := wanted("sleep")
	w.Addresses = []*pb.TaskAddress{{NetworkId: "net1", Addresses: []string{"10.0.16.7/20"}}}
	w.Spec.Container.Dns = &pb.DNSConfig{Search: []string{"example.com"}}
	r.start(t, w)
	want := &pb.TaskNetwork{TaskId: w.ID, ServiceId: "svc", Addresses: w.Addresses, Dns: w.Spec.Container.Dns}
	if diff := cmp.Diff(want, r.network.attached[w.ID], protocmp.Transform()); diff != "" {
		t.Errorf("attached (-want +got):\n%s", diff)
	}
}

// The stop signal comes when the drain is done, and not before.
func TestDrainComesBeforeTheStopSignal(t *testing.T) {
	r := open(t)
	id := r.start(t, wanted("sleep"))
	running := true
	r.network.onDrain(t, func(ctx context.Context, id string) error {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("a drain has no deadline")
		}
		o, err := r.runtime.Inspect(ctx, id)
		running = running && err == nil && o.Phase == task.Running
		time.Sleep(200 * time.Millisecond)
		o, err = r.runtime.Inspect(ctx, id)
		running = running && err == nil && o.Phase == task.Running
		return err
	})
	if err := r.runtime.Stop(t.Context(), id, "", task.DefaultGrace); err != nil {
		t.Fatal(err)
	}
	if !running {
		t.Error("the process did not run while it was drained")
	}
	wantCalls(t, r, id, "attach", "serve", "drain", "shut", "unpublish")
	r.remove(t, id)
	wantCalls(t, r, id, "attach", "serve", "drain", "shut", "unpublish", "detach")
	if err := r.runtime.Stop(t.Context(), id, "", task.DefaultGrace); err != nil {
		t.Error("stop again:", err)
	}
	wantCalls(t, r, id, "attach", "serve", "drain", "shut", "unpublish", "detach")
}

// A network that does not drain keeps no task from stopping.
func TestFailedDrainIsNoObstacle(t *testing.T) {
	r := open(t)
	id := r.start(t, wanted("sleep"))
	r.network.onDrain(t, func(context.Context, string) error { return context.DeadlineExceeded })
	if err := r.runtime.Stop(t.Context(), id, "", task.DefaultGrace); err != nil {
		t.Fatal(err)
	}
	if o, err := r.runtime.Inspect(t.Context(), id); err != nil || o.Phase != task.Exited {
		t.Errorf("observed %+v, %v", o, err)
	}
}

func TestCrashedTaskIsUnpublished(t *testing.T) {
	r := open(t)
	w := wanted("exit", "3")
	if o := r.finish(t, r.start(t, w)); o.ExitCode != 3 {
		t.Errorf("observed %+v", o)
	}
	wantCalls(t, r, w.ID, "attach", "serve", "unpublish")
}

// What ended while minid was away is unpublished when the next one looks.
func TestTaskThatEndedUnseenIsUnpublished(t *testing.T) {
	r := open(t)
	id := r.start(t, wanted("sleep"))
	o, err := r.runtime.Inspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(int(o.Pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.reopen(t)
	if o := r.finish(t, id); o.Phase != task.Exited {
		t.Errorf("observed %+v", o)
	}
	wantCalls(t, r, id, "attach", "serve", "unpublish")
}
