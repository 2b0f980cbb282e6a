package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minid/minid/integration/cluster"
	pb "github.com/minid/minid/proto/minid/v1"
)

// network makes a network and has it removed with the test, after its services.
func (w *world) network(t *testing.T, name string, flags ...string) {
	t.Helper()
	ctl(t, w.Nodes()[0], append(append([]string{"network", "create"}, flags...), name)...)
	t.Cleanup(func() {
		// The test's own context has ended by now.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err := cluster.Await(ctx, patience, func() error {
			n, err := w.manager()
			if err == nil {
				_, err = n.Ctl(ctx, "network", "rm", name)
			}
			return err
		})
		if err != nil && !t.Failed() {
			t.Errorf("remove network %s: %v", name, err)
		}
	})
}

// addressOn returns a task's address on its i-th network.
func addressOn(t *testing.T, task *pb.Task, i int) string {
	t.Helper()
	if len(task.Addresses) <= i {
		t.Fatalf("task %s has addresses %v", task.Id, task.Addresses)
	}
	ip, _, _ := strings.Cut(task.Addresses[i].Addresses[0], "/")
	return ip
}

// sampleBinary is the sample as a program of the host.
var sampleBinary = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs("../.cache/bin/sample")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", path, "./sample")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build sample: %w: %s", err, out)
	}
	return path, nil
})

// outside runs the sample in the outside world and returns what it prints.
func (w *world) outside(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return sampleIn(t, w.Outside, args...)
}

// sampleIn runs the sample on the host, in the namespace that do enters.
func sampleIn(t *testing.T, do func(func() error) error, args ...string) (string, error) {
	t.Helper()
	bin, err := sampleBinary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	return out.String(), err
}

// answer is what the sample's server says.
type answer struct{ host, version, from string }

func readAnswer(text string) (a answer) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "hostname":
			a.host = value
		case "version":
			a.version = value
		case "from":
			a.from, _, _ = strings.Cut(value, ":")
		}
	}
	return a
}

// counted reads what "sample load" prints: who answered how often, and how many
// requests failed.
func counted(t *testing.T, text string) (by map[string]int, failed int) {
	t.Helper()
	by = map[string]int{}
	failed = -1
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if n, ok := strings.CutPrefix(fields[len(fields)-1], "failed="); ok {
			failed, _ = strconv.Atoi(n)
		} else if len(fields) == 2 {
			by[fields[0]], _ = strconv.Atoi(fields[1])
		}
	}
	if failed < 0 {
		t.Fatalf("the load did not end:\n%s", text)
	}
	return by, failed
}

// chiSquare measures how far counts are from an even spread; 99.9 % of fair
// ones stay below the limit for their number.
func chiSquare(by map[string]int) (value, limit float64) {
	total := 0
	for _, n := range by {
		total += n
	}
	mean := float64(total) / float64(len(by))
	for _, n := range by {
		value += (float64(n) - mean) * (float64(n) - mean) / mean
	}
	limits := []float64{0, 0, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32, 26.12, 27.88}
	return value, limits[min(len(by), len(limits)-1)]
}
