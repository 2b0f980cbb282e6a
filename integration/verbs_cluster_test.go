package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/minid/minid/integration/cluster"
	"github.com/minid/minid/integration/sample/image"
)

// reads are the verbs that change nothing, with words of their answers.
var reads = []struct {
	args  []string
	words []string
}{
	{[]string{"info"}, []string{"Swarm:               active", "Role:               manager", "Manager Addresses:  10.77.0.1:2377"}},
	{[]string{"info", "--format", "{{.Role}}"}, []string{"NODE_ROLE_MANAGER"}},
	{[]string{"version"}, []string{"Client:", "Server:"}},
	{[]string{"node", "ls"}, []string{"ID ", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ENGINE VERSION", " * ", "Leader", "Reachable"}},
	{[]string{"node", "ls", "--filter", "role=worker", "--format", "{{.Hostname}}"}, []string{"n4\nn5"}},
	{[]string{"node", "ls", "-q"}, nil},
	{[]string{"node", "inspect", "self"}, []string{`"managerAddr"`, `"NODE_ROLE_MANAGER"`}},
	{[]string{"node", "inspect", "--pretty", "n4"}, []string{"Hostname:            n4", "State:              Ready", "Memory:"}},
	{[]string{"node", "inspect", "--format", "{{.Description.Platform.Os}}", "n4", "n5"}, []string{"linux\nlinux"}},
	{[]string{"node", "ps", "n1", "n2", "n3", "n4", "n5"}, []string{"seen.1", "seen.2", "Running"}},
	{[]string{"swarm", "join-token", "worker"}, []string{"To add a worker to this swarm, run the following command:\n\n    minictl swarm join --token MNTKN-1-", ":2377"}},
	{[]string{"swarm", "join-token", "-q", "manager"}, []string{"MNTKN-1-"}},
	{[]string{"swarm", "ca"}, []string{"-----BEGIN CERTIFICATE-----"}},
	{[]string{"service", "ls"}, []string{"ID ", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS", "seen", "replicated   2/2"}},
	{[]string{"service", "ls", "--format", "{{.Name}} {{.Replicas}}"}, []string{"seen 2/2"}},
	{[]string{"service", "ls", "-f", "name=nothing", "-q"}, nil},
	{[]string{"service", "ps", "seen"}, []string{"DESIRED STATE", "CURRENT STATE", "seen.1", "seen.2", "Running"}},
	{[]string{"service", "ps", "seen", "--format", "{{.Name}} {{.DesiredState}}"}, []string{"seen.1 Running\nseen.2 Running"}},
	{[]string{"service", "inspect", "seen"}, []string{`"name": "seen"`, `"replicas": "2"`, `"why": "because"`}},
	{[]string{"service", "inspect", "--pretty", "seen"}, []string{"Name:                seen", "Replicas:           2", "why=because", "Image:"}},
	{[]string{"service", "inspect", "--format", "yaml", "seen"}, []string{"name: seen"}},
	{[]string{"service", "logs", "seen"}, []string{"serving v1 on :8080", "seen.1.", "@n"}},
	{[]string{"task", "ls"}, []string{"seen.1", "seen.2"}},
	{[]string{"task", "ls", "seen", "--format", "json"}, []string{`"serviceName":"seen"`}},
	{[]string{"task", "ls", "-f", "node=n1", "-f", "desired-state=running"}, []string{"ID ", "NODE"}},
	{[]string{"task", "inspect", "seen.1"}, []string{`"TASK_STATE_RUNNING"`, `"address"`}},
	{[]string{"task", "why", "seen.1"}, []string{"NODE", "RESULT", "FILTER", "chosen", "5 of 5 nodes fit"}},
	{[]string{"secret", "ls"}, []string{"ID ", "NAME", "CREATED", "UPDATED"}},
	{[]string{"config", "ls"}, []string{"ID ", "NAME", "CREATED", "UPDATED"}},
	{[]string{"image", "ls"}, []string{"IMAGE", "DIGEST", "SIZE"}},
	{[]string{"exec", "seen.1", "--", "sample", "env"}, []string{"uid=0"}},
	{[]string{"completion", "bash"}, []string{"minictl"}},
	{[]string{"__complete", "service", "ps", ""}, []string{"seen"}},
	{[]string{"__complete", "node", "inspect", "n"}, []string{"n1", "n5"}},
}

// ages are what differs between two answers of the same thing.
var ages = regexp.MustCompile(`(?i)(less than a |about )?(an? |\d+ )?(second|minute|hour)s?( ago)?`)

// TestEveryManagerAnswers asks the leader and a follower, which must agree.
func TestEveryManagerAnswers(t *testing.T) {
	w := sharedSwarm(t)
	leader, follower, _ := w.names(t)
	w.create(t, follower, service{name: "seen", replicas: 2, flags: []string{"--label", "why=because"}})
	awaitLogs(t, leader, "seen.2", "serving")
	own := []string{"info", "node inspect self", "swarm join-token worker", "image ls", "node ls"}
	for _, read := range reads {
		t.Run(strings.Join(read.args, " "), func(t *testing.T) {
			var texts []string
			for _, n := range []*cluster.Node{leader, follower} {
				text := ctl(t, n, read.args...)
				says(t, n.Name, text, read.words...)
				texts = append(texts, ages.ReplaceAllString(text, ""))
			}
			if texts[0] != texts[1] && !slices.ContainsFunc(own, func(p string) bool { return strings.HasPrefix(strings.Join(read.args, " "), p) }) {
				t.Errorf("the leader answers\n%s\nand a follower\n%s", texts[0], texts[1])
			}
		})
	}
}

// TestWorkerIsNoManager asks a worker what only managers may be asked.
func TestWorkerIsNoManager(t *testing.T) {
	w := sharedSwarm(t)
	_, _, worker := w.names(t)
	for _, verb := range []string{
		"swarm join-token worker", "swarm update --task-history-limit 3", "swarm ca", "node ls", "node inspect self", "node ps", "node update --availability drain n1",
		"node promote n4", "node demote n1", "node rm n1", "service create --no-resolve-image " + sampleV1, "service ls", "service ps x", "service inspect x",
		"service update --force x", "service scale x=1", "service logs x", "logs x", "service rm x", "task ls", "task inspect x", "task why x",
		"secret create x /dev/null", "secret ls", "secret inspect x", "secret rm x", "config create x /dev/null", "config ls", "config inspect x", "config rm x",
	} {
		refused(t, worker, 8, []string{"Error: this node is not a manager", "Try: run it on a manager"}, strings.Fields(verb)...)
	}
	for _, own := range []string{"info", "version", "image ls", "completion zsh"} {
		ctl(t, worker, strings.Fields(own)...)
	}
	says(t, "info", ctl(t, worker, "info"), "Role:               worker", "Manager Addresses:  10.77.0.1:2377, 10.77.0.2:2377, 10.77.0.3:2377")
}

// TestNodesChange promotes, demotes, labels and drains through a follower.
func TestNodesChange(t *testing.T) {
	w := sharedSwarm(t)
	leader, via, worker := w.names(t)
	says(t, "promote", ctl(t, via, "node", "promote", worker.Name), "promoted to a manager")
	says(t, "promote again", ctl(t, via, "node", "promote", worker.Name), "already a manager")
	await(t, "the promoted node answers", patience, func() error {
		if out := try(t, worker, "node", "ls", "-f", "role=manager", "-q"); strings.Count(out.Stdout, "\n") != 4 {
			return errors.New(out.Stdout + out.Stderr)
		}
		return nil
	})
	ctl(t, worker, "node", "update", "--label-add", "by=promoted", worker.Name)
	says(t, "demote", ctl(t, via, "node", "demote", worker.Name), "demoted")
	await(t, "the demoted node refuses", patience, func() error {
		if out := try(t, worker, "node", "ls"); out.Code != 8 {
			return fmt.Errorf("code %d", out.Code)
		}
		return nil
	})
	w.awaitReady(t, 5)
	if got := ctl(t, leader, "node", "ls", "-f", "node.label=by=promoted", "--format", "{{.Hostname}}"); got != worker.Name {
		t.Errorf("the label is on %q", got)
	}
	ctl(t, via, "node", "update", "--label-rm", "by", worker.Name)

	tasks := w.create(t, via, service{name: "moved", flags: []string{"--constraint", "node.role==worker"}})
	host := w.node(t, tasks[0].NodeId)
	ctl(t, via, "node", "update", "--availability", "drain", host.Name)
	w.undo(t, "node", "update", "--availability", "active", host.Name)
	moved := awaitReplaced(t, via, "moved", 1, tasks[0].NodeId, patience)
	if again := w.node(t, moved[0].NodeId); again == host {
		t.Errorf("the task is still on the drained node %s", host.Name)
	}
	says(t, "node ls", ctl(t, via, "node", "ls"), "Drain")
	refused(t, via, 2, []string{"expected active, pause or drain"}, "node", "update", "--availability", "gone", host.Name)
	refused(t, via, 3, []string{"find node nobody", "Try: minictl node ls"}, "node", "promote", "nobody")
	refused(t, via, 1, []string{"it is up", "Try:"}, "node", "rm", worker.Name)
}

// TestMembership lets a worker leave and come back, past bad tokens.
func TestMembership(t *testing.T) {
	w := sharedSwarm(t)
	leader, via, _ := w.names(t)
	last := w.Nodes()[4]
	join := func(token string) cluster.Result {
		return try(t, last, "swarm", "join", "--advertise-addr", last.Addr, "--token", token, via.Addr+":2377")
	}
	token := func(role string, more ...string) string {
		return ctl(t, leader, append([]string{"swarm", "join-token", "-q", role}, more...)...)
	}
	old := token("worker")
	if res := join(old); res.Code != 1 || !strings.Contains(res.Stderr, "already part of") {
		t.Errorf("joining twice: code %d: %s", res.Code, res.Stderr)
	}
	refused(t, leader, 1, []string{"already part of", "Try: minictl swarm leave"}, "swarm", "init")
	refused(t, via, 1, []string{"manager", "Try:"}, "swarm", "leave")

	ctl(t, last, "swarm", "leave")
	away := idOf(t, via, last.Name)
	await(t, "the node that left is down", patience, func() error {
		if got := ctl(t, via, "node", "ls", "-f", "id="+away, "--format", "{{.Status}}"); got != "Down" {
			return errors.New(got)
		}
		return nil
	})
	ctl(t, via, "node", "rm", away)
	says(t, "info", ctl(t, last, "info"), "Swarm:               inactive")
	refused(t, last, 8, []string{"not part of a cluster", "swarm init", "swarm join"}, "node", "ls")

	fresh := token("worker", "--rotate")
	digest := strings.Split(old, "-")
	foreign := strings.Join([]string{digest[0], digest[1], strings.Repeat("1", len(digest[2])), digest[3]}, "-")
	for name, bad := range map[string]string{"rotated": old, "foreign": foreign, "garbled": old[:len(old)-3] + "xyz", "empty": "", "nonsense": "nonsense"} {
		if res := join(bad); res.Code == 0 || !strings.HasPrefix(res.Stderr, "Error: ") || strings.Contains(res.Stderr, digest[3]) {
			t.Errorf("join with a token that is %s: code %d: %s", name, res.Code, res.Stderr)
		} else {
			t.Logf("%s: %s", name, strings.TrimSpace(res.Stderr))
		}
	}
	if res := try(t, last, "swarm", "join", "--token", fresh, w.HubAddr()+":1"); res.Code != 8 {
		t.Errorf("join where nobody listens: code %d: %s", res.Code, res.Stderr)
	}
	if res := join(fresh); res.Code != 0 || !strings.Contains(res.Stdout, "This node joined a swarm as a worker.") {
		t.Fatalf("join: code %d: %s%s", res.Code, res.Stdout, res.Stderr)
	}
	w.awaitReady(t, 5)
}

// TestSwarmSettings changes the cluster's settings and puts them back.
func TestSwarmSettings(t *testing.T) {
	w := sharedSwarm(t)
	_, via, _ := w.names(t)
	says(t, "swarm update", ctl(t, via, "swarm", "update", "--task-history-limit", "2", "--dispatcher-heartbeat", "1s",
		"--snapshot-interval", "5000", "--cert-expiry", "720h"), "Swarm updated.")
	w.undo(t, "swarm", "update", "--task-history-limit", "5", "--dispatcher-heartbeat", "2s", "--snapshot-interval", "10000", "--cert-expiry", "2160h")
	w.submit(t, via, service{name: "again", replicas: 1, command: []string{"exit", "3"}})
	await(t, "history", patience, func() error {
		out := ctl(t, via, "service", "ps", "again", "--format", "{{.Name}} {{.CurrentState}} {{.Error}}")
		if strings.Count(out, "Failed") != 2 || !strings.Contains(out, "exit code 3") {
			return errors.New(out)
		}
		return nil
	})
	refused(t, via, 2, []string{"Error:"}, "swarm", "update", "--cert-expiry", "1s")
	refused(t, via, 2, []string{"Error:"}, "swarm", "update", "--dispatcher-heartbeat", "x")
}

// TestImages loads, lists and removes an archive on one node only.
func TestImages(t *testing.T) {
	w := sharedSwarm(t)
	_, via, worker := w.names(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	img, err := image.Build(ctx, image.Options{Version: "archived"})
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "image.tar")
	f, err := os.Create(archive)
	if err == nil {
		err = errors.Join(image.WriteTarball(f, map[string]v1.Image{"example.test/archived:1": img}), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	says(t, "image load", ctl(t, worker, "image", "load", "-i", archive), "Loaded image: example.test/archived:1")
	says(t, "image ls", ctl(t, worker, "image", "ls"), "example.test/archived:1")
	if out := ctl(t, via, "image", "ls"); strings.Contains(out, "example.test/archived") {
		t.Errorf("the image is on another node:\n%s", out)
	}
	w.create(t, via, service{name: "archived", flags: []string{"--constraint", "node.hostname==" + worker.Name}})
	ctl(t, via, "service", "update", "--detach", "--no-resolve-image", "--image", "example.test/archived:1", "archived")
	awaitLogs(t, via, "archived", "serving archived")
	ctl(t, via, "service", "update", "--detach", "--image", sampleV1, "archived")
	await(t, "the image is free", patience, func() error {
		res := try(t, worker, "image", "rm", "example.test/archived:1")
		if res.Code != 0 {
			return errors.New(res.Stderr)
		}
		return nil
	})
	refused(t, worker, 3, []string{"no image", "Try: minictl image ls"}, "image", "rm", "example.test/archived:1")
	if res := tryInput(t, worker, "no archive", "image", "load"); res.Code == 0 || !strings.HasPrefix(res.Stderr, "Error: load images") {
		t.Errorf("load of what is no archive: code %d: %s", res.Code, res.Stderr)
	}
}
