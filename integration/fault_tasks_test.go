package integration_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/minid/minid/integration/cluster"
	"github.com/minid/minid/integration/sample/image"
	pb "github.com/minid/minid/proto/minid/v1"
)

const (
	deniedHost    = "10.77.0.254:5001" // answers 401
	forbiddenHost = "10.77.0.254:5002" // answers 403
	stalledHost   = "10.77.0.254:5003" // accepts connections and is silent
	foreignHost   = "10.77.0.254:5004" // holds an image for another platform
	absentHost    = "10.77.0.254:5999" // nobody listens
)

// hopeless is a service that no node can run.
type hopeless struct {
	name string
	// state that its tasks come to, or stay in.
	state pb.TaskState
	// says is part of the reason.
	says  string
	image string
	flags []string
	args  []string
	// code that service create ends with.
	code int
	told cluster.Result
}

func hopelessServices() []*hopeless {
	const (
		failed    = pb.TaskState_TASK_STATE_FAILED
		rejected  = pb.TaskState_TASK_STATE_REJECTED
		preparing = pb.TaskState_TASK_STATE_PREPARING
		pending   = pb.TaskState_TASK_STATE_PENDING
	)
	flags := func(f ...string) []string { return f }
	return []*hopeless{
		{name: "memory", state: failed, says: "out of memory", flags: flags("--limit-memory", "16m"), args: flags("eat", "100000000")},
		{name: "exits", state: failed, says: "exit code 3", args: flags("exit", "3")},
		{name: "command", state: failed, says: "the command is not in image", flags: flags("--entrypoint", "/no-such-command")},
		{name: "text", state: failed, says: "the command is not executable", flags: flags("--entrypoint", "/etc/not-executable")},
		{name: "workdir", state: rejected, says: "working directory", flags: flags("--workdir", "/etc/passwd")},
		{name: "user", state: rejected, says: `user "nobody-knows": the image has no such user`, flags: flags("--user", "nobody-knows")},
		{name: "mount", state: rejected, says: "/no/such/dir does not exist on this node", flags: flags("--mount", "type=bind,source=/no/such/dir,target=/data")},
		{name: "tag", state: rejected, says: "has no such image or tag", image: registryHost + "/sample:no-such-tag"},
		{name: "repository", state: rejected, says: "has no such image or tag", image: registryHost + "/no-such:v1"},
		{name: "denied", state: rejected, says: deniedHost + " wants authorisation", image: deniedHost + "/sample:v1"},
		{name: "forbidden", state: rejected, says: "403 Forbidden", image: forbiddenHost + "/sample:v1"},
		{name: "platform", state: rejected, says: "this node is linux/" + runtime.GOARCH, image: foreignHost + "/sample:v1", flags: flags("--no-resolve-image")},
		{name: "platform-known", state: pending, says: "for which the image is not built", image: foreignHost + "/sample:v1", code: 5},
		{name: "absent", state: preparing, says: absentHost + " is not reachable", image: absentHost + "/sample:v1"},
		{name: "stalled", state: preparing, says: "asking the registry for " + stalledHost, image: stalledHost + "/sample:v1"},
	}
}

// TestTasksThatCannotRun gives services what no node can run. The reason must
// be told while the user waits, in the list of tasks and in the task itself.
func TestTasksThatCannotRun(t *testing.T) {
	w := sharedSwarm(t)
	badRegistries(t, w)
	services := hopelessServices()
	var creating sync.WaitGroup
	for i, s := range services {
		// Any manager takes the call.
		creating.Go(func() { s.create(t.Context(), w.Nodes()[i%3]) })
		t.Cleanup(func() { w.removeService(t, s.name) })
	}
	creating.Wait()
	for _, s := range services {
		t.Run(s.name, func(t *testing.T) { s.check(t, w.Nodes()[0]) })
	}
}

func (s *hopeless) create(ctx context.Context, via *cluster.Node) {
	args := []string{"service", "create", "--name", s.name, "--progress", "plain", "--timeout", "12s", "--restart-delay", "2s"}
	args = append(append(args, s.flags...), cmp.Or(s.image, sampleV1))
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s.told, _ = via.Ctl(ctx, append(args, s.args...)...)
}

func (s *hopeless) check(t *testing.T, via *cluster.Node) {
	if want := cmp.Or(s.code, 7); s.told.Code != want {
		t.Errorf("service create ended with code %d, not %d: %s", s.told.Code, want, s.told.Stderr)
	}
	progress, verdict, _ := strings.Cut(s.told.Stderr, "Error: ")
	if !strings.Contains(progress, s.says) {
		t.Errorf("service create does not say %q while it waits: %s", s.says, s.told.Stderr)
	}
	if !strings.Contains(verdict, s.says) {
		t.Errorf("service create does not say %q in the end: %s", s.says, s.told.Stderr)
	}
	tasks, err := via.AllTasks(t.Context(), s.name)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(tasks, func(task *pb.Task) bool { return task.GetStatus().GetState() == s.state })
	if i < 0 {
		t.Fatalf("no task is %v: %v", s.state, tasks)
	}
	if status := tasks[i].GetStatus(); s.name == "memory" && !status.GetContainer().GetOomKilled() {
		t.Errorf("task is not marked as out of memory: %v", status)
	}
	if text := ctl(t, via, "task", "inspect", tasks[i].Id); !strings.Contains(plain(text), s.inspected()) {
		t.Errorf("task inspect does not say %q: %s", s.inspected(), text)
	}
	if s.name == "stalled" {
		return // what goes well so far is no error for the list
	}
	if ps := ctl(t, via, "service", "ps", "--no-trunc", s.name); !strings.Contains(plain(ps), s.says) {
		t.Errorf("service ps does not say %q:\n%s", s.says, ps)
	}
}

// inspected is what the task itself says.
func (s *hopeless) inspected() string {
	if s.name == "exits" {
		return `"exitCode": 3`
	}
	return s.says
}

// plain undoes the quoting of JSON and tables.
func plain(text string) string { return strings.ReplaceAll(text, `\"`, `"`) }

// badRegistries serves registries that do not help.
func badRegistries(t *testing.T, w *world) {
	t.Helper()
	refuse := func(code int, challenge string) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			if challenge != "" {
				rw.Header().Set("WWW-Authenticate", challenge)
			}
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(code)
			fmt.Fprintf(rw, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`)
		})
	}
	foreign := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	serve(t, w, 5001, refuse(http.StatusUnauthorized, `Basic realm="test"`))
	serve(t, w, 5002, refuse(http.StatusForbidden, ""))
	serve(t, w, 5004, foreign)
	stalled, err := w.Listen(5003)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stalled.Close() })
	go func() {
		var held []net.Conn // kept open and unanswered
		for {
			conn, err := stalled.Accept()
			if err != nil {
				break
			}
			held = append(held, conn)
		}
		for _, conn := range held {
			conn.Close()
		}
	}()
	for _, host := range []string{deniedHost, forbiddenHost, stalledHost, foreignHost, absentHost} {
		w.allowRegistry(t, host)
	}
	arch := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	img, err := image.Build(t.Context(), image.Options{Arch: arch})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := image.Push(t.Context(), loopback(t, foreign)+"/sample:v1", img); err != nil {
		t.Fatal(err)
	}
}

func serve(t *testing.T, w *world, port int, h http.Handler) {
	t.Helper()
	l, err := w.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	t.Cleanup(func() { server.Close() })
	go server.Serve(l)
}

// loopback serves a handler to this process and returns its host.
func loopback(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}
