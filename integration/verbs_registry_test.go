package integration_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// serveOutside serves HTTP in the outside world, and returns the address.
func (w *world) serveOutside(t *testing.T, port int, h http.Handler) string {
	t.Helper()
	l, err := w.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	host := fmt.Sprintf("%s:%d", w.HubAddr(), port)
	w.allowRegistry(t, host)
	return host
}

// TestRegistryAuth pulls with the credentials of the user who asks for it, and
// shows them to nobody.
func TestRegistryAuth(t *testing.T) {
	w := sharedSwarm(t)
	leader, via, worker := w.names(t)
	images, err := sampleRegistry()
	if err != nil {
		t.Fatal(err)
	}
	password := plant()
	host := w.serveOutside(t, 5001, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if user, given, _ := r.BasicAuth(); user != "puller" || given != string(password) {
			rw.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(rw, "who are you?", http.StatusUnauthorized)
			return
		}
		images.ServeHTTP(rw, r)
	}))
	// No node has it yet: what is there by its digest is not pulled.
	pushVariant(t, "private:1", func(c *v1.ConfigFile) { c.Config.Env = append(c.Config.Env, "FROM=private") })
	docker := t.TempDir()
	login := base64.StdEncoding.EncodeToString([]byte("puller:" + string(password)))
	if err := os.WriteFile(filepath.Join(docker, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, login), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", docker)

	here := []string{"--constraint", "node.hostname==" + worker.Name, "--restart-condition", "none"}
	stranger := try(t, via, append(append([]string{"service", "create", "--name", "trusted", "--timeout", "5s"}, here...), host+"/private:1")...)
	if stranger.Code != 7 || !strings.Contains(stranger.Stderr, host) {
		t.Errorf("pull without credentials: code %d: %s", stranger.Code, stranger.Stderr)
	}
	w.drop(t, "trusted")
	ctl(t, via, "service", "update", "--quiet", "--force", "--with-registry-auth", "--image", host+"/private:1", "trusted")
	says(t, "environment", inTask(t, via, "trusted", "env"), "FROM=private")
	// Searches the disks of workers, logs and answers, as for secrets.
	password.nowhereElse(t, w, leader, worker)
}

// TestRegistryStalls takes a registry that accepts connections and says nothing:
// waits are bounded, and what was given up on stops.
func TestRegistryStalls(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	host := w.serveOutside(t, 5002, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	began := time.Now()
	res := try(t, via, "service", "create", "--name", "stalled", "--replicas", "2", "--timeout", "2s", host+"/sample:v1")
	w.drop(t, "stalled")
	if res.Code != 7 || time.Since(began) > 20*time.Second {
		t.Errorf("code %d after %v", res.Code, time.Since(began))
	}
	says(t, "the client", res.Stderr, "Warning: image "+host+"/sample:v1 could not be accessed", "the work goes on", "Try: minictl service ps stalled")
	w.create(t, via, service{name: "meanwhile", replicas: 2})
	refused(t, via, 2, []string{"invalid image"}, "service", "update", "--image", "UPPER", "stalled")
	ctl(t, via, "service", "update", "--quiet", "--timeout", "50s", "--update-parallelism", "0", "--update-monitor", "300ms", "--image", sampleV1, "stalled")
	if _, err := via.AwaitRunning(t.Context(), "stalled", 2, patience); err != nil {
		t.Error(err)
	}
}
