package containerd

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minid/minid/agent/task"
)

func TestContainerdKilledAndRestarted(t *testing.T) {
	r := open(t)
	id := r.start(t, wanted("lines", "100", "50ms"))
	before, err := r.runtime.Inspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan task.Observation, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		o, err := r.runtime.Wait(ctx, id)
		if err != nil {
			t.Error("wait:", err)
		}
		ended <- o
	}()
	pid := r.daemon.alive()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "containerd's end", func() bool { return r.daemon.alive() != pid })
	if err := r.daemon.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the same process", func() bool {
		o, err := r.runtime.Inspect(t.Context(), id)
		return err == nil && (o.Phase == task.Running && o.Pid == before.Pid || o.Phase == task.Exited)
	})
	if o := <-ended; o.Phase != task.Exited || o.ExitCode != 0 || o.Error != "" {
		t.Errorf("observed %+v", o)
	}
	if got := strings.Count(r.log(t, id), "\n"); got != 100 {
		t.Errorf("%d of 100 lines", got)
	}
}

func TestMinidRestarted(t *testing.T) {
	r := open(t)
	w := wanted("lines", "200", "20ms")
	id := r.start(t, w)
	eventually(t, "a first line", func() bool { return logNow(t, r, id) != "" })
	r.reopen(t)
	o, err := r.runtime.Inspect(t.Context(), id)
	if err != nil || o.Address == "" || o.ImageDigest == "" {
		t.Errorf("observed %+v, %v", o, err)
	}
	if o := r.finish(t, id); o.ExitCode != 0 {
		t.Errorf("observed %+v", o)
	}
	text := r.log(t, id)
	for i := range 200 {
		if !strings.Contains(text, fmt.Sprintf("line %d\n", i)) {
			t.Fatalf("line %d is lost", i)
		}
	}
	r.reopen(t)
	if o := r.finish(t, id); o.Phase != task.Exited || o.ExitCode != 0 {
		t.Errorf("after another restart: %+v", o)
	}
}

func TestShimKilled(t *testing.T) {
	r := open(t)
	id := r.start(t, wanted("sleep"))
	o, err := r.runtime.Inspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(parentOf(t, o.Pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if o := r.finish(t, id); o.Phase != task.Exited || o.ExitCode != 137 {
		t.Errorf("observed %+v", o)
	}
	eventually(t, "end of the process", func() bool { return unix.Kill(int(o.Pid), 0) != nil })
}

func TestHostRestarted(t *testing.T) {
	r := open(t)
	id := r.start(t, wanted("exit", "0"))
	if err := r.runtime.killTask(withNamespace(t.Context()), id); err != nil {
		t.Fatal(err)
	}
	boot := r.runtime.host.BootID
	r.runtime.host.BootID = "another"
	defer func() { r.runtime.host.BootID = boot }()
	rec := *r.runtime.recall(id)
	rec.Exit = nil
	r.runtime.remember(id, &rec)
	if o, err := r.runtime.Inspect(t.Context(), id); err != nil || o.Phase != task.Exited || !strings.Contains(o.Error, "host restarted") {
		t.Errorf("observed %+v, %v", o, err)
	}
}

func TestOtherNodesAreNotListed(t *testing.T) {
	r := open(t)
	id := r.start(t, wanted("sleep"))
	cfg := r.config()
	cfg.NodeID, cfg.DataDir, cfg.RunDir = "node2", t.TempDir(), t.TempDir()
	other, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if ids, err := other.List(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("node2 lists %v, %v", ids, err)
	}
	if ids, err := r.runtime.List(t.Context()); err != nil || len(ids) == 0 {
		t.Errorf("node1 lists %v without %s, %v", ids, id, err)
	}
}

func TestStopGraceThenKill(t *testing.T) {
	r := open(t)
	id := r.start(t, wanted("stubborn"))
	eventually(t, "stubbornness", func() bool { return strings.Contains(logNow(t, r, id), "ignoring") })
	began := time.Now()
	if err := r.runtime.Stop(t.Context(), id, "", 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("killed after %v, before the grace period", took)
	}
	if o := r.finish(t, id); o.ExitCode != 137 || o.OOMKilled {
		t.Errorf("observed %+v", o)
	}
}
