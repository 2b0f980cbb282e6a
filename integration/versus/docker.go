package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"github.com/minid/minid/integration/cluster"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// dockerSwarm runs dockerd with its defaults on each machine: its own
// containerd, the default bridge with NAT, the ingress network. A kernel
// without IPVS does for services that publish no ports; dockerd then logs an
// error at each start and goes on.
var dockerSwarm = system{name: "Swarm", boot: bootDocker}

// installDocker installs Debian's dockerd where there is none.
func installDocker(ctx context.Context) error {
	if _, err := exec.LookPath("dockerd"); err == nil {
		return nil
	}
	fmt.Fprintln(os.Stderr, "installing docker.io")
	for _, args := range [][]string{{"update", "-qq"}, {"install", "-y", "-qq", "--no-install-recommends", "docker.io"}} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w: %s", args[0], err, bytes.TrimSpace(text))
		}
	}
	return nil
}

func dockerVersion(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "dockerd", "--version").Output()
	if err != nil {
		return "unknown"
	}
	// Docker version 20.10.24+dfsg1, build 5d6db84
	version, _, _ := strings.Cut(strings.TrimPrefix(string(out), "Docker version "), ",")
	return strings.TrimSpace(version)
}

func bootDocker(ctx context.Context, m machines) ([]*host, error) {
	var hosts []*host
	for range m.managers + m.workers {
		h, err := startDockerd(m)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	for i, h := range hosts {
		api := h.control.(*dockerAPI)
		if err := cluster.Await(ctx, time.Minute, func() error { return api.call(ctx, "GET", "/_ping", nil, nil) }); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
		if err := api.enter(ctx, h, hosts[0], i < m.managers); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	return hosts, nil
}

func startDockerd(m machines) (*host, error) {
	n, err := m.machine()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"insecure-registries": []string{registryHost},
		"deprecated-key-path": filepath.Join(n.Dir(), "key.json"),
	})
	if err != nil {
		return nil, err
	}
	file, socket := filepath.Join(n.Dir(), "daemon.json"), filepath.Join(n.Dir(), "docker.sock")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	cmd, err := n.Spawn(filepath.Join(n.Dir(), "dockerd.log"), "dockerd", "--config-file", file,
		"--data-root", n.DataDir(), "--exec-root", n.RunDir(), "--pidfile", filepath.Join(n.Dir(), "dockerd.pid"), "--host", "unix://"+socket)
	if err != nil {
		return nil, fmt.Errorf("start dockerd: %w", err)
	}
	return &host{Node: n, control: newDockerAPI(socket, m.image), pid: func() int { return cmd.Process.Pid }}, nil
}

// dockerAPI speaks the engine's HTTP API, as much of it as the stories need.
type dockerAPI struct {
	http  http.Client
	image string
}

func newDockerAPI(socket, image string) *dockerAPI {
	return &dockerAPI{image: image, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

func (d *dockerAPI) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker/v1.41"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := d.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return err
	case res.StatusCode >= 300:
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, bytes.TrimSpace(text))
	case out == nil:
		return nil
	}
	return json.Unmarshal(text, out)
}

// enter makes the host the first of a swarm or joins it to the first.
func (d *dockerAPI) enter(ctx context.Context, h, first *host, manager bool) error {
	req := map[string]any{"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": h.Addr}
	if h == first {
		return d.call(ctx, "POST", "/swarm/init", req, nil)
	}
	var got struct {
		JoinTokens struct{ Worker, Manager string }
	}
	if err := first.control.(*dockerAPI).call(ctx, "GET", "/swarm", nil, &got); err != nil {
		return err
	}
	req["RemoteAddrs"], req["JoinToken"] = []string{first.Addr + ":2377"}, got.JoinTokens.Worker
	if manager {
		req["JoinToken"] = got.JoinTokens.Manager
	}
	return d.call(ctx, "POST", "/swarm/join", req, nil)
}

func (d *dockerAPI) self(ctx context.Context) (string, bool, error) {
	var got struct{ Swarm struct{ NodeID string } }
	if err := d.call(ctx, "GET", "/info", nil, &got); err != nil {
		return "", false, err
	}
	id := got.Swarm.NodeID
	var node struct{ ManagerStatus *struct{ Leader bool } }
	if err := d.call(ctx, "GET", "/nodes/"+id, nil, &node); err != nil {
		return id, false, nil // a worker
	}
	return id, node.ManagerStatus != nil && node.ManagerStatus.Leader, nil
}

// object is JSON to send.
type object = map[string]any

func (d *dockerAPI) spec(s service) object {
	task := object{"ContainerSpec": object{"Image": d.image, "Args": []string{"sleep"}, "Env": s.environment()}}
	if s.onWorkers {
		task["Placement"] = object{"Constraints": []string{"node.role==worker"}}
	}
	mode := object{"Replicated": object{"Replicas": s.replicas}}
	if s.global {
		mode = object{"Global": object{}}
	}
	return object{"Name": s.name, "TaskTemplate": task, "Mode": mode, "UpdateConfig": object{"Parallelism": s.parallelism, "Monitor": s.monitor}}
}

func (d *dockerAPI) create(ctx context.Context, s service) error {
	return d.call(ctx, "POST", "/services/create", d.spec(s), nil)
}

// dockerService is what an answer says of a service.
type dockerService struct {
	Version      struct{ Index uint64 }
	UpdateStatus struct{ State string }
}

func (d *dockerAPI) update(ctx context.Context, s service) error {
	var now dockerService
	if err := d.call(ctx, "GET", "/services/"+s.name, nil, &now); err != nil {
		return err
	}
	return d.call(ctx, "POST", fmt.Sprintf("/services/%s/update?version=%d", s.name, now.Version.Index), d.spec(s), nil)
}

func (d *dockerAPI) updated(ctx context.Context, name string) (bool, error) {
	var now dockerService
	if err := d.call(ctx, "GET", "/services/"+name, nil, &now); err != nil {
		return false, err
	}
	if now.UpdateStatus.State == "paused" {
		return false, errors.New("the update is paused")
	}
	return now.UpdateStatus.State == "completed", nil
}

func (d *dockerAPI) remove(ctx context.Context, name string) error {
	return d.call(ctx, "DELETE", "/services/"+name, nil, nil)
}

func (d *dockerAPI) tasks(ctx context.Context, name string) ([]task, error) {
	var list []struct {
		NodeID       string
		DesiredState string
		Status       struct{ State string }
	}
	filter := url.QueryEscape(fmt.Sprintf(`{"service":{%q:true}}`, name))
	err := d.call(ctx, "GET", "/tasks?filters="+filter, nil, &list)
	if err != nil && strings.Contains(err.Error(), "not found") {
		return nil, nil // the service is gone, and its tasks with it
	}
	var found []task
	for _, t := range list {
		found = append(found, task{
			node:    t.NodeID,
			running: t.Status.State == "running" && t.DesiredState == "running",
		})
	}
	return found, err
}
