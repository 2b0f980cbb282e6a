package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/minid/minid/agent/task"
	sample "github.com/minid/minid/integration/sample/image"
	"github.com/minid/minid/internal/id"
	"github.com/minid/minid/internal/realtest"
	"github.com/minid/minid/network/bridge"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	sampleRef = "localhost/minid/sample:v1"
	patience  = 3 * time.Minute
)

// rig is a private containerd with one Runtime in a network namespace of its
// own. All tests share one: starting it is the slow part. MINID_TEST_CONTAINERD
// names another containerd than the one that minid is built with.
type rig struct {
	dir     string
	daemon  *Daemon
	runtime *Runtime
	bridge  *bridge.Bridge
	network *recorder
	img     v1.Image
}

var shared struct {
	once sync.Once
	rig  *rig
	err  error
}

func TestMain(m *testing.M) {
	realtest.Main(m, func() error {
		if shared.rig == nil {
			return nil
		}
		return shared.rig.close()
	})
}

// open gives the shared rig; it needs root.
func open(t testing.TB) *rig {
	t.Helper()
	realtest.NeedRoot(t)
	realtest.NeedProgram(t, "runc")
	shared.once.Do(func() { shared.rig, shared.err = newRig() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.rig
}

func newRig() (*rig, error) {
	dir, err := os.MkdirTemp("/tmp", "mn-")
	if err != nil {
		return nil, err
	}
	r := &rig{dir: dir}
	binary, err := filepath.Abs(cmp.Or(os.Getenv("MINID_TEST_CONTAINERD"), "../../bin/containerd"))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(binary); err != nil {
		binary = "" // PATH
	}
	if err := exec.Command("ip", "link", "set", "lo", "up").Run(); err != nil {
		return r, fmt.Errorf("set lo up: %w", err)
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	r.daemon = &Daemon{Binary: binary, DataDir: r.data(), RunDir: r.run(), Logger: logger}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := os.MkdirAll(r.data(), 0o755); err != nil {
		return r, err
	}
	if err := r.daemon.Ensure(ctx); err != nil {
		return r, err
	}
	if r.bridge, err = bridge.Open(bridge.Config{DataDir: r.data(), RunDir: r.run(), Logger: logger}); err != nil {
		return r, err
	}
	r.network = &recorder{Bridge: r.bridge}
	if err := r.openRuntime(ctx); err != nil {
		return r, err
	}
	if r.img, err = sample.Build(context.Background(), sample.Options{}); err != nil {
		return r, err
	}
	return r, r.load(ctx, sampleRef, r.img)
}

func (r *rig) data() string { return filepath.Join(r.dir, "data") }
func (r *rig) run() string  { return filepath.Join(r.dir, "run") }

func (r *rig) config() Config {
	return Config{
		Address: r.daemon.Address(), NodeID: "node1", DataDir: r.data(), RunDir: r.run(),
		RegistryDir: filepath.Join(r.dir, "registries"), Network: r.network, Logger: r.daemon.Logger,
	}
}

func (r *rig) openRuntime(ctx context.Context) (err error) {
	r.runtime, err = Open(ctx, r.config())
	return err
}

// reopen is what a restart of minid does.
func (r *rig) reopen(t testing.TB) {
	t.Helper()
	if err := r.runtime.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := bridge.Open(bridge.Config{DataDir: r.data(), RunDir: r.run()})
	if err != nil {
		t.Fatal(err)
	}
	r.bridge = b
	r.network.use(b)
	if err := r.openRuntime(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) load(ctx context.Context, ref string, img v1.Image) error {
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(sample.WriteTarball(pw, map[string]v1.Image{ref: img})) }()
	_, err := r.runtime.Images().Load(ctx, pr)
	return errors.Join(err, pr.Close())
}

func (r *rig) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var errs []error
	if r.runtime != nil {
		ids, err := r.runtime.List(ctx)
		errs = append(errs, err)
		for _, id := range ids {
			errs = append(errs, r.runtime.Remove(ctx, id, false))
		}
		errs = append(errs, r.runtime.Close())
	}
	if r.bridge != nil {
		errs = append(errs, r.bridge.Destroy())
	}
	if r.daemon != nil {
		errs = append(errs, r.daemon.Stop(ctx))
	}
	errs = append(errs, os.RemoveAll(r.dir))
	return errors.Join(errs...)
}

// wanted is a task of the sample image in a mode.
func wanted(args ...string) *task.Wanted {
	return &task.Wanted{
		ID: id.New(), ServiceID: "svc", ServiceName: "web", Slot: 1, NodeID: "node1", NodeName: "n1",
		Spec: &pb.TaskSpec{Container: &pb.ContainerSpec{Image: sampleRef, Args: args}},
	}
}

// start prepares and starts a task, which is removed with the test.
func (r *rig) start(t testing.TB, w *task.Wanted) string {
	t.Helper()
	t.Cleanup(func() { r.remove(t, w.ID) })
	if err := r.runtime.Prepare(t.Context(), w, func(string) {}); err != nil {
		t.Fatal("prepare:", err)
	}
	if err := r.runtime.Start(t.Context(), w.ID); err != nil {
		t.Fatal("start:", err)
	}
	return w.ID
}

func (r *rig) remove(t testing.TB, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.runtime.Remove(ctx, id, false); err != nil {
		t.Error("remove:", err)
	}
}

// finish waits for a task's end.
func (r *rig) finish(t testing.TB, id string) task.Observation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	o, err := r.runtime.Wait(ctx, id)
	if err != nil {
		t.Fatal("wait:", err)
	}
	return o
}

// output runs a task to its end and returns what it printed.
func (r *rig) output(t testing.TB, w *task.Wanted) string {
	t.Helper()
	id := r.start(t, w)
	o := r.finish(t, id)
	text := r.log(t, id)
	if o.ExitCode != 0 {
		t.Fatalf("exit code %d %s: %s", o.ExitCode, o.Error, text)
	}
	return text
}

// log reads a task's log to the end of the task.
func (r *rig) log(t testing.TB, id string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var text strings.Builder
	err := r.runtime.Logs(ctx, id, &pb.LogsAttach{Tail: -1, Follow: true}, func(b *pb.LogBatch) error {
		for _, e := range b.Entries {
			text.Write(e.Text)
			text.WriteByte('\n')
		}
		return nil
	})
	if err != nil {
		t.Fatal("logs:", err)
	}
	return text.String()
}

// eventually repeats a condition until it holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time:", what)
		}
	}
}

// logNow reads what is in a task's log now.
func logNow(t testing.TB, r *rig, id string) string {
	t.Helper()
	var text strings.Builder
	err := r.runtime.Logs(t.Context(), id, &pb.LogsAttach{Tail: -1}, func(b *pb.LogBatch) error {
		for _, e := range b.Entries {
			text.Write(append(e.Text, '\n'))
		}
		return nil
	})
	if err != nil {
		t.Fatal("logs:", err)
	}
	return text.String()
}

// parentOf finds the parent of a process.
func parentOf(t testing.TB, pid uint32) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var parent int
		if n, _ := fmt.Sscanf(line, "PPid: %d", &parent); n == 1 {
			return parent
		}
	}
	t.Fatal("no parent")
	return 0
}
