// Package integration_test tells the stories of real clusters: the built
// binaries, containerd and runc, and nodes in network namespaces of their own.
// It needs root and what `make build` makes, and skips without root.
package integration_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/minid/minid/integration/cluster"
	"github.com/minid/minid/integration/sample/image"
	"github.com/minid/minid/internal/realtest"
)

const (
	// registryHost serves the sample images, as nodes reach it.
	registryHost = "10.77.0.254:5000"
	// sampleV1 and sampleV2 answer with their version.
	sampleV1 = registryHost + "/sample:v1"
	sampleV2 = registryHost + "/sample:v2"
)

// keep leaves the directories of failed clusters behind.
var keep = flag.Bool("keep", false, "leave the logs of clusters behind")

// shared is the five-node cluster of tests that leave it as they found it.
var shared struct {
	sync.Mutex
	c *world
}

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	closeShared()
	os.Exit(code)
}

// world is a cluster of which n1 to n3 are managers, n4 and n5 workers, with
// the sample images in a registry that all nodes pull from.
type world struct {
	*cluster.Cluster
	registry *http.Server
	deadline *time.Timer
}

// sharedSwarm returns the shared five-node cluster with five ready nodes. Tests
// that use it remove their services and bring every node back. One that fails
// ends the cluster, so that the next begins anew.
func sharedSwarm(t *testing.T) *world {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.c == nil {
		shared.c = newSwarm(t)
	}
	w := shared.c
	t.Cleanup(func() {
		if t.Failed() {
			w.tell(t)
			closeShared()
		}
	})
	w.awaitReady(t, 5)
	return w
}

// ownSwarm returns a five-node cluster that ends with the test. It ends the
// shared one first: one at a time is enough for a small machine.
func ownSwarm(t *testing.T, flags ...string) *world {
	t.Helper()
	w := ownWorld(t, flags...)
	w.form(t)
	return w
}

// ownWorld returns a cluster without nodes that ends with the test.
func ownWorld(t *testing.T, flags ...string) *world {
	t.Helper()
	closeShared()
	w := newWorld(t, flags...)
	t.Cleanup(func() {
		if t.Failed() {
			w.tell(t)
		}
		w.close()
	})
	return w
}

func newSwarm(t *testing.T) *world {
	w := newWorld(t)
	formed := false
	defer func() {
		if !formed {
			w.close()
		}
	}()
	w.form(t)
	formed = true
	return w
}

func newWorld(t *testing.T, flags ...string) *world {
	t.Helper()
	realtest.NeedRoot(t)
	bin, err := filepath.Abs("../bin")
	if err != nil {
		t.Fatal(err)
	}
	images, err := sampleRegistry()
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.New(cluster.Options{Bin: bin, Keep: *keep, Flags: flags, Log: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	if *keep {
		t.Logf("the logs stay in %s", c.Dir())
	}
	w := &world{Cluster: c, registry: &http.Server{Handler: images, ErrorLog: log.New(io.Discard, "", 0)}}
	port, err := c.Listen(5000)
	if err != nil {
		c.Close()
		t.Fatal(err)
	}
	go w.registry.Serve(port)
	// The testing package ends an overdue process without any clean-up.
	if end, ok := t.Deadline(); ok {
		w.deadline = time.AfterFunc(time.Until(end)-15*time.Second, c.Close)
	}
	return w
}

// form starts the nodes and joins them.
func (w *world) form(t *testing.T) {
	t.Helper()
	began := time.Now()
	if err := w.Swarm(t.Context(), 3, 2); err != nil {
		w.tell(t)
		t.Fatal(err)
	}
	w.allowRegistry(t, registryHost)
	w.awaitReady(t, 5)
	t.Logf("five nodes joined after %v", time.Since(began).Round(10*time.Millisecond))
}

// allowRegistry lets every node pull from a registry without TLS.
func (w *world) allowRegistry(t *testing.T, host string) {
	t.Helper()
	for _, n := range w.Nodes() {
		if err := n.AllowRegistry(host); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) close() {
	if w.deadline != nil {
		w.deadline.Stop()
	}
	w.registry.Close()
	w.Close()
}

// tell shows the ends of the nodes' logs.
func (w *world) tell(t *testing.T) {
	for _, n := range w.Nodes() {
		t.Logf("%s (pid %d) log ends with:\n%s", n.Name, n.Pid(), n.LogTail(25))
	}
}

func closeShared() {
	if w := shared.c; w != nil {
		shared.c = nil
		w.close()
	}
}

// awaitReady waits until as many nodes are ready and active as should be.
func (w *world) awaitReady(t *testing.T, want int) {
	t.Helper()
	err := cluster.Await(t.Context(), 60*time.Second, func() error {
		n, err := w.manager()
		if err != nil {
			return err
		}
		res, err := n.Ctl(t.Context(), "node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}")
		if err != nil {
			return err
		}
		if got := strings.Count(res.Stdout, " Ready Active"); got != want {
			return fmt.Errorf("%d of %d nodes are ready:\n%s", got, want, res.Stdout)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// manager returns a running manager.
func (w *world) manager() (*cluster.Node, error) {
	nodes := w.Nodes()
	for _, n := range nodes[:min(3, len(nodes))] {
		if n.Pid() != 0 {
			return n, nil
		}
	}
	return nil, errors.New("no manager runs")
}

// sampleRegistry builds the sample images, once, into a registry in memory.
var sampleRegistry = sync.OnceValues(func() (http.Handler, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	for _, version := range []string{"v1", "v2"} {
		img, err := image.Build(ctx, image.Options{Version: version})
		if err != nil {
			return nil, err
		}
		if err := offer(ctx, handler, "sample:"+version, img); err != nil {
			return nil, err
		}
	}
	return handler, nil
})

// offer puts an image into a registry of this process.
func offer(ctx context.Context, images http.Handler, ref string, img v1.Image) error {
	server := httptest.NewServer(images)
	defer server.Close()
	_, err := image.Push(ctx, strings.TrimPrefix(server.URL, "http://")+"/"+ref, img)
	return err
}

// testLog writes lines to a test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	fmt.Fprintf(os.Stderr, "    %s %s\n", time.Now().Format("15:04:05.000"), bytes.TrimSpace(p))
	return len(p), nil
}
